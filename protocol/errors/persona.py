"""Refusals about personas."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, LimitReached, NotFound, Unprocessable


class PersonaNotFound(NotFound, reason="persona_not_found"):
    """No persona has that id; persona.list shows all personas."""


class PersonaExists(Conflict, reason="persona_exists"):
    """A persona with that id exists; choose another id, or update it."""


class PersonaInvalid(Unprocessable, reason="persona_invalid"):
    """The persona contradicts itself; the message names the problem."""


class PersonaLimit(LimitReached, reason="persona_limit"):
    """The maximum number of personas exists; delete some first."""

    retryable = False
