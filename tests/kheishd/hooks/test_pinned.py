"""Connections: what was checked is what is connected to."""

from ipaddress import ip_address

import httpcore2
import pytest
import trio

from kheishd.hooks.addresses import Address, is_public
from kheishd.hooks.pinned import Backend, Forbidden, _alternating
from tests.support.names import Names


def loopback(address: Address) -> bool:
    """This machine's own."""
    return address.is_loopback


async def listening(nursery: trio.Nursery, host: str = "127.0.0.1") -> int:
    """The port of a server that greets."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(stream.socket.getsockname()[0].encode())

    [listener] = await trio.open_tcp_listeners(0, host=host)
    nursery.start_soon(trio.serve_listeners, greet, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


async def greeting(backend: Backend, host: str, port: int) -> bytes:
    """What is said by whoever a connection leads to."""
    stream = await backend.connect_tcp(host, port)
    try:
        return await stream.read(100)
    finally:
        await stream.aclose()


async def test_a_name_is_looked_up_once(nursery: trio.Nursery) -> None:
    """Its answer is what is checked and what is connected to: a second one would not be asked for."""
    port = await listening(nursery)
    names = Names(example=["127.0.0.2"])
    trio.socket.set_custom_hostname_resolver(names)
    checked: list[str] = []

    def allowed(address: Address) -> bool:
        checked.append(str(address))
        names.answers["example"] = ["127.0.0.1"]
        return True

    with pytest.raises(httpcore2.ConnectError):
        await greeting(Backend(allowed), "example", port)
    assert (checked, names.asked) == (["127.0.0.2"], ["example"])
    assert await greeting(Backend(allowed), "example", port) == b"127.0.0.1"


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::1"], ["10.0.0.1", "8.8.8.8"]]
)
async def test_one_forbidden_address_is_enough(answers: list[str]) -> None:
    """Whoever mixes them has a reason to; nothing is connected to, not even what is allowed."""
    trio.socket.set_custom_hostname_resolver(Names(example=answers))
    with pytest.raises(Forbidden, match=r"^example is .*, which is not on the public internet$"):
        await Backend(is_public).connect_tcp("example", 1)


async def test_an_address_is_looked_at_like_a_name() -> None:
    """Also if it was written in a way that only the system understands."""
    with pytest.raises(Forbidden, match=r"^127\.0\.0\.1 is not on the public internet$"):
        await Backend(is_public).connect_tcp("127.0.0.1", 1)
    for host in ("0177.0.0.1", "127.1", "::ffff:127.0.0.1"):
        with pytest.raises(Forbidden, match="127"):
            await Backend(is_public).connect_tcp(host, 1)


async def test_the_next_address_is_tried(nursery: trio.Nursery) -> None:
    """Where nobody listens at the first; and both families have their turn."""
    port = await listening(nursery)
    names = Names(example=["::1", "127.0.0.9", "127.0.0.8", "127.0.0.1"])
    trio.socket.set_custom_hostname_resolver(names)
    assert await greeting(Backend(loopback), "example", port) == b"127.0.0.1"


async def test_not_all_of_many_are_tried(nursery: trio.Nursery) -> None:
    """A name with a hundred addresses is given up after a few."""
    port = await listening(nursery)
    many = [f"127.0.1.{number}" for number in range(1, 100)]
    trio.socket.set_custom_hostname_resolver(Names(example=[*many, "127.0.0.1"]))
    with pytest.raises(httpcore2.ConnectError):
        await Backend(loopback).connect_tcp("example", port)


async def test_families_take_turns() -> None:
    """One of each, in the order of the answer."""
    four, six = (list(map(ip_address, each)) for each in (["1.0.0.1", "1.0.0.2"], ["::1", "::2", "::3"]))
    assert _alternating([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]


async def test_a_name_that_nobody_knows() -> None:
    """It is said."""
    trio.socket.set_custom_hostname_resolver(Names(empty=[]))
    with pytest.raises(httpcore2.ConnectError, match="nobody: Name or service not known"):
        await Backend(is_public).connect_tcp("nobody", 1)
    with pytest.raises(httpcore2.ConnectError, match="empty has no address"):
        await Backend(is_public).connect_tcp("empty", 1)
