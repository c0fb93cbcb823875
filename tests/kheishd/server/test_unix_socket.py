"""The transport of Unix sockets, tested with plain sockets."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from kheishd.objects.node import journal, rpc
from kheishd.server.unix_socket import FEED_BYTES
from protocol.limits.rpc import MAX_LINE_BYTES, MAX_UNSENT_BYTES
from protocol.rpc.codec import Codec
from protocol.rpc.wire import Decoded
from tests.support.rpc_server import Client, RpcServer, rpc_server
from tests.support.toys import Toys

PING = b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}'


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys) -> AsyncIterator[RpcServer]:
    """Provide a server on a Unix socket."""
    async with rpc_server(tmp_path, [*toys.handlers(), *rpc.HANDLERS, *journal.HANDLERS]) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def everything(stream: trio.SocketStream) -> list[Any]:
    """All lines until the other side closes, decoded."""
    received = bytearray()
    with trio.fail_after(10):
        while data := await stream.receive_some():
            received += data
    return [msgspec.json.decode(line) for line in received.splitlines()]


async def test_a_half_closed_peer_is_still_answered(server: RpcServer, toys: Toys) -> None:
    """A half-closed client gets its ready, committing and waiting answers, then the connection closes."""
    client = await server.connect()
    await client.request("toy.read")
    await client.request("toy.keep", value="x")
    await client.request("toy.wait", value="late")
    await client.stream.send_eof()
    await until(lambda: toys.waiting == 1)
    toys.gate.set()
    answers = await everything(client.stream)
    assert sorted(answer["id"] for answer in answers) == [1, 2, 3]
    await until(lambda: server.server.connections == 0)


async def test_the_last_line_needs_no_newline(server: RpcServer) -> None:
    """The end of input completes the last line."""
    client = await server.connect()
    await client.stream.send_all(PING)
    await client.stream.send_eof()
    assert [answer["id"] for answer in await everything(client.stream)] == [1]


async def test_a_half_closed_peer_does_not_follow_for_ever(server: RpcServer) -> None:
    """A half-close ends endless subscriptions with a notification."""
    client = await server.connect()
    await client.request("journal.subscribe", subscription="s")
    await client.stream.send_eof()
    assert (await everything(client.stream))[-1]["params"] == {"subscription": "s", "reason": "unsubscribed"}


async def test_a_peer_that_hangs_up_is_forgotten(server: RpcServer, toys: Toys) -> None:
    """A disconnect ends the client's waits; its submitted mutations are executed."""
    client = await server.connect()
    await client.request("toy.wait")
    await client.request("toy.keep", value="x")
    await client.stream.aclose()
    await until(lambda: server.server.connections == 0 and toys.waiting == 0)
    assert (await (await server.connect()).call("toy.keep", value="y"))["number"] == 2


async def test_a_peer_that_hangs_up_while_half_closed_is_noticed(
    server: RpcServer, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disconnect after a half-close is noticed by polling."""
    monkeypatch.setattr("kheishd.server.unix_socket.GONE_CHECK_S", 0.01)
    client = await server.connect()
    await client.request("toy.wait")
    await client.stream.send_eof()
    await until(lambda: toys.waiting == 1)
    await client.stream.aclose()
    await until(lambda: server.server.connections == 0 and toys.waiting == 0)


async def test_a_peer_may_speak_in_headers(server: RpcServer) -> None:
    """A client that uses header framing is answered in header framing."""
    client = await server.connect()
    framed = b"Content-Length: %d\r\n\r\n%b" % (len(PING), PING)
    await client.stream.send_all(framed * 2)
    received = bytearray()
    with trio.fail_after(10):
        while received.count(b"version") < 2:
            received += await client.stream.receive_some()
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    size = int(head.removeprefix(b"Content-Length: "))
    assert msgspec.json.decode(rest[:size])["id"] == 1
    assert rest[size:].startswith(head + b"\r\n\r\n")


async def test_a_line_over_the_limit_is_refused_and_the_next_one_works(server: RpcServer) -> None:
    """A line of seventeen mebibytes is refused without being buffered, and the next line is read."""
    client = await server.connect()
    chunk = b"x" * (1 << 20)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for _ in range(17):
                await client.stream.send_all(chunk)
            await client.stream.send_all(b"\n" + PING + b"\n")

        refused, answered = await client.read(), await client.read()
    assert refused["error"]["data"]["reason"] == "message_too_large"
    assert answered["id"] == 1


async def test_a_line_of_the_limit_is_taken(server: RpcServer) -> None:
    """A line of exactly the limit is accepted."""
    client = await server.connect()
    head, tail = b'{"jsonrpc":"2.0","id":1,"method":"toy.echo","params":{"value":"', b'"}}'
    room = MAX_LINE_BYTES - len(head) - len(tail)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stream.send_all, head + b"x" * room + tail + b"\n")
        answer = await client.read()
    assert len(answer["result"]["value"]) == room


async def test_a_peer_that_reads_nothing_is_read_no_more(server: RpcServer) -> None:
    """A client that reads nothing holds a bounded buffer, delays nobody, and loses nothing."""
    client, neighbour = await server.connect(), await server.connect()
    size = 300 * 1024
    lines = b"".join(
        msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": "toy.large", "params": {"size": size}})
        + b"\n"
        for number in range(30)
    )
    await client.stream.send_all(lines)
    await until(lambda: any(one.unsent_bytes > MAX_UNSENT_BYTES for one in server.server.list_connections()))
    assert await neighbour.call("toy.read") is True
    assert max(each.unsent_bytes for each in server.server.list_connections()) < MAX_UNSENT_BYTES + 2 * size
    for number in range(30):
        assert (await client.read())["id"] == number
    assert await client.call("toy.read") is True


async def test_a_peer_that_vanishes_with_answers_unread_is_forgotten(server: RpcServer) -> None:
    """Nothing is kept for a client that vanishes with unread answers."""
    client = await server.connect()
    await client.request("toy.large", size=2_000_000)
    await until(lambda: any(each.unsent_bytes for each in server.server.list_connections()))
    await client.stream.aclose()
    await until(lambda: server.server.connections == 0)


async def test_a_connection_that_closes_just_when_there_is_room_again_is_no_fault(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client may read and disconnect in one turn of the loop."""
    client = await server.connect()
    over = trio.Event()

    async def closed_meanwhile(stream: socket.socket) -> None:
        await client.stream.aclose()
        await until(lambda: server.server.connections == 0)
        over.set()

    monkeypatch.setattr("kheishd.server.unix_socket.wait_writable", closed_meanwhile)
    await client.request("toy.large", size=MAX_UNSENT_BYTES - 1_000)
    with trio.fail_after(10):
        await over.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert caplog.records == []


async def test_a_peer_that_says_nothing_costs_nothing(server: RpcServer) -> None:
    """A silent client does not delay others."""
    silent = await server.connect()
    await until(lambda: server.server.connections == 1)
    client = await server.connect()
    assert await client.call("toy.read") is True
    assert await silent.call("toy.read") is True


async def test_bytes_may_come_one_by_one(server: RpcServer) -> None:
    """A message may arrive byte by byte."""
    client = await server.connect()
    for place in range(len(PING)):
        await client.stream.send_all(PING[place : place + 1])
        await trio.testing.wait_all_tasks_blocked()
    await client.stream.send_all(b"\n")
    assert (await client.read())["id"] == 1


async def test_a_read_is_decoded_bit_by_bit(server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of thirty thousand lines is decoded in portions, so others are served meanwhile."""
    sizes: list[int] = []
    feed = Codec.feed

    def watched(codec: Codec, data: bytes) -> list[Decoded]:
        sizes.append(len(data))
        return feed(codec, data)

    monkeypatch.setattr(Codec, "feed", watched)
    client = await server.connect()
    await client.stream.send_all(b"1\n" * 32_768 + PING + b"\n")
    with trio.fail_after(30):
        while (await client.read())["id"] is None:
            pass
    assert max(sizes) <= FEED_BYTES
    assert sum(sizes) == 2 * 32_768 + len(PING) + 1


async def test_a_peer_that_does_not_want_answers_is_let_go(server: RpcServer) -> None:
    """A client that closed its receiving side is disconnected."""
    client = await server.connect()
    client.stream.socket.shutdown(socket.SHUT_RD)
    await client.request("toy.read")
    await until(lambda: server.server.connections == 0)


async def many(server: RpcServer, count: int) -> list[Client]:
    """Return served connections."""
    clients = [await server.connect() for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.call, "rpc.ping")
    return clients


async def test_two_hundred_at_once_are_served(server: RpcServer) -> None:
    """Two hundred clients at once each get their own answers."""
    clients = await many(server, 200)
    results: dict[int, Any] = {}

    async def ask(number: int) -> None:
        results[number] = (await clients[number].call("toy.echo", value=number))["value"]

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)
    assert results == {number: number for number in range(200)}
