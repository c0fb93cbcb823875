"""``[workspace]``: directories of agents, and the sandbox of their commands."""

from typing import Annotated, Literal

from msgspec import Meta

from kheishd.config.sections.section import FilePath, Section
from protocol.limits.names import MAX_PATH_BYTES
from protocol.limits.workspace import MAX_TRUSTED_ROOTS

SandboxMode = Literal["auto", "required", "off"]
"""Whether commands run in a sandbox: if possible, always, never."""

UnsandboxedMode = Literal["ask", "allow"]
"""Whether a person approves each command without a sandbox in a home in which the sandbox has worked."""


NetworkMode = Literal["closed", "open"]
"""Whether sandboxed commands reach only the hosts that rules or a person allow, or the machine's network."""


class WorkspaceSection(Section, frozen=True):
    """``[workspace]``: directories of agents, and the sandbox of their commands."""

    root: FilePath | None = None
    """Default workspace (default: `workspace` in the home). If set, it contains all workspaces."""

    trusted: Annotated[list[FilePath], Meta(max_length=MAX_TRUSTED_ROOTS)] = []
    """Directories whose `AGENTS.md` and skills take effect (default: none)."""

    sandbox: SandboxMode = "auto"
    """Commands run under bubblewrap: `"auto"` (if it works; always, once it has), `"required"` or `"off"`."""

    unsandboxed: UnsandboxedMode = "ask"
    """Commands under `sandbox = "off"` once it has worked: `"ask"` about each, or `"allow"` as rules say."""

    network: NetworkMode = "closed"
    """Sandboxed commands reach only allowed hosts (`"closed"`), or the machine's whole network (`"open"`)."""

    readable: list[Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=MAX_PATH_BYTES)]] = []
    """Directories that sandboxed commands can read in addition to the system's."""
