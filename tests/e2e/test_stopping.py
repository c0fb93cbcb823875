"""Cancel and interrupt at every moment of a run, from the request to the worker."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest, TextDelta
from kheishd.store.tables import RUNS_CANCELLED, RUNS_READY
from protocol.errors.run import RunAlreadyEnded
from protocol.events.run import MessageAppended
from protocol.objects.session import InterruptResult
from protocol.transcript import Text, ToolCall, Usage, text_of
from tests.support.daemons import Daemon, until
from tests.support.desk import Gate, ModelPart, Scripted, fails, gives, open_desk, says, working


async def test_a_cancelled_answer_keeps_its_partial_text(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model call ends and its partial text is in the transcript before the cancel is answered."""
    models, gate = Scripted(), Gate()
    models.answers_to["one"] = gate
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("one")
        await gate.reached.wait()
        run = await desk.cancel(sent.run_id)
        assert (run.status, models.open_calls) == ("cancelled", 0)
        messages = [event for _, event in desk.journal(sent.session_id) if isinstance(event, MessageAppended)]
        assert [(text_of(m.message.items), m.stop_reason) for m in messages] == [("so far", "cancelled")]
        assert desk.count(RUNS_CANCELLED) == desk.count(RUNS_READY) == 0
        # The conversation stays valid and continues.
        assert (await desk.ask("two")).output == "You said: two"
        assert [text_of(message.items) for message in models.requests[-1].messages] == [
            "one",
            "so far",
            "two",
        ]


async def test_a_call_cancelled_before_its_text_leaves_no_message(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A call cancelled before its first text leaves no message."""
    models, gate = Scripted(), Gate(first="")
    models.answers_to["one"] = gate
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("one")
        await gate.reached.wait()
        await desk.cancel(sent.run_id)
        assert "message_appended" not in desk.kinds(sent.session_id)
        assert (await desk.ask("two")).status == "completed"


async def test_a_queued_run_is_cancelled_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A queued run is cancelled at once, whatever its position in the queue."""
    gate = Gate()
    async with open_desk(tmp_path, Scripted(answers_to={"one": gate})) as desk, working(desk):
        sent = [await desk.send(text) for text in ("one", "two", "three")]
        await gate.reached.wait()
        assert (await desk.cancel(sent[1].run_id)).status == "cancelled"
        assert desk.run(sent[0].run_id).status == "running"
        gate.opened.set()
        await desk.until(lambda: desk.run(sent[2].run_id).status == "completed")
        assert desk.answers(sent[0].session_id) == ["so far and so on", "You said: three"]


async def test_a_pause_is_cut_short_by_a_cancel(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A cancel ends the pause before a retry."""
    models = Scripted([lambda request: fails(retry_after_s=3000.0)])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send()
        await desk.until(lambda: desk.run(sent.run_id).failures == 1)
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        assert trio.current_time() < 1


async def test_an_interrupted_run_has_its_own_status(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The active run ends as interrupted, and the queued run continues."""
    gate = Gate()
    async with open_desk(tmp_path, Scripted(answers_to={"one": gate})) as desk, working(desk):
        sent, queued = await desk.send("one"), await desk.send("two")
        await gate.reached.wait()
        assert await desk.interrupt(sent.session_id) == InterruptResult(True, sent.session_id, sent.run_id)
        assert desk.run(sent.run_id).status == "interrupted"
        await desk.until(lambda: desk.run(queued.run_id).status == "completed")


async def test_a_second_cancel_waits_for_the_same_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two cancels of one run are both answered when it stops, and one request is journaled."""
    gate = Gate()
    async with open_desk(tmp_path, Scripted(answers_to={"one": gate})) as desk, working(desk):
        sent = await desk.send("one")
        await gate.reached.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.cancel, sent.run_id)
            nursery.start_soon(desk.cancel_conversation)
        assert desk.run(sent.run_id).status == "cancelled"
        assert desk.kinds(sent.session_id).count("cancel_requested") == 1


@pytest.mark.parametrize("moment", range(8))
@pytest.mark.parametrize("steps", [1, 2])
async def test_a_cancel_may_come_after_any_commit(
    tmp_path: Path, autojump_clock: MockClock, moment: int, steps: int
) -> None:
    """A cancel after any commit ends the run once, as cancelled or with its earlier outcome."""
    models = Scripted(make_steps(steps))
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("one")
        first = len(desk.groups)
        await desk.until(lambda: len(desk.groups) >= first + moment or desk.ended(sent.run_id))
        try:
            status = (await desk.cancel(sent.run_id)).status
        except RunAlreadyEnded:
            status = desk.run(sent.run_id).status
        assert status in ("cancelled", "completed")
        events = desk.kinds(sent.session_id, sent.run_id)
        assert events.count("run_ended") == 1
        assert events[-1] == "run_ended"
        assert desk.count(RUNS_CANCELLED) == desk.count(RUNS_READY) == 0
        assert (await desk.ask("two")).status == "completed"


@pytest.mark.parametrize("hops", range(14))
async def test_a_cancel_may_come_at_any_turn_of_the_loop(
    tmp_path: Path, autojump_clock: MockClock, hops: int
) -> None:
    """A cancel between commits, even while the answer completes, ends the run once."""
    async with open_desk(tmp_path, Scripted(make_steps(1))) as desk, working(desk):
        sent = await desk.send("one")
        for _ in range(hops):
            await trio.lowlevel.checkpoint()
        try:
            status = (await desk.cancel(sent.run_id)).status
        except RunAlreadyEnded:
            status = desk.run(sent.run_id).status
        assert status in ("cancelled", "completed")
        assert desk.kinds(sent.session_id, sent.run_id).count("run_ended") == 1
        assert (await desk.ask("two")).status == "completed"


def make_steps(steps: int) -> list[ModelPart]:
    """Return a model that calls a tool in every turn but the last, and fails once before each."""
    parts: list[ModelPart] = []
    for _ in range(steps - 1):
        parts += [lambda request: fails(), lambda request: gives(Text("hm"), ToolCall("c1", "look", {}))]
    return [*parts, lambda request: fails(), lambda request: says("do", "ne"), lambda request: says("done")]


async def test_an_answer_complete_at_the_cancel_is_kept_with_its_cost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An answer that is complete at the cancel is kept with its cost."""
    models = Lingering()
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("one")
        await models.complete.wait()
        run = await desk.cancel(sent.run_id)
        assert (run.status, run.usage) == ("cancelled", Usage(3, 4))
        assert desk.answers(sent.session_id) == ["all of it"]


class Lingering(Scripted):
    """A model caller that closes its connection slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = trio.Event()

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        yield self._events()
        self.complete.set()
        await trio.sleep_forever()

    async def _events(self) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([Text("all of it")], Usage(3, 4), "end", "scripted")


class Grouped(Scripted):
    """A model caller with its own tasks, which raises a cancellation in an exception group."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = trio.Event()

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            yield self._events()

    async def _events(self) -> AsyncIterator[ModelEvent]:
        yield TextDelta("so far")
        self.begun.set()
        await trio.sleep_forever()


async def test_a_provider_with_its_own_tasks_is_stopped_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A shutdown releases the run; a cancel keeps the partial text."""
    models = Grouped()
    async with open_desk(tmp_path, models) as desk:
        async with working(desk):
            sent = await desk.send("one")
            await models.begun.wait()
        assert desk.kinds(sent.session_id)[-1] == "run_released"
        models.begun = trio.Event()
        async with working(desk):
            await models.begun.wait()
            assert (await desk.cancel(sent.run_id)).status == "cancelled"
        assert desk.answers(sent.session_id) == ["so far"]


def test_a_run_that_waits_for_a_later_attempt_delays_no_stop(home: Path) -> None:
    """A run whose next model call is due in a minute is left to the next daemon at once."""
    home.mkdir()
    route = '[routes.down]\ndriver = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    runs = "[runs]\nbackoff_s = 60.0\nmax_backoff_s = 120.0\n"
    (home / "config.toml").write_text(f'default_route = "down"\n{route}{runs}')
    with Daemon(home) as daemon:
        sent = daemon.call("conversation.send", content="hello")
        until(lambda: daemon.events(types=["model_failed"]) != [], "the first attempt failed")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5
        daemon.start()
        assert daemon.call("run.get", run_id=sent["run_id"])["status"] in ("queued", "running")
        assert len(daemon.events(types=["model_failed"])) == 1
