"""The status of the daemon, and requests to stop it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kheishd.control import DaemonControl, Stopper, Vitals, memory_bytes
from kheishd.core.workspace import Workspaces
from kheishd.kernel.master_key import write_master_keys
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.kernel.state import State
from kheishd.objects.node import health
from kheishd.providers.caller import ProviderCaller
from kheishd.records.writer import StreamWriter
from kheishd.store.environment import Transaction
from kheishd.store.writer import Store
from protocol.events.cron import CronResumed
from protocol.events.trigger import TriggerChanged
from protocol.journal.envelope import BUS_STREAM
from protocol.limits.units import MIB
from tests.support.histories import rich_history, session_with_runs, update
from tests.support.runtimes import make_runtime
from tests.support.services import make_services

WORKSPACES = Workspaces("/tmp", "/home/kheish")


class FakeReloads:
    """Reloads that always result in generation 2."""

    def __init__(self, problem: str | None) -> None:
        self.problem = problem

    async def request(self) -> tuple[int, list[str]]:
        return 2, ["a warning"]


def make(
    state: State, runtime: Runtime | None = None, problem: str | None = None, **vitals: Any
) -> DaemonControl:
    """Return a control on a real store."""
    fields: dict[str, Any] = {"version": "1", "home": Path("/h"), "schema": 1, "started_at_ms": 5}
    return DaemonControl(
        make_services(state, runtime or make_runtime(workspaces=WORKSPACES)),
        Vitals(**(fields | vitals)),
        Stopper(lambda: 10.0),
        FakeReloads(problem),
        lambda: Path("/h/config.toml"),
    )


@pytest.fixture
def full_state(store: Store, monkeypatch: pytest.MonkeyPatch) -> State:
    """Return a state with a rich history, and no problem: its dead letters are not recent."""
    monkeypatch.setattr(health, "RECENT_MAIL_MS", -(1 << 62))
    rich_history(store)

    def resume(tx: Transaction) -> None:
        writer = StreamWriter(tx, BUS_STREAM)
        writer.append(TriggerChanged(trigger_id="trg_1", status="active"))
        writer.write()
        writer = StreamWriter(tx, "cron/tidy")
        writer.append(CronResumed(cron_id="tidy", next_due_ms=None))
        writer.write()

    update(store, resume)
    write_master_keys(store.directory.parent / "master.key", [bytes(32)], replaces=False)
    return State(store, lambda: 7)


async def test_status(full_state: State) -> None:
    """Counts, disk, memory and cursor are those of the store and the process."""
    status = make(full_state, active_runs=lambda: 3, listeners=["unix:/x"]).status()
    assert (status.counts.sessions, status.counts.runs, status.counts.tokens) == (11, 18, 2)
    assert (status.counts.runs_active, status.counts.runs_ready) == (3, 3)
    waiting = status.counts.approvals, status.counts.questions, status.counts.indoubts
    assert waiting == (1, 1, 1)
    assert (status.counts.connections, status.listeners) == (0, ["unix:/x"])
    assert 0 < status.disk.used_bytes <= status.disk.file_bytes <= status.disk.map_bytes
    assert status.disk.free_bytes > 0
    with full_state.read() as store:
        assert status.cursor == store.last_cursor
    assert status.memory_bytes == pytest.approx(memory_bytes(), rel=0.5)
    assert status.warnings == []


async def test_warnings(full_state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a refused reload, skipped agents, unready routes and an earlier crash are warnings."""
    monkeypatch.setattr(health, "LOW_DISK_BYTES", 1 << 62)
    broken = RouteSpec("broken", "openai", "m", "http://127.0.0.1:9", "env:NO_KEY")
    keys = ("env:KEY", "env:NO_KEY")
    keyed = RouteSpec("keyed", "openai", "m", "http://127.0.0.1:9", keys[0], auth_refs=keys)
    runtime = make_runtime(
        routes={"broken": broken, "keyed": keyed},
        models=ProviderCaller(environ={"KEY": "sk-12345678"}),
        warnings=("skipped x",),
        workspaces=Workspaces("/no/such", "/h"),
    )
    control_ = make(full_state, runtime, "config.toml:1: no", after_crash=True)
    warnings = control_.status().warnings
    words = [
        "nearly full",
        "config.toml:1: no",
        "skipped x",
        "the workspace /no/such does not exist; create it",
        "route 'broken' is not ready",
        "a key of the route 'keyed' is not ready",
        "did not shut down cleanly",
    ]
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize(("free_bytes", "words"), [(0, "is full;"), (MIB // 2, "(0.5 MiB free)")])
async def test_free_space_is_stated(
    full_state: State, monkeypatch: pytest.MonkeyPatch, free_bytes: int, words: str
) -> None:
    """The warning about the disk states the free space, also below a mebibyte."""
    disk = os.statvfs_result((1, 1, 1, free_bytes, free_bytes, 0, 0, 0, 0, 255))
    monkeypatch.setattr("kheishd.control.os.statvfs", lambda path: disk)
    assert words in make(full_state).status().warnings[0]


async def test_deleted_store_files(full_state: State) -> None:
    """If the files of the store are deleted, the status still works, and first warns how to save the data."""
    shutil.rmtree(full_state.store.directory)
    status = make(full_state).status()
    assert "backup" in status.warnings[0]
    assert status.disk.file_bytes == 0
    assert status.counts.sessions == 11


async def test_a_failing_cron_entry_is_a_warning(store: Store) -> None:
    """The warning names the entry and what to look at."""
    rich_history(store)
    warnings = make(State(store, lambda: 7)).status().warnings
    assert "the cron entry 'tidy' failed once; see cron.explain" in warnings


async def test_parked_run(full_state: State) -> None:
    """A parked run is a warning."""
    session_with_runs(full_state.store, "ses_x", "ended", "parked")
    (warning,) = make(full_state).status().warnings
    assert "run_ses_x_1 was parked" in warning


async def test_a_crash_warning_expires(full_state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning about a crash ends after an hour."""
    monkeypatch.setattr("kheishd.control.CRASH_WARNING_SECONDS", 0)
    assert make(full_state, after_crash=True).status().warnings == []


async def test_a_reload_reports_unready_routes(full_state: State) -> None:
    """A reload's warnings include routes without credentials."""
    broken = RouteSpec("broken", "openai", "m", "http://127.0.0.1:9", "env:NO_KEY")
    runtime = make_runtime(
        routes={"broken": broken}, models=ProviderCaller(environ={}), workspaces=WORKSPACES
    )
    _, warnings = await make(full_state, runtime).reload()
    assert warnings[0] == "a warning"
    assert "route 'broken' is not ready" in warnings[1]


async def test_control(full_state: State) -> None:
    """The control reloads, reports the path of the configuration, and requests a stop."""
    daemon = make(full_state)
    assert await daemon.reload() == (2, ["a warning"])
    assert daemon.config_path() == "/h/config.toml"
    assert not daemon.draining()
    daemon.shutdown(None)
    assert daemon.draining()
    assert daemon.status().draining


async def test_a_stop_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Active runs may take the default time, or the requested time, from the request."""
    for drain_s, seconds in ((None, 10.0), (3.0, 3.0), (0.0, 0.0)):
        stopper = Stopper(lambda: 10.0)
        started = trio.current_time()
        stopper.request("SIGTERM", drain_s)
        await stopper.wait()
        with stopper.scope:
            await trio.sleep_forever()
        assert trio.current_time() - started == pytest.approx(seconds)
        assert (stopper.reason, stopper.requested) == ("SIGTERM", True)


async def test_a_second_request_stops_at_once(mock_clock: trio.testing.MockClock) -> None:
    """A second request ends the waiting, even after it has begun; the reason stays the first."""
    stopper = Stopper(lambda: 1000.0)
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            stopper.request("SIGTERM")
            with stopper.scope:
                await trio.sleep_forever()

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        stopper.request("SIGINT")
    assert trio.current_time() < 1.0
    assert stopper.reason == "SIGTERM"


async def test_a_lost_master_key_is_a_warning(full_state: State) -> None:
    """The warning names a slot and the remedy."""
    (full_state.store.directory.parent / "master.key").unlink()
    (warning,) = make(full_state, after_crash=False).status().warnings
    assert "the secret slot 'openai'" in warning
    assert "put it back and reload" in warning
