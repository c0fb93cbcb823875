"""Lifecycle hooks of conversations: which ones an event has, their verdict, and the texts that they add."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kheishd.core.hook import NO_OBJECTION, HookVerdict
from kheishd.core.run.commands import NoteHooks
from kheishd.kernel.lifecycle import HookSubject, find_hooks
from kheishd.objects.talk.workspace import find_trusted_roots
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS, SESSIONS
from protocol.events.hook import HookContextAdded
from protocol.journal.line import decode_event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kheishd.core.hook import HookContext
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.lifecycle import HookSpec
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Transaction
    from protocol.objects.hook import HookEvent


def hooks_of(
    services: Services, event: HookEvent, subject: str, workspace: str | None
) -> tuple[Sequence[HookSpec], str | None]:
    """Return the hooks of an event, the operator's first; and the problem of an invalid guard.

    The hooks of a workspace are those of all trusted roots that contain it, the outermost first. While
    neither it nor a directory above it has a file of hooks, this reads nothing.
    """
    runtime = services.runtimes.current()
    hooks = find_hooks(runtime.lifecycle, event, subject)
    if workspace is None or not services.lifecycle.has_file(workspace, runtime.generation, above=True):
        return hooks, None
    specs, problem = workspace_hooks(services, find_roots(services, workspace))
    return hooks if problem is not None else hooks + find_hooks(specs, event, subject), problem


def find_roots(services: Services, workspace: str) -> list[str]:
    """Return the trusted roots that contain a directory, the outermost first."""
    with services.state.read() as store:
        return find_trusted_roots(store, services.runtimes.current(), workspace)


def workspace_hooks(services: Services, roots: Sequence[str]) -> tuple[list[HookSpec], str | None]:
    """Return the hooks of trusted roots, and the problem if a guard among them cannot be used."""
    lifecycle, generation = services.lifecycle, services.runtimes.current().generation
    hooks: list[HookSpec] = []
    for root in roots:
        if lifecycle.has_file(root, generation):
            if not lifecycle.remembers(root):
                return hooks, f"too many workspaces came before {root}; reload the configuration"
            specs, problem = lifecycle.runner.workspace_hooks(root, generation)
            if problem is not None:
                return hooks, problem
            hooks += specs
    return hooks, None


def has_hooks(services: Services, workspace: str) -> bool:
    """Whether the operator, or perhaps the workspace, has hooks."""
    runtime = services.runtimes.current()
    return bool(runtime.lifecycle) or services.lifecycle.has_file(workspace, runtime.generation, above=True)


async def decide(
    services: Services,
    event: HookEvent,
    subject: str,
    key: str,
    payload: Callable[[], Mapping[str, Any]],
    *,
    workspace: str | None = None,
    run: RunRecord | None = None,
) -> HookVerdict:
    """Return the verdict of the hooks of a policy event. It costs next to nothing if there is none.

    Args:   ``key`` names the event: it is the same when the daemon repeats it after a crash.
    """
    hooks, problem = hooks_of(services, event, subject, workspace)
    if problem is not None:
        return HookVerdict(block=f"a hook that guards it cannot be used: {problem}")
    if not hooks:
        return NO_OBJECTION
    occurrence = HookSubject(
        event,
        subject,
        key,
        payload(),
        session_id=run.session_id if run is not None else None,
        run_id=run.run_id if run is not None else None,
    )
    return await services.lifecycle.runner.decide(hooks, occurrence)


async def add_contexts(services: Services, run: RunRecord, key: str, contexts: Sequence[HookContext]) -> bool:
    """Add hooks' texts to the transcript of a run, each once; return whether there were any."""
    known = _added_before(services, run, key) if contexts and run.starts > 1 else set()
    events = tuple(
        HookContextAdded(
            hook=context.hook,
            invocation_key=key,
            text=context.text,
            origin=context.origin,
            source=f"hook:{context.hook}",
        )
        for context in contexts
        if context.hook not in known
    )
    if not events:
        return False

    def add(tx: Transaction, event: HookContextAdded) -> None:
        current = tx.need(RUNS, run.run_id)
        if current.status == "running":
            session = tx.need(SESSIONS, run.session_id)
            writer = SessionWriter(tx, run.session_id, session=session, run=current)
            writer.carry_out(NoteHooks((event,)))
            writer.write()

    # A transaction has room for one of the longest texts.
    for event in events:
        await services.state.update(partial(add, event=event))
    return True


def _added_before(services: Services, run: RunRecord, key: str) -> set[str]:
    """Return the hooks that had added their texts before the daemon restarted."""
    hooks = set()
    with services.state.read() as store:
        for _, line in store.entries(run.session_id, run.accepted_cursor):
            if b'"type":"hook_context_added"' in line:
                event = decode_event(line)
                if isinstance(event, HookContextAdded) and event.invocation_key == key:
                    hooks.add(event.hook)
    return hooks
