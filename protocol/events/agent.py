"""Events of spawned agents, in the streams of their sessions; ``ChildSpawned`` in that of the parent."""

from protocol.journal.envelope import Event
from protocol.objects.agent import AgentRetention, AgentWorktree, PromptMode


class AgentSpawned(Event, frozen=True, tag="agent_spawned"):
    """The session's agent was spawned by another one.

    ``spawn_request_id`` identifies the request among those of its parent, ``fingerprint`` is the SHA-256
    (hex) of what it asked for. ``launch_run_id`` is its first run. ``prompt_digest`` names the blob of its
    own prompt, which replaces the instructions of its definition or follows them. ``worktree`` is to be made
    before its first run starts.
    """

    parent_id: str
    root_id: str
    name: str
    path: str
    nickname: str
    spawn_request_id: str
    fingerprint: str
    launch_run_id: str
    retention: AgentRetention = "retain"
    description: str = ""
    owner: str | None = None
    spawned_by_run_id: str | None = None
    prompt_digest: str | None = None
    prompt_mode: PromptMode = "append"
    worktree: AgentWorktree | None = None


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
