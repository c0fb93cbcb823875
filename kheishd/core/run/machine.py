"""The run machine, pure: what may happen to a run, and what follows from what happened.

Theory of operation. A run is accepted into its session's line and is *queued* until the runs before it
have ended. A worker takes it up (``RunStarted``) and from then on asks ``core/due.py`` what the world owes:
a model call, tools to be judged or run, a pause before the next try, or nothing. Everything the worker does
is committed as events that :func:`decide` gives, and the record is only ever what :func:`evolve` makes of
those events; so a worker that wakes after a crash sees what one sees that wakes after a commit.

A run that waits for a person is in nobody's hands: the person's answer is a command like any other, and
makes it *running* again, to be taken up. The calls of its newest message have states of their own, which
``core/calls.py`` keeps.

``starts_without_progress`` rises in the commit that starts an effect and returns to 0 with any outcome or
orderly stop. Judging calls, and looking into those the daemon died in, starts nothing in the world and costs
no commit: it counts once the run is taken up again by another daemon. A run found with 2 is executed with no
other beside it, one found with 3 is parked as failed: no crash loop is immortal and no neighbour is blamed.

=============== ============ ===============================================
status          command      leads to
=============== ============ ===============================================
queued          Start        running
                Steer        queued
                Cancel       cancelled
                Fail         failed
running         Start        running, waiting, failed, cancelled, interrupted
                Ask          running
                Answered     running, completed, failed, cancelled, interrupted
                Errored      running, failed, cancelled, interrupted
                Compact      running, completed, failed, cancelled, interrupted
                Judge        running, waiting
                Renew        running, waiting
                CallTools    running
                Observe      running
                Return       running, waiting
                Settle       running, waiting
                Resolve      running
                Lapse        running
                Reply        running
                Abandon      cancelled, interrupted
                Steer        running
                Cancel       running
                Stopped      cancelled, interrupted
                Release      running, waiting
                Fail         failed, cancelled, interrupted
                Interrupt    cancelled, interrupted
waiting         Resolve      running, waiting
                Lapse        running, waiting
                Reply        running, waiting
                Abandon      cancelled
                Steer        waiting
                Cancel       cancelled, interrupted
                Fail         failed
ended           any          refused: RunAlreadyEnded
=============== ============ ===============================================

The values pinned when the run was accepted never change, so they are no part of the record that
:func:`evolve` makes: who decides passes them in.

What may never live here: a clock, a file, a socket, randomness. They are passed in.
"""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec.structs import replace

from kheishd.core.permissions.grants import evolve_run_grants
from kheishd.core.run import calls
from kheishd.core.run.answers import answered, given, parts_of, sent_back
from kheishd.core.run.budget import added, cost_of, timed
from kheishd.core.run.commands import (
    Abandon,
    Answered,
    Ask,
    CallTools,
    Cancel,
    Command,
    Compact,
    Errored,
    Fail,
    Interrupt,
    Judge,
    Lapse,
    Observe,
    Release,
    Renew,
    Reply,
    Resolve,
    Return,
    Settle,
    Start,
    Steer,
    Stopped,
)
from kheishd.core.run.due import PARKED_AT, left_running, suspect
from kheishd.core.run.record import RunRecord
from protocol.errors.run import RunAlreadyEnded
from protocol.events.approval import ApprovalRequested
from protocol.events.call import CallsJudged, ToolCalled, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.question import QuestionLapsed
from protocol.events.run import (
    CancelRequested,
    MessageAppended,
    ModelAsked,
    ModelFailed,
    RunAccepted,
    RunEnded,
    RunReleased,
    RunStarted,
    Steered,
)
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.run import ENDED, Outcome, Pinned, RunError, RunStatus
from protocol.transcript import Item, Message, ToolCall

_APPROVING: Final = (Resolve, Lapse)
_ANSWERING: Final = (Reply, Abandon)

ACCEPTED: Final[Mapping[RunStatus, tuple[type[Command], ...]]] = {
    "queued": (Start, Steer, Cancel, Fail),
    "running": (
        Start,
        Ask,
        Answered,
        Errored,
        Compact,
        Judge,
        Renew,
        CallTools,
        Observe,
        Return,
        Settle,
        # What was asked for so far may be answered while the rest of its batch is judged, or still runs.
        *_APPROVING,
        *_ANSWERING,
        Steer,
        Cancel,
        Stopped,
        Release,
        Fail,
        Interrupt,
    ),
    "waiting_for_approval": (*_APPROVING, Steer, Cancel, Fail),
    "waiting_for_user_question": (*_APPROVING, *_ANSWERING, Steer, Cancel, Fail),
}
"""What may be done with a run, by its status; with one that has ended, nothing."""


def decide(run: RunRecord, pinned: Pinned, command: Command) -> list[JournalEvent]:
    """Return the events that carry out a command of a run with these pinned values.

    Errors: RunAlreadyEnded if the run has ended; AssertionError for a command that its status or its calls
    do not accept, which only a fault of whoever gives it can be.
    """
    if run.status in ENDED:
        raise RunAlreadyEnded(f"the run {run.run_id} has already {_ended_how(run)}")
    assert isinstance(command, ACCEPTED[run.status]), f"{type(command).__name__} of a run {run.status}"
    match command:
        case Start():
            return _start(run)
        case Ask(item_id):
            asked = run.item_id if run.item_id is not None else item_id
            return [ModelAsked(item_id=asked, turn=run.turn + 1, attempt=run.attempt + 1)]
        case Answered():
            return answered(run, pinned, command)
        case Errored(error, retry_at_ms):
            return _errored(run, error, retry_at_ms)
        case Compact(event):
            return _compacted(run, pinned, event)
        case Steer(steer_id, items, sender):
            return [Steered(steer_id=steer_id, items=items, sender=sender)]
        case Cancel(outcome, reason):
            return _cancel(run, outcome, reason)
        case Stopped(items, results, error):
            return _stopped(run, items, results, error)
        case Release(reason, results):
            return [*calls.ended(run, results), RunReleased(note=reason)]
        case Fail(error):
            return _failed(run, error)
        case Interrupt(error):
            return [
                *calls.closing(run, died=True),
                RunEnded(outcome=run.cancel or "interrupted", error=error),
            ]
        case Abandon(lapsed, reason):
            return _abandoned(run, lapsed, reason)
        case _:
            return calls.decide(run, command)


def _abandoned(run: RunRecord, lapsed: QuestionLapsed, reason: str) -> list[JournalEvent]:
    calls.need(run, [lapsed.call_id], "questioned")
    wanted = [] if run.cancel else [CancelRequested(outcome="cancelled", note=reason)]
    # The question is closed as its person wants it; what else is open, because the run ends.
    rest = calls.evolve(run, Envelope(cursor=run.updated_cursor, at_ms=run.updated_at_ms), lapsed)
    ended = RunEnded(outcome=run.cancel or "cancelled", note=reason)
    return [lapsed, *wanted, *calls.closing(rest), ended]


def _ended_how(run: RunRecord) -> str:
    return {"failed": "failed", "completed": "completed"}.get(run.status, f"been {run.status}")


def _failed(run: RunRecord, error: RunError) -> list[JournalEvent]:
    # Asked to stop in the moment in which it failed: the wish is honoured, the error is kept.
    return [*calls.closing(run), RunEnded(outcome=run.cancel or "failed", error=error)]


def _errored(run: RunRecord, error: RunError, retry_at_ms: int | None) -> list[JournalEvent]:
    if retry_at_ms is None or run.item_id is None:
        return _failed(run, error)
    return [
        ModelFailed(
            item_id=run.item_id,
            turn=run.turn + 1,
            attempt=run.attempt,
            error=error,
            retry_at_ms=retry_at_ms,
        )
    ]


def _compacted(
    run: RunRecord, pinned: Pinned, event: ContextCompacted | CompactionFailed | None
) -> list[JournalEvent]:
    """A run that is for nothing else is over with it; any other goes on, whatever came of it."""
    if event is not None:
        event = replace(event, cost=cost_of(event.usage, pinned.prices))
    happened: list[JournalEvent] = [event] if event is not None else []
    if run.kind != "compaction":
        return happened
    if isinstance(event, CompactionFailed):
        return [*happened, RunEnded(outcome=run.cancel or "failed", error=event.error)]
    reason = "" if event is not None else "there was nothing to sum up"
    return [*happened, RunEnded(outcome=run.cancel or "completed", note=reason)]


def _start(run: RunRecord) -> list[JournalEvent]:
    if run.cancel is not None and not left_running(run):
        return _stopped(run, [])
    if run.starts_without_progress >= PARKED_AT:
        error = RunError(
            "parked",
            f"the daemon went down {run.starts_without_progress} times in a row while this run was "
            "working, the last time with no other run beside it; its journal shows what it was doing",
        )
        return [*calls.closing(run, died=True), RunEnded(outcome="failed", error=error)]
    return [RunStarted(starts=run.starts + 1, alone=suspect(run))]


def _cancel(run: RunRecord, outcome: Literal["cancelled", "interrupted"], reason: str) -> list[JournalEvent]:
    if run.cancel is not None:
        return []
    if run.status == "queued":
        # Nothing of it has begun: it ends here and now, and there is nothing to interrupt.
        return [
            CancelRequested(outcome="cancelled", note=reason),
            RunEnded(outcome="cancelled", note=reason),
        ]
    wanted = CancelRequested(outcome=outcome, note=reason)
    if run.status != "running":
        # It is in nobody's hands, so there is nothing to be stopped first.
        return [wanted, *calls.closing(run), RunEnded(outcome=outcome, note=reason)]
    return [wanted]


def _stopped(
    run: RunRecord, items: list[Item], results: tuple[Return, ...] = (), error: RunError | None = None
) -> list[JournalEvent]:
    outcome: Outcome = run.cancel or ("failed" if error is not None else "cancelled")
    ended = RunEnded(outcome=outcome, error=error)
    # A call that had arrived will not be carried out, and one without a result may not stand.
    kept: list[Item] = [item for item in items if not isinstance(item, ToolCall)]
    if not kept or run.item_id is None:
        return [*calls.closing(run, results), ended]
    partial = MessageAppended(
        item_id=run.item_id,
        message=Message("assistant", kept, agent=run.guest),
        stop_reason="cancelled",
    )
    return [partial, ended]


def evolve(run: RunRecord | None, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """The run after an event of its own; total over the events of a run.

    Errors: AssertionError for a first event that is not ``RunAccepted``: the journal is damaged.
    """
    if isinstance(event, RunAccepted):
        return _accepted(envelope, event)
    assert run is not None, "a run's first event is its acceptance"
    if run.status in ENDED:
        # What is said about an ended run's calls later, such as how a doubt was settled, changes nothing.
        return run
    run = replace(
        evolve_run_grants(timed(run, envelope, event), event),
        updated_cursor=envelope.cursor,
        updated_at_ms=envelope.at_ms,
    )
    match event:
        case RunStarted(starts=start):
            return _started(run, envelope, event, start)
        case ModelAsked(item_id=item_id, attempt=attempt):
            return replace(
                run,
                item_id=item_id,
                attempt=attempt,
                retry_at_ms=None,
                pending_steers=0,
                starts_without_progress=run.starts_without_progress + 1,
            )
        case ModelFailed(retry_at_ms=retry_at_ms):
            return replace(run, retry_at_ms=retry_at_ms, failures=run.failures + 1, starts_without_progress=0)
        case MessageAppended():
            return _appended(run, envelope, event)
        case ContextCompacted(usage=usage, cost=cost) | CompactionFailed(usage=usage, cost=cost):
            paid = added(run.cost, cost)
            return replace(run, usage=run.usage + usage, cost=paid, starts_without_progress=0)
        case RunReleased():
            return replace(run, starts_without_progress=0, claimed=False)
        case Steered():
            return replace(run, pending_steers=run.pending_steers + 1, follow_up=None)
        case OutputEmitted() | RequirementSatisfied():
            return given(run, envelope.cursor, event)
        case CancelRequested(outcome=outcome):
            return replace(run, cancel=outcome)
        case RunEnded(outcome=outcome, error=error):
            return _ended(run, envelope, outcome, error)
        case _:
            return _evolve_calls(run, envelope, event)


def _started(run: RunRecord, envelope: Envelope, event: RunStarted, start: int) -> RunRecord:
    # A daemon that died while it judged calls, or looked into them, had begun nothing that was counted.
    uncounted = run.claimed and run.calls and all(call.state != "called" for call in run.calls)
    started = replace(
        run,
        status="running",
        starts=start,
        started_at_ms=run.started_at_ms if run.started_at_ms is not None else envelope.at_ms,
        starts_without_progress=run.starts_without_progress + bool(uncounted),
    )
    after = calls.evolve(started, envelope, event)
    return replace(after, claimed=after.status == "running")


def _evolve_calls(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    after = calls.evolve(run, envelope, event)
    if after.status != "running":
        after = replace(after, claimed=False)
    match event:
        case ToolCalled() if all(call.state != "called" for call in run.calls):
            # Calls that run side by side are one start.
            return replace(after, starts_without_progress=run.starts_without_progress + 1)
        case ToolReturned(bytes=size, text=text):
            given_bytes = size if size is not None else len(text.encode())
            return replace(after, starts_without_progress=0, tool_bytes=run.tool_bytes + given_bytes)
        case CallsJudged() | ApprovalRequested():
            return replace(after, starts_without_progress=0)
        case _:
            return after


def _ended(run: RunRecord, envelope: Envelope, outcome: RunStatus, error: RunError | None) -> RunRecord:
    return replace(
        run,
        status=outcome,
        error=error,
        ended_at_ms=envelope.at_ms,
        retry_at_ms=None,
        item_id=None,
        calls=[],
        rules=[],
        grants=[],
        pending_steers=0,
        starts_without_progress=0,
        claimed=False,
    )


def _accepted(envelope: Envelope, event: RunAccepted) -> RunRecord:
    assert envelope.session_id is not None
    assert envelope.run_id is not None
    return RunRecord(
        run_id=envelope.run_id,
        session_id=envelope.session_id,
        agent=event.agent,
        sender=event.sender,
        guest=event.guest,
        input_id=event.input_id,
        status="queued",
        accepted_at_ms=envelope.at_ms,
        updated_at_ms=envelope.at_ms,
        accepted_cursor=envelope.cursor,
        updated_cursor=envelope.cursor,
        kind=event.kind,
    )


def _appended(run: RunRecord, envelope: Envelope, event: MessageAppended) -> RunRecord:
    if event.message.role != "assistant":
        return sent_back(run, event)
    return replace(
        run,
        turn=run.turn + 1,
        attempt=0,
        failures=0,
        item_id=None,
        output_cursor=envelope.cursor,
        output_item_id=event.item_id,
        calls=calls.opened(event.message.items),
        follow_up=None,
        partial_cursors=parts_of(run),
        usage=run.usage + event.usage,
        cost=added(run.cost, event.cost),
        starts_without_progress=0,
    )
