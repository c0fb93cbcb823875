"""A daemon's life inside the test: real store, sockets and signals, on the test's own loop."""

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
from kheishd.daemon import CLEAN, Daemon
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
    """A daemon that runs, and how it ended."""

    daemon: Daemon
    home: Home
    reason: str | None = None

    async def connect(self) -> Client:
        """A client, once the daemon listens."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    return Client(Lines(await trio.open_unix_socket(str(self.home.socket))))
                except OSError:
                    await trio.lowlevel.checkpoint()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A prepared home."""
    home = Home(tmp_path / "h")
    prepare(home)
    return home


@asynccontextmanager
async def life(home: Home, *, fails: bool = False) -> AsyncIterator[Life]:
    """A daemon for as long as the context lasts, then ended by SIGTERM, unless it ends by itself."""
    source = Source(home, environ={})
    level = logging.getLogger().level
    logs = Logs("text", "error", environ={})
    daemon = Daemon(source, source.read_config(), logs, {}, "error")
    living = Life(daemon, home)

    async def live() -> None:
        living.reason = await daemon.live()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            yield living
            if not fails:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        logs.close()
        logging.getLogger().setLevel(level)


def mark(home: Home) -> bytes | None:
    """What the last daemon left in the store."""
    store = Store.open(home.state, on_group=lambda group: None, threaded=False, version="test")
    with store.read() as snapshot:
        found = snapshot.get(META, CLEAN)
    store.close()
    return found


async def test_its_last_commit_says_that_it_stopped(home: Home) -> None:
    """While it lives there is no mark; afterwards there is, and the reason is the signal."""
    async with life(home) as living:
        client = await living.connect()
        assert (await client.call("daemon.status"))["warnings"] == []
        await client.transport.aclose()
    assert living.reason == "SIGTERM"
    assert mark(home) == b"1"


async def test_a_failure_inside_is_an_orderly_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something breaks: the error gets out, and yet the store is closed and says that we stopped."""
    from kheishd.workers.runs.worker import RunWorker

    async def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("broken")

    monkeypatch.setattr(RunWorker, "serve", broken)
    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        async with life(home, fails=True):
            await trio.sleep_forever()
    assert mark(home) == b"1"


async def test_a_store_that_fails_ends_it(home: Home) -> None:
    """The disk refuses for good: the daemon stops with that error, as nothing it says would be kept."""
    with pytest.RaisesGroup(pytest.RaisesExc(StorageFailed, match="on the disk"), flatten_subgroups=True):
        async with life(home, fails=True) as living:
            client = await living.connect()
            await client.call("rpc.ping")
            await client.transport.aclose()
            living.daemon._state.failed.ring()


async def test_an_old_runtime_is_closed_when_it_is_replaced(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each generation's connections are closed once: replaced ones then, the last one at the end."""
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


async def test_a_reload_that_breaks_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only a mistake in a file, a fault in the program too: by signal or method, the daemon goes on."""
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
    """The newest runtime."""
    return living.daemon._holder.current()
