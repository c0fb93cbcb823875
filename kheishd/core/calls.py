"""The tool calls of a run's newest message: what may be done with each, and what follows from what happened.

========== ============================================================ =====================
state      means                                                        leads to
========== ============================================================ =====================
new        the model asked for it                                       ready asked questioned returned
ready      it may run                                                   called asked returned
asked      a person is to allow or deny it                              ready returned
questioned a person is to answer it                                     returned
called     it runs                                                      returned asked, or ready doubted
doubted    the daemon died while it ran                                 ready returned
returned   it has its one result                                        nothing
========== ============================================================ =====================

A batch is judged as a whole: nothing runs while a call is new, asked or questioned. Calls that say they may
run beside others do so, those next to each other; any other call runs alone, in the order of the message.
When a worker takes a run up anew, calls that were running are ready again if they may be run twice, else
they are doubted. Once all calls have their results there are none any more, and the model is asked again.
"""

from collections.abc import Container, Iterator
from typing import Any, Final

from msgspec.structs import replace

from protocol.events import (
    ApprovalAnswered,
    ApprovalLapsed,
    ApprovalRequested,
    CallDoubted,
    CallProbed,
    CallsJudged,
    Envelope,
    JournalEvent,
    QuestionAsked,
    QuestionLapsed,
    RunStarted,
    ToolCalled,
    ToolObserved,
    ToolReturned,
)
from protocol.ids import INDOUBT
from protocol.limits import CALL_ID_BYTES_MAX, CALLS_JUDGED_AT_ONCE, PARALLEL_CALLS_MAX, TOOL_BYTES_MAX
from protocol.objects.run import OpenCall, Run, Status
from protocol.transcript import Item, ToolCall

NOT_RUN: Final = "This was not run: the run was stopped before."
IN_DOUBT: Final = (
    "It is not known whether this took effect: the daemon went down while it ran. It was not run again. "
    "Check before you rely on it or repeat it."
)
STOPPED: Final = "This was stopped before it ended; what it had done by then stands."


def distinct(items: list[Item], used: Container[str]) -> list[Item]:
    """The items, each call with an id of its own: providers want a result for each, and one result for each.

    ``used`` are the ids that the transcript holds already. Names and ids are cut to what may be kept.
    """
    seen: set[str] = set()
    kept: list[Item] = []
    for item in items:
        if isinstance(item, ToolCall):
            item = replace(
                item, call_id=_fresh(item.call_id, seen, used), name=_cut(item.name, TOOL_BYTES_MAX)
            )
            seen.add(item.call_id)
        kept.append(item)
    return kept


def _fresh(call_id: str, seen: set[str], used: Container[str]) -> str:
    stem = _cut(call_id, CALL_ID_BYTES_MAX - len("-1000000")) or "call"
    number, fresh = 1, stem
    while fresh in seen or fresh in used:
        number += 1
        fresh = f"{stem}-{number}"
    return fresh


def _cut(text: str, bytes_max: int) -> str:
    return text.encode()[:bytes_max].decode(errors="ignore")


def opened(items: list[Item]) -> list[OpenCall]:
    """The calls of a message, none of them judged."""
    return [OpenCall(call_id=c.call_id, tool=c.name, state="new") for c in items if isinstance(c, ToolCall)]


def to_judge(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls to judge next, by their places: at most so many as one transaction takes."""
    new = [place for place, call in enumerate(calls) if call.state == "new"]
    return tuple(new[:CALLS_JUDGED_AT_ONCE])


def to_run(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls to run next, together: some that may run side by side, or one alone. Empty: none."""
    group: list[int] = []
    for place, call in enumerate(calls):
        if call.state == "returned":
            continue
        if call.state != "ready" or (group and not call.parallel):
            break
        group.append(place)
        if not call.parallel or len(group) == PARALLEL_CALLS_MAX:
            break
    return tuple(group)


def doubted(calls: list[OpenCall]) -> tuple[int, ...]:
    """Which calls the daemon died in, and nobody has looked into yet."""
    return tuple(place for place, call in enumerate(calls) if call.state == "doubted")


def place_of(run: Run, call_id: str) -> int:
    """Which call has an id. Errors: AssertionError if none that is open has."""
    for place, call in enumerate(run.calls):
        if call.call_id == call_id and call.state != "returned":
            return place
    raise AssertionError(f"the run has no open call {call_id}")


def status_of(calls: list[OpenCall]) -> Status:
    """The status of a run that is being executed, by what its calls wait for."""
    states = {call.state for call in calls}
    if "new" not in states:
        if "questioned" in states:
            return "waiting_for_user_question"
        if "asked" in states:
            return "waiting_for_approval"
    return "running"


# Ending.


def closing(
    run: Run, results: tuple[ToolReturned, ...] = (), *, died: bool = False
) -> Iterator[JournalEvent]:
    """What gives every open call its result when the run ends: what was asked is withdrawn.

    ``results`` are those of calls that were stopped while they ran. ``died``: the daemon did, so what was
    running then is in doubt.
    """
    given = {result.call_id: result for result in results}
    for place, call in enumerate(run.calls):
        if call.state == "returned":
            continue
        if call.state == "asked" and call.waits_for is not None:
            yield ApprovalLapsed(approval_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        if call.state == "questioned" and call.waits_for is not None:
            yield QuestionLapsed(question_id=call.waits_for, call_id=call.call_id, how="withdrawn")
        if call.state == "doubted" or (died and call.state == "called" and not call.repeatable):
            yield from doubt(run, place, note="nobody looked into it, as the run was ended at once")
        else:
            yield given.get(call.call_id) or _stopped(call)


def _stopped(call: OpenCall) -> ToolReturned:
    said = STOPPED if call.state == "called" else NOT_RUN
    return ToolReturned(call_id=call.call_id, tool=call.tool, how="stopped", text=said, is_error=True)


def doubt(
    run: Run, place: int, *, note: str, evidence: dict[str, Any] | None = None
) -> tuple[CallDoubted, ToolReturned]:
    """A call in doubt becomes an item that an operator can settle, and the model is told plainly.

    The item's id follows from the run, the step and the call's place: a call is doubted once.
    """
    call = run.calls[place]
    assert run.output_cursor is not None, "a call stands in a message"
    item = CallDoubted(
        indoubt_id=f"{INDOUBT}_{run.run_id.removeprefix('run_')}.{run.step}.{place}",
        call_id=call.call_id,
        tool=call.tool,
        number=place,
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


def evolve(run: Run, envelope: Envelope, event: JournalEvent) -> Run:
    """The run after an event about its calls; the run itself after any other event."""
    calls = _folded(run.calls, envelope, event)
    if calls is None:
        return run
    if all(call.state == "returned" for call in calls):
        calls = []
    return replace(run, calls=calls, status=status_of(calls))


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
    call = replace(call, cursor=envelope.cursor)
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
