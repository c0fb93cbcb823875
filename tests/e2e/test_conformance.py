"""One suite for both transports: the Unix socket and the WebSocket give the same answers.

The suite has the examples of the JSON-RPC 2.0 specification (section 7) and the cases that it leaves open.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from kheishd.objects.node import journal, rpc
from kheishd.server.listeners import TcpListen
from protocol.errors.rpc import RequestCancelled, RequestNotFound
from protocol.limits.rpc import MAX_BATCH_MESSAGES
from tests.support.rpc_server import Client, RpcServer, rpc_server
from tests.support.toys import Toys


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys) -> AsyncIterator[RpcServer]:
    """Provide a server on both transports, with the methods of the specification's examples."""
    handlers = [*toys.handlers(), *rpc.HANDLERS, *journal.HANDLERS]
    async with rpc_server(tmp_path, handlers, tcp=TcpListen("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture(params=["unix", "websocket"])
async def client(server: RpcServer, request: pytest.FixtureRequest) -> Client:
    """Provide a connection with all scopes over each transport."""
    if request.param == "unix":
        return await server.connect()
    _, secret = await server.token()
    return await server.connect_websocket(secret)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def require_alive(client: Client) -> None:
    """Assert that the connection still answers and has nothing else to read."""
    await client.send(b'{"jsonrpc": "2.0", "method": "toy.echo", "id": "alive"}')
    assert (await client.read())["id"] == "alive"


def sort_key(value: Any) -> bytes:
    """Return a sort key of answers, because a batch may be answered in any order."""
    return msgspec.json.encode(value, order="sorted")


def strip_words(answer: Any) -> Any:
    """Return an answer without the parts that the specification leaves open: the message and the data."""
    if isinstance(answer, list):
        return sorted((strip_words(item) for item in answer), key=sort_key)
    if "error" in answer:
        return {**answer, "error": {"code": answer["error"]["code"]}}
    return answer


def make_error(code: int, id_: Any = None) -> dict[str, Any]:
    """Return an error response without message and data."""
    return {"jsonrpc": "2.0", "error": {"code": code}, "id": id_}


def make_result(result: Any, id_: Any) -> dict[str, Any]:
    """Return a response with a result."""
    return {"jsonrpc": "2.0", "result": result, "id": id_}


# The messages of section 7, as printed.
EXAMPLES = [
    (b'{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', make_result(19, 1)),
    (b'{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}', make_result(-19, 2)),
    (
        b'{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        make_result(19, 3),
    ),
    (
        b'{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        make_result(19, 4),
    ),
    (b'{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    (b'{"jsonrpc": "2.0", "method": "foobar"}', None),
    (b'{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', make_error(-32601, "1")),
    (b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', make_error(-32700)),
    (b'{"jsonrpc": "2.0", "method": 1, "params": "bar"}', make_error(-32600)),
    (
        b'[ {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method" ]',
        make_error(-32700),
    ),
    (b"[]", make_error(-32600)),
    (b"[1]", [make_error(-32600)]),
    (b"[1,2,3]", [make_error(-32600), make_error(-32600), make_error(-32600)]),
    (
        b'[ {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
        b' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
        b' {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
        b' {"foo": "boo"},'
        b' {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
        b' {"jsonrpc": "2.0", "method": "get_data", "id": "9"} ]',
        [
            make_result(7, "1"),
            make_result(19, "2"),
            make_error(-32600),
            make_error(-32601, "5"),
            make_result(["hello", 5], "9"),
        ],
    ),
    (
        b'[ {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
        b' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]} ]',
        None,
    ),
]


@pytest.mark.parametrize(("sent", "expected"), EXAMPLES)
async def test_the_specification_s_examples(client: Client, sent: bytes, expected: Any) -> None:
    """Each example is answered as specified, or not at all, and the connection stays open."""
    await client.send(sent)
    if expected is not None:
        answer = await client.read()
        assert strip_words(answer) == (
            sorted(expected, key=sort_key) if isinstance(expected, list) else expected
        )
    await require_alive(client)


async def test_notifications_are_carried_out(client: Client, toys: Toys) -> None:
    """Notifications are executed, alone and in a batch."""
    await client.send(EXAMPLES[4][0])
    await client.send(EXAMPLES[-1][0])
    await require_alive(client)
    assert toys.heard == [[1, 2, 3, 4, 5], [7]]


# Cases that the specification leaves open.


@pytest.mark.parametrize(
    ("sent", "code", "id_"),
    [
        (b"nonsense", -32700, None),
        (b'{"jsonrpc": "2.0", "method": "toy.echo", "id": 1', -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[" * 100_000 + b"]" * 100_000, -32700, None),
        (
            b'{"jsonrpc": "2.0", "id": 1, "method": "toy.echo", "params": {"value": %b}}'
            % (b"[" * 100_000 + b"]" * 100_000),
            -32700,
            None,
        ),
        (b"5", -32600, None),
        (b'"toy.echo"', -32600, None),
        (b"null", -32600, None),
        (b"{}", -32600, None),
        (b'{"jsonrpc": "1.0", "method": "toy.echo", "id": 1}', -32600, 1),
        (b'{"method": "toy.echo", "id": 1}', -32600, 1),
        (b'{"jsonrpc": "2.0", "method": "toy.echo", "id": {}}', -32600, None),
        (b'{"jsonrpc": "2.0", "method": "toy.echo", "id": [1]}', -32600, None),
        (b'{"jsonrpc": "2.0", "method": "toy.echo", "id": true}', -32600, None),
        (b'{"jsonrpc": "2.0", "method": "toy.echo", "params": [1, 2], "id": 1}', -32602, 1),
        (b'{"jsonrpc": "2.0", "method": "toy.keep", "id": 1}', -32602, 1),
        (b'{"jsonrpc": "2.0", "method": "toy.broken", "id": 1}', -32603, 1),
    ],
)
async def test_a_wrong_message_gets_its_error_code(client: Client, sent: bytes, code: int, id_: Any) -> None:
    """A wrong message gets its error code, and the connection stays open."""
    await client.send(sent)
    assert strip_words(await client.read()) == make_error(code, id_)
    await require_alive(client)


async def test_an_error_has_a_reason_and_a_path(client: Client) -> None:
    """An error has a stable reason, a message, and the path of the bad value."""
    await client.send(b'{"jsonrpc":"2.0","id":1,"method":"toy.echo","params":{"items":[{"a":"x"}]}}')
    error = (await client.read())["error"]
    assert error["code"] == -32602
    assert error["data"] == {
        "reason": "invalid_params",
        "retryable": False,
        "field": "$.params.items[0][...]",
    }
    assert "Expected `int`, got `str`" in error["message"]


async def test_an_id_is_echoed_unchanged(client: Client) -> None:
    """An id is echoed byte for byte."""
    for id_ in (b"1.0", b"-0", b"1e2", b'"\\u0041"', b'""', b"null", b"9" * 40):
        await client.send(b'{"jsonrpc":"2.0","method":"toy.read","id":%b}' % id_)
        assert await client.line() == b'{"jsonrpc":"2.0","id":%b,"result":true}' % id_


async def test_a_batch_mixes_everything(client: Client, toys: Toys) -> None:
    """A batch gets one array with one answer for each request, in any order."""
    call = {"jsonrpc": "2.0"}
    await client.send(
        [
            call | {"id": 1, "method": "toy.read"},
            call | {"id": 2, "method": "toy.keep", "params": {"value": "a"}},
            call | {"id": 3, "method": "toy.wait", "params": {"value": "late"}},
            call | {"id": 4, "method": "toy.keep", "params": {}},
            call | {"id": 5, "method": "toy.keep", "params": {"value": "b", "fail": True}},
            call | {"id": 6, "method": "no.such"},
            call | {"method": "update", "params": ["heard"]},
            [],
            7,
        ]
    )
    await until(lambda: toys.waiting == 1)
    await require_alive(client)
    toys.gate.set()
    answers = await client.read()
    codes = {answer["id"]: answer.get("error", {}).get("code") for answer in answers}
    assert codes == {1: None, 2: None, 3: None, 4: -32602, 5: 1409, 6: -32601, None: -32600}
    assert len(answers) == 8
    assert toys.heard == [["heard"]]


async def test_a_batch_of_the_limit_is_answered(client: Client) -> None:
    """A batch of the maximum size is answered; one request more refuses the whole batch."""
    call = {"jsonrpc": "2.0", "method": "toy.read"}
    await client.send([call | {"id": number} for number in range(MAX_BATCH_MESSAGES)])
    assert len(await client.read()) == MAX_BATCH_MESSAGES
    await client.send([call | {"id": number} for number in range(MAX_BATCH_MESSAGES + 1)])
    assert strip_words(await client.read()) == make_error(-32600)
    await require_alive(client)


async def test_requests_run_side_by_side(client: Client, toys: Toys) -> None:
    """A waiting request delays no other request, and each request can be cancelled."""
    first, second = await client.request("toy.wait", value=1), await client.request("toy.wait", value=2)
    assert await client.call("toy.read") is True
    await client.call("rpc.cancel", id=first)
    toys.gate.set()
    assert await client.answer(second) == 2
    with pytest.raises(RequestCancelled):
        await client.answer(first)
    with pytest.raises(RequestNotFound):
        await client.call("rpc.cancel", id=99)


async def test_clients_of_language_servers_cancel_as_they_are_used_to(client: Client, toys: Toys) -> None:
    """The notification ``$/cancelRequest`` cancels a request; an unknown id changes nothing."""
    first = await client.request("toy.wait", value=1)
    assert await client.call("toy.read") is True
    for id_ in (99, first):
        await client.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id_}})
    with pytest.raises(RequestCancelled):
        await client.answer(first)
    await require_alive(client)


async def test_a_subscription_is_complete(server: RpcServer, client: Client) -> None:
    """A subscription yields its answer, past events, live events, text and its end."""
    await client.call("toy.keep", value="a")
    answer = await client.call("journal.subscribe", after=0, deltas=True, subscription="s")
    assert answer == {"subscription": "s", "cursor": 0, "epoch": server.state.epoch}
    methods = []
    while "journal.synced" not in methods:
        methods.append((await client.next())[0])
    await client.call("toy.keep", value="b")
    assert (await client.next())[1]["event"]["note"] == "b"
    await client.call("journal.unsubscribe", subscription="s")
    assert await client.next() == ("journal.end", {"subscription": "s", "reason": "unsubscribed"})


async def test_every_answer_is_one_message(client: Client) -> None:
    """Every answer is one message, whatever its length."""
    text = 'é\n"\\\u2028' * 50_000
    assert (await client.call("toy.echo", value=text))["value"] == text


async def test_a_line_that_is_not_utf8_is_refused(server: RpcServer) -> None:
    """A line that is not UTF-8 is a parse error with its id; a WebSocket closes, as its own test shows."""
    client = await server.connect()
    await client.send(b'{"jsonrpc":"2.0","id":1,"method":"toy.echo","params":{"value":"\xff"}}')
    assert strip_words(await client.read()) == make_error(-32700, 1)
    await require_alive(client)


async def test_discover_describes_the_served_methods(client: Client) -> None:
    """rpc.discover describes the served methods over both transports."""
    document = await client.call("rpc.discover")
    assert msgspec.json.encode(document)
    assert "rpc.discover" in {method["name"] for method in document["methods"]}
