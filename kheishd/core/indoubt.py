"""A call in doubt: its record as the fold of its events, and what the model is told once it is settled. Pure.

It outlives its run: an operator may find out days later what became of the call.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec.structs import replace

from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.journal.envelope import Envelope
from protocol.objects.indoubt import Indoubt

PROBE: Final = "probe"
"""Who settled a doubt, where the tool itself found out."""

MAX_INPUT_CHARACTERS = 200
"""How much of a call's input the model is reminded of."""

IndoubtEvent = IndoubtOpened | IndoubtResolved


def evolve(doubt: Indoubt | None, envelope: Envelope, event: IndoubtEvent) -> Indoubt:
    """The doubt after an event about it; it is settled once.

    Errors: AssertionError for a first event that is not ``IndoubtOpened``: the journal is damaged.
    """
    if isinstance(event, IndoubtOpened):
        return doubt or _doubted(envelope, event)
    assert doubt is not None, "a doubt's first event is that of the call being doubted"
    if doubt.status != "open":
        return doubt
    return replace(
        doubt,
        status=event.outcome,
        resolved_at_ms=envelope.at_ms,
        resolved_by=PROBE if envelope.actor == "daemon" else envelope.actor,
        justification=event.justification,
    )


def _doubted(envelope: Envelope, event: IndoubtOpened) -> Indoubt:
    assert envelope.session_id is not None
    assert envelope.run_id is not None
    return Indoubt(
        indoubt_id=event.indoubt_id,
        session_id=envelope.session_id,
        run_id=envelope.run_id,
        call_id=event.call_id,
        tool=event.tool,
        status="open",
        called_at_ms=event.called_at_ms,
        found_at_ms=envelope.at_ms,
        created_cursor=envelope.cursor,
        message_cursor=event.message_cursor,
        index=event.index,
        agent=event.agent,
        sender=event.sender,
        note=event.note,
        evidence=event.evidence,
    )


def told(doubt: Indoubt, arguments: Mapping[str, Any], outcome: Literal["done", "not_done"]) -> str:
    """The sentence by which the model learns what became of a call that it was left in doubt about."""
    called = json.dumps(arguments, ensure_ascii=False)
    if len(called) > MAX_INPUT_CHARACTERS:
        called = f"{called[:MAX_INPUT_CHARACTERS]}…"
    found = "it did take effect" if outcome == "done" else "it did not take effect"
    return (
        f"About an earlier call of yours, {doubt.tool} {called}, of which it was not known whether it took "
        f"effect: an operator has looked into it and says that {found}."
    )
