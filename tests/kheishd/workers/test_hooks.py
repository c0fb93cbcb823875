"""Hooks that learn of events after the fact: each at least once, in every daemon under the same key."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.lifecycle import HookSpec
from kheishd.objects.talk import session
from kheishd.store.tables import META
from kheishd.workers.hooks import PROGRESS, HookWorker
from protocol.objects.hook import HookEvent
from protocol.objects.session import SessionEnd
from tests.support.desk import Desk, Scripted, fails, gives, open_desk, says, working
from tests.support.hooked import shell_hook
from tests.support.runtimes import change_runtime
from tests.support.stories import add_daemon_event
from tests.support.workshop import Workshop, write


def spies(directory: Path, *events: HookEvent) -> tuple[HookSpec, ...]:
    """Return hooks that append their input to a file."""
    line = f'x=$(cat); echo "$x" >> {directory}/seen'
    return tuple(shell_hook(f"spy-{event}", event, line) for event in events)


def seen(directory: Path) -> list[dict[str, Any]]:
    """Return the inputs of the hooks so far."""
    path = directory / "seen"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def observed(directory: Path, models: Any, hooks: tuple[HookSpec, ...]) -> AsyncIterator[Desk]:
    """Open a desk with a run worker and a hook worker."""
    composite = CompositeHook((Workshop(),))
    async with (
        open_desk(directory, models, threaded=True, hooks=composite, lifecycle=hooks) as desk,
        working(desk),
        trio.open_nursery() as nursery,
    ):
        await nursery.start(HookWorker(desk.services).serve)
        await nursery.start(_settle, desk, hooks)
        yield desk
        nursery.cancel_scope.cancel()


async def _settle(
    desk: Desk, hooks: tuple[HookSpec, ...], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Return once the worker has begun to follow, if there are hooks."""
    while hooks and progress(desk) is None:
        await desk.state.bell(META.name).wait()
    task_status.started()


def progress(desk: Desk) -> bytes | None:
    """Return the stored cursor."""
    with desk.state.read() as store:
        return store.get(META, PROGRESS)


async def catch_up(desk: Desk) -> None:
    """Wait until hooks have learned of all events."""
    while True:
        bell = desk.state.bell(META.name)
        with desk.state.read() as store:
            stored = int(store.get(META, PROGRESS) or 0)
            rest = [line for cursor, line in store.entries(next(iter(_streams(desk)))) if cursor > stored]
        if not rest:
            return
        await bell.wait()


def _streams(desk: Desk) -> list[str]:
    from kheishd.store.tables import SESSIONS

    with desk.state.read() as store:
        return [key[0] for key, _ in store.scan(SESSIONS)]


async def test_events_reach_their_hooks(tmp_path: Path) -> None:
    """A failed run, a request to a person and the end of a session have hooks."""
    hooks = spies(tmp_path, "stop_failure", "notification", "session_end", "permission_denied")
    models = Scripted(
        [lambda request: gives(write("/a")), lambda request: fails("bad_request", retryable=False)]
    )
    async with observed(tmp_path, models, hooks) as desk:
        run_id = (await desk.send("write")).run_id
        await desk.until(lambda: desk.run(run_id).status == "waiting_for_approval")
        await desk.allow(run_id)
        session_id = desk.run(run_id).session_id
        await desk.do(session.end, SessionEnd(session_id=session_id))
        await catch_up(desk)
    inputs = {content["event"]: content for content in seen(tmp_path)}
    assert inputs.keys() == {"stop_failure", "notification", "session_end"}
    assert inputs["stop_failure"]["payload"]["error"]["reason"] == "bad_request"
    assert (inputs["notification"]["subject"], inputs["notification"]["run_id"]) == ("approval", run_id)
    assert inputs["session_end"]["session_id"] == session_id


async def test_hooks_learn_of_events_since_the_start(tmp_path: Path) -> None:
    """What happened between the start of the daemon and that of this worker reaches its hooks."""
    models = Scripted([lambda request: fails("bad_request", retryable=False)])
    async with observed(tmp_path, models, ()) as desk:
        await desk.ask("before")
        await desk.state.update(add_daemon_event)
        await desk.ask("after")
    async with observed(tmp_path, models, spies(tmp_path, "stop_failure")) as desk:
        await catch_up(desk)
    (content,) = seen(tmp_path)
    assert content["event"] == "stop_failure"


async def test_a_hook_that_was_cut_short_runs_again_under_the_same_key(tmp_path: Path) -> None:
    """The daemon stops while a hook runs; the next one runs it again, and no other event twice."""
    line = f'x=$(cat); echo "$x" >> {tmp_path}/seen; test -e {tmp_path}/go || exec sleep 60'
    hooks = (shell_hook("slow", "stop_failure", line, timeout_s=30.0),)
    models = Scripted([lambda request: fails("bad_request", retryable=False)])
    async with observed(tmp_path, models, hooks) as desk:
        await desk.ask("hello")
        with trio.fail_after(20):
            while not seen(tmp_path):
                await trio.lowlevel.checkpoint()
    (tmp_path / "go").touch()
    async with observed(tmp_path, models, hooks) as desk:
        await catch_up(desk)
    async with observed(tmp_path, models, hooks) as desk:
        await catch_up(desk)
    first, second = seen(tmp_path)
    assert first == second


async def test_a_hook_that_is_added_learns_of_later_events_only(tmp_path: Path) -> None:
    """Without hooks no progress is stored, and old progress is forgotten."""
    models = Scripted([lambda request: fails("bad_request", retryable=False)])
    async with observed(tmp_path, models, spies(tmp_path, "stop_failure")) as desk:
        assert progress(desk) is not None
    async with observed(tmp_path, models, ()) as desk:
        while progress(desk) is not None:
            await desk.state.bell(META.name).wait()
        await desk.ask("hello")
    async with observed(tmp_path, models, spies(tmp_path, "stop_failure")) as desk:
        assert seen(tmp_path) == []
        await desk.ask("again")
        await catch_up(desk)
        assert len(seen(tmp_path)) == 1
        desk.holder.replace(change_runtime(desk.holder.current(), generation=2, lifecycle=()))
        models.answers = [lambda request: says("fine")]
        await desk.ask("once more")
        while progress(desk) is not None:
            await desk.state.bell(META.name).wait()
