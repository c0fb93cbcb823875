"""What the daemon says of itself, and how it is asked to stop."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kheishd import control
from kheishd.control import DaemonControl, Stopper, Vitals, memory_bytes
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.kernel.state import State
from kheishd.providers.caller import ProviderCaller
from kheishd.reloading import Coalesced
from kheishd.store.writer import Store
from tests.support.histories import rich_history, session_with_runs
from tests.support.runtimes import make_runtime
from tests.support.services import make_services


async def reloaded() -> tuple[int, list[str]]:
    """A reload that gives generation 2."""
    return 2, ["a warning"]


def make(state: State, nursery: trio.Nursery, runtime: Runtime | None = None, **vitals: Any) -> DaemonControl:
    """A control over a real state."""
    fields: dict[str, Any] = {"version": "1", "home": Path("/h"), "schema": 1, "started_at_ms": 5}
    return DaemonControl(
        make_services(state, runtime or make_runtime()),
        Vitals(**(fields | vitals)),
        Stopper(lambda: 10.0),
        Coalesced(nursery, reloaded),
        lambda: Path("/h/config.toml"),
    )


@pytest.fixture
def full_state(store: Store) -> State:
    """A state with some of everything in it."""
    rich_history(store)
    return State(store, lambda: 7)


async def test_status_counts_what_is_there(full_state: State, nursery: trio.Nursery) -> None:
    """Counts, disk, memory and cursor are those of the store and the process."""
    status = make(full_state, nursery, runs_active=lambda: 3, listeners=["unix:/x"]).status()
    assert (status.counts.sessions, status.counts.runs, status.counts.tokens) == (6, 12, 2)
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


async def test_warnings_say_what_to_do(
    full_state: State, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills, a refused reload, skipped agents, routes that are not ready, a crash before."""
    monkeypatch.setattr(control, "DISK_FREE_BYTES_LOW", 1 << 62)
    broken = RouteSpec("broken", "openai", "m", "http://127.0.0.1:9", "env:NO_KEY")
    runtime = make_runtime(
        routes={"broken": broken}, models=ProviderCaller(environ={}), warnings=("skipped x",)
    )
    vitals = {"reload_problem": "config.toml:1: no", "after_crash": True}
    warnings = make(full_state, nursery, runtime, **vitals).status().warnings
    words = ["nearly full", "config.toml:1: no", "skipped x", "route 'broken' is not ready", "ended without"]
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


async def test_a_store_whose_files_are_gone_is_still_told_of(
    full_state: State, nursery: trio.Nursery
) -> None:
    """How the daemon is can be asked, and the first thing it says is how to save what there is."""
    shutil.rmtree(full_state.store.directory)
    status = make(full_state, nursery).status()
    assert "backup" in status.warnings[0]
    assert status.disk.file_bytes == 0
    assert status.counts.sessions == 6


async def test_a_parked_run_is_shown(full_state: State, nursery: trio.Nursery) -> None:
    """Somebody has to look at it, so it is named together with how."""
    session_with_runs(full_state.store, "ses_x", "ended", "parked")
    (warning,) = make(full_state, nursery).status().warnings
    assert "run_ses_x_1 was parked" in warning
    assert "kheishctl run get run_ses_x_1" in warning


async def test_a_crash_is_not_news_for_ever(
    full_state: State, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an hour it is left to the journal."""
    monkeypatch.setattr(control, "CRASH_REMEMBERED_S", 0)
    assert make(full_state, nursery, after_crash=True).status().warnings == []


async def test_a_reload_names_routes_that_are_not_ready(full_state: State, nursery: trio.Nursery) -> None:
    """Whoever has just written a route learns at once that its credential is missing."""
    broken = RouteSpec("broken", "openai", "m", "http://127.0.0.1:9", "env:NO_KEY")
    runtime = make_runtime(routes={"broken": broken}, models=ProviderCaller(environ={}))
    _, warnings = await make(full_state, nursery, runtime).reload()
    assert warnings[0] == "a warning"
    assert "route 'broken' is not ready" in warnings[1]


async def test_levers(full_state: State, nursery: trio.Nursery) -> None:
    """Reloading, the configuration's path, shutting down."""
    lever = make(full_state, nursery)
    assert await lever.reload() == (2, ["a warning"])
    assert lever.config_path() == "/h/config.toml"
    assert not lever.draining()
    lever.shutdown(None)
    assert lever.draining()
    assert lever.status().draining


async def test_asked_once_there_is_time(autojump_clock: trio.testing.MockClock) -> None:
    """The default time, or the time that is asked for, from the moment of asking."""
    for asked, seconds in ((None, 10.0), (3.0, 3.0), (0.0, 0.0)):
        stopper = Stopper(lambda: 10.0)
        began = trio.current_time()
        stopper.ask("SIGTERM", asked)
        await stopper.wait()
        with stopper.scope:
            await trio.sleep_forever()
        assert trio.current_time() - began == pytest.approx(seconds)
        assert (stopper.reason, stopper.asked) == ("SIGTERM", True)


async def test_asked_twice_there_is_none(mock_clock: trio.testing.MockClock) -> None:
    """The second signal ends the waiting, also one that has begun; the reason stays the first."""
    stopper = Stopper(lambda: 1000.0)
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            stopper.ask("SIGTERM")
            with stopper.scope:
                await trio.sleep_forever()

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        stopper.ask("SIGINT")
    assert trio.current_time() < 1.0
    assert stopper.reason == "SIGTERM"
