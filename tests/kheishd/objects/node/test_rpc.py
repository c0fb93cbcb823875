"""The rpc methods, over a socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheishd import __version__
from kheishd.objects.node import rpc
from protocol.errors.rpc import RequestCancelled, RequestNotFound
from protocol.rpc.catalogue import METHODS
from tests.support.rpc_server import Client, rpc_server
from tests.support.toys import Toys


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Connect to a server of the rpc methods and of some that wait."""
    async with rpc_server(tmp_path, [*rpc.HANDLERS, *Toys().handlers()]) as server:
        yield await server.connect()


async def test_rpc_ping_ok(client: Client) -> None:
    """The daemon answers with its version and its epoch."""
    pong = await client.call("rpc.ping")
    assert (pong["version"], len(pong["epoch"])) == (__version__, 32)


async def test_rpc_discover_ok(client: Client) -> None:
    """The OpenRPC document describes every method."""
    document = await client.call("rpc.discover")
    assert document["openrpc"].startswith("1.")
    assert document["info"]["version"] == __version__
    assert {method["name"] for method in document["methods"]} == set(METHODS)


@pytest.mark.parametrize("id_", [7, "seven", 7.5, -1])
async def test_rpc_cancel_ok(client: Client, id_: object) -> None:
    """A cancelled request answers that it was cancelled."""
    await client.send({"jsonrpc": "2.0", "id": id_, "method": "toy.wait"})
    assert await client.call("rpc.cancel", id=id_) == {"id": id_}
    with pytest.raises(RequestCancelled):
        await client.answer(id_)


async def test_rpc_cancel_request_not_found(client: Client) -> None:
    """An unknown or answered request cannot be cancelled, nor can a request cancel itself."""
    for id_ in (99, "1", None, await client.request("rpc.ping")):
        with pytest.raises(RequestNotFound):
            await client.call("rpc.cancel", id=id_)


async def test_a_request_of_another_connection_is_not_found(client: Client, tmp_path: Path) -> None:
    """A request id refers to the caller's own connection."""
    async with rpc_server(tmp_path / "other", [*rpc.HANDLERS, *Toys().handlers()]) as server:
        first, second = await server.connect(), await server.connect()
        waiting = await first.request("toy.wait")
        await first.call("rpc.ping")
        with pytest.raises(RequestNotFound):
            await second.call("rpc.cancel", id=waiting)
