"""In-doubt calls: a record as the projection of its events, and the note about its resolution. Pure.

The record outlives its run: an operator may resolve the call days later.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec.structs import replace

from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.journal.envelope import Envelope
from protocol.objects.indoubt import Indoubt

PROBE: Final = "probe"
"""The resolver of a call that the tool's own probe resolved."""

# The note reminds the model of the call's input.
MAX_INPUT_CHARACTERS = 200

IndoubtEvent = IndoubtOpened | IndoubtResolved


def evolve(doubt: Indoubt | None, envelope: Envelope, event: IndoubtEvent) -> Indoubt:
    """Return the in-doubt call after one of its events; it is resolved once.

    Errors: AssertionError for a first event that is not ``IndoubtOpened``: the journal is damaged.
    """
    if isinstance(event, IndoubtOpened):
        if doubt is not None:
            return doubt
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
    assert doubt is not None, "the first event of an in-doubt call opens it"
    if doubt.status != "open":
        return doubt
    return replace(
        doubt,
        status=event.outcome,
        resolved_at_ms=envelope.at_ms,
        resolved_by=PROBE if envelope.actor == "daemon" else envelope.actor,
        justification=event.justification,
    )


def format_resolution(
    doubt: Indoubt, arguments: Mapping[str, Any], outcome: Literal["done", "not_done"]
) -> str:
    """Format the note that tells the model the outcome of a call that was in doubt."""
    # A start has no call in doubt to describe.
    import json

    call_input = json.dumps(arguments, ensure_ascii=False)
    if len(call_input) > MAX_INPUT_CHARACTERS:
        call_input = f"{call_input[:MAX_INPUT_CHARACTERS]}…"
    effect = "it did take effect" if outcome == "done" else "it did not take effect"
    return (
        f"About an earlier call of yours, {doubt.tool} {call_input}, whose effect was unknown: an operator "
        f"has checked and says that {effect}."
    )
