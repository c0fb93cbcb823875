"""Refusals about agents."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound, Unprocessable


class AgentNotFound(NotFound, reason="agent_not_found"):
    """No agent has that name; definition.list shows all agents."""


class AgentForbidden(Forbidden, reason="agent_forbidden"):
    """The caller's token does not cover this agent."""


class DefinitionReadOnly(Conflict, reason="definition_read_only"):
    """The agent is defined by a file or built in; edit the file and reload, or choose another name."""


class DefinitionInvalid(Unprocessable, reason="definition_invalid"):
    """The definition is invalid; the message names every problem."""


class DefinitionLimit(LimitReached, reason="definition_limit"):
    """The store has the maximum number of definitions; delete some, or use files."""

    retryable = False
