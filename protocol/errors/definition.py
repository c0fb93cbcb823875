"""Refusals about agents."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, NotFound


class AgentNotFound(NotFound, reason="agent_not_found"):
    """No agent has that name; definition.list shows all agents."""


class AgentForbidden(Forbidden, reason="agent_forbidden"):
    """The caller's token does not cover this agent."""
