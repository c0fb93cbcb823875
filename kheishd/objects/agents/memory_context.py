"""What a session's model is given besides the conversation, in one view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from kheishd.kernel.agents_files import find_places, read_files
from kheishd.kernel.call import Call, control
from kheishd.objects.agents.notes import readable_notebooks
from kheishd.objects.agents.skill import refresh_skills, visible_skills
from kheishd.objects.talk.address import find_session
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.input import origins_read
from kheishd.objects.talk.pin import instructions_of
from kheishd.objects.talk.plan import plan_of, todos_of
from kheishd.objects.talk.workspace import list_trusted_directories, workspace_of
from kheishd.store.blobs import blob_name
from protocol.errors.session import WorkspaceForbidden
from protocol.objects import memory_context as rows
from protocol.objects.memory_context import MemoryContext

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.session import Session, SessionRef


@control(rows.GET)
async def memory_context(call: Call, params: SessionRef) -> MemoryContext:
    """Show the memory context of a session. Errors: SessionNotFound."""
    runtime = call.runtime
    await refresh_skills(call, params.session_id)
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        context = _read_records(store, runtime, session)
        directories = (
            list_trusted_directories(store, runtime, context.workspace)
            if context.workspace is not None
            else []
        )
    places = find_places(runtime.workspaces.home, directories)
    _, files = await trio.to_thread.run_sync(read_files, places)
    return replace(context, agents_files=files, trusted_root=directories[-1] if directories else None)


def _read_records(store: Snapshot, runtime: Runtime, session: Session) -> MemoryContext:
    """Return the context without the files of the workspace."""
    bounds = bounds_of(store, runtime, session)
    definition = runtime.definitions.get(session.agent)
    instructions = instructions_of(store, session, definition).encode() if definition is not None else None
    try:
        workspace = workspace_of(store, runtime, session)
    except WorkspaceForbidden:
        # The session's next run is refused for it.
        workspace = None
    return MemoryContext(
        session_id=session.session_id,
        agent=session.agent,
        permission_mode=bounds.mode,
        instructions=None if instructions is None else blob_name(instructions),
        instructions_bytes=len(instructions or b""),
        persona=session.persona,
        profile=session.profile,
        workspace=workspace,
        visible_skills=[skill.name for skill in visible_skills(store, runtime, session)],
        active_skills=[skill for skill in session.active_skills if bounds.allows_skill(skill.name)],
        todos=todos_of(store, session),
        plan=plan_of(store, session),
        scope=session.scope,
        effective_scope=bounds.scope,
        credential_scope=session.credential_scope,
        effective_credential_scope=bounds.credentials,
        blocked_tools=list(bounds.blocked),
        origins=origins_read(store, session),
        notebooks=readable_notebooks(store, runtime, session) if bounds.allows_tool("recall") else [],
    )


HANDLERS = (memory_context,)
