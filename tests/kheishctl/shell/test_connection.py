"""The chat's connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kheishctl.client import ConnectionLost, NoDaemon, NotADaemon, RequestRefused
from kheishctl.shell.link import Link
from tests.support.daemons import Daemon
from tests.support.scripted import Peer, Script, scripted


class Owner:
    """Who has a link: what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.lost = asyncio.Event()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        """Remember a notification."""
        self.told.append((method, params))

    def on_lost(self) -> None:
        """Remember the loss."""
        self.told.append("lost")
        self.lost.set()


def talk(path: Path, script: Script, body: Callable[[Link, Owner], Awaitable[None]]) -> None:
    """Run a body on a link to a scripted daemon."""

    async def run() -> None:
        owner = Owner()
        link = await Link.dial(str(path), owner.on_notification, owner.on_lost)
        await body(link, owner)
        link.close()
        await owner.lost.wait()

    with scripted(path, script):
        asyncio.run(run())


def test_a_line_without_an_end_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept for ever."""
    monkeypatch.setattr("kheishctl.shell.link.MAX_MESSAGE_BYTES", 1 << 20)

    def script(peer: Peer) -> None:
        with suppress(OSError):
            while True:
                peer.raw(b"x" * 4096)

    async def body(link: Link, owner: Owner) -> None:
        await owner.lost.wait()
        assert owner.told == ["lost"]

    talk(tmp_path / "s", script, body)


def test_an_error_that_is_none(tmp_path: Path) -> None:
    """What poses as a daemon is named, and nothing breaks."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.raw(b"[" * 100_000 + b"\n")
        peer.send({"id": request["id"], "error": "no"})
        peer.gone()

    async def body(link: Link, owner: Owner) -> None:
        with pytest.raises(NotADaemon):
            await link.call("rpc.ping")

    talk(tmp_path / "s", script, body)


def test_the_real_thing(daemon: Daemon) -> None:
    """Requests are answered, refusals raised."""

    async def run() -> None:
        owner = Owner()
        link = await Link.dial(str(daemon.socket), owner.on_notification, owner.on_lost)
        pings = await asyncio.gather(*(link.call("rpc.ping") for _ in range(20)))
        assert len({ping["version"] for ping in pings}) == 1
        with pytest.raises(RequestRefused) as caught:
            await link.call("run.get", {"run_id": "none"})
        assert caught.value.reason == "run_not_found"
        with pytest.raises(RequestRefused) as caught:
            await link.call("run.get", {"run_id": "\udcff"})
        assert caught.value.reason == "parse_error"  # Answered without an id, as it could not be read.
        link.close()
        await owner.lost.wait()
        with pytest.raises(ConnectionLost):
            await link.call("rpc.ping")

    asyncio.run(run())


def test_answers_in_any_order(tmp_path: Path) -> None:
    """Each answer finds who asked."""

    def script(peer: Peer) -> None:
        first, second = peer.request(), peer.request()
        peer.answer(second, "second")
        peer.answer(first, "first")
        peer.gone()

    async def body(link: Link, owner: Owner) -> None:
        answers = await asyncio.gather(link.call("a"), link.call("b"))
        assert list(answers) == ["first", "second"]

    talk(tmp_path / "s", script, body)


def test_notifications_come_before_a_later_answer(tmp_path: Path) -> None:
    """Notifications are handed on in order, each before whoever asks is woken by a later answer."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.notify("n", number=1)
        peer.notify("n", number=2)
        peer.answer(request, None)
        peer.gone()

    async def body(link: Link, owner: Owner) -> None:
        await link.call("a")
        assert owner.told == [("n", {"number": 1}), ("n", {"number": 2})]

    talk(tmp_path / "s", script, body)


def test_a_loss_is_told_before_requests_fail(tmp_path: Path) -> None:
    """The owner knows first, so that nothing is tried again over a connection that is gone."""

    async def body(link: Link, owner: Owner) -> None:
        with pytest.raises(ConnectionLost):
            await link.call("a")
        assert owner.told == ["lost"]

    talk(tmp_path / "s", lambda peer: peer.request(), body)


def test_what_is_not_understood_is_passed_over(tmp_path: Path) -> None:
    """Lines that are no message, and answers nobody waits for, hurt nothing; lines come in pieces."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.raw(b"nonsense\n[]\n{}\n" + b'{"id": 99, "result": 1}\n' + b'{"method": "n"}\n')
        for byte in b'{"jsonrpc": "2.0", "id": %d, "result": 7}\n' % request["id"]:
            peer.raw(bytes([byte]))
        peer.gone()

    async def body(link: Link, owner: Owner) -> None:
        assert await link.call("a") == 7

    talk(tmp_path / "s", script, body)


def test_an_answer_after_giving_up(tmp_path: Path) -> None:
    """Who stopped waiting is not woken."""

    def script(peer: Peer) -> None:
        first = peer.request()
        peer.answer(peer.request(), "second")
        third = peer.request()
        peer.answer(first, "first")
        peer.answer(third, "third")
        peer.gone()

    async def body(link: Link, owner: Owner) -> None:
        first, second = asyncio.ensure_future(link.call("a")), asyncio.ensure_future(link.call("b"))
        assert await second == "second"
        first.cancel()
        assert await link.call("c") == "third"

    talk(tmp_path / "s", script, body)


def test_no_daemon(tmp_path: Path) -> None:
    """Nobody there is said as everywhere."""

    async def run() -> None:
        await Link.dial(str(tmp_path / "none"), lambda method, params: None, lambda: None)

    with pytest.raises(NoDaemon):
        asyncio.run(run())
