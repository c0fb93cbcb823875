"""What follows from a model's answer: its calls are carried out, it is asked again, or the run is over. Pure.

An answer without calls is final, unless something speaks against it. In this order:

* somebody said something to the run that its model has not read: it is asked again;
* the answer was cut at its length limit: it is asked to go on, and what it says then is the same answer;
* something that the run was to do is not done: it is reminded, twice at most;
* the answer does not fit the run's output contract: it is asked to mend it, without tools, as often as the
  contract allows.

Each of these is another model call of the run, within its limits: where there may be none any more, a run
that owes something fails. The reason and the counts stand in the run's record, so a restart changes nothing.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from kheishd.core.contract import CONTINUE, find_match, find_missing, format_reminder, format_repair
from kheishd.core.run.budget import cost_of, used_up
from kheishd.core.run.commands import Answered
from kheishd.core.run.record import RunRecord
from protocol.contract import FollowUp
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.run import MessageAppended, RunEnded
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALLS
from protocol.limits.output import MAX_REMINDERS
from protocol.objects.run import Pinned, RunError
from protocol.transcript import Message, Text, ToolCall

WITHHELD: Final = "it asks for tools, and there are none now"


def answered(run: RunRecord, pinned: Pinned, command: Answered) -> list[JournalEvent]:
    """The events of an answer to the run's open question."""
    assert run.item_id is not None, "an answer to a question nobody asked"
    cost = cost_of(command.usage, pinned.prices)
    said = MessageAppended(
        item_id=run.item_id,
        message=Message("assistant", command.items, agent=run.guest),
        usage=command.usage,
        stop_reason=command.stop_reason,
        model=command.model,
        cost=cost,
    )
    limit = used_up(run, pinned, command.usage, cost)
    asked = [item for item in command.items if isinstance(item, ToolCall)]
    if asked:
        return [said, *_called(run, pinned, command, asked, limit)]
    if run.pending_steers and run.cancel is None and limit is None:
        # Something was said to the run that its model has not read yet.
        return [said]
    if run.cancel is not None:
        # Asked to stop in the moment in which it was done: the answer is kept, the wish is honoured.
        return [said, RunEnded(outcome=run.cancel)]
    return [said, _final(run, pinned, command, limit)]


def _called(
    run: RunRecord, pinned: Pinned, command: Answered, asked: list[ToolCall], limit: RunError | None
) -> list[JournalEvent]:
    """What follows at once from calls: nothing, as they are judged next, unless none of them may be."""
    if limit is not None:
        ended = RunEnded(outcome=run.cancel or "failed", error=limit)
        return [*(_refused(call, f"This was not run: {limit.message}.") for call in asked), ended]
    if run.follow_up == "output_contract" and run.cancel is None:
        text = "This was not run: answer with JSON only."
        return [*(_refused(call, text) for call in asked), _mend(run, pinned, command, WITHHELD, limit)]
    most = min(command.max_calls, MAX_CALLS)
    if len(asked) > most:
        text = f"This was not run: {len(asked)} calls in one message, and the limit is {most}."
        return [_refused(call, text) for call in asked]
    return []


def _refused(call: ToolCall, text: str) -> ToolReturned:
    """The result of a call that is not even judged."""
    return ToolReturned(call_id=call.call_id, tool=call.name, how="failed", text=text, is_error=True)


def _final(run: RunRecord, pinned: Pinned, command: Answered, limit: RunError | None) -> JournalEvent:
    """The end of the run, or why its model is asked again."""
    may_go_on = limit is None and len(run.partial_cursors) < pinned.max_continuations
    if command.stop_reason == "length" and not command.cut and may_go_on:
        return _again(run, "length", CONTINUE)
    todo = owed(run, pinned)
    if todo and run.reminders < MAX_REMINDERS and limit is None:
        return _again(run, "completion", format_reminder(todo))
    if todo:
        return _failed("completion_required", f"the run had to {' and to '.join(todo)} and did not")
    problem = command.checked.problem if command.checked is not None else None
    if problem is not None:
        return _mend(run, pinned, command, problem, limit)
    return RunEnded(outcome="completed")


def _mend(
    run: RunRecord, pinned: Pinned, command: Answered, problem: str, limit: RunError | None
) -> JournalEvent:
    bound, checked = pinned.output_contract, command.checked
    assert bound is not None, "only what is bound by a contract is mended"
    assert checked is not None, "an answer that a contract binds is checked"
    if limit is None and run.repairs < bound.max_repairs:
        return _again(run, "output_contract", format_repair(problem, checked.schema))
    return _failed("output_contract_violated", f"the answer violates the output contract: {problem}")


def _failed(reason: str, message: str) -> RunEnded:
    return RunEnded(outcome="failed", error=RunError(reason, message))


def _again(run: RunRecord, because: FollowUp, text: str) -> MessageAppended:
    """What the daemon says to have the model answer again; its id follows from the answer's."""
    message = Message("user", [Text(text)])
    return MessageAppended(item_id=f"{run.item_id}.again", message=message, follow_up=because)


def owed(run: RunRecord, pinned: Pinned) -> list[str]:
    """What the run is still to do, in words."""
    return find_missing(pinned.requirements, run.met_requirements)


def met_by(
    run: RunRecord, pinned: Pinned, call_id: str, written: Sequence[str]
) -> list[RequirementSatisfied]:
    """Return the requirements of a run that a successful call satisfies by the files it has written."""
    found = (
        (number, find_match(each, written))
        for number, each in enumerate(pinned.requirements)
        if number not in run.met_requirements
    )
    return [
        RequirementSatisfied(index=number, call_id=call_id, path=path)
        for number, path in found
        if path is not None
    ]


# Folding.


def sent_back(run: RunRecord, event: MessageAppended) -> RunRecord:
    """The run after the daemon said something to it."""
    match event.follow_up:
        case "output_contract":
            return replace(run, follow_up=event.follow_up, repairs=run.repairs + 1)
        case "completion":
            return replace(run, follow_up=event.follow_up, reminders=run.reminders + 1)
        case "length":
            assert run.output_cursor is not None, "it is an answer that was cut"
            return replace(
                run, follow_up=event.follow_up, partial_cursors=[*run.partial_cursors, run.output_cursor]
            )
        case None:
            return run


def parts_of(run: RunRecord) -> list[int]:
    """Where the answers stand that an answer which comes now goes on with."""
    return run.partial_cursors if run.follow_up == "length" else []


def given(run: RunRecord, cursor: int, event: OutputEmitted | RequirementSatisfied) -> RunRecord:
    """The run after it gave or did something that somebody waits for."""
    match event:
        case OutputEmitted():
            return replace(run, output_cursors=[*run.output_cursors, cursor])
        case RequirementSatisfied(index=number):
            return (
                run
                if number in run.met_requirements
                else replace(run, met_requirements=sorted([*run.met_requirements, number]))
            )
