"""The memory context of a session: everything that its model is given besides the conversation."""

from msgspec import Struct

from protocol.errors.session import SessionNotFound
from protocol.objects.permission import PermissionMode
from protocol.objects.session import (
    ActiveSkill,
    CapabilityScope,
    CredentialScope,
    PersonaBinding,
    Plan,
    SessionRef,
    Todo,
)
from protocol.objects.workspace import AgentsFile
from protocol.rpc.method import Method
from protocol.transcript import InputOrigin


class MemoryContext(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the session's next run would be given now, and what limits it; no texts, and no secrets.

    ``instructions`` is the SHA-256 (hex) of the agent's own instructions; null if the agent is no longer
    defined. ``trusted_root`` is the outermost trusted root that contains the workspace; null: only the global
    ``AGENTS.md`` counts. ``visible_skills`` are the names of the skills that the agent can use. ``origins``
    are those of everything that the model has read. ``notebooks`` are the agents whose notes it can recall.
    """

    session_id: str
    agent: str
    permission_mode: PermissionMode
    instructions: str | None = None
    instructions_bytes: int = 0
    persona: PersonaBinding | None = None
    profile: str | None = None
    workspace: str | None = None
    trusted_root: str | None = None
    agents_files: list[AgentsFile] = []
    visible_skills: list[str] = []
    active_skills: list[ActiveSkill] = []
    todos: list[Todo] = []
    plan: Plan | None = None
    scope: CapabilityScope = CapabilityScope()
    effective_scope: CapabilityScope = CapabilityScope()
    credential_scope: CredentialScope = CredentialScope()
    effective_credential_scope: CredentialScope = CredentialScope()
    blocked_tools: list[str] = []
    origins: list[InputOrigin] = []
    notebooks: list[str] = []


GET = Method(
    "session.memory_context",
    "control",
    SessionRef,
    MemoryContext,
    "Show what a session's model is given besides the conversation: instructions, skills, plan and rights.",
    errors=(SessionNotFound,),
)

METHODS = (GET,)
"""The row of ``session.memory_context``."""
