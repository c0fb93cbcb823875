"""Connections to hosts whose addresses were checked."""

from ipaddress import ip_address

import pytest
import trio

from kheishd.hooks.network.connector import AddressForbidden, Connector, HostUnknown, interleave
from tests.support.names import Names


async def listening(nursery: trio.Nursery) -> int:
    """Return the port of a server that greets."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, greet, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


async def test_a_name_is_resolved_once(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checked address is the connected one, even if the name has another one by then."""
    port = await listening(nursery)
    names = Names(monkeypatch, example=["127.0.0.1"])
    checked = []

    def is_allowed(address: object, port: int) -> bool:
        names.answers["example"] = ["127.0.0.2"]
        checked.append((str(address), port))
        return True

    async with await Connector(is_allowed).connect("example", port) as stream:
        assert await stream.receive_some() == b"hello"
    assert (checked, names.queries) == ([("127.0.0.1", port)], ["example"])


async def test_one_forbidden_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with one address that is not allowed is not connected to at all."""
    Names(monkeypatch, example=["8.8.8.8", "10.0.0.1"])
    connector = Connector(lambda address, port: str(address) != "10.0.0.1")
    with pytest.raises(
        AddressForbidden, match=r"^example is 10\.0\.0\.1, which is not on the public internet$"
    ):
        await connector.connect("example", 1)


async def test_the_next_address_is_tried(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one address refuses, the next is tried; the last problem is reported."""
    port = await listening(nursery)
    names = Names(monkeypatch, example=["127.0.0.9", "::1", "127.0.0.1"])
    connector = Connector(lambda address, port: True)
    async with await connector.connect("example", port) as stream:
        assert await stream.receive_some() == b"hello"
    names.answers["example"] = ["127.0.0.9", "127.0.0.8"]
    with pytest.raises(OSError, match="Connection refused"):
        await connector.connect("example", port)


async def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address is reported by its name."""
    Names(monkeypatch, empty=[])
    connector = Connector(lambda address, port: True)
    for host, problem in {"unknown": "unknown: Name or service", "empty": "empty has no address"}.items():
        with pytest.raises(HostUnknown, match=problem):
            await connector.connect(host, 1)


def test_families_take_turns() -> None:
    """Families alternate, in the order of the answer."""
    four, six = (list(map(ip_address, item)) for item in (["1.0.0.1", "1.0.0.2"], ["::1", "::2", "::3"]))
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
