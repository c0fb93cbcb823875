"""The tool calls of a run's newest message: decide about each, and apply its events.

========== ============================================== ================================
state      meaning                                        leads to
========== ============================================== ================================
new        the model has requested it                     ready asked questioned returned
ready      it may run                                     asked called returned
asked      it waits for an approval                       ready returned
questioned it waits for a person's answer                 returned
called     it runs                                        ready asked awaiting doubted returned
awaiting   it waits for an event on the bus               returned
doubted    the daemon died during the call                ready returned
returned   it has its only result                         nothing
========== ============================================== ================================

The calls of a message are judged as a batch: none runs while another one is new, asked, questioned or
awaiting. Adjacent parallel calls run side by side; any other call runs alone, in the order of the message.
When a worker takes up a run again, its running calls become ready if they are repeatable, else doubted. Once
all calls have their results, the list is cleared and the model is called again.

A run waits for a person or an event only while none of its calls runs or is unjudged, and no stop is
requested. Otherwise it has a worker, even if a person answers meanwhile.
"""

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Final, assert_never

from msgspec.structs import replace

from kheishd.core.approval import format_denial
from kheishd.core.run.answers import find_met
from kheishd.core.run.commands import (
    AnswerApprovals,
    AnswerQuestion,
    ApprovalAnswer,
    ApprovalAsk,
    AwaitEvent,
    CallReturn,
    CallTools,
    EndWait,
    ExpireApproval,
    Judge,
    Judgement,
    Observe,
    QuestionAsk,
    RenewApproval,
    ResolveDoubt,
    ReturnResult,
)
from kheishd.core.run.record import RunRecord
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import CallProbed, CallsJudged, ToolCalled, ToolObserved, ToolReturned
from protocol.events.event import EventAwaited, EventWaitEnded
from protocol.events.hook import CallInputChanged, HookContextAdded
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.events.run import RunStarted
from protocol.ids import INDOUBT
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALL_ID_BYTES, MAX_JUDGED_CALLS, MAX_PARALLEL_CALLS, MAX_TOOL_BYTES
from protocol.objects.run import CallState, OpenCall, Pinned, RunStatus
from protocol.structs import fields_of
from protocol.text import truncate
from protocol.transcript import Item, ToolCall

NOT_RUN: Final = "This was not run: the run was stopped before."
IN_DOUBT: Final = (
    "It is not known whether this took effect: the daemon went down while it ran. It was not run again. "
    "Check before you rely on it or repeat it."
)
RESTORED_IN_DOUBT: Final = (
    "It is not known whether this took effect: it was running when a backup was made, and the daemon's state "
    "was restored from that backup since. It was not run again. Check before you rely on it or repeat it."
)
RESTORED: Final = (
    "It is not known whether this ran: the daemon's state was restored from a backup that was made before. "
    "It was not run since. Check before you rely on it or repeat it."
)
MESSAGE_FIRST: Final = "No event came yet, but a message did. Wait again if the event is still needed."
STOPPED: Final = "This was stopped before it ended; its effects until then remain."

_INVALID_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")

CallCommand = (
    Judge
    | RenewApproval
    | CallTools
    | Observe
    | ReturnResult
    | ResolveDoubt
    | AnswerApprovals
    | ExpireApproval
    | AnswerQuestion
    | AwaitEvent
    | EndWait
)


def normalize_calls(items: list[Item], used_ids: Container[str]) -> list[Item]:
    """Return the items with distinct call ids and valid tool names.

    Providers require exactly one result for each id; ``used_ids`` are those of the transcript. The provider's
    id stays in ``provider_data``. Names are sanitized to the characters that all providers accept; a renamed
    call cannot match a registered tool.
    """
    seen: set[str] = set()
    normalized: list[Item] = []
    for item in items:
        if isinstance(item, ToolCall):
            name = _INVALID_IN_NAME.sub("_", item.name)[:MAX_TOOL_BYTES]
            item = replace(item, call_id=_make_distinct(item.call_id, seen, used_ids), name=name)
            seen.add(item.call_id)
        normalized.append(item)
    return normalized


def _make_distinct(call_id: str, seen: set[str], used_ids: Container[str]) -> str:
    distinct = call_id or "call"
    if len(distinct.encode()) > MAX_CALL_ID_BYTES or not distinct.isprintable():
        # Some providers put a signature into the id. A part of it would be sent to other providers. Control
        # characters would reach them, too, and terminals.
        distinct = f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:24]}"
    stem = truncate(distinct, MAX_CALL_ID_BYTES - len("-1000000"), ellipsis="")
    number = 1
    while distinct in seen or distinct in used_ids:
        number += 1
        distinct = f"{stem}-{number}"
    return distinct


def open_calls(items: list[Item]) -> list[OpenCall]:
    """Return the calls of a new message."""
    calls = (item for item in items if isinstance(item, ToolCall))
    return [OpenCall(call_id=call.call_id, tool=call.name, state="new") for call in calls]


def next_to_judge(calls: list[OpenCall]) -> tuple[int, ...]:
    """Return the indexes of the calls to judge next, at most as many as one transaction takes."""
    new = [index for index, call in enumerate(calls) if call.state == "new"]
    return tuple(new[:MAX_JUDGED_CALLS])


def next_to_run(calls: list[OpenCall]) -> tuple[int, ...]:
    """Return the indexes of the calls to run next: several parallel ones, a single other one, or none."""
    if any(call.state not in ("ready", "returned") for call in calls):
        return ()
    group: list[int] = []
    for index, call in enumerate(calls):
        if call.state == "returned":
            continue
        if group and not call.parallel:
            break
        group.append(index)
        if not call.parallel or len(group) == MAX_PARALLEL_CALLS:
            break
    return tuple(group)


def find_doubted(calls: list[OpenCall]) -> tuple[int, ...]:
    """Return the indexes of the calls during which the daemon died, and that are not probed yet."""
    return tuple(index for index, call in enumerate(calls) if call.state == "doubted")


def require_state(run: RunRecord, call_id: str, *states: CallState) -> tuple[int, OpenCall]:
    """Return the index and the record of a call in one of these states.

    Errors: AssertionError if it has another state: the command is a bug of its caller.
    """
    for index, call in enumerate(run.calls):
        if call.call_id == call_id:
            assert call.state in states, f"the call {call_id} is {call.state}, not {states}"
            return index, call
    raise AssertionError(f"the run has no call {call_id}")


def require_new(run: RunRecord, events: Iterable[CallInputChanged | HookContextAdded]) -> list[JournalEvent]:
    """Return the events of hooks. Errors: AssertionError if one changes a call that is judged already."""
    for event in events:
        if isinstance(event, CallInputChanged):
            require_state(run, event.call_id, "new")
    return [*events]


def derive_status(calls: list[OpenCall], *, stopping: bool = False) -> RunStatus:
    """Return the status of a started run from its calls; with ``stopping`` it waits for no person."""
    if stopping:
        return "running"
    states = {call.state for call in calls}
    if states.isdisjoint(("new", "called", "doubted")):
        if "questioned" in states:
            return "waiting_for_user_question"
        if "asked" in states:
            return "waiting_for_approval"
        if "awaiting" in states:
            return "waiting_for_event"
    return "running"


# Decide.


def decide(run: RunRecord, pinned: Pinned, command: CallCommand) -> list[JournalEvent]:
    """Return the events that carry out a command about calls.

    Errors: AssertionError for a command that the calls do not accept.
    """
    match command:
        case Judge(judgements):
            return _judge(run, judgements)
        case RenewApproval(call_id, ask):
            return [_request_approval(run, *require_state(run, call_id, "ready", "called"), ask)]
        case CallTools(evidence):
            # The caller may start fewer calls than are due, if its limit is lower.
            due_ids = [run.calls[index].call_id for index in next_to_run(run.calls)[: len(evidence)]]
            assert evidence, "at least one call begins"
            assert list(evidence) == due_ids, "calls run in their order"
            calls = [require_state(run, call_id, "ready")[1] for call_id in due_ids]
            return [
                ToolCalled(
                    call_id=call.call_id,
                    tool=call.tool,
                    attempt=call.attempt + 1,
                    evidence=evidence[call.call_id],
                )
                for call in calls
            ]
        case Observe(call_id, evidence):
            require_state(run, call_id, "called")
            return [ToolObserved(call_id=call_id, evidence=evidence)]
        case ReturnResult(call_id):
            require_state(run, call_id, "ready", "called")
            return _return_result(run, pinned, command)
        case ResolveDoubt():
            return _resolve_doubt(run, pinned, command)
        case AnswerApprovals(answers):
            calls = [require_state(run, answer.call_id, "asked")[1] for answer in answers]
            pairs = list(zip(calls, answers, strict=True))
            denials = (
                _deny(call, format_denial("denied", answer.note))
                for call, answer in pairs
                if answer.decision == "deny"
            )
            return [*(_answer_approval(call, answer) for call, answer in pairs), *denials]
        case ExpireApproval(call_id):
            _, call = require_state(run, call_id, "asked")
            lapsed = ApprovalLapsed(approval_id=call.waits_for or "", call_id=call_id, how="expired")
            return [lapsed, _deny(call, format_denial("expired"))]
        case AnswerQuestion():
            return _answer_question(run, command)
        case AwaitEvent(call_id):
            require_state(run, call_id, "called")
            return [EventAwaited(**fields_of(AwaitEvent, command), listens=True)]
        case EndWait():
            return _end_wait(run, command)
        case _:
            assert_never(command)


def _judge(run: RunRecord, judgements: list[Judgement]) -> list[JournalEvent]:
    assert run.output_item_id is not None, "judged calls belong to a message"
    verdicts = []
    asks: list[JournalEvent] = []
    results: list[JournalEvent] = []
    for judgement in judgements:
        verdict = judgement.verdict
        index, call = require_state(run, verdict.call_id, "new")
        match judgement.then:
            case ApprovalAsk() as ask:
                verdict = replace(verdict, approval_id=ask.approval_id)
                asks.append(_request_approval(run, index, call, ask))
            case QuestionAsk() as ask:
                verdict = replace(verdict, question_id=ask.question_id)
                question = QuestionAsked(
                    question_id=ask.question_id,
                    call_id=call.call_id,
                    questions=ask.questions,
                    expires_at_ms=ask.expires_at_ms,
                    agent=run.agent,
                    sender=run.sender,
                    audience=ask.audience,
                    to_agent=ask.to_agent,
                )
                asks.append(question)
            case CallReturn() as result:
                results.append(_make_result(call, result))
            case None:
                pass
        verdicts.append(verdict)
    return [CallsJudged(item_id=run.output_item_id, verdicts=verdicts), *asks, *results]


def _request_approval(run: RunRecord, index: int, call: OpenCall, ask: ApprovalAsk) -> ApprovalRequested:
    assert run.output_cursor is not None, "a call belongs to a message"
    return ApprovalRequested(
        approval_id=ask.approval_id,
        call_id=call.call_id,
        tool=call.tool,
        index=index,
        message_cursor=run.output_cursor,
        subject=ask.subject,
        note=ask.note,
        preview=ask.preview,
        expires_at_ms=ask.expires_at_ms,
        agent=run.agent,
        sender=run.sender,
        audience=ask.audience,
        input_cursor=call.input_cursor,
    )


def _make_result(call: OpenCall, result: CallReturn) -> ToolReturned:
    return ToolReturned(
        call_id=call.call_id,
        tool=call.tool,
        how=result.how,
        text=result.text,
        is_error=result.is_error,
        blob=result.blob,
        bytes=result.bytes,
        took_ms=result.took_ms,
        origins=list(result.origins),
        hops=result.hops,
    )


def _deny(call: OpenCall, text: str) -> ToolReturned:
    return ToolReturned(call_id=call.call_id, tool=call.tool, how="denied", text=text, is_error=True)


def _return_result(run: RunRecord, pinned: Pinned, command: ReturnResult) -> list[JournalEvent]:
    call = next(call for call in run.calls if call.call_id == command.call_id)
    written = () if command.result.is_error else command.written
    met = find_met(run, pinned, call.call_id, written)
    return [*command.events, *met, _make_result(call, command.result)]


def _resolve_doubt(run: RunRecord, pinned: Pinned, command: ResolveDoubt) -> list[JournalEvent]:
    index, call = require_state(run, command.call_id, "doubted")
    call_id, tool, note, evidence = call.call_id, call.tool, command.note, command.evidence
    if command.outcome == "not_done":
        return [CallProbed(call_id=call_id, tool=tool, note=note, evidence=evidence)]
    opened, result = _open_doubt(run, index, note=note, evidence=evidence)
    if command.outcome == "unknown":
        return [opened, result]
    resolved = IndoubtResolved(indoubt_id=opened.indoubt_id, call_id=call_id, tool=tool, outcome="done")
    text = f"The daemon went down while this ran. It took effect all the same: {note}."
    met = find_met(run, pinned, call_id, command.written)
    return [*met, opened, resolved, ToolReturned(call_id=call_id, tool=tool, how="returned", text=text)]


def _answer_approval(call: OpenCall, answer: ApprovalAnswer) -> ApprovalAnswered:
    return ApprovalAnswered(
        approval_id=call.waits_for or "",
        call_id=call.call_id,
        decision=answer.decision,
        updated_input=answer.updated_input,
        note=answer.note,
        justification=answer.justification,
        remember=answer.remember,
        grant=answer.grant,
    )


def _answer_question(run: RunRecord, command: AnswerQuestion) -> list[JournalEvent]:
    _, call = require_state(run, command.call_id, "questioned")
    answered = QuestionAnswered(
        question_id=call.waits_for or "",
        call_id=call.call_id,
        answers=command.answers,
        declined=command.declined,
        justification=command.justification,
        origins=list(command.origins),
    )
    result = ToolReturned(call_id=call.call_id, tool=call.tool, how="answered", text=command.reply)
    return [answered, result]


def _end_wait(run: RunRecord, command: EndWait) -> list[JournalEvent]:
    _, call = require_state(run, command.result.call_id, "awaiting")
    ended = EventWaitEnded(
        wait_id=call.waits_for or "",
        call_id=call.call_id,
        how=command.how,
        event_id=command.event_id,
        event_cursor=command.event_cursor,
        hops=command.hops,
        source=command.source,
    )
    return [ended, _make_result(call, command.result.result)]


def interrupt_waits(run: RunRecord) -> Iterator[JournalEvent]:
    """Yield the end of the run's wait for an event: a message comes first."""
    for call in run.calls:
        if call.state == "awaiting":
            result = ReturnResult(call.call_id, CallReturn("returned", MESSAGE_FIRST))
            yield from _end_wait(run, EndWait(result, "interrupted"))


def _withdraw(call: OpenCall) -> Iterator[JournalEvent]:
    """Yield the end of what a call of a run that ends waits for."""
    if call.waits_for is None:
        return
    match call.state:
        case "asked":
            yield ApprovalLapsed(approval_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        case "questioned":
            yield QuestionLapsed(question_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        case "awaiting":
            yield EventWaitEnded(wait_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        case _:
            return


# End.


def end_running_calls(
    run: RunRecord, pinned: Pinned, results: Sequence[ReturnResult]
) -> Iterator[JournalEvent]:
    """Yield the results of running calls that were stopped; other results are dropped."""
    running = {call.call_id for call in run.calls if call.state == "called"}
    for result in results:
        if result.call_id in running:
            yield from _return_result(run, pinned, result)


def close_calls(
    run: RunRecord, pinned: Pinned, results: Iterable[ReturnResult] = (), *, died: bool = False
) -> Iterator[JournalEvent]:
    """Yield a result for every open call of a run that ends, and withdraw its approvals and questions.

    Args:   ``results`` are those of calls that were stopped. ``died``: the daemon died during the running
            calls, so they are in doubt.
    """
    by_id = {result.call_id: result for result in results}
    for index, call in enumerate(run.calls):
        yield from _withdraw(call)
        if call.state == "called" and call.call_id in by_id:
            yield from _return_result(run, pinned, by_id[call.call_id])
        elif call.state == "doubted" or (died and call.state == "called" and not call.repeatable):
            yield from _open_doubt(run, index, note="it was not probed, because the run ended at once")
        elif call.state != "returned":
            # A repeatable call that is ready again has begun before.
            began = call.state in ("called", "awaiting") or (
                call.state == "ready" and call.repeatable and call.attempt > 0
            )
            text = STOPPED if began else NOT_RUN
            yield ToolReturned(call_id=call.call_id, tool=call.tool, how="stopped", text=text, is_error=True)


def close_restored_calls(run: RunRecord, note: str) -> Iterator[JournalEvent]:
    """Yield a result for every open call of a run that was open in a restored backup.

    After the backup, any of them may have run. Those that were running then are in doubt.
    """
    for index, call in enumerate(run.calls):
        yield from _withdraw(call)
        if call.state == "doubted" or (call.state == "called" and not call.repeatable):
            opened, result = _open_doubt(run, index, note=note)
            yield opened
            yield replace(result, text=f"{RESTORED_IN_DOUBT} {note}.")
        elif call.state != "returned":
            yield ToolReturned(
                call_id=call.call_id,
                tool=call.tool,
                how="stopped",
                text=f"{RESTORED} {note}.",
                is_error=True,
            )


def _open_doubt(
    run: RunRecord, index: int, *, note: str, evidence: dict[str, Any] | None = None
) -> tuple[IndoubtOpened, ToolReturned]:
    """Make the record of an in-doubt call, which an operator can resolve, and its result for the model.

    The id follows from the run, the turn and the call's index: a call is in doubt at most once.
    """
    call = run.calls[index]
    assert run.output_cursor is not None, "a call belongs to a message"
    opened = IndoubtOpened(
        indoubt_id=f"{INDOUBT}_{run.run_id.removeprefix('run_')}.{run.turn}.{index}",
        call_id=call.call_id,
        tool=call.tool,
        index=index,
        message_cursor=run.output_cursor,
        called_at_ms=call.called_at_ms,
        note=note,
        evidence=evidence or {},
        agent=run.agent,
        sender=run.sender,
    )
    text = f"{IN_DOUBT} What is known: {note}." if note else IN_DOUBT
    result = ToolReturned(call_id=call.call_id, tool=call.tool, how="in_doubt", text=text, is_error=True)
    return opened, result


# Evolve.


def evolve(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """Return the run after an event about its calls; the same object after any other event."""
    calls = _evolve_calls(run.calls, envelope, event)
    if calls is None:
        return run
    if all(call.state == "returned" for call in calls):
        calls = []
    return replace(run, calls=calls, status=derive_status(calls, stopping=run.cancel is not None))


def _evolve_calls(calls: list[OpenCall], envelope: Envelope, event: JournalEvent) -> list[OpenCall] | None:
    match event:
        case RunStarted():
            # The daemon died during the calls that run now.
            return [
                replace(call, state="ready" if call.repeatable else "doubted")
                if call.state == "called"
                else call
                for call in calls
            ]
        case CallsJudged(verdicts=verdicts):
            by_id = {verdict.call_id: verdict for verdict in verdicts}
            return [
                replace(
                    call,
                    state="ready",
                    parallel=by_id[call.call_id].parallel,
                    repeatable=by_id[call.call_id].repeatable,
                    waits=by_id[call.call_id].waits,
                    approved=by_id[call.call_id].grant_id is not None,
                    approval_id=by_id[call.call_id].approval_id,
                    binding=by_id[call.call_id].binding,
                )
                if call.state == "new" and call.call_id in by_id
                else call
                for call in calls
            ]
        case (
            ApprovalRequested()
            | ApprovalAnswered()
            | ApprovalLapsed()
            | QuestionAsked()
            | QuestionLapsed()
            | EventAwaited()
            | ToolCalled()
            | ToolObserved()
            | ToolReturned()
            | CallProbed()
            | CallInputChanged()
        ):
            return [
                _evolve_call(call, envelope, event)
                if call.call_id == event.call_id and call.state != "returned"
                else call
                for call in calls
            ]
        case _:
            return None


def _evolve_call(call: OpenCall, envelope: Envelope, event: JournalEvent) -> OpenCall:
    cursor = envelope.cursor
    call = replace(call, updated_cursor=cursor)
    match event:
        case ApprovalRequested(approval_id=approval_id, preview=preview):
            binding = preview.binding if preview is not None else None
            return replace(
                call, state="asked", waits_for=approval_id, approval_id=approval_id, binding=binding
            )
        case ApprovalAnswered(decision="allow", updated_input=None):
            return replace(call, state="ready", waits_for=None, approved=True)
        case ApprovalAnswered(decision="allow"):
            # The person wrote this input and has not seen its preview, so the approval is bound to nothing.
            ready = replace(call, state="ready", waits_for=None, approved=True)
            return replace(ready, binding=None, input_cursor=cursor)
        case CallInputChanged():
            return replace(call, input_cursor=cursor)
        case QuestionAsked(question_id=question_id):
            return replace(call, state="questioned", waits_for=question_id)
        case EventAwaited(wait_id=wait_id):
            return replace(call, state="awaiting", waits_for=wait_id)
        case ToolCalled(attempt=attempt):
            return replace(call, state="called", attempt=attempt, called_at_ms=envelope.at_ms)
        case ToolReturned():
            return replace(call, state="returned", waits_for=None)
        case CallProbed():
            return replace(call, state="ready")
        case ApprovalLapsed() | QuestionLapsed():
            return replace(call, waits_for=None)
        case _:
            return call
