"""A daemon's life in the test's process: real store, sockets and signals, on the test's own loop."""

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from kheishd.build.runtime import Source
from kheishd.daemon import Daemon
from kheishd.events import CLEAN
from kheishd.home import Home, prepare
from kheishd.kernel.runtime import Runtime
from kheishd.logs import Logs
from kheishd.providers.caller import ProviderCaller
from kheishd.store.tables import META
from kheishd.store.writer import Store
from protocol.errors.rpc import InternalError
from protocol.errors.store import StorageFailed
from tests.support.rpc_server import PATIENCE_S, Client, Lines


@dataclass
class Life:
    """A running daemon, and the reason for its end."""

    daemon: Daemon
    home: Home
    reason: str | None = None

    async def connect(self) -> Client:
        """Connect once the daemon listens."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    return Client(Lines(await trio.open_unix_socket(str(self.home.socket))))
                except OSError:
                    await trio.lowlevel.checkpoint()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a prepared home."""
    home = Home(tmp_path / "h")
    prepare(home)
    return home


@asynccontextmanager
async def life(home: Home, *, fails: bool = False) -> AsyncIterator[Life]:
    """Run a daemon during the block; then end it by SIGTERM, unless it fails by itself."""
    source = Source(home, environ={})
    level = logging.getLogger().level
    logs = Logs("text", "error", environ={})
    daemon = Daemon(source, source.read_config(), logs, {}, "error")
    living = Life(daemon, home)

    async def run() -> None:
        living.reason = await daemon.run()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield living
            if not fails:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        logs.close()
        logging.getLogger().setLevel(level)


def clean_mark(home: Home) -> bytes | None:
    """Return the clean_mark that the last daemon left in the store."""
    store = Store.open(home.state, on_group=lambda group: None, threaded=False, version="test")
    with store.read() as snapshot:
        mark = snapshot.get(META, CLEAN)
    store.close()
    return mark


async def test_the_last_commit_records_the_stop(home: Home) -> None:
    """A running daemon has no mark in the store; a stopped one has, and the reason is the signal."""
    async with life(home) as living:
        client = await living.connect()
        assert (await client.call("daemon.status"))["warnings"] == []
        await client.transport.aclose()
    assert living.reason == "SIGTERM"
    assert clean_mark(home) == b"1"


async def test_an_internal_error_ends_the_daemon_in_order(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error propagates, and yet the store is closed and records the stop."""
    from kheishd.workers.runs.worker import RunWorker

    async def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(RunWorker, "serve", broken)
    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        async with life(home, fails=True):
            await trio.sleep_forever()
    assert clean_mark(home) == b"1"


async def test_a_failed_store_ends_the_daemon(home: Home) -> None:
    """A disk that refuses writes for good stops the daemon with that error."""
    with pytest.RaisesGroup(pytest.RaisesExc(StorageFailed, match="on the disk"), flatten_subgroups=True):
        async with life(home, fails=True) as living:
            client = await living.connect()
            await client.call("rpc.ping")
            await client.transport.aclose()
            living.daemon._state.failed.ring()


async def test_each_runtime_is_closed_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced runtime is closed at once, the last one at the end."""
    closed: list[ProviderCaller] = []

    async def aclose(self: ProviderCaller) -> None:
        closed.append(self)

    monkeypatch.setattr(ProviderCaller, "aclose", aclose)
    async with life(home) as living:
        client = await living.connect()
        first = current(living)
        assert (await client.call("daemon.reload"))["generation"] == 2
        await trio.testing.wait_all_tasks_blocked()
        assert closed == [first.models]
        second = current(living)
        await client.transport.aclose()
    assert closed == [first.models, second.models]


async def test_a_failing_reload_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error during a reload, by method or signal, leaves the daemon running as before."""
    from kheishd import daemon

    async with life(home) as living:
        client = await living.connect()
        await client.call("daemon.status")

        def broken(*args: object, **kwargs: object) -> Runtime:
            raise KeyError("broken")

        monkeypatch.setattr(daemon, "build_runtime", broken)
        with pytest.raises(InternalError):
            await client.call("daemon.reload")
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.testing.wait_all_tasks_blocked(0.05)
        status = await client.call("daemon.status")
        assert (status["generation"], len(status["warnings"])) == (1, 1)
        await client.transport.aclose()


def current(living: Life) -> Runtime:
    """Return the current runtime."""
    return living.daemon.reloader.runtimes.current()
