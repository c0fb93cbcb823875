"""The run machine: decide commands about a run, and apply its events. Pure.

Theory of operation. An accepted run is *queued* until the earlier runs of its session have ended. A worker
takes it up (``RunStarted``) and then asks ``core/run/due.py`` for the next effect: a model call, calls to
judge or to run, a pause before a retry, or nothing. All its progress is committed as the events that
:func:`decide` returns, and the record follows from those events alone by :func:`evolve`. So a worker after a
crash has the same view as a worker after a commit.

A waiting run has no worker: a person's answer, or the event that it waits for, is a command like any other,
and makes the run *running* again. A message ends the wait for an event.
The calls of its newest message have states of their own, see ``core/run/calls.py``.

``starts_without_progress`` increases in the commit that starts an effect, and any outcome or orderly stop
sets it to 0. A call that only waits for other runs is no such start: it may outlast many crashes, and the
runs that it waits for count theirs. Judging and probing calls starts no effect and costs no commit: that
counts when another daemon takes up the run again. A run with 2 executes alone, a run with 3 is parked as
failed. So every crash loop ends, and no other run is blamed.

=============== ================ ===============================================
status          command          leads to
=============== ================ ===============================================
queued          Start            running
                Steer            queued
                RequestCancel    cancelled
                Fail             failed
                EndRestored      interrupted
running         Start            running, waiting, failed, cancelled, interrupted
                BeginModelCall   running
                AcceptAnswer     running, completed, failed, cancelled, interrupted
                FailModelCall    running, failed, cancelled, interrupted
                Compact          running, completed, failed, cancelled, interrupted
                Judge            running, waiting
                RenewApproval    running, waiting
                CallTools        running
                Observe          running
                ReturnResult     running, waiting
                ResolveDoubt     running, waiting
                AnswerApprovals  running
                ExpireApproval   running
                AnswerQuestion   running
                AbandonQuestion  cancelled, interrupted
                AwaitEvent       running, waiting
                EndWait          running
                Steer            running
                NoteAgentsFiles  running
                NoteHooks        running
                NoteRecall       running
                RequestCancel    running
                EndEarly         cancelled, interrupted
                Release          running, waiting
                Fail             failed, cancelled, interrupted
                Interrupt        cancelled, interrupted
                EndRestored      cancelled, interrupted
waiting         AnswerApprovals  running, waiting
                ExpireApproval   running, waiting
                AnswerQuestion   running, waiting
                AbandonQuestion  cancelled
                EndWait          running, waiting
                Steer            running, waiting
                RequestCancel    cancelled, interrupted
                Fail             failed
                EndRestored      interrupted
ended           any              refused: RunAlreadyEnded
=============== ================ ===============================================

A model call does not begin once the budget of the run or its session is used up: the run fails instead.

The values pinned at acceptance never change. They are not part of the record: the caller passes them in.

This module never contains a clock, a file, a socket or randomness. They are passed in.
"""

from collections.abc import Mapping
from typing import Final, Literal, assert_never

from msgspec.structs import replace

from kheishd.core.account import evolve_run_budget
from kheishd.core.fallback import has_chain
from kheishd.core.permissions.grants import evolve_run_grants
from kheishd.core.run import answers, calls
from kheishd.core.run.budget import add_costs, add_work_time, calculate_cost, find_used_up
from kheishd.core.run.commands import (
    NO_USAGE,
    AbandonQuestion,
    AcceptAnswer,
    AnswerApprovals,
    AnswerQuestion,
    AwaitEvent,
    BeginModelCall,
    CallTools,
    Command,
    Compact,
    Compaction,
    EndEarly,
    EndRestored,
    EndWait,
    ExpireApproval,
    Fail,
    FailedCompaction,
    FailModelCall,
    Interrupt,
    Judge,
    NoteAgentsFiles,
    NoteHooks,
    NoteRecall,
    Observe,
    Release,
    RenewApproval,
    RequestCancel,
    ResolveDoubt,
    ReturnResult,
    Start,
    Steer,
)
from kheishd.core.run.due import PARKED_AT, has_interrupted_calls, must_run_alone
from kheishd.core.run.record import AwaitedSource, RunRecord
from kheishd.core.trust import add_origin, join_origins
from protocol.budget import Remainder
from protocol.errors.run import RunAlreadyEnded
from protocol.events.approval import ApprovalRequested
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.call import CallsJudged, ToolCalled, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.event import EventAwaited, EventReturned, EventWaitEnded
from protocol.events.goal import GoalContinued
from protocol.events.hook import HookContextAdded
from protocol.events.mailbox import MailDelivered
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.question import QuestionAnswered, QuestionLapsed
from protocol.events.run import (
    AgentsFilesLoaded,
    CancelRequested,
    MessageAppended,
    ModelAsked,
    ModelFailed,
    NotesRecalled,
    RunAccepted,
    RunConcluded,
    RunEnded,
    RunReleased,
    RunStarted,
    Steered,
)
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.limits.event import MAX_AWAITED_SOURCES
from protocol.objects.run import ENDED, GoalContinuation, Outcome, Pinned, RunError, RunStatus
from protocol.structs import fields_of
from protocol.transcript import InputOrigin, Item, Message, ToolCall

_ANSWERS_TO_APPROVALS: Final = (AnswerApprovals, ExpireApproval)
_ANSWERS_TO_QUESTIONS: Final = (AnswerQuestion, AbandonQuestion)
_INTERVENTIONS: Final = (Steer, RequestCancel, Fail, EndRestored)

ACCEPTED: Final[Mapping[RunStatus, tuple[type[Command], ...]]] = {
    "queued": (Start, Steer, RequestCancel, Fail, EndRestored),
    "running": (
        Start,
        BeginModelCall,
        AcceptAnswer,
        FailModelCall,
        Compact,
        Judge,
        RenewApproval,
        CallTools,
        Observe,
        ReturnResult,
        ResolveDoubt,
        # A person may answer while the rest of the batch is judged or still runs.
        *_ANSWERS_TO_APPROVALS,
        *_ANSWERS_TO_QUESTIONS,
        AwaitEvent,
        # Its stop is requested, but not yet carried out.
        EndWait,
        Steer,
        NoteAgentsFiles,
        NoteHooks,
        NoteRecall,
        RequestCancel,
        EndEarly,
        Release,
        Fail,
        Interrupt,
        EndRestored,
    ),
    "waiting_for_approval": (*_ANSWERS_TO_APPROVALS, EndWait, *_INTERVENTIONS),
    "waiting_for_user_question": (*_ANSWERS_TO_APPROVALS, *_ANSWERS_TO_QUESTIONS, *_INTERVENTIONS),
    "waiting_for_event": (EndWait, *_INTERVENTIONS),
}
"""The commands that a run accepts, by its status; a run that has ended accepts none."""


def decide(
    run: RunRecord, pinned: Pinned, command: Command, left: Remainder | None = None
) -> list[JournalEvent]:
    """Return the events that carry out a command of a run with these pinned values.

    The end states the origins of everything that the run has read, unless it never started.

    Args:   ``left`` is what the budget of its session has left; None without a budget.
    Errors: RunAlreadyEnded if the run has ended; AssertionError for a command that its status or its calls
            do not accept, which is a bug of the caller.
    """
    events = _decide(run, pinned, command, left)
    if events and isinstance(ended := events[-1], RunEnded) and run.starts and run.origins:
        results = (event for event in events if isinstance(event, ToolReturned))
        events[-1] = replace(ended, origins=join_origins(run.origins, *map(origins_of, results)))
    return events


def origins_of(event: ToolReturned) -> list[InputOrigin]:
    """Return the origins of a call's result. The text of a denial or an answer is no tool's."""
    return event.origins if event.how in ("denied", "answered") else [*event.origins, "tool_output"]


def _decide(run: RunRecord, pinned: Pinned, command: Command, left: Remainder | None) -> list[JournalEvent]:
    if run.status in ENDED:
        verb = run.status if run.status in ("failed", "completed") else f"been {run.status}"
        raise RunAlreadyEnded(f"the run {run.run_id} has already {verb}")
    assert isinstance(command, ACCEPTED[run.status]), f"{type(command).__name__} of a run {run.status}"
    match command:
        case Start():
            return _start(run, pinned)
        case BeginModelCall(item_id):
            # What a failed attempt used, or a child of the run, was not checked after an answer.
            used_up = find_used_up(run, pinned, NO_USAGE, None, left)
            if used_up is not None:
                return _fail(run, pinned, used_up)
            open_item_id = run.item_id if run.item_id is not None else item_id
            return [ModelAsked(item_id=open_item_id, turn=run.turn + 1, attempt=run.attempt + 1)]
        case AcceptAnswer():
            return answers.decide(run, pinned, command, left)
        case FailModelCall():
            return _fail_model_call(run, pinned, command)
        case Compact(result):
            return _compact(run, pinned, result)
        case Steer():
            steered = Steered(**fields_of(Steer, command) | {"origins": list(command.origins)})
            return [steered, *calls.interrupt_waits(run)] if run.status == "waiting_for_event" else [steered]
        case NoteHooks(events):
            return calls.require_new(run, events)
        case NoteAgentsFiles(files, text):
            return [AgentsFilesLoaded(files=files, text=text)]
        case NoteRecall(notes, text, origins):
            return [NotesRecalled(notes=notes, text=text, origins=origins)]
        case RequestCancel(outcome, note):
            return _cancel(run, pinned, outcome, note)
        case EndEarly():
            return _end_early(run, pinned, command)
        case Release(note, results):
            return [*calls.end_running_calls(run, pinned, results), RunReleased(note=note)]
        case Fail(error):
            return _fail(run, pinned, error)
        case Interrupt(error):
            ended = RunEnded(outcome=run.cancel or "interrupted", error=error)
            return [*calls.close_calls(run, pinned, died=True), ended]
        case EndRestored(error, note):
            ended = RunEnded(outcome=run.cancel or "interrupted", error=error)
            return [*calls.close_restored_calls(run, note), ended]
        case AbandonQuestion():
            return _abandon_question(run, pinned, command)
        case _:
            return calls.decide(run, pinned, command)


def foresee(run: RunRecord, pinned: Pinned, command: Command) -> RunRecord:
    """Return the run as a command would leave it; the cursors and times of its events are not known yet."""
    envelope = Envelope(cursor=run.updated_cursor, at_ms=run.updated_at_ms)
    for event in decide(run, pinned, command):
        run = evolve(run, envelope, event)
    return run


def _fail(run: RunRecord, pinned: Pinned, error: RunError) -> list[JournalEvent]:
    # If a stop was requested just before the failure, it is honoured, and the error is kept.
    return [*calls.close_calls(run, pinned), RunEnded(outcome=run.cancel or "failed", error=error)]


def _fail_model_call(run: RunRecord, pinned: Pinned, command: FailModelCall) -> list[JournalEvent]:
    """Return the failed attempt and, if it is not retried, the end.

    The end alone states the failure of a last attempt that used nothing and had no other route.
    """
    is_last = command.retry_at_ms is None or run.item_id is None
    attempts: list[JournalEvent] = []
    move, has_more = command.move, command.usage != NO_USAGE or command.final_error is not None
    if run.item_id is not None and (not is_last or has_more):
        attempt = ModelFailed(
            item_id=run.item_id,
            turn=run.turn + 1,
            attempt=run.attempt,
            error=command.error,
            retry_at_ms=command.retry_at_ms,
            usage=command.usage,
            cost=calculate_cost(command.usage, pinned.prices) if command.usage != NO_USAGE else None,
            route=pinned.route if has_chain(pinned) else None,
            auth_ref=pinned.auth_ref if pinned.auth_refs else None,
            next_route=move.route.route if move is not None else None,
            next_auth_ref=move.auth_ref if move is not None and move.route.auth_refs else None,
            passed_over=command.passed_over,
        )
        attempts = [attempt]
    error = command.final_error or command.error
    return [*attempts, *_fail(run, pinned, error)] if is_last else attempts


def _start(run: RunRecord, pinned: Pinned) -> list[JournalEvent]:
    if run.cancel is not None and not has_interrupted_calls(run):
        return _end_early(run, pinned, EndEarly([]))
    if run.starts_without_progress >= PARKED_AT:
        error = RunError(
            "parked",
            f"the daemon went down {run.starts_without_progress} times in a row while this run was "
            "working, the last time with no other run beside it; its journal shows what it was doing",
        )
        return [*calls.close_calls(run, pinned, died=True), RunEnded(outcome="failed", error=error)]
    return [RunStarted(starts=run.starts + 1, alone=must_run_alone(run))]


def _compact(
    run: RunRecord, pinned: Pinned, result: Compaction | FailedCompaction | None
) -> list[JournalEvent]:
    """Return the compaction; it ends a compaction run, and any other run continues."""
    events: list[JournalEvent] = []
    note = ""
    error: RunError | None = None
    match result:
        case Compaction():
            cost = calculate_cost(result.usage, pinned.prices)
            compacted = ContextCompacted(
                upto=result.upto,
                strategy=result.strategy,
                trigger=result.trigger,
                summary=result.summary,
                tools=result.tools,
                pre_tokens=result.pre_tokens,
                post_tokens=result.post_tokens,
                usage=result.usage,
                model=result.model,
                cost=cost,
            )
            events.append(compacted)
        case FailedCompaction(trigger, failure, usage):
            error = failure
            cost = calculate_cost(usage, pinned.prices)
            events.append(CompactionFailed(trigger=trigger, error=error, usage=usage, cost=cost))
        case None:
            note = "there was nothing to summarize"
        case _:
            assert_never(result)
    if run.kind == "compaction":
        outcome: Outcome = run.cancel or ("failed" if error is not None else "completed")
        events.append(RunEnded(outcome=outcome, error=error, note=note))
    return events


def _cancel(
    run: RunRecord, pinned: Pinned, outcome: Literal["cancelled", "interrupted"], note: str
) -> list[JournalEvent]:
    if run.cancel is not None:
        return []
    if run.status == "queued":
        # The run has not begun, so there is nothing to interrupt.
        return [CancelRequested(outcome="cancelled", note=note), RunEnded(outcome="cancelled", note=note)]
    requested = CancelRequested(outcome=outcome, note=note)
    if run.status == "running":
        # Its worker stops the effect and then ends the run.
        return [requested]
    return [requested, *calls.close_calls(run, pinned), RunEnded(outcome=outcome, note=note)]


def _end_early(run: RunRecord, pinned: Pinned, command: EndEarly) -> list[JournalEvent]:
    error = command.error
    ended = RunEnded(outcome=run.cancel or ("failed" if error is not None else "cancelled"), error=error)
    # A call that had arrived will not run, and a call without a result is not valid.
    items: list[Item] = [item for item in command.items if not isinstance(item, ToolCall)]
    if not items or run.item_id is None:
        return [*calls.close_calls(run, pinned, command.results), ended]
    partial = MessageAppended(
        item_id=run.item_id,
        message=Message("assistant", items, agent=run.guest),
        stop_reason="cancelled",
    )
    return [partial, ended]


def _abandon_question(run: RunRecord, pinned: Pinned, command: AbandonQuestion) -> list[JournalEvent]:
    _, call = calls.require_state(run, command.call_id, "questioned")
    lapsed = QuestionLapsed(
        question_id=call.waits_for or "",
        call_id=call.call_id,
        how=command.how,
        justification=command.justification,
    )
    requested = [] if run.cancel else [CancelRequested(outcome="cancelled", note=command.note)]
    # The question lapses as its person or its expiry says; the other calls close because the run ends.
    envelope = Envelope(cursor=run.updated_cursor, at_ms=run.updated_at_ms)
    rest = calls.evolve(run, envelope, lapsed)
    ended = RunEnded(outcome=run.cancel or "cancelled", note=command.note)
    return [lapsed, *requested, *calls.close_calls(rest, pinned), ended]


# Evolve.


def evolve(run: RunRecord | None, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """Return the run after one of its events; total over the events of a run.

    Errors: AssertionError for a first event that is not ``RunAccepted``: the journal is damaged.
    """
    if isinstance(event, RunAccepted):
        return _create(envelope, event)
    assert run is not None, "a run's first event is its acceptance"
    if isinstance(event, RunConcluded):
        return replace(run, mail=0, reports=False)
    if run.status in ENDED:
        # A later event about its calls, such as the resolution of an in-doubt call, does not change the run.
        return run
    run = replace(
        evolve_run_grants(add_work_time(run, envelope, event), event),
        updated_cursor=envelope.cursor,
        updated_at_ms=envelope.at_ms,
    )
    match event:
        case RunStarted():
            return _evolve_start(run, envelope, event)
        case ModelAsked(item_id=item_id, attempt=attempt):
            return replace(
                run,
                item_id=item_id,
                attempt=attempt,
                retry_at_ms=None,
                pending_steers=0,
                starts_without_progress=run.starts_without_progress + 1,
            )
        case ModelFailed(error=error, retry_at_ms=retry_at_ms, usage=usage, cost=cost, next_route=move):
            return replace(
                run,
                retry_at_ms=retry_at_ms,
                failures=run.failures + (move is None),
                empty_answers=run.empty_answers + (error.reason == "empty_answer"),
                usage=run.usage + usage,
                cost=add_costs(run.cost, cost),
                starts_without_progress=0,
            )
        case MessageAppended():
            return _evolve_message(run, envelope, event)
        case ContextCompacted(usage=usage, cost=cost) | CompactionFailed(usage=usage, cost=cost):
            total = add_costs(run.cost, cost)
            return replace(run, usage=run.usage + usage, cost=total, starts_without_progress=0)
        case BudgetReserved() | BudgetSettled():
            return evolve_run_budget(run, event)
        case GoalContinued(goal_id=goal_id, number=number, reason=reason):
            return replace(run, goal=GoalContinuation(goal_id, number, reason))
        case RunReleased():
            return replace(run, starts_without_progress=0, claimed=False)
        case Steered(origin=origin):
            return replace(
                run,
                pending_steers=run.pending_steers + 1,
                follow_up=None,
                origins=join_origins(add_origin(run.origins, origin), event.origins),
                hops=max(run.hops, event.hops),
            )
        case AgentsFilesLoaded():
            return replace(run, agents_files_cursor=envelope.cursor)
        case NotesRecalled(origins=origins):
            origins = join_origins(run.origins or ["person"], origins)
            return replace(run, recall_cursor=envelope.cursor, origins=origins)
        case OutputEmitted() | RequirementSatisfied():
            return answers.evolve_output(run, envelope.cursor, event)
        case CancelRequested(outcome=outcome):
            return replace(run, cancel=outcome)
        case MailDelivered(message_ids=message_ids):
            return replace(run, mail=len(message_ids))
        case RunEnded(outcome=outcome, error=error):
            return _evolve_end(run, envelope, outcome, error)
        case _:
            return _evolve_calls(run, envelope, event)


def _create(envelope: Envelope, event: RunAccepted) -> RunRecord:
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
        origins=event.origins,
        reports=event.reports,
        urgent=event.queue_index is not None,
        hops=event.hops,
    )


def _evolve_start(run: RunRecord, envelope: Envelope, event: RunStarted) -> RunRecord:
    # A daemon that died while it judged or probed calls had not counted that as a start.
    uncounted = run.claimed and run.calls and all(call.state != "called" for call in run.calls)
    started = replace(
        run,
        status="running",
        starts=event.starts,
        started_at_ms=run.started_at_ms if run.started_at_ms is not None else envelope.at_ms,
        starts_without_progress=run.starts_without_progress + bool(uncounted),
    )
    started = calls.evolve(started, envelope, event)
    return replace(started, claimed=started.status == "running")


def _evolve_message(run: RunRecord, envelope: Envelope, event: MessageAppended) -> RunRecord:
    if event.message.role != "assistant":
        return answers.evolve_follow_up(run, event)
    return replace(
        run,
        turn=run.turn + 1,
        attempt=0,
        failures=0,
        empty_answers=0,
        item_id=None,
        output_cursor=envelope.cursor,
        output_item_id=event.item_id,
        calls=calls.open_calls(event.message.items),
        follow_up=None,
        partial_cursors=answers.continued_cursors(run),
        usage=run.usage + event.usage,
        cost=add_costs(run.cost, event.cost),
        starts_without_progress=0,
        route=event.route or run.route,
    )


def _evolve_calls(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    changed = calls.evolve(run, envelope, event)
    if changed.status != "running":
        changed = replace(changed, claimed=False)
    match event:
        case ToolCalled() if _has_working_call(changed) and not _has_working_call(run):
            # Calls that run side by side are one start.
            return replace(changed, starts_without_progress=run.starts_without_progress + 1)
        case HookContextAdded(origin=origin):
            return replace(changed, origins=add_origin(run.origins, origin))
        case QuestionAnswered(origins=origins) if origins:
            return replace(changed, origins=join_origins(run.origins or ["person"], origins))
        case ToolReturned(bytes=size, text=text):
            output_bytes = size if size is not None else len(text.encode())
            changed = replace(
                changed,
                starts_without_progress=0,
                tool_bytes=run.tool_bytes + output_bytes,
                hops=max(run.hops, event.hops),
            )
            origins = origins_of(event)
            if set(origins) <= set(run.origins):
                return changed
            return replace(changed, origins=join_origins(run.origins or ["person"], origins))
        case EventAwaited(listens=True, source=source, after=cursor):
            return replace(changed, starts_without_progress=0, awaited=_listen(run, source, cursor))
        case CallsJudged() | ApprovalRequested() | EventAwaited():
            return replace(changed, starts_without_progress=0)
        case EventReturned(source=source, event_cursor=cursor):
            return replace(changed, awaited=_listen(run, source, cursor))
        case EventWaitEnded(how="delivered", hops=hops, source=source, event_cursor=cursor):
            awaited = run.awaited if not source else _listen(run, source, cursor or 0)
            return replace(changed, hops=max(run.hops, hops + 1), awaited=awaited)
        case _:
            return changed


def _listen(run: RunRecord, source: str, cursor: int) -> list[AwaitedSource]:
    """Return the patterns that a run listens to, with one more, or with its new cursor: the newest last."""
    others = [awaited for awaited in run.awaited if awaited.source != source]
    return [*others, AwaitedSource(source, cursor)][-MAX_AWAITED_SOURCES:]


def _has_working_call(run: RunRecord) -> bool:
    """Whether a call runs that does more than to wait for other runs."""
    return any(call.state == "called" and not call.waits for call in run.calls)


def _evolve_end(run: RunRecord, envelope: Envelope, outcome: RunStatus, error: RunError | None) -> RunRecord:
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
        awaited=[],
    )
