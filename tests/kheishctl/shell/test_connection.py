"""Tests of the chat's connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kheishctl.client import ConnectionLost, NoDaemon, NotADaemon, RequestRefused
from kheishctl.shell.connection import ChatConnection
from tests.support.daemons import Daemon
from tests.support.scripted import Peer, Script, serve_scripts


class Owner:
    """The owner of a connection. It records the callbacks in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.is_lost = asyncio.Event()

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        """Record a notification."""
        self.log.append((method, params))

    def on_lost(self) -> None:
        """Record the loss."""
        self.log.append("lost")
        self.is_lost.set()


def run(path: Path, script: Script, body: Callable[[ChatConnection, Owner], Awaitable[None]]) -> None:
    """Run a body with a connection to a scripted daemon."""

    async def main() -> None:
        owner = Owner()
        connection = await ChatConnection.dial(str(path), owner.on_notification, owner.on_lost)
        await body(connection, owner)
        connection.close()
        await owner.is_lost.wait()

    with serve_scripts(path, script):
        asyncio.run(main())


def test_endless_line_closes_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line beyond the size limit closes the connection instead of filling the memory."""
    monkeypatch.setattr("kheishctl.shell.connection.MAX_MESSAGE_BYTES", 1 << 20)

    def script(peer: Peer) -> None:
        with suppress(OSError):
            while True:
                peer.raw(b"x" * 4096)

    async def body(connection: ChatConnection, owner: Owner) -> None:
        await owner.is_lost.wait()
        assert owner.log == ["lost"]

    run(tmp_path / "s", script, body)


def test_invalid_error(tmp_path: Path) -> None:
    """An error in another shape than the protocol's means that another program answers."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.raw(b"[" * 100_000 + b"\n")
        peer.send({"id": request["id"], "error": "no"})
        peer.has_hung_up()

    async def body(connection: ChatConnection, owner: Owner) -> None:
        with pytest.raises(NotADaemon):
            await connection.call("rpc.ping")

    run(tmp_path / "s", script, body)


def test_real_daemon(daemon: Daemon) -> None:
    """A real daemon answers calls; refusals, also of unreadable requests, are raised."""

    async def main() -> None:
        owner = Owner()
        connection = await ChatConnection.dial(str(daemon.socket), owner.on_notification, owner.on_lost)
        pings = await asyncio.gather(*(connection.call("rpc.ping") for _ in range(20)))
        assert len({ping["version"] for ping in pings}) == 1
        with pytest.raises(RequestRefused) as caught:
            await connection.call("run.get", {"run_id": "none"})
        assert caught.value.reason == "run_not_found"
        with pytest.raises(RequestRefused) as caught:
            await connection.call("run.get", {"run_id": "\udcff"})
        assert caught.value.reason == "parse_error"  # An unreadable request is answered without an id.
        connection.close()
        await owner.is_lost.wait()
        with pytest.raises(ConnectionLost):
            await connection.call("rpc.ping")

    asyncio.run(main())


def test_answers_in_any_order(tmp_path: Path) -> None:
    """Every answer resumes its own call, in any order."""

    def script(peer: Peer) -> None:
        first, second = peer.request(), peer.request()
        peer.answer(second, "second")
        peer.answer(first, "first")
        peer.has_hung_up()

    async def body(connection: ChatConnection, owner: Owner) -> None:
        answers = await asyncio.gather(connection.call("a"), connection.call("b"))
        assert list(answers) == ["first", "second"]

    run(tmp_path / "s", script, body)


def test_notifications_come_before_a_later_answer(tmp_path: Path) -> None:
    """Notifications are delivered in order, before a later answer resumes its caller."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.notify("n", number=1)
        peer.notify("n", number=2)
        peer.answer(request, None)
        peer.has_hung_up()

    async def body(connection: ChatConnection, owner: Owner) -> None:
        await connection.call("a")
        assert owner.log == [("n", {"number": 1}), ("n", {"number": 2})]

    run(tmp_path / "s", script, body)


def test_loss_is_reported_before_calls_fail(tmp_path: Path) -> None:
    """The owner hears of the loss first, so that nothing is retried over the lost connection."""

    async def body(connection: ChatConnection, owner: Owner) -> None:
        with pytest.raises(ConnectionLost):
            await connection.call("a")
        assert owner.log == ["lost"]

    run(tmp_path / "s", lambda peer: peer.request(), body)


def test_unknown_messages_are_ignored(tmp_path: Path) -> None:
    """Invalid lines and answers without a call are ignored; a line may arrive in pieces."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.raw(b"nonsense\n[]\n{}\n" + b'{"id": 99, "result": 1}\n' + b'{"method": "n"}\n')
        for byte in b'{"jsonrpc": "2.0", "id": "%b", "result": 7}\n' % request["id"].encode():
            peer.raw(bytes([byte]))
        peer.has_hung_up()

    async def body(connection: ChatConnection, owner: Owner) -> None:
        assert await connection.call("a") == 7

    run(tmp_path / "s", script, body)


def test_answer_to_a_cancelled_call(tmp_path: Path) -> None:
    """The answer to a cancelled call is ignored."""

    def script(peer: Peer) -> None:
        first = peer.request()
        peer.answer(peer.request(), "second")
        third = peer.request()
        peer.answer(first, "first")
        peer.answer(third, "third")
        peer.has_hung_up()

    async def body(connection: ChatConnection, owner: Owner) -> None:
        first, second = (
            asyncio.ensure_future(connection.call("a")),
            asyncio.ensure_future(connection.call("b")),
        )
        assert await second == "second"
        first.cancel()
        assert await connection.call("c") == "third"

    run(tmp_path / "s", script, body)


def test_no_daemon(tmp_path: Path) -> None:
    """A socket without a daemon raises the same failure as for other commands."""

    async def main() -> None:
        await ChatConnection.dial(str(tmp_path / "none"), lambda method, params: None, lambda: None)

    with pytest.raises(NoDaemon):
        asyncio.run(main())
