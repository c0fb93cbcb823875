"""Refusals about agents."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound


class NoSuchAgent(NotFound, reason="no_such_agent"):
    """No agent has that id, path or nickname; agent.list shows the agents."""


class AgentAlreadyClosed(Conflict, reason="agent_already_closed"):
    """The agent is closed and does nothing more; spawn another one."""


class SpawnConflict(Conflict, reason="spawn_conflict"):
    """The parent has spawned another agent with this request id; use a new id for another agent."""


class SpawnLimit(LimitReached, reason="spawn_limit"):
    """A limit on agents is reached; close some, or wait."""


class MemberForbidden(Forbidden, reason="member_forbidden"):
    """The parent may not delegate to that agent; its ``members`` name those it may delegate to."""


class WorktreeUnavailable(Conflict, reason="worktree_unavailable"):
    """The workspace is not the top of a git repository with a directory ``.git``; see the message."""
