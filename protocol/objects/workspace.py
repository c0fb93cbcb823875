"""Trusted roots: the directories whose instructions, skills, hooks and settings take effect.

A root covers everything below it and nothing above it. The configuration trusts some (by default the default
workspace); ``workspace.trust`` adds others while the daemon runs.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.session import WorkspaceForbidden, WorkspaceMissing
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.errors.workspace import RootConfigured, RootLimit, RootNotFound
from protocol.limits.names import MAX_AGENT_BYTES
from protocol.limits.workspace import MAX_ROOT_NOTE_BYTES
from protocol.objects.run import PathName
from protocol.rpc.method import Method, Mutation, Page, Params

Note = Annotated[str, Meta(max_length=MAX_ROOT_NOTE_BYTES)]


class TrustedRoot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A trusted root. ``source``: the configuration, or a client, who trusted it at ``trusted_at_ms``."""

    root: str
    source: Literal["config", "client"]
    trusted_by: str | None = None
    trusted_at_ms: int | None = None
    note: str = ""


class AgentsFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An ``AGENTS.md`` as a run reads it.

    ``sha256`` is that of the ``read_bytes`` first bytes. ``cut``: the rest did not fit. ``problem`` is why it
    could not be read.
    """

    path: str
    bytes: int = 0
    read_bytes: int = 0
    sha256: str | None = None
    cut: bool = False
    problem: str = ""


class TrustedRootList(Struct, frozen=True):
    """A page of trusted roots: those of the configuration, then the others, oldest first."""

    workspaces: list[TrustedRoot]
    next: str | None


class WorkspaceView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A directory as a workspace: ``path`` with its links resolved.

    ``problem`` is why no agent can work there for the caller; empty if one can. ``workspace`` is where a
    conversation with the agent works that begins there. ``root`` is the outermost trusted root that contains
    ``path``; null: it is not trusted. ``default``: it is the default workspace.
    """

    path: str
    workspace: str
    problem: str = ""
    root: str | None = None
    default: bool = False


class WorkspaceRef(Params, frozen=True, kw_only=True):
    """Params of ``workspace.get``: a directory; a relative path begins at the default workspace.

    Without ``agent``, the configured default agent is meant.
    """

    path: PathName
    agent: Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_BYTES)] | None = None


class WorkspaceTrust(Mutation, frozen=True, kw_only=True):
    """Params of ``workspace.trust``: an absolute path of a directory; links in it are resolved."""

    root: PathName
    note: Note = ""


class WorkspaceUntrust(Mutation, frozen=True, kw_only=True):
    """Params of ``workspace.untrust``."""

    root: PathName
    note: Note = ""


class WorkspaceListParams(Page, frozen=True, kw_only=True):
    """Params of ``workspace.list``."""


TRUST = Method(
    "workspace.trust",
    "mutation",
    WorkspaceTrust,
    TrustedRoot,
    "Trust a directory and everything below it: instructions, skills, hooks and settings there take effect.",
    scope="operate",
    errors=(WorkspaceForbidden, WorkspaceMissing, RootLimit, ScopeWouldWiden, StorageFull),
)
UNTRUST = Method(
    "workspace.untrust",
    "mutation",
    WorkspaceUntrust,
    TrustedRoot,
    "Trust a directory no longer; from the next run on, nothing in it takes effect.",
    scope="operate",
    errors=(RootNotFound, RootConfigured, ScopeWouldWiden, StorageFull),
)
LIST = Method("workspace.list", "query", WorkspaceListParams, TrustedRootList, "List the trusted roots.")
GET = Method(
    "workspace.get",
    "query",
    WorkspaceRef,
    WorkspaceView,
    "Show whether agents may work in a directory, and whether it is trusted.",
    errors=(AgentNotFound, AgentForbidden),
)

METHODS = (TRUST, UNTRUST, LIST, GET)
