"""Bad input to the real daemon over both transports: each gets a clear error and ends nothing else."""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.support.daemons import Daemon, short_home
from tests.support.peers import LinePeer, Peer, WebSocketPeer, call, respond, unix_peer, websocket_peer

MIB = 2**20


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide one daemon for the whole file, because every test must leave it healthy."""
    with short_home() as home:
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
        with Daemon(home) as daemon:
            yield daemon


def memory_bytes(daemon: Daemon) -> int:
    """Return the daemon's resident memory."""
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def connect_over(transport: str, home: Path) -> AsyncIterator[Peer]:
    """Connect over one of the transports, with all scopes."""
    async with AsyncExitStack() as stack:
        private = await stack.enter_async_context(unix_peer(home))
        if transport == "unix":
            yield private
            return
        scopes = ["read", "converse", "approve", "operate", "admin"]
        created = await call(private, "token.create", scopes=scopes)
        yield await stack.enter_async_context(websocket_peer(home, created["secret"]))


over_both = pytest.mark.parametrize("transport", ["unix", "websocket"])


async def require_alive(peer: Peer) -> None:
    """Assert that the connection and the daemon still answer."""
    assert await call(peer, "rpc.ping")


@over_both
@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"{", -32700),
        (b"not json", -32700),
        (b'{"jsonrpc": "2.0", "method": "rpc.ping", "id": 1', -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b'"rpc.ping"', -32600),
        (b'{"jsonrpc": "1.0", "method": "rpc.ping", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": 1, "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "rpc.pong", "id": 1}', -32601),
        (b'{"jsonrpc": "2.0", "method": "run.get", "id": 1}', -32602),
        (b'{"jsonrpc": "2.0", "method": "run.get", "params": 5, "id": 1}', -32600),
    ],
)
async def test_an_invalid_message_gets_its_error_code(
    transport: str, text: bytes, number: int, daemon: Daemon
) -> None:
    """An invalid message gets its JSON-RPC error code, and the connection stays open."""
    async with connect_over(transport, daemon.home) as peer:
        await peer.say(text)
        answer = await peer.hear()
        assert answer["error"]["code"] in (number, -32602), answer
        assert answer["error"]["data"]["reason"]
        await require_alive(peer)


async def test_a_line_that_is_not_utf8_is_refused(daemon: Daemon) -> None:
    """Bytes that are not UTF-8 are a parse error, and the next line is served."""
    async with unix_peer(daemon.home) as peer:
        await peer.stream.send_all(b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe"}\n')
        assert (await peer.hear())["error"]["code"] == -32700
        await require_alive(peer)


async def test_a_line_of_17_mib_is_refused_and_the_next_one_is_served(daemon: Daemon) -> None:
    """An oversize line is refused and skipped without being held in memory."""
    before = memory_bytes(daemon)
    async with unix_peer(daemon.home) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.stream.send_all, b'"' + b"x" * (17 * MIB) + b'"\n')
            answer = await peer.hear()
        assert answer["error"]["data"]["reason"] == "message_too_large"
        await require_alive(peer)
    assert memory_bytes(daemon) - before < 40 * MIB


async def test_a_websocket_message_of_17_mib_closes_with_1009(daemon: Daemon) -> None:
    """An oversize WebSocket message closes only its own connection, with code 1009."""
    async with connect_over("websocket", daemon.home) as peer:
        assert isinstance(peer, WebSocketPeer)
        with contextlib.suppress(ConnectionClosed):
            await peer.say(b'"' + b"x" * (17 * MIB) + b'"')
        with pytest.raises(EOFError):
            await peer.hear()
        assert peer.connection.closed is not None
        assert peer.connection.closed.code == 1009
    async with connect_over("websocket", daemon.home) as peer:
        await require_alive(peer)


@over_both
@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("run.get", {}, "$.params.run_id"),
        ("run.get", {"run_id": 5}, "$.params.run_id"),
        ("run.get", {"run_id": "run_1", "more": 1}, "$.params.more"),
        ("run.get", {"run_id": "not an id"}, "$.params.run_id"),
        ("run.list", {"limit": 0}, "$.params.limit"),
        ("run.list", {"limit": 501}, "$.params.limit"),
        ("conversation.send", {"content": "x", "wait": "for ever"}, "$.params.wait"),
        ("conversation.send", {"content": ""}, "$.params.content"),
        ("conversation.send", {}, "$.params.content"),
        (
            "conversation.send",
            {"content": "x", "input_items": [{"kind": "text", "text": "y"}]},
            "$.params.content",
        ),
        ("conversation.send", {"input_items": [{"kind": "poem"}]}, "$.params.input_items[0].kind"),
        ("session.create", {"scope": {"tools": [1]}}, "$.params.scope.tools[0]"),
        ("token.create", {"scopes": ["everything"]}, "$.params.scopes[0]"),
        ("journal.read", {"after": -1}, "$.params.after"),
    ],
)
async def test_invalid_params_are_refused_by_their_path(
    transport: str, method: str, params: dict[str, Any], field: str, daemon: Daemon
) -> None:
    """The error for missing, extra and wrongly typed params names the path."""
    async with connect_over(transport, daemon.home) as peer:
        error = (await respond(peer, method, **params))["error"]
        assert (error["code"], error["data"]["field"]) == (-32602, field), error
        await require_alive(peer)


@over_both
async def test_a_batch_answers_each_of_its_requests(transport: str, daemon: Daemon) -> None:
    """A batch of valid, invalid and unknown requests and notifications gets one array of answers."""
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "rpc.ping"},
        {"jsonrpc": "2.0", "method": "rpc.ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "no.such"},
        {"jsonrpc": "2.0", "id": 3, "method": "run.get", "params": {"run_id": "run_none"}},
        {"jsonrpc": "2.0", "id": 4, "method": "run.get", "params": {}},
        {"jsonrpc": "2.0", "id": 5, "method": "conversation.send", "params": {"content": "in a batch"}},
        7,
    ]
    async with connect_over(transport, daemon.home) as peer:
        await peer.say(json.dumps(batch).encode())
        answers = {answer["id"]: answer for answer in await peer.hear()}
        assert set(answers) == {1, 2, 3, 4, 5, None}
        numbers = {key: answer["error"]["code"] for key, answer in answers.items() if "error" in answer}
        assert numbers == {2: -32601, 3: 1404, 4: -32602, None: -32600}
        assert answers[5]["result"]["run_id"]
        await require_alive(peer)


@over_both
async def test_a_batch_of_notifications_is_not_answered(transport: str, daemon: Daemon) -> None:
    """A batch of notifications gets no answer."""
    async with connect_over(transport, daemon.home) as peer:
        await peer.say(b'[{"jsonrpc":"2.0","method":"rpc.ping"},{"jsonrpc":"2.0","method":"no.such"}]')
        await require_alive(peer)


@over_both
async def test_an_error_names_the_next_action(transport: str, daemon: Daemon) -> None:
    """The error for an unknown agent names it and the agents that exist."""
    async with connect_over(transport, daemon.home) as peer:
        error = (await respond(peer, "conversation.send", agent="nobody", content="x"))["error"]
        assert error["code"] == 1404
        assert error["data"]["reason"] == "agent_not_found"
        assert "nobody" in error["message"]
        assert "default" in error["message"]


async def test_a_silent_client_disturbs_no_other(daemon: Daemon) -> None:
    """A silent client occupies one connection and delays no other client."""
    async with unix_peer(daemon.home), unix_peer(daemon.home) as second_peer:
        await require_alive(second_peer)


async def test_two_hundred_clients_are_served_at_once(daemon: Daemon) -> None:
    """Two hundred clients converse at once, each in its own conversation."""
    answered: set[str] = set()

    async def converse(number: int) -> None:
        async with unix_peer(daemon.home) as peer:
            result = await call(
                peer, "conversation.send", sender=f"client {number}", content=f"I am {number}", wait="settled"
            )
            assert f"I am {number}" in result["output"]
            answered.add(result["session_id"])

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(converse, number)
    assert len(answered) == 200


async def test_a_message_before_a_half_close_is_answered(daemon: Daemon) -> None:
    """Requests before a half-close are answered, even if the last one has no newline."""
    async with unix_peer(daemon.home) as peer:
        await peer.stream.send_all(b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}')
        await peer.stream.send_eof()
        assert (await peer.hear())["id"] == 1
        with pytest.raises(EOFError):
            await peer.hear()


async def test_content_length_framing_is_answered_alike(daemon: Daemon) -> None:
    """A client that frames by Content-Length gets answers in the same framing."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}'
    stream = await trio.open_unix_socket(str(daemon.home / "run" / "kheishd.sock"))
    async with stream:
        await LinePeer(stream).stream.send_all(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        with trio.fail_after(10):
            assert (await stream.receive_some()).startswith(b"Content-Length: ")
