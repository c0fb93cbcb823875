"""The personas of sessions: frozen snapshots, which no change of the record ever reaches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.store.tables import PERSONAS
from protocol.errors.persona import PersonaNotFound
from protocol.ids import ID_PATTERN
from protocol.objects.session import PersonaBinding

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.persona import Persona
    from protocol.objects.session import Session


def find_persona(store: Snapshot, persona_id: str, field: str | None = "$.params.persona_id") -> Persona:
    """Return a persona. Errors: PersonaNotFound."""
    persona = store.get(PERSONAS, persona_id)
    if persona is None:
        raise PersonaNotFound(f"there is no persona '{persona_id}'; persona.list shows them", field=field)
    return persona


def bind(persona: Persona, now_ms: int) -> PersonaBinding:
    """Return a snapshot of a persona."""
    return PersonaBinding(
        persona_id=persona.persona_id,
        version=persona.version,
        display_name=persona.display_name,
        soul_sha256=persona.soul_sha256,
        scope=persona.scope,
        default_skills=persona.default_skills,
        bound_at_ms=now_ms,
    )


def is_same_snapshot(first: PersonaBinding | None, second: PersonaBinding | None) -> bool:
    """Whether two bindings differ at most in their time and in the snapshots of skills that a run makes."""
    if first is None or second is None:
        return first is second
    return replace(first, bound_at_ms=0, skills=None) == replace(second, bound_at_ms=0, skills=None)


def bind_at_creation(
    store: Snapshot,
    definition: Definition,
    now_ms: int,
    *,
    parent: Session | None = None,
    persona_id: str | None = None,
) -> PersonaBinding | None:
    """Return the binding of a new session: that of the request, else its parent's, else its agent's.

    A child gets a copy of its parent's snapshot; later changes of the parent do not reach it.
    Errors: PersonaNotFound, also for the persona of the agent: without it, its scope would be missing.
    """
    if persona_id is not None:
        return bind(find_persona(store, persona_id), now_ms)
    if parent is not None and parent.persona is not None:
        return parent.persona
    if definition.persona is None:
        return None
    # The name in the agent's file may be one that no persona can have and no key can hold.
    possible = re.fullmatch(ID_PATTERN, definition.persona) is not None
    persona = store.get(PERSONAS, definition.persona) if possible else None
    if persona is None:
        text = f"the agent '{definition.name}' has the persona '{definition.persona}', which does not exist"
        raise PersonaNotFound(f"{text}; create it, or change the agent's file")
    return bind(persona, now_ms)
