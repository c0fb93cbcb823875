"""Decide what follows a model's answer: tool calls, another model call, or the end of the run. Pure.

An answer without calls is final unless a check objects. The checks, in this order:

* The run has a steer that its model has not read: the model is called again.
* The answer was truncated at its length limit, or the provider paused the turn: it is continued, and both
  parts are one answer. A pause that is not continued fails the run.
* A requirement is not met: the model is reminded, at most twice.
* The answer violates the run's output contract: the model must correct it, without tools, up to the
  contract's maximum.

Each of these is another model call within the run's limits. If no other model call is allowed, a run with an
unmet requirement or contract fails. The counts are in the run's record, so a restart does not change them.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from kheishd.core.contract import (
    CONTINUE,
    RESUME,
    find_match,
    find_missing,
    format_reminder,
    format_repair,
)
from kheishd.core.run.budget import calculate_cost, find_exceeded_limit
from kheishd.core.run.commands import AcceptAnswer
from kheishd.core.run.record import RunRecord
from protocol.budget import Remainder
from protocol.contract import FollowUp
from protocol.events.call import ToolReturned
from protocol.events.output import OutputEmitted, RequirementSatisfied
from protocol.events.run import MessageAppended, RunEnded
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_CALL_OVERHEAD_BYTES, MAX_CALLS
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.output import MAX_REMINDERS
from protocol.objects.run import Pinned, RunError
from protocol.transcript import Item, Message, ProviderData, Text, Thinking, ToolCall

TOOLS_WITHHELD: Final = "it calls tools, and none are available now"


def decide(
    run: RunRecord, pinned: Pinned, command: AcceptAnswer, left: Remainder | None = None
) -> list[JournalEvent]:
    """Return the events of an answer to the run's open model call.

    Args:   ``left`` is what the budget of its session had left before; None without a budget.
    """
    assert run.item_id is not None, "an answer needs an open model call"
    cost = calculate_cost(command.usage, pinned.prices)
    message = MessageAppended(
        item_id=run.item_id,
        message=Message("assistant", command.items, run.guest, command.provider_data),
        usage=command.usage,
        stop_reason=command.stop_reason,
        model=command.model,
        cost=cost,
        route=pinned.route if pinned.fallbacks else None,
        passed_over=command.passed_over,
    )
    limit = find_exceeded_limit(run, pinned, command.usage, cost, left)
    calls = [item for item in command.items if isinstance(item, ToolCall)]
    if calls:
        return [message, *_decide_calls(run, pinned, command, calls, limit)]
    if run.cancel is not None:
        # The stop was requested just before the run was done: it is honoured, and the answer kept.
        return [message, RunEnded(outcome=run.cancel)]
    if run.pending_steers and limit is None:
        return [message]
    return [message, _decide_final(run, pinned, command, limit)]


def _decide_calls(
    run: RunRecord, pinned: Pinned, command: AcceptAnswer, calls: list[ToolCall], limit: RunError | None
) -> list[JournalEvent]:
    """Return the results of calls that will not even be judged, and their consequence."""
    if limit is not None:
        ended = RunEnded(outcome=run.cancel or "failed", error=limit)
        return [*(_fail_call(call, f"This was not run: {limit.message}.") for call in calls), ended]
    if run.follow_up == "output_contract" and run.cancel is None:
        text = "This was not run: answer with JSON only."
        repair = _repair(run, pinned, command, TOOLS_WITHHELD, limit)
        return [*(_fail_call(call, text) for call in calls), repair]
    max_calls = min(command.max_calls, MAX_CALLS)
    if len(calls) > max_calls:
        text = f"This was not run: {len(calls)} calls in one message; the limit is {max_calls}."
        return [_fail_call(call, text) for call in calls]
    return []


def _fail_call(call: ToolCall, text: str) -> ToolReturned:
    return ToolReturned(call_id=call.call_id, tool=call.name, how="failed", text=text, is_error=True)


def _decide_final(
    run: RunRecord, pinned: Pinned, command: AcceptAnswer, limit: RunError | None
) -> JournalEvent:
    """Return the end of the run, or the message with which its model is called again."""
    may_continue = limit is None and len(run.partial_cursors) < pinned.max_continuations
    if command.stop_reason == "pause":
        if may_continue:
            return _follow_up(run, "pause", RESUME)
        error = limit or RunError("turn_paused", "the provider paused the turn again and again")
        return RunEnded(outcome="failed", error=error)
    if command.stop_reason == "length" and not command.cut and may_continue:
        return _follow_up(run, "length", CONTINUE)
    unmet = find_unmet(run, pinned)
    if unmet and run.reminders < MAX_REMINDERS and limit is None:
        return _follow_up(run, "completion", format_reminder(unmet))
    if unmet:
        return _fail("completion_required", f"the run had to {' and to '.join(unmet)} and did not")
    problem = command.checked.problem if command.checked is not None else None
    if problem is not None:
        return _repair(run, pinned, command, problem, limit)
    return RunEnded(outcome="completed")


def _repair(
    run: RunRecord, pinned: Pinned, command: AcceptAnswer, problem: str, limit: RunError | None
) -> JournalEvent:
    contract, check = pinned.output_contract, command.checked
    assert contract is not None, "only a contract can be violated"
    assert check is not None, "the answer of a run with a contract is checked"
    if limit is None and run.repairs < contract.max_repairs:
        return _follow_up(run, "output_contract", format_repair(problem, check.schema))
    return _fail("output_contract_violated", f"the answer violates the output contract: {problem}")


def _fail(reason: str, message: str) -> RunEnded:
    return RunEnded(outcome="failed", error=RunError(reason, message))


def _follow_up(run: RunRecord, follow_up: FollowUp, text: str) -> MessageAppended:
    """Make the daemon's message that asks for another answer; its id follows from the answer's."""
    message = Message("user", [Text(text)])
    return MessageAppended(item_id=f"{run.item_id}.again", message=message, follow_up=follow_up)


# Requirements.


def find_unmet(run: RunRecord, pinned: Pinned) -> list[str]:
    """Return the run's unmet requirements, in words."""
    return find_missing(pinned.requirements, run.met_requirements)


def find_met(
    run: RunRecord, pinned: Pinned, call_id: str, written: Sequence[str]
) -> list[RequirementSatisfied]:
    """Return the requirements of a run that a successful call meets with the files it wrote."""
    matches = (
        (index, find_match(requirement, written))
        for index, requirement in enumerate(pinned.requirements)
        if index not in run.met_requirements
    )
    return [
        RequirementSatisfied(index=index, call_id=call_id, path=path)
        for index, path in matches
        if path is not None
    ]


# The record.


def evolve_follow_up(run: RunRecord, event: MessageAppended) -> RunRecord:
    """Return the run after a message of the daemon."""
    match event.follow_up:
        case "output_contract":
            return replace(run, follow_up=event.follow_up, repairs=run.repairs + 1)
        case "completion":
            return replace(run, follow_up=event.follow_up, reminders=run.reminders + 1)
        case "length" | "pause":
            assert run.output_cursor is not None, "only an answer can be continued"
            cursors = [*run.partial_cursors, run.output_cursor]
            return replace(run, follow_up=event.follow_up, partial_cursors=cursors)
        case None:
            return run


def evolve_output(run: RunRecord, cursor: int, event: OutputEmitted | RequirementSatisfied) -> RunRecord:
    """Return the run after an output or a met requirement."""
    match event:
        case OutputEmitted():
            return replace(run, output_cursors=[*run.output_cursors, cursor])
        case RequirementSatisfied(index=index):
            if index in run.met_requirements:
                return run
            return replace(run, met_requirements=sorted([*run.met_requirements, index]))


def continued_cursors(run: RunRecord) -> list[int]:
    """Return the cursors of the partial answers that the next answer continues."""
    return run.partial_cursors if run.follow_up in ("length", "pause") else []


# The size of an answer.


def describe_truncation(limit: str, arguments: str) -> str:
    """Describe, for the model, why the arguments of its call are unusable: they did not fit."""
    return (
        f"they were cut off after {len(arguments.encode()):,} bytes, because {limit}: this tool call did not "
        "fit. Do not continue it; make another call with less in it, or several smaller calls"
    )


def fit_message(
    items: list[Item], data: ProviderData | None, max_bytes: int
) -> tuple[list[Item], ProviderData | None, bool]:
    """Return the items and the provider data of a message that fit, and whether an item was cut off.

    Provider data is dropped whole before any item is; its origin is kept, because signatures refer to it, and
    so are its marks.
    """
    fitting, cut = fit_items(items, max_bytes - measure_data(data))
    if not cut:
        return fitting, data, False
    data = _drop_fields(data)
    items = [
        replace(item, provider_data=_drop_fields(item.provider_data)) if isinstance(item, ToolCall) else item
        for item in items
    ]
    fitting, cut = fit_items(items, max_bytes - measure_data(data))
    return fitting, data, cut


def measure_data(data: ProviderData | None) -> int:
    """Return the bytes that the provider data of a message takes of its transaction."""
    return len(msgspec.json.encode(data)) + len(',"provider_data":') if data is not None else 0


def _drop_fields(data: ProviderData | None) -> ProviderData | None:
    return replace(data, fields={}) if data is not None else None


def fit_items(items: list[Item], max_bytes: int) -> tuple[list[Item], bool]:
    """Return the items that fit into ``max_bytes`` of JSON, and whether anything was cut off.

    Text and unsigned thinking are truncated between characters. A call that does not fit keeps its name and
    says why it cannot be run. Signed thinking is kept whole or not at all: a part does not match its
    signature. A call also takes room for its place in the run's record and for a short result, because it
    needs one.
    """
    fitting: list[Item] = []
    room = max_bytes
    for item in items:
        size = _measure(item)
        if size > room:
            return [*fitting, *_truncate(item, room)], True
        fitting.append(item)
        # A comma separates items.
        room -= size + 1
    return fitting, False


def measure_items(items: list[Item]) -> int:
    """Return the bytes that some items take of the transaction of their message."""
    return sum(_measure(item) + 1 for item in items)


def _measure(item: Item) -> int:
    size = len(msgspec.json.encode(item))
    return size + MAX_CALL_OVERHEAD_BYTES if isinstance(item, ToolCall) else size


def _truncate(item: Item, room: int) -> list[Item]:
    if isinstance(item, ToolCall):
        arguments = msgspec.json.encode(item.arguments).decode()
        limit = f"the answer exceeds the {MAX_ANSWER_BYTES:,} bytes that are accepted"
        stub = replace(item, arguments={}, invalid=describe_truncation(limit, arguments))
        return [stub] if _measure(stub) <= room else []
    if not isinstance(item, Text | Thinking):
        return []
    if isinstance(item, Thinking) and (item.signature is not None or item.redacted):
        return []
    fitting, exceeding = 0, len(item.text) + 1
    while exceeding - fitting > 1:
        middle = (fitting + exceeding) // 2
        if len(msgspec.json.encode(replace(item, text=item.text[:middle]))) <= room:
            fitting = middle
        else:
            exceeding = middle
    return [replace(item, text=item.text[:fitting])] if fitting else []
