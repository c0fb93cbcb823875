"""Events of spawned agents, in the streams of their sessions; ``ChildSpawned`` in that of the parent."""

from protocol.journal.envelope import Event
from protocol.objects.agent import AgentProperties


class AgentSpawned(AgentProperties, Event, frozen=True, tag="agent_spawned"):
    """The session's agent was spawned by another one."""


class AgentPrepared(Event, frozen=True, tag="agent_prepared"):
    """The worktree of a spawned agent was made, with the files of this commit: its runs start."""

    base_commit: str


class ChildSpawned(Event, frozen=True, tag="child_spawned"):
    """The session's agent, or a client for it, spawned a child: its id, and its place in the tree."""

    child_id: str
    name: str
    path: str
    nickname: str
    launch_run_id: str
    description: str = ""


class AgentRenamed(Event, frozen=True, tag="agent_renamed"):
    """A spawned agent has a new nickname."""

    nickname: str


class AgentCloseRequested(Event, frozen=True, tag="agent_close_requested"):
    """A spawned agent is to be closed: its runs stop, and it accepts no more.

    ``failed``: because of a failure.
    """

    note: str = ""
    failed: bool = False


class AgentClosed(Event, frozen=True, tag="agent_closed"):
    """A spawned agent was closed. Nothing of it runs any more.

    ``kept_worktree`` is the directory of its worktree, which stays because it holds work, as the ``note``
    says; ``kept_branch`` is its branch, if that has commits of its own.
    """

    note: str = ""
    kept_worktree: str | None = None
    kept_branch: str | None = None
