"""Reloads: requests are coalesced, and a new runtime replaces the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.core.definition import parse
from kheishd.core.hook import NO_OBJECTION, HookVerdict
from kheishd.kernel.state import open_state
from kheishd.records.writer import StreamWriter
from kheishd.reload import Coalesced, Reloader
from protocol.errors.daemon import ConfigInvalid
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.events.route import DefaultRouteChanged, RouteStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects.route import RouteSettings
from tests.support.hooked import shell_hook
from tests.support.runtimes import make_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from kheishd.kernel.lifecycle import HookSpec, HookSubject
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction


class Work:
    """Work that counts its executions; each waits for the gate."""

    def __init__(self) -> None:
        self.executions = 0
        self.gate = trio.Semaphore(0)
        self.fails = False

    async def __call__(self) -> int:
        self.executions += 1
        number = self.executions
        await self.gate.acquire()
        if self.fails:
            raise ValueError("refused")
        return number


async def test_requests_are_coalesced(nursery: trio.Nursery) -> None:
    """Ten requests made during an execution share the next one and its result."""
    work = Work()
    coalesced = Coalesced(nursery, work)
    results: list[int] = []

    async def request() -> None:
        results.append(await coalesced.request())

    async with trio.open_nursery() as requests:
        requests.start_soon(request)
        await wait_all_tasks_blocked()
        for _ in range(10):
            requests.start_soon(request)
        await wait_all_tasks_blocked()
        assert work.executions == 1
        work.gate.release()
        await wait_all_tasks_blocked()
        work.gate.release()
    assert results == [1] + [2] * 10
    assert work.executions == 2


async def test_a_failure_affects_only_its_requests(nursery: trio.Nursery) -> None:
    """The requests of a failing execution receive the error; the next request executes the work again."""
    work = Work()
    coalesced = Coalesced(nursery, work)
    work.fails = True
    work.gate.release()
    with pytest.raises(ValueError, match="refused"):
        await coalesced.request()
    work.fails = False
    work.gate.release()
    assert await coalesced.request() == 2


async def test_a_cancelled_request_does_not_stop_the_work(nursery: trio.Nursery) -> None:
    """The work continues for the other requests."""
    work = Work()
    coalesced = Coalesced(nursery, work)
    async with trio.open_nursery() as requests:
        requests.start_soon(coalesced.request)
        await wait_all_tasks_blocked()
        requests.cancel_scope.cancel()
    work.gate.release()
    await wait_all_tasks_blocked()
    assert work.executions == 1


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """Open a state on an empty store."""
    (tmp_path / "state").mkdir()
    async with open_state(tmp_path / "state", version="test") as state:
        yield state


class Builder:
    """The functions that a reloader calls, and the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.error: Exception | None = None

    def build(self, generation: int) -> Runtime:
        self.calls.append(f"build {generation}")
        if self.error is not None:
            raise self.error
        return make_runtime(generation, warnings=("a warning",))

    def adopt(self, runtime: Runtime) -> None:
        self.calls.append(f"adopt {runtime.generation}")

    def notify(self, begins: bool) -> None:
        self.calls.append("begin" if begins else "end")


def make_reloader(
    nursery: trio.Nursery, state: State, builder: Builder, decide: Any = None, *hooks: HookSpec
) -> Reloader:
    """Return a reloader with a first runtime, which has these lifecycle hooks."""
    return Reloader(
        nursery,
        state,
        make_runtime(lifecycle=hooks),
        build=builder.build,
        adopt=builder.adopt,
        learn=lambda runtime: None,
        notify=builder.notify,
        scrub=lambda text: text.replace("sk-secret", "[scrubbed]"),
        decide=decide,
    )


async def test_a_hook_blocks_a_reload(state: State, nursery: trio.Nursery) -> None:
    """The hooks of the current runtime judge the next one; a block is a refusal, and nothing changes."""
    builder, subjects = Builder(), []

    async def decide(hooks: Sequence[HookSpec], subject: HookSubject) -> HookVerdict:
        subjects.append((hooks[0].name, subject.payload["generation"]))
        return HookVerdict(block="not on a Friday") if len(subjects) == 1 else NO_OBJECTION

    reloader = make_reloader(nursery, state, builder, decide, shell_hook("watch", "config_change", "true"))
    with pytest.raises(ConfigInvalid, match="must not take effect: not on a Friday"):
        await reloader.request()
    assert reloader.runtimes.current().generation == 1
    assert reloader.problem is not None
    await reloader.request()
    # The next runtime has no hooks.
    await reloader.request()
    assert subjects == [("watch", 2), ("watch", 2)]
    assert reloader.runtimes.current().generation == 3


async def test_a_new_runtime_becomes_current(state: State, nursery: trio.Nursery) -> None:
    """A runtime is adopted before it becomes current, and the reload is committed."""
    builder = Builder()
    reloader = make_reloader(nursery, state, builder)
    assert await reloader.request() == (2, ["a warning"])
    assert builder.calls == ["adopt 1", "begin", "build 2", "adopt 2", "end"]
    assert reloader.runtimes.current().generation == 2
    assert reloader.problem is None
    with state.read() as snapshot:
        assert snapshot.last_cursor == 1


async def test_a_refused_configuration_changes_nothing(state: State, nursery: trio.Nursery) -> None:
    """The current runtime remains, and the scrubbed problem is kept until the next success."""
    builder = Builder()
    reloader = make_reloader(nursery, state, builder)
    builder.error = ConfigInvalid("unknown key sk-secret", field="k")
    with pytest.raises(ConfigInvalid) as caught:
        await reloader.request()
    assert (caught.value.message, caught.value.field) == ("unknown key [scrubbed]", "k")
    assert reloader.problem == "unknown key [scrubbed]"
    assert reloader.runtimes.current().generation == 1
    assert builder.calls[-1] == "end"
    builder.error = None
    await reloader.request()
    assert reloader.problem is None


async def test_an_internal_error_changes_nothing(state: State, nursery: trio.Nursery) -> None:
    """An unexpected error leaves the current runtime in place and is reported as a problem."""
    builder = Builder()
    reloader = make_reloader(nursery, state, builder)
    builder.error = KeyError("broken")
    with pytest.raises(KeyError):
        await reloader.request()
    assert reloader.problem == "internal error; see the daemon's log"
    assert reloader.runtimes.current().generation == 1
    assert builder.calls[-1] == "end"


async def test_stored_definitions(state: State, nursery: trio.Nursery) -> None:
    """A stored definition is there after its commit and after a reload; one that is deleted is gone."""

    def store(tx: Transaction) -> None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        writer.append(DefinitionStored(definition=parse("helper", b"Help.", None)))
        writer.write()

    def delete(tx: Transaction) -> None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        writer.append(DefinitionDeleted(name="helper"))
        writer.write()

    reloader = make_reloader(nursery, state, Builder())
    runtimes = reloader.runtimes
    first = runtimes.current()
    with runtimes.hold():
        await state.update(store)
        assert list(runtimes.current().definitions) == ["default", "helper"]
        assert runtimes.current().models is first.models
    second = make_reloader(nursery, state, Builder()).runtimes.current()
    assert list(second.definitions) == ["default", "helper"]
    await reloader.request()
    assert "helper" in runtimes.current().definitions
    await state.update(delete)
    assert (list(runtimes.current().definitions), runtimes.current().generation) == (["default"], 2)


async def test_stored_routes(state: State, nursery: trio.Nursery) -> None:
    """A stored route is in force right after its commit, and its credential is learned before."""
    learned: list[list[str]] = []
    reloader = Reloader(
        nursery,
        state,
        make_runtime(),
        build=Builder().build,
        adopt=lambda runtime: None,
        learn=lambda runtime: learned.append(sorted(runtime.routes)),
        notify=lambda begins: None,
        scrub=str,
    )

    def store(tx: Transaction) -> None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        settings = RouteSettings(model="m", driver="openai", auth_ref="env:KEY")
        writer.append(RouteStored(route_id="live", revision=1, settings=settings))
        writer.append(DefaultRouteChanged(route_id="live"))
        writer.write()

    await state.update(store)
    assert learned == [["offline"], ["live", "offline"]]
    assert reloader.runtimes.current().default_route == "live"
    await reloader.request()
    assert reloader.runtimes.current().routes["live"].auth_ref == "env:KEY"
