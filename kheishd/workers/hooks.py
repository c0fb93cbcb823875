"""The hook worker: it runs the lifecycle hooks that learn of events after the fact.

It reads the journal from a stored cursor, which it moves once the hooks of the events before it have ended.
So each event reaches its hooks at least once, also after a crash, and then under the same key. Without such
hooks the worker waits for a reload; a hook that is added later learns of later events only.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
import trio

from kheishd.kernel.lifecycle import HookSubject, find_hooks
from kheishd.store.tables import AGENTS, CURSORS, META, SESSIONS
from kheishd.workers.worker import Worker
from protocol.errors.store import StorageFull
from protocol.events.agent import AgentClosed
from protocol.events.approval import ApprovalRequested
from protocol.events.call import ToolReturned
from protocol.events.context import ContextCompacted
from protocol.events.indoubt import IndoubtOpened
from protocol.events.question import QuestionAsked
from protocol.events.run import RunEnded
from protocol.events.session import SessionEnded
from protocol.events.task import TaskCreated, TaskEnded, TaskUpdated
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.hook import POLICY_EVENTS

if TYPE_CHECKING:
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot
    from protocol.journal.envelope import Envelope
    from protocol.objects.hook import HookEvent

log = logging.getLogger("kheishd.hooks")

PROGRESS: Final = "hooks"
"""The META row with the cursor up to which hooks have learned of the events."""

MAX_EVENTS: Final = 256
"""The events that are read at once: a millisecond or two. The hooks of all of them run side by side."""

MAX_UNSAVED_EVENTS: Final = 4_096
"""How many events without hooks are passed before the cursor is stored: a restart reads them again."""

RETRY_SECONDS: Final = 1.0
"""How long to wait before the cursor is stored again while the disk is full."""

OBSERVED: Final = (
    *(AgentClosed, ApprovalRequested, ContextCompacted, IndoubtOpened, QuestionAsked, RunEnded),
    *(SessionEnded, TaskCreated, TaskEnded, TaskUpdated, ToolReturned),
)

_TAGS: Final = frozenset(str(event.__struct_config__.tag).encode() for event in OBSERVED)
_TYPE: Final = re.compile(rb',"type":"([a-z_]+)"')


def describe(
    store: Snapshot, envelope: Envelope, event: object
) -> list[tuple[HookEvent, str, dict[str, Any]]]:
    """Return the hooks' events of a journal event, with their subjects and payloads."""
    session = store.get(SESSIONS, envelope.session_id) if envelope.session_id is not None else None
    agent = session.agent if session is not None else ""
    match event:
        case ToolReturned(tool=tool, how="denied", text=text, call_id=call_id):
            return [("permission_denied", tool, {"agent": agent, "call_id": call_id, "text": text})]
        case SessionEnded(note=note):
            return [("session_end", agent, {"note": note})]
        case RunEnded(outcome=outcome, error=error):
            problem = None if error is None else {"reason": error.reason, "message": error.message}
            details: dict[str, Any] = {"outcome": outcome, "error": problem}
            ends: list[tuple[HookEvent, str, dict[str, Any]]] = []
            if outcome == "failed":
                ends.append(("stop_failure", agent, details))
            if store.get(AGENTS, envelope.session_id or "") is not None:
                ends.append(("subagent_stop", agent, details))
            return ends
        case ContextCompacted(strategy=strategy, trigger=trigger, pre_tokens=before, post_tokens=after):
            tokens = {"strategy": strategy, "pre_tokens": before, "post_tokens": after}
            return [("post_compact", trigger, {"agent": agent, **tokens})]
        case TaskCreated(task_id=task_id, title=title):
            return [("task_created", title, {"agent": agent, "task_id": task_id})]
        case (
            TaskUpdated(task_id=task_id, status="completed") | TaskEnded(task_id=task_id, status="completed")
        ):
            return [("task_completed", task_id, {"agent": agent})]
        case AgentClosed(note=note, kept_worktree=None):
            closed = store.get(AGENTS, envelope.session_id or "")
            if closed is None or closed.worktree is None:
                return []
            return [("worktree_remove", closed.worktree.path, {"agent": agent, "note": note})]
        case ApprovalRequested(approval_id=approval_id, tool=tool, note=note):
            details = {"agent": agent, "approval_id": approval_id, "tool": tool, "note": note}
            return [("notification", "approval", details)]
        case QuestionAsked(question_id=question_id):
            return [("notification", "question", {"agent": agent, "question_id": question_id})]
        case IndoubtOpened(indoubt_id=indoubt_id, tool=tool):
            return [("notification", "indoubt", {"agent": agent, "indoubt_id": indoubt_id, "tool": tool})]
        case _:
            return []


def _find_begin(store: Snapshot) -> int:
    """Return the cursor from which new hooks learn of events: the start or the reload that brought them.

    Runs begin before this worker does, so the present cursor would be too late.
    """
    for cursor, line in store.entries(DAEMON_STREAM, reverse=True):
        tag = _TYPE.search(line)
        if tag is not None and tag[1] in (b"daemon_started", b"daemon_reloaded"):
            return cursor
    return store.last_cursor


class HookWorker(Worker):
    """Runs the hooks of events that have happened."""

    name: ClassVar[str] = "hooks"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state = services.state
        # The cursor up to which hooks have learned of the events, and the stored one.
        self._cursor = self._saved = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run hooks until cancelled."""
        task_status.started()
        while True:
            reloads = self._state.bell(f"stream:{DAEMON_STREAM}")
            if self._has_observers():
                await self._follow()
            with self._state.read() as store:
                is_stored = store.get(META, PROGRESS) is not None
            if is_stored and not self._has_observers():
                # A hook that is added later must not learn of events from now on.
                await self._save(None)
            await reloads.wait()
            # The reload has committed its event, and takes effect at the end of this round of the loop.
            await trio.lowlevel.checkpoint()

    def _has_observers(self) -> bool:
        hooks = self._services.runtimes.current().lifecycle
        return any(hook.event not in POLICY_EVENTS for hook in hooks)

    async def _follow(self) -> None:
        """Run the hooks of all events, until no such hook is configured any more."""
        with self._state.read() as store:
            stored = store.get(META, PROGRESS)
            self._cursor = self._saved = _find_begin(store) if stored is None else int(stored)
        if stored is None:
            await self._save(self._cursor)
        while self._has_observers():
            bell = self._state.bell("journal")
            subjects, cursor = self._read()
            if cursor == self._cursor:
                await bell.wait()
                continue
            async with trio.open_nursery() as nursery:
                for subject in subjects:
                    nursery.start_soon(self._notify, subject)
            self._cursor = cursor
            if subjects or cursor - self._saved >= MAX_UNSAVED_EVENTS:
                await self._save(cursor)

    def _read(self) -> tuple[list[HookSubject], int]:
        """Return the next events that have hooks, and the cursor of the last one that was read."""
        subjects: list[HookSubject] = []
        cursor = self._cursor
        with self._state.read() as store:
            for number, ((position,), stream) in enumerate(store.scan(CURSORS, after=(cursor,))):
                if number == MAX_EVENTS:
                    break
                cursor = position
                entry = store.entry(stream, position)
                tag = None if entry is None else _TYPE.search(entry[1])
                if entry is None or tag is None or tag[1] not in _TAGS:
                    continue
                try:
                    envelope, decoded = decode_envelope(entry[1]), decode_event(entry[1])
                except msgspec.DecodeError:
                    # The doctor reports it.
                    continue
                for event, subject, payload in describe(store, envelope, decoded):
                    key = f"{self._state.epoch}.{position}.{event}"
                    subjects.append(
                        HookSubject(event, subject, key, payload, envelope.session_id, envelope.run_id)
                    )
        return subjects, cursor

    async def _notify(self, subject: HookSubject) -> None:
        runtime = self._services.runtimes.current()
        hooks = find_hooks(runtime.lifecycle, subject.event, subject.subject)
        if hooks:
            await self._services.lifecycle.runner.notify(hooks, subject)

    async def _save(self, cursor: int | None) -> None:
        """Store the cursor; None deletes it."""
        while True:
            try:
                if cursor is None:
                    await self._state.update(lambda tx: tx.delete(META, PROGRESS))
                else:
                    await self._state.update(lambda tx: tx.put(META, PROGRESS, value=b"%d" % cursor))
                    self._saved = cursor
                return
            except StorageFull:
                log.warning("the disk is full; the progress of hooks is stored later")
                await trio.sleep(RETRY_SECONDS)
