"""Connections that are not authenticated yet."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from kheishd.server.handshakes import HANDSHAKE_S, Handshakes


@pytest.fixture
def peers() -> Iterator[list[trio.socket.SocketType]]:
    """Provide connected sockets."""
    with ExitStack() as stack:
        yield [stack.enter_context(end) for _ in range(6) for end in trio.socket.socketpair()]


async def test_a_handshake_has_seconds(
    peers: list[trio.socket.SocketType], autojump_clock: trio.testing.MockClock
) -> None:
    """A silent peer is given up after a few seconds, and its place is free."""
    handshakes = Handshakes(8)
    handshakes.add(peers[0], "192.0.2.1")
    began = trio.current_time()
    with handshakes.time_limit(peers[0]):
        await trio.sleep_forever()
    assert trio.current_time() - began == HANDSHAKE_S <= 5
    assert len(handshakes) == 0


async def test_a_flood_displaces_itself(peers: list[trio.socket.SocketType]) -> None:
    """Beyond the limit, the oldest peer of the address with most of them is closed, and its task ends."""
    handshakes = Handshakes(4)
    alone, *flood = peers[:7]
    handshakes.add(alone, "192.0.2.1")
    for peer in flood[:3]:
        handshakes.add(peer, "192.0.2.66")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_end, handshakes, flood[0])
        await trio.testing.wait_all_tasks_blocked()
        for peer in flood[3:]:
            handshakes.add(peer, "192.0.2.66")
    assert [peer.fileno() < 0 for peer in (alone, *flood)] == [False, True, True, True, False, False, False]
    assert len(handshakes) == 4


async def expect_end(handshakes: Handshakes, peer: trio.socket.SocketType) -> None:
    """Read from a peer until it is closed here."""
    with handshakes.time_limit(peer), pytest.raises(trio.ClosedResourceError):
        await peer.recv(1)


async def test_a_finished_handshake_frees_its_place(peers: list[trio.socket.SocketType]) -> None:
    """An authenticated peer no longer counts: a new handshake does not close it."""
    handshakes = Handshakes(1)
    handshakes.add(peers[0], "192.0.2.1")
    with handshakes.time_limit(peers[0]):
        pass
    handshakes.add(peers[1], "192.0.2.1")
    assert peers[0].fileno() >= 0
    assert len(handshakes) == 1
