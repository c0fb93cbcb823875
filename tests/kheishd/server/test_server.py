"""The server: accepting, counting, draining and closing connections."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from kheishd.objects.node import journal, rpc
from kheishd.server.authentication import SocketGrant, SocketPeer
from kheishd.server.listeners import SharedListen
from kheishd.server.unix_socket import LineConnection
from protocol.errors.daemon import DaemonDraining
from protocol.errors.token import PeerUnknown, ScopeMissing
from tests.support.rpc_server import Client, Lines, RpcServer, rpc_server
from tests.support.toys import Toys


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys) -> AsyncIterator[RpcServer]:
    """Provide a server with its private socket, and one for the group, which may read."""
    grants = (SocketGrant(gid=os.getgid(), scopes=("read",), agents=frozenset(("helper",))),)
    shared = SharedListen(tmp_path / "shared.sock", grants=grants)
    handlers = [*toys.handlers(), *rpc.HANDLERS, *journal.HANDLERS]
    async with rpc_server(tmp_path, handlers, shared=shared) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_connections_and_subscriptions_are_counted(server: RpcServer) -> None:
    """The counts follow connections and subscriptions."""
    one, other = await server.connect(), await server.connect()
    await one.call("journal.subscribe")
    await other.call("rpc.ping")
    assert (server.server.connections, server.server.subscriptions) == (2, 1)
    await one.stream.aclose()
    await until(lambda: (server.server.connections, server.server.subscriptions) == (1, 0))


async def test_a_foreign_user_is_told_and_turned_away(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign user gets one refusal and is disconnected without being counted."""
    monkeypatch.setattr("kheishd.server.server.peer_of", lambda stream: SocketPeer(1, 54_321, 54_321))
    client = await server.connect()
    refusal = await client.read()
    assert refusal["id"] is None
    assert refusal["error"]["data"]["reason"] == PeerUnknown.reason
    with pytest.raises(EOFError):
        await client.read()
    assert server.server.connections == 0


async def test_a_grant_says_what_the_shared_socket_allows(server: RpcServer, tmp_path: Path) -> None:
    """The grant of the shared socket allows reading and nothing else."""
    stream = await trio.open_unix_socket(str(tmp_path / "shared.sock"))
    async with Client(Lines(stream)) as client:
        assert await client.call("toy.read") is True
        with pytest.raises(ScopeMissing):
            await client.call("toy.admin")
        ours = [each.caller for each in server.server.list_connections()]
        assert [caller.agents for caller in ours] == [frozenset(("helper",))]


async def test_draining_answers_and_closes(server: RpcServer, toys: Toys) -> None:
    """Draining refuses waiting requests, answers committing ones and ends subscriptions."""
    client = await server.connect()
    await client.call("journal.subscribe", subscription="s")
    waiting = await client.request("toy.wait")
    await until(lambda: toys.waiting == 1)
    keeping = await client.request("toy.keep", value="x")
    await until(lambda: any(len(each.opened) == 2 for each in server.server.list_connections()))
    await server.server.drain(10)
    assert server.server.connections == 0
    with pytest.raises(DaemonDraining):
        await client.answer(waiting)
    assert (await client.answer(keeping))["number"] == 1
    notes = [await client.next() for _ in range(2)]
    assert ("journal.end", {"subscription": "s", "reason": "shutdown"}) in notes
    with pytest.raises(EOFError):
        await client.read()


async def test_draining_does_not_wait_for_who_does_not_read(server: RpcServer) -> None:
    """Draining ends at its deadline even if a client does not read."""
    client = await server.connect()
    await client.request("toy.large", size=4_000_000)
    await until(lambda: any(each.unsent_bytes for each in server.server.list_connections()))
    with trio.fail_after(10):
        await server.server.drain(0.01)
    assert server.server.connections == 1


async def test_a_connection_that_fails_harms_no_other(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of one connection is logged and ends only that one."""
    neighbour = await server.connect()
    await neighbour.call("rpc.ping")

    async def fail(self: LineConnection) -> None:
        raise RuntimeError("a fault in a connection")

    monkeypatch.setattr(LineConnection, "_read", fail)
    with caplog.at_level(logging.ERROR):
        client = await server.connect()
        with pytest.raises(EOFError):
            await client.read()
    assert "a fault in a connection" in caplog.text
    assert await neighbour.call("rpc.ping")
    assert server.server.connections == 1


async def test_a_freed_descriptor_is_heard_of(server: RpcServer) -> None:
    """The end of a connection wakes tasks that wait for a descriptor."""
    client = await server.connect()
    await client.call("rpc.ping")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.server.descriptor_freed)
        await client.stream.aclose()


async def test_leaving_cuts_off_whoever_is_left(tmp_path: Path, toys: Toys) -> None:
    """Closing the server closes the remaining connections without answers."""
    async with rpc_server(tmp_path, toys.handlers()) as server:
        stream = await trio.open_unix_socket(str(server.path))
        client = Client(Lines(stream))
        await client.request("toy.wait")
        await until(lambda: toys.waiting == 1)
    async with client:
        with pytest.raises(EOFError):
            await client.read()
    assert toys.waiting == 0
