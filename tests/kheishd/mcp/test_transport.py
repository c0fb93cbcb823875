"""Messages of servers: bounded and sanitized before the library reads them."""

import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError
from trio.testing import memory_stream_one_way_pair

from kheishd.hooks.os.shell.keeper import start_ticks_of
from kheishd.hooks.os.shell.process import NotStarted
from kheishd.kernel.mcp import KeeperKilled
from kheishd.mcp import transport
from kheishd.mcp.transport import (
    MAX_GARBAGE_LINES,
    MAX_SERVER_REQUESTS,
    BearerToken,
    ServerEnded,
    ServerProcess,
    http_transport,
    open_process,
    parse_message,
    read_messages,
    stdio_transport,
)
from protocol.limits.mcp import MAX_MCP_MESSAGE_BYTES
from tests.support.mcp_servers import TOY_COMMAND


def line_of(**message: Any) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"


async def read_all(*pieces: bytes) -> list[Any]:
    """Return the messages in some output of a server."""
    sending, receiving = memory_stream_one_way_pair()
    messages = []

    async def take(message: SessionMessage) -> None:
        messages.append(message.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_messages, receiving, take)
        for piece in pieces:
            await sending.send_all(piece)
        await sending.aclose()
    return messages


async def test_lines_in_pieces() -> None:
    """Messages are found however the output is cut into pieces."""
    output = line_of(id=1, result={}) + line_of(method="notifications/x") + line_of(id=2, result={"a": "ä"})
    for size in (1, 7, len(output)):
        pieces = [output[begin : begin + size] for begin in range(0, len(output), size)]
        messages = await read_all(*pieces)
        assert [getattr(message, "id", None) for message in messages] == [1, None, 2]


@pytest.mark.parametrize(
    "line", [b"", b"Welcome!", b"{}", b"[1]", b"null", b'{"jsonrpc": "2.0"}', b"[" * 100_000, b"\xff\xfe"]
)
async def test_garbage_is_skipped(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A line that is no message is skipped, and the log quotes the first one."""
    messages = await read_all(line + b"\n" + line + b"\n" + line_of(id=1, result={}))
    assert [message.id for message in messages] == [1]
    assert len(caplog.records) == (1 if line else 0)


def test_bytes_that_are_no_utf8() -> None:
    """A byte that is no UTF-8 is replaced inside a message."""
    message: Any = parse_message(line_of(id=1, result={"a": "x"}).replace(b"x", b"\xff"))
    assert message.result == {"a": "\ufffd"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{"text":"\\ud800"}}',
        b'{"result":{"text":"\\ud800"},"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"result":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"jsonrpc":"2.0","id":7,"result":"no object"}',
    ],
)
async def test_an_answer_that_cannot_be_decoded(line: bytes) -> None:
    """A request whose answer is invalid fails at once."""
    (error,) = await read_all(line + b"\n")
    assert (error.id, error.error.message) == (7, "the answer is no valid JSON-RPC message")


async def test_an_invalid_request() -> None:
    """An invalid request of a server answers none of ours."""
    (message,) = await read_all(b'{"jsonrpc":"2.0","id":1,"method":7}\n' + line_of(id=2, result={}))
    assert message.id == 2


async def test_endless_garbage() -> None:
    """A program that writes only lines that are no messages is no server."""
    logging.disable(logging.WARNING)
    with pytest.RaisesGroup(pytest.RaisesExc(ServerEnded, match="that are no messages")):
        await read_all(b"no\n" * (MAX_GARBAGE_LINES + 1))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_answer_that_is_too_long(*, is_first: bool) -> None:
    """A line that is too long fails the request that it answers, wherever its id is, and no other."""
    text = b'"' + b"x" * MAX_MCP_MESSAGE_BYTES + b'"'
    fields = [b'"id": 7', b'"result": {"id": 1, "text": ' + text + b"}"]
    long = b'{"jsonrpc": "2.0", ' + b", ".join(fields if is_first else fields[::-1]) + b"}\n"
    first, error, last = await read_all(line_of(id=1, result={}) + long + line_of(id=2, result={}))
    assert (first.id, last.id) == (1, 2)
    assert isinstance(error, JSONRPCError)
    assert error.id == 7
    assert f"the limit is {MAX_MCP_MESSAGE_BYTES}" in error.error.message


async def test_a_long_line_that_answers_nothing() -> None:
    """The connection ends if the request of a line that is too long cannot be told."""
    with pytest.RaisesGroup(pytest.RaisesExc(ServerEnded, match="it sent a line of")):
        await read_all(b"x" * (MAX_MCP_MESSAGE_BYTES + 1) + b"\n")


async def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that never ends is not kept, and ends the connection."""
    monkeypatch.setattr(transport, "MAX_SKIPPED_BYTES", 2 * MAX_MCP_MESSAGE_BYTES)
    chunk = b"x" * MAX_MCP_MESSAGE_BYTES
    with pytest.RaisesGroup(pytest.RaisesExc(ServerEnded, match="a line of more than")):
        await read_all(chunk, chunk, chunk)


# Processes.


@asynccontextmanager
async def toy(*manners: str, environ: dict[str, str] | None = None) -> AsyncIterator[ServerProcess]:
    """Run a toy."""
    async with open_process([*TOY_COMMAND, *manners], environ or {}, "/tmp", "test.mcp") as process:
        yield process


async def test_messages_of_a_process() -> None:
    """Requests reach the standard input, and answers come from the standard output."""
    async with toy() as process, stdio_transport(process) as (read, write):
        request = parse_message(line_of(id=1, method="tools/list"))
        assert request is not None
        await write.send(SessionMessage(request))
        message: Any = await read.receive()
        assert message.message.id == 1
        assert message.message.result["tools"]


async def test_the_end_of_a_process() -> None:
    """The end of a server is reported with its code and the last line of its error output."""
    with pytest.RaisesGroup(
        pytest.RaisesExc(ServerEnded, match="^it ended with code 1: cannot open its database$"),
        flatten_subgroups=True,
    ):
        async with toy("dies") as process, stdio_transport(process) as (_, write):
            request = parse_message(line_of(id=1, method="tools/list"))
            assert request is not None
            await write.send(SessionMessage(request))
            await trio.sleep_forever()


async def test_a_server_that_kills_its_keeper(tmp_path: Path) -> None:
    """A server that kills the process that supervises it ends with all that it has started, hidden or not."""
    path = tmp_path / "pids"
    with pytest.RaisesGroup(pytest.RaisesExc(KeeperKilled), flatten_subgroups=True):
        async with toy("kills", str(path)) as process, stdio_transport(process) as (_, write):
            request = parse_message(line_of(id=1, method="tools/list"))
            assert request is not None
            await write.send(SessionMessage(request))
            await trio.sleep_forever()
    pids = [int(line) for line in path.read_text().split()]
    assert [start_ticks_of(pid) for pid in pids] == [None, None]


async def test_all_processes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ignores the end of its input and SIGTERM is killed with all that it has started."""
    monkeypatch.setattr(transport, "END_SECONDS", 0.05)
    async with toy("stubborn") as process, stdio_transport(process) as (read, write):
        request = parse_message(
            line_of(id=1, method="tools/call", params={"name": "child", "arguments": {"text": "4321.5"}})
        )
        assert request is not None
        await write.send(SessionMessage(request))
        message: Any = await read.receive()
        pids = [process.command.pid, int(message.message.result["content"][0]["text"])]
        assert [start_ticks_of(pid) is not None for pid in pids] == [True, True]
    assert [start_ticks_of(pid) for pid in pids] == [None, None]


async def test_a_program_that_does_not_exist() -> None:
    """A program or a directory that does not exist is reported."""
    with pytest.raises(NotStarted, match="No such file"):
        async with open_process(["/nowhere/program"], {}, "/tmp", "test.mcp"):
            pass
    with pytest.raises(FileNotFoundError):
        async with open_process(TOY_COMMAND, {}, "/nowhere", "test.mcp"):
            pass


async def test_a_server_that_reads_no_answers() -> None:
    """A server that sends request after request, and reads no answer, is disconnected."""
    script = 'import sys; sys.stdout.write(\'{"jsonrpc":"2.0","id":1,"method":"ping"}\\n\' * 100); input()'
    command = [*TOY_COMMAND[:3], "-c", script]
    received = 0
    with pytest.RaisesGroup(
        pytest.RaisesExc(ServerEnded, match="read none of the answers"), flatten_subgroups=True
    ):
        async with (
            open_process(command, {}, "/tmp", "test.mcp") as process,
            stdio_transport(process) as (read, _),
        ):
            async for _ in read:
                received += 1
            await trio.sleep_forever()
    assert received == MAX_SERVER_REQUESTS


# HTTP.


def test_the_token_is_read_for_each_request() -> None:
    """A credential that is replaced is used by the next request."""
    tokens = iter(("one", "two"))
    auth = BearerToken(lambda: next(tokens))
    for token in ("one", "two"):
        request = httpx2.Request("GET", "http://localhost/")
        next(auth.auth_flow(request))
        assert request.headers["authorization"] == f"Bearer {token}"


# The library leaves its iterator of the body to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_encoded", [False, True])
async def test_an_http_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch, *, is_encoded: bool) -> None:
    """The body of an answer is read up to the limit, and not expanded; beyond, the request fails."""
    monkeypatch.setattr(transport, "MAX_MCP_MESSAGE_BYTES", 1_000)
    body = line_of(id=1, result={"text": "x" * 2_000})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    body = gzip.compress(body) if is_encoded else body
    head %= b"content-encoding: gzip\r\n" if is_encoded else b"", len(body)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head + body)

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        async with http_transport(f"http://127.0.0.1:{port}/mcp", {}, None) as (read, write):
            request = parse_message(line_of(id=1, method="tools/list"))
            assert request is not None
            await write.send(SessionMessage(request))
            answer: Any = await read.receive()
            assert isinstance(answer.message, JSONRPCError)
            problem = "identity was requested" if is_encoded else "more than 1000 bytes"
            assert problem in answer.message.error.message
        nursery.cancel_scope.cancel()
