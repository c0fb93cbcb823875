"""The run worker: the order and number of active runs, recovery after a restart, and release."""

import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.runtime import ModelRequest
from kheishd.objects.talk.send import send_to_conversation
from kheishd.records.checkpoint import CheckpointWriter
from kheishd.store.commit import Job
from kheishd.store.tables import RUNS_CANCELLED
from kheishd.workers.runs.transcript import TranscriptReader
from kheishd.workers.runs.worker import RunWorker
from protocol.errors.store import StoreDamaged
from protocol.events.run import ModelAsked, RunStarted
from protocol.objects.conversation import ConversationSend
from protocol.objects.run import RunError, SendResult
from protocol.transcript import text_of
from tests.support.desk import Gate, Scripted, fails, open_desk, says, working
from tests.support.runtimes import make_runtime


def last_text(request: ModelRequest) -> str:
    """Return the text of the last message."""
    return text_of(request.messages[-1].items)


async def test_runs_of_a_session_are_executed_in_order(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A new input waits for the runs before it, and the model never sees a later input."""
    models, gate = Scripted(), Gate()
    models.answers = [gate, lambda request: says(f"to {last_text(request)}")]
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = [await desk.send(text) for text in ("one", "two", "three")]
        await gate.reached.wait()
        assert [desk.run(s.run_id).status for s in sent] == ["running", "queued", "queued"]
        assert len(models.requests) == 1
        gate.opened.set()
        await desk.until(lambda: desk.run(sent[2].run_id).status == "completed")
        assert desk.answers(sent[0].session_id) == ["so far and so on", "to two", "to three"]
        assert [text_of(message.items) for message in models.requests[1].messages] == [
            "one",
            "so far and so on",
            "two",
        ]
        assert models.max_open_calls == 1


async def test_sessions_run_side_by_side(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Ten conversations that each take a second take a second together."""

    async def slow(text: str) -> None:
        assert (await desk.ask(f"/slow 1 1000\n{text}", sender=text)).status == "completed"

    async with open_desk(tmp_path, make_runtime().models) as desk, working(desk):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(slow, f"sender {number}")
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)


async def test_the_number_of_active_runs_is_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Further runs start in the order of their acceptance."""
    first, second = Gate(), Gate()
    models = Scripted(answers_to={"s0": first, "s1": second})
    async with open_desk(tmp_path, models, runs=RunsSection(max_active=2)) as desk, working(desk) as worker:
        sent = [await desk.send(f"s{number}", sender=f"s{number}") for number in range(6)]
        await first.reached.wait()
        await second.reached.wait()
        await wait_all_tasks_blocked()
        assert worker.active == 2
        assert [desk.run(s.run_id).status for s in sent] == ["running"] * 2 + ["queued"] * 4
        second.opened.set()
        await desk.until(lambda: desk.run(sent[5].run_id).status == "completed")
        order = [desk.run(s.run_id).started_at_ms for s in sent]
        assert order == sorted(order, key=lambda at_ms: at_ms or 0)
        assert models.max_open_calls == 2
        assert desk.run(sent[0].run_id).status == "running"
        first.opened.set()
        await desk.until(lambda: desk.run(sent[0].run_id).status == "completed")


async def test_a_run_that_started_at_its_acceptance_has_a_slot(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A run starts at once where nothing is ahead of it, and has an executor right after the commit."""
    models = Scripted(answers_to={"slow": Gate()})
    async with open_desk(tmp_path, models, runs=RunsSection(max_active=1)) as desk:
        earlier = await desk.send("earlier", sender="earlier")
        async with working(desk) as worker:
            await desk.until(lambda: desk.ended(earlier.run_id))
            await wait_all_tasks_blocked()
            busy = await desk.send("slow", sender="busy")
            started = desk.run(busy.run_id)
            assert (started.status, started.starts, started.attempt) == ("running", 1, 1)
            assert worker.active == 1
            queued = await desk.send("behind", sender="behind")
            assert desk.run(queued.run_id).status == "queued"


async def test_a_higher_limit_starts_the_runs_that_wait(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a reload, waiting runs start in order, and no later run overtakes them meanwhile."""
    gates = {name: Gate() for name in ("busy", "first", "second")}
    models = Scripted(answers_to=dict(gates))
    async with open_desk(tmp_path, models, runs=RunsSection(max_active=1)) as desk, working(desk):
        sent = [await desk.send(name, sender=name) for name in gates]
        await gates["busy"].reached.wait()
        await wait_all_tasks_blocked()
        assert not desk.services.slots.is_open
        desk.holder.replace(make_runtime(2, models=models, runs=RunsSection(max_active=9)))
        for gate in gates.values():
            await gate.reached.wait()
        assert [desk.run(s.run_id).status for s in sent] == ["running"] * 3
        assert desk.services.slots.is_open
        for gate in gates.values():
            gate.opened.set()


async def test_a_run_that_starts_while_the_worker_stops_is_released(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A start that is committed after the worker was cancelled is no crash."""
    models = Scripted(answers_to={"late": Gate()})
    async with open_desk(tmp_path, models) as desk:
        async with trio.open_nursery() as nursery:
            worker = RunWorker(desk.services)
            await nursery.start(worker.serve)
            await desk.ask("first")
            call = desk.call()
            message = ConversationSend(content="late", sender="late")
            assert send_to_conversation.prepare is not None
            plan = send_to_conversation.prepare(call, message)
            results: list[SendResult] = []

            def deliver(job: Job[SendResult]) -> None:
                results.append(job.unwrap())
                assert send_to_conversation.on_commit is not None
                send_to_conversation.on_commit(call, results[0])

            desk.state.submit(lambda tx: send_to_conversation.apply(tx, call, plan), deliver)
            nursery.cancel_scope.cancel()
        (sent,) = results
        assert desk.kinds(sent.session_id, sent.run_id)[-3:] == ["run_started", "model_asked", "run_released"]
        assert desk.run(sent.run_id).starts_without_progress == 0
        assert not desk.services.slots.is_open
        # Without a worker, no run starts.
        assert desk.run((await desk.send("too late")).run_id).status == "queued"


async def test_a_run_that_starts_while_the_worker_drains_is_executed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A drain ends the runs that have started, also those that had no executor yet."""
    async with open_desk(tmp_path) as desk, working(desk) as worker:
        await desk.ask("first")
        sent = await desk.send("second", sender="second")
        await worker.drain()
        assert desk.run(sent.run_id).status == "completed"


async def test_no_run_starts_at_its_acceptance_beside_a_suspect(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """While a run must execute alone, accepted runs wait behind it; then they start at once again."""
    alone, gate = Gate(), Gate()
    async with open_desk(tmp_path, Scripted(answers_to={"suspect": alone, "last": gate})) as desk:
        suspect = await desk.send("suspect", sender="suspect")
        await desk.leave_running(suspect.run_id, 2)
        async with working(desk):
            await alone.reached.wait()
            behind = await desk.send("behind", sender="behind")
            assert desk.run(behind.run_id).status == "queued"
            alone.opened.set()
            await desk.until(lambda: desk.ended(behind.run_id))
            await wait_all_tasks_blocked()
            last = await desk.send("last", sender="last")
            assert desk.run(last.run_id).status == "running"
            gate.opened.set()
            await desk.until(lambda: desk.ended(last.run_id))


async def test_a_start_at_the_acceptance_counts_as_a_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A daemon that dies right after the commit has started the run once, without progress."""
    async with open_desk(tmp_path, Scripted(answers_to={"second": Gate()})) as desk, working(desk):
        await desk.ask("first")
        sent = await desk.send("second")
        desk.copy_store(tmp_path / "copy")
        assert desk.run(sent.run_id).starts_without_progress == 1
    models = Scripted()
    async with open_desk(tmp_path / "copy", models) as desk, working(desk):
        await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert (run.starts, run.status) == (2, "completed")
        asked = [event for _, event in desk.journal(sent.session_id) if isinstance(event, ModelAsked)]
        assert [event.attempt for event in asked] == [1, 1, 2]
        assert len({event.item_id for event in asked}) == 2


async def test_a_run_begins_when_the_executor_of_the_previous_one_has_ended(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run of a session may have started already; it waits, and a stop of the daemon releases it."""
    reached, opened = trio.Event(), trio.Event()
    save_checkpoint = TranscriptReader.save_checkpoint

    async def save_slowly(self: TranscriptReader, checkpoint: CheckpointWriter) -> None:
        reached.set()
        await opened.wait()
        await save_checkpoint(self, checkpoint)

    monkeypatch.setattr(TranscriptReader, "save_checkpoint", save_slowly)
    monkeypatch.setattr("kheishd.workers.runs.transcript.CHECKPOINT_EVENTS", 1)
    monkeypatch.setattr("kheishd.workers.runs.model.MAX_CHECKPOINT_BYTES", 0)
    models = Scripted()
    async with open_desk(tmp_path, models) as desk:
        async with working(desk):
            first = await desk.send("one")
            await reached.wait()
            assert desk.ended(first.run_id)
            second = await desk.send("two")
            other = await desk.send("other", sender="other")
            await desk.until(lambda: desk.ended(other.run_id))
            await wait_all_tasks_blocked()
            assert desk.run(second.run_id).status == "running"
            assert len(models.requests) == 2
        assert desk.kinds(second.session_id, second.run_id)[-1] == "run_released"
        opened.set()
        async with working(desk):
            await desk.until(lambda: desk.ended(second.run_id))


async def test_a_failed_run_does_not_affect_other_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next run starts, in the same session and in others."""
    models = Scripted(answers_to={"one": lambda request: fails("unauthorized", retryable=False)})
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = [await desk.send("one"), await desk.send("two"), await desk.send(sender="other")]
        await desk.until(lambda: all(desk.run(s.run_id).ended_at_ms for s in sent))
        assert [desk.run(s.run_id).status for s in sent] == ["failed", "completed", "completed"]


# Crashes.


@pytest.mark.parametrize("starts", [0, 1])
async def test_a_run_is_resumed_after_a_crash(tmp_path: Path, autojump_clock: MockClock, starts: int) -> None:
    """The model is asked again for the same message, and the input counts once."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk:
        running, queued = await desk.send("one"), await desk.send("two")
        await desk.leave_running(running.run_id, starts)
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.until(lambda: desk.run(queued.run_id).status == "completed")
        run = desk.run(running.run_id)
        assert (run.status, run.starts) == ("completed", 2)
        assert desk.answers(running.session_id) == ["You said: one", "You said: two"]
        assert len(models.requests) == 2
        assert len(models.requests[0].messages) == 1


async def test_a_run_that_crashed_the_daemon_twice_runs_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It starts after the runs before it have ended, and holds back the runs behind it."""
    first, alone = Gate(), Gate()
    models = Scripted(answers_to={"before": first, "suspect": alone})
    async with open_desk(tmp_path, models) as desk:
        sent = [await desk.send(sender, sender=sender) for sender in ("before", "suspect", "behind")]
        await desk.leave_running(sent[1].run_id, 2)
    async with open_desk(tmp_path, models) as desk, working(desk) as worker:
        await first.reached.wait()
        await wait_all_tasks_blocked()
        assert worker.active == 1
        first.opened.set()
        await alone.reached.wait()
        await wait_all_tasks_blocked()
        assert worker.active == 1
        assert desk.run(sent[2].run_id).status == "queued"
        alone.opened.set()
        await desk.until(lambda: desk.run(sent[2].run_id).status == "completed")
        assert desk.run(sent[1].run_id).status == "completed"
        last = [event for _, event in desk.journal(sent[1].session_id) if isinstance(event, RunStarted)][-1]
        assert last == RunStarted(starts=3, alone=True)
        assert models.max_open_calls == 1


async def test_progress_of_a_suspect_run_lets_others_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A failure of the provider is progress too: other runs start during the pause."""
    models = Scripted(
        [
            lambda request: fails(retry_after_s=600.0),
            lambda request: says("behind"),
            lambda request: says("late"),
        ]
    )
    async with open_desk(tmp_path, models) as desk:
        suspect, behind = await desk.send(sender="suspect"), await desk.send(sender="behind")
        await desk.leave_running(suspect.run_id, 2)
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.until(lambda: desk.run(behind.run_id).status == "completed")
        assert desk.run(suspect.run_id).status == "running"
        await desk.until(lambda: desk.run(suspect.run_id).status == "completed")
        assert desk.answers(suspect.session_id) == ["late"]


async def test_a_run_that_crashed_the_daemon_three_times_is_parked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It fails with a reason, delays no other run, and the next run of its session starts."""
    gate = Gate()
    models = Scripted(answers_to={"busy": gate})
    async with open_desk(tmp_path, models) as desk:
        busy = await desk.send("busy", sender="busy")
        parked, following = await desk.send("one"), await desk.send("two")
        await desk.leave_running(parked.run_id, 3)
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.until(lambda: desk.run(following.run_id).status == "completed")
        run = desk.run(parked.run_id)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.reason == "parked"
        assert desk.run(busy.run_id).status == "running"
        gate.opened.set()


async def test_recovery_may_interrupt_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With recovery = "interrupt" active runs are interrupted, queued ones run, and sessions stay open."""
    models = Scripted()
    limits = RunsSection(recovery="interrupt")
    async with open_desk(tmp_path, models) as desk:
        running = [await desk.send("one", sender=f"s{number}") for number in range(300)]
        queued = await desk.send("two", sender="s0")
        for sent in running:
            await desk.leave_running(sent.run_id, 1)
    async with open_desk(tmp_path, models, runs=limits) as desk, working(desk):
        await desk.until(lambda: desk.run(queued.run_id).status == "completed")
        runs = [desk.run(sent.run_id) for sent in running]
        assert {run.status for run in runs} == {"interrupted"}
        assert runs[0].error == RunError(
            "daemon_restarted", "the daemon was restarted while this run was working"
        )
        assert len(models.requests) == 1
        assert (await desk.ask("three", sender="s0")).status == "completed"


async def test_a_cancel_outlasts_a_crash(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that was being cancelled ends first, even without a free slot."""
    async with open_desk(tmp_path, Scripted([Gate()])) as desk:
        busy, doomed = await desk.send(sender="busy"), await desk.send(sender="doomed")
        await desk.leave_running(doomed.run_id, 1)
        await desk.cancel(doomed.run_id, follow=False)
        assert desk.count(RUNS_CANCELLED) == 1
    limits = RunsSection(max_active=1)
    async with open_desk(tmp_path, Scripted([Gate()]), runs=limits) as desk, working(desk):
        await desk.until(lambda: desk.run(doomed.run_id).status == "cancelled")
        assert desk.kinds(doomed.session_id)[-1] == "run_ended"
        assert desk.count(RUNS_CANCELLED) == 0
        assert desk.run(busy.run_id).status in ("queued", "running")


# Stopping.


async def test_a_stopped_worker_releases_its_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Active runs are released, no other run starts, and the next start continues them."""
    models, gate = Scripted(), Gate()
    models.answers = [gate, lambda request: says("after all")]
    async with open_desk(tmp_path, models) as desk:
        async with working(desk) as worker:
            sent, queued = await desk.send("one"), await desk.send("two")
            await gate.reached.wait()
        assert worker.active == 0
        assert desk.kinds(sent.session_id, sent.run_id)[-1] == "run_released"
        run = desk.run(sent.run_id)
        assert (run.status, run.starts_without_progress) == ("running", 0)
        assert desk.kinds(sent.session_id, queued.run_id) == ["input_received", "run_accepted"]
        assert not desk.live_runs()
        async with working(desk):
            await desk.until(lambda: desk.run(queued.run_id).status == "completed")
        assert desk.answers(sent.session_id) == ["after all", "after all"]


async def test_orderly_restarts_never_park_a_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run may be released in the middle of an answer any number of times."""
    models = Scripted([Gate() for _ in range(6)])
    gates = [part for part in models.answers if isinstance(part, Gate)]
    async with open_desk(tmp_path, models) as desk:
        sent = await desk.send()
        for gate in gates[:5]:
            async with working(desk):
                await gate.reached.wait()
        async with working(desk):
            gates[5].opened.set()
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        run = desk.run(sent.run_id)
        assert (run.starts, run.failures) == (6, 0)


async def test_a_drain_finishes_active_runs_and_starts_none(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Queued and new runs do not start, and active runs can still be cancelled."""
    gate, cancelled_gate = Gate(), Gate()
    models = Scripted(answers_to={"one": gate, "other": cancelled_gate})
    async with open_desk(tmp_path, models) as desk, working(desk) as worker:
        sent, cancelled = await desk.send("one"), await desk.send("other", sender="other")
        await gate.reached.wait()
        await cancelled_gate.reached.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.drain)
            await wait_all_tasks_blocked()
            queued, new = await desk.send("two"), await desk.send(sender="new")
            await desk.cancel(cancelled.run_id)
            gate.opened.set()
        assert worker.active == 0
        statuses = [desk.run(s.run_id).status for s in (sent, cancelled, queued, new)]
        assert statuses == ["completed", "cancelled", "queued", "queued"]


async def test_a_drain_without_active_runs_returns_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """There is nothing to wait for."""
    async with open_desk(tmp_path) as desk, working(desk) as worker:
        with trio.fail_after(1):
            await worker.drain()


# Failures.


async def test_an_unreadable_record_ends_the_worker(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A record that cannot be read is damage: no run is executed any more, and nothing is written."""
    async with open_desk(tmp_path) as desk:
        spoilt, sound = await desk.send(sender="spoilt"), await desk.send(sender="sound")
        await desk.corrupt_run(spoilt.run_id)
        with pytest.RaisesGroup(StoreDamaged, flatten_subgroups=True):
            async with working(desk):
                await desk.state.damaged.wait()
                await trio.sleep_forever()
        assert desk.run(sound.run_id).status == "queued"
        with pytest.raises(StoreDamaged, match="the table 'runs'"):
            await desk.state.update(lambda tx: None)


def broken(request: ModelRequest) -> None:
    """Raise an error that no model raises."""
    raise ZeroDivisionError


async def test_a_fault_inside_a_run_fails_that_run(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told of an internal error, the log has the details, and the next run is executed."""
    models = Scripted()
    models.answers = [broken, lambda request: says("fine")]  # type: ignore[list-item]
    async with open_desk(tmp_path, models) as desk, working(desk):
        failed, fine = await desk.ask("one"), await desk.ask("two")
    assert failed.error is not None
    assert failed.error.reason == "internal_error"
    assert "ZeroDivisionError" not in failed.error.message
    assert fine.status == "completed"
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)


@pytest.mark.parametrize("error", [ImportError, SyntaxError])
async def test_code_that_cannot_be_imported_fails_no_run(
    tmp_path: Path, autojump_clock: MockClock, error: type[Exception]
) -> None:
    """The run is released and skipped, without a crash on its account, and the next daemon completes it."""

    def upgraded(request: ModelRequest) -> None:
        raise error("replaced")

    models = Scripted()
    models.answers = [upgraded, lambda request: says("fine")]  # type: ignore[list-item]
    async with open_desk(tmp_path, models) as desk:
        sent = await desk.send()
        async with working(desk) as worker:
            await desk.until(lambda: desk.run(sent.run_id).status == "running")
            await wait_all_tasks_blocked()
            run = desk.run(sent.run_id)
            assert (worker.active, run.status, run.claimed) == (0, "running", False)
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert desk.run(sent.run_id).starts_without_progress == 0


async def test_a_run_whose_failure_cannot_be_committed_is_skipped(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is skipped until the next start, and other runs are executed."""
    async with open_desk(tmp_path) as desk:
        lost, sound = await desk.send(sender="lost"), await desk.send(sender="sound")
        await desk.delete_session(lost.session_id)
        async with working(desk) as worker:
            await desk.until(lambda: desk.run(sound.run_id).status == "completed")
            await wait_all_tasks_blocked()
            assert worker.active == 0
    assert sum("a run cannot be continued" in record.message for record in caplog.records) == 1


async def test_an_active_run_keeps_its_runtime(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A reload does not affect it, and the old runtime is retired when the run has ended."""
    gate = Gate()
    old, new = Scripted([gate]), Scripted([lambda request: says("new")])
    async with open_desk(tmp_path, old) as desk, working(desk):
        sent = await desk.send("one")
        await gate.reached.wait()
        desk.holder.replace(make_runtime(2, models=new))
        assert (await desk.ask("other", sender="other")).output == "new"
        assert desk.retired == []
        gate.opened.set()
        await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        await wait_all_tasks_blocked()
        assert desk.retired == [1]
        assert desk.answers(sent.session_id) == ["so far and so on"]
