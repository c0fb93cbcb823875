"""Personas: the record as a projection of its events, and the name that a Markdown file gives one. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from protocol.events.persona import PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.limits.persona import MAX_DISPLAY_NAME_BYTES
from protocol.objects.persona import Persona, PersonaProperties
from protocol.structs import fields_of
from protocol.text import truncate

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope

MARKDOWN: Final = (".md", ".markdown")

_FENCE: Final = re.compile(r"^ {0,3}(```|~~~)")
_HEADING: Final = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")


def evolve(
    persona: Persona | None, envelope: Envelope, event: PersonaCreated | PersonaUpdated | PersonaDeleted
) -> Persona | None:
    """Return the persona after an event; None once it is deleted.

    Errors: AssertionError for a change of one that does not exist: the journal is damaged.
    """
    if isinstance(event, PersonaCreated):
        return Persona(
            **fields_of(PersonaProperties, event),
            persona_id=event.persona_id,
            version=1,
            created_at_ms=envelope.at_ms,
            updated_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            updated_cursor=envelope.cursor,
        )
    assert persona is not None, "a persona is created before it is changed"
    if isinstance(event, PersonaDeleted):
        return None
    return Persona(
        **fields_of(PersonaProperties, event),
        persona_id=persona.persona_id,
        version=persona.version + 1,
        created_at_ms=persona.created_at_ms,
        updated_at_ms=envelope.at_ms,
        created_cursor=persona.created_cursor,
        updated_cursor=envelope.cursor,
    )


def name_from_markdown(content: str, filename: str) -> str | None:
    """Return the name of a persona from a file: its first heading, else the file's stem.

    None if the file is no Markdown by its name.
    """
    stem, dot, end = filename.rpartition("/")[2].rpartition(".")
    if not stem or f"{dot}{end}".lower() not in MARKDOWN:
        return None
    fence = None
    for line in content.splitlines():
        mark = _FENCE.match(line)
        if mark is not None and fence in (None, mark[1]):
            fence = mark[1] if fence is None else None
            continue
        heading = _HEADING.match(line) if fence is None else None
        if heading is not None and heading[1].strip():
            return truncate(" ".join(heading[1].split()), MAX_DISPLAY_NAME_BYTES, "")
    return stem
