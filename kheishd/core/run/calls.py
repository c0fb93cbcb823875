"""The tool calls of a run's newest message: what may be done with each, and what follows from what happened.

========== ============================================== ================================
state      means                                          leads to
========== ============================================== ================================
new        the model asked for it                         ready asked questioned returned
ready      it may run                                     asked called returned
asked      a person is to allow or deny it                ready returned
questioned a person is to answer it                       returned
called     it runs                                        ready asked doubted returned
doubted    the daemon died while it ran                   ready returned
returned   it has its one result                          nothing
========== ============================================== ================================

A batch is judged as a whole: nothing runs while a call is new, asked or questioned. Calls that say they may
run beside others do so, those next to each other; any other call runs alone, in the order of the message.
When a worker takes a run up anew, calls that were running are ready again if they may be run twice, else
they are doubted. Once all calls have their results there are none any more, and the model is asked again.

A run waits for a person only while none of its calls is running or yet to be judged, and nobody wants it
stopped: else it is in a worker's hands, whoever answers meanwhile.
"""

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final, assert_never

from msgspec.structs import replace

from kheishd.core.run.commands import (
    CallTools,
    Judge,
    Judgement,
    Lapse,
    Observe,
    Renew,
    Reply,
    Resolve,
    Return,
    Settle,
)
from kheishd.core.run.record import RunRecord
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import CallProbed, CallsJudged, ToolCalled, ToolObserved, ToolReturned
from protocol.events.indoubt import IndoubtOpened
from protocol.events.question import QuestionAsked, QuestionLapsed
from protocol.events.run import RunStarted
from protocol.ids import INDOUBT
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALL_ID_BYTES, MAX_JUDGED_CALLS, MAX_PARALLEL_CALLS, MAX_TOOL_BYTES
from protocol.objects.run import CallState, OpenCall, RunStatus
from protocol.transcript import Item, ToolCall

NOT_RUN: Final = "This was not run: the run was stopped before."
IN_DOUBT: Final = (
    "It is not known whether this took effect: the daemon went down while it ran. It was not run again. "
    "Check before you rely on it or repeat it."
)
STOPPED: Final = "This was stopped before it ended; what it had done by then stands."


_UNNAMED: Final = re.compile(r"[^A-Za-z0-9_-]")


def distinct(items: list[Item], used: Container[str]) -> list[Item]:
    """The items, each call with an id of its own: providers want a result for each, and one result for each.

    ``used`` are the ids that the transcript holds already. Names have none but the characters that every
    provider takes back; no tool has others, so a name that is changed is none of ours.
    """
    seen: set[str] = set()
    kept: list[Item] = []
    for item in items:
        if isinstance(item, ToolCall):
            name = _UNNAMED.sub("_", item.name)[:MAX_TOOL_BYTES]
            item = replace(item, call_id=_fresh(item.call_id, seen, used), name=name)
            seen.add(item.call_id)
        kept.append(item)
    return kept


def _fresh(call_id: str, seen: set[str], used: Container[str]) -> str:
    fresh = _cut(call_id, MAX_CALL_ID_BYTES) or "call"
    stem = _cut(fresh, MAX_CALL_ID_BYTES - len("-1000000"))
    number = 1
    while fresh in seen or fresh in used:
        number += 1
        fresh = f"{stem}-{number}"
    return fresh


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def opened(items: list[Item]) -> list[OpenCall]:
    """The calls of a message, none of them judged."""
    return [OpenCall(call_id=c.call_id, tool=c.name, state="new") for c in items if isinstance(c, ToolCall)]


def to_judge(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls to judge next, by their places: at most so many as one transaction takes."""
    new = [place for place, call in enumerate(calls) if call.state == "new"]
    return tuple(new[:MAX_JUDGED_CALLS])


def to_run(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls to run next, together: some that may run side by side, or one alone. Empty: none."""
    if any(call.state not in ("ready", "returned") for call in calls):
        return ()
    group: list[int] = []
    for place, call in enumerate(calls):
        if call.state == "returned":
            continue
        if group and not call.parallel:
            break
        group.append(place)
        if not call.parallel or len(group) == MAX_PARALLEL_CALLS:
            break
    return tuple(group)


def doubted(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls the daemon died in, and nobody has looked into yet."""
    return tuple(place for place, call in enumerate(calls) if call.state == "doubted")


def place_of(run: RunRecord, call_id: str) -> int:
    """Which call has an id. Errors: AssertionError if none that is open has."""
    for place, call in enumerate(run.calls):
        if call.call_id == call_id and call.state != "returned":
            return place
    raise AssertionError(f"the run has no open call {call_id}")


def need(run: RunRecord, call_ids: Iterable[str], *states: CallState) -> None:
    """Make sure that calls are open, and in one of these states.

    Errors: AssertionError if one is not: the command that names it is a fault of whoever gave it.
    """
    found = {call.call_id: call.state for call in run.calls}
    for call_id in call_ids:
        assert found.get(call_id) in states, f"the call {call_id} is {found.get(call_id)}, not {states}"


def status_of(calls: list[OpenCall], *, stopping: bool = False) -> RunStatus:
    """The status of a run that is being executed, by what its calls wait for; ``stopping``: for nobody."""
    if stopping:
        return "running"
    states = {call.state for call in calls}
    if states.isdisjoint(("new", "called", "doubted")):
        if "questioned" in states:
            return "waiting_for_user_question"
        if "asked" in states:
            return "waiting_for_approval"
    return "running"


# Deciding.


def decide(
    run: RunRecord, command: Judge | Renew | CallTools | Observe | Return | Settle | Resolve | Lapse | Reply
) -> list[JournalEvent]:
    """The events that carry out a command about calls.

    Errors: AssertionError for one that they do not accept, as they are.
    """
    match command:
        case Judge(judgements):
            return _judged(run, judgements)
        case Renew(approval):
            need(run, [approval.call_id], "ready", "called")
            return [approval]
        case CallTools(called):
            # Fewer of them, where less may run side by side.
            next_ids = [run.calls[place].call_id for place in to_run(run.calls)[: len(called)]]
            assert called, "no call is to be run"
            assert [event.call_id for event in called] == next_ids, "calls are run in their order"
            return list(called)
        case Observe(observed):
            need(run, [observed.call_id], "called")
            return [observed]
        case Return(returned, events):
            need(run, [returned.call_id], "ready", "called")
            return [*events, returned]
        case Settle(events):
            need(run, (event.call_id for event in events), "doubted")
            return list(events)
        case Resolve(answers, results):
            need(run, (answer.call_id for answer in answers), "asked")
            denied = [answer.call_id for answer in answers if answer.decision == "deny"]
            assert [result.call_id for result in results] == denied, "what is denied has its result at once"
            return [*answers, *results]
        case Lapse(approval_id, result):
            need(run, [result.call_id], "asked")
            lapsed = ApprovalLapsed(approval_id=approval_id, call_id=result.call_id, how="expired")
            return [lapsed, result]
        case Reply(answer, result):
            need(run, [result.call_id], "questioned")
            return [answer, result]
        case _:
            assert_never(command)


def _judged(run: RunRecord, judgements: list[Judgement]) -> list[JournalEvent]:
    need(run, (each.verdict.call_id for each in judgements), "new")
    assert run.output_item_id is not None, "calls are judged that a message holds"
    judged = CallsJudged(item_id=run.output_item_id, verdicts=[each.verdict for each in judgements])
    asks = [each.asks for each in judgements if each.asks is not None]
    return [judged, *asks, *(each.result for each in judgements if each.result is not None)]


# Ending.


def ended(run: RunRecord, results: Iterable[Return]) -> Iterator[JournalEvent]:
    """The results of calls that were stopped, of those that were still running."""
    running = {call.call_id for call in run.calls if call.state == "called"}
    for result in results:
        if result.returned.call_id in running:
            yield from (*result.events, result.returned)


def closing(run: RunRecord, results: Iterable[Return] = (), *, died: bool = False) -> Iterator[JournalEvent]:
    """What gives every open call its result when the run ends: what was asked is withdrawn.

    ``results`` are those of calls that were stopped while they ran. ``died``: the daemon did, so what was
    running then is in doubt.
    """
    given = {result.returned.call_id: result for result in results}
    for place, call in enumerate(run.calls):
        if call.state == "asked" and call.waits_for is not None:
            yield ApprovalLapsed(approval_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        if call.state == "questioned" and call.waits_for is not None:
            yield QuestionLapsed(question_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        if call.state == "called" and call.call_id in given:
            yield from ended(run, [given[call.call_id]])
        elif call.state == "doubted" or (died and call.state == "called" and not call.repeatable):
            yield from doubt(run, place, note="nobody looked into it, as the run was ended at once")
        elif call.state != "returned":
            yield _stopped(call)


def _stopped(call: OpenCall) -> ToolReturned:
    # One that is ready again had begun, too, if it is of those that a restart simply runs once more.
    began = call.state == "called" or (call.state == "ready" and call.repeatable and call.attempt > 0)
    said = STOPPED if began else NOT_RUN
    return ToolReturned(call_id=call.call_id, tool=call.tool, how="stopped", text=said, is_error=True)


def doubt(
    run: RunRecord, place: int, *, note: str, evidence: dict[str, Any] | None = None
) -> tuple[IndoubtOpened, ToolReturned]:
    """A call in doubt becomes an item that an operator can settle, and the model is told plainly.

    The item's id follows from the run, the step and the call's place: a call is doubted once.
    """
    call = run.calls[place]
    assert run.output_cursor is not None, "a call stands in a message"
    item = IndoubtOpened(
        indoubt_id=f"{INDOUBT}_{run.run_id.removeprefix('run_')}.{run.turn}.{place}",
        call_id=call.call_id,
        tool=call.tool,
        index=place,
        message_cursor=run.output_cursor,
        called_at_ms=call.called_at_ms,
        note=note,
        evidence=evidence or {},
        agent=run.agent,
        sender=run.sender,
    )
    text = f"{IN_DOUBT} What is known: {note}." if note else IN_DOUBT
    told = ToolReturned(call_id=call.call_id, tool=call.tool, how="in_doubt", text=text, is_error=True)
    return item, told


# Folding.


def evolve(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """The run after an event about its calls; the run itself after any other event."""
    calls = _folded(run.calls, envelope, event)
    if calls is None:
        return run
    if all(call.state == "returned" for call in calls):
        calls = []
    return replace(run, calls=calls, status=status_of(calls, stopping=run.cancel is not None))


def _folded(calls: list[OpenCall], envelope: Envelope, event: JournalEvent) -> list[OpenCall] | None:
    match event:
        case RunStarted():
            return [_taken_up(call) for call in calls]
        case CallsJudged(verdicts=verdicts):
            by_id = {verdict.call_id: verdict for verdict in verdicts}
            return [
                replace(
                    call,
                    state="ready",
                    parallel=by_id[call.call_id].parallel,
                    repeatable=by_id[call.call_id].repeatable,
                    approved=by_id[call.call_id].grant_id is not None,
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
            | ToolCalled()
            | ToolObserved()
            | ToolReturned()
            | CallProbed()
        ):
            return [
                _changed(call, envelope, event)
                if call.call_id == event.call_id and call.state != "returned"
                else call
                for call in calls
            ]
        case _:
            return None


def _taken_up(call: OpenCall) -> OpenCall:
    """A call that was running when a worker takes the run up: the daemon died while it did."""
    if call.state != "called":
        return call
    return replace(call, state="ready" if call.repeatable else "doubted")


def _changed(call: OpenCall, envelope: Envelope, event: JournalEvent) -> OpenCall:
    call = replace(call, updated_cursor=envelope.cursor)
    match event:
        case ApprovalRequested(approval_id=approval_id, preview=preview):
            binding = preview.binding if preview is not None else None
            return replace(call, state="asked", waits_for=approval_id, binding=binding)
        case ApprovalAnswered(decision="allow", updated_input=None):
            return replace(call, state="ready", waits_for=None, approved=True)
        case ApprovalAnswered(decision="allow"):
            # The person wrote this input, and has not been shown what it would do.
            at = envelope.cursor
            return replace(call, state="ready", waits_for=None, approved=True, binding=None, input_cursor=at)
        case QuestionAsked(question_id=question_id):
            return replace(call, state="questioned", waits_for=question_id)
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
