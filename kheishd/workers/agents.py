"""The agents worker: it makes worktrees and closes spawned agents, level-triggered from what is stored.

After each commit that touches an agent or a run, the worker reads four lists: agents whose worktree is to be
made, agents whose spawning run has not completed, agents that close once they have settled, and agents to be
closed. Each step is one transaction and leaves a state from which the next step follows, also after a crash.
An agent is closed after all agents and sessions below it, once nothing of it runs and its background shells
have passed on or stop. Git works beside the other steps, one call at a time in a repository.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from kheishd.core.agent import is_preparing
from kheishd.core.run.commands import Fail, RequestCancel
from kheishd.core.workspace import is_within
from kheishd.objects.agents.tree import live_children, root_id_of
from kheishd.objects.talk.bounds import has_work_below, open_children
from kheishd.objects.talk.budget import has_open_children, settle
from kheishd.objects.talk.hook import decide
from kheishd.objects.work.shell import leave_shell, live_shells
from kheishd.records.checkpoint import delete_checkpoint
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import (
    AGENTS,
    AGENTS_CLOSING,
    AGENTS_LIVE,
    AGENTS_PREPARING,
    AGENTS_SETTLED,
    AGENTS_TIED,
    GOALS_OPEN,
    MAILBOXES,
    MAILBOXES_DUE,
    RUNS,
    SESSIONS,
    SHELLS_LIVE,
    TASKS,
)
from kheishd.workers.worker import Worker
from protocol.errors.agent import WorktreeUnavailable
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFull
from protocol.events.agent import AgentClosed, AgentCloseRequested, AgentPrepared
from protocol.events.session import SessionEnded
from protocol.events.task import TaskStopRequested
from protocol.objects.run import RunError
from protocol.objects.task import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.hooks.os.worktrees import KeptWork
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.agent import AgentWorktree, ManagedAgent
    from protocol.objects.session import Session

log = logging.getLogger("kheishd.agents")

RETRY_SECONDS: Final = 1.0
"""How long to wait before a step is repeated while the disk is full."""

RETRY_FAILED_SECONDS: Final = 60.0
"""How long to leave out an agent for which a step has failed."""

Step = tuple[str, "Callable[[Transaction, ManagedAgent], None]"]
"""An agent's id, and the transaction function of the step that is due."""


class AgentWorker(Worker):
    """Prepares and closes agents. One for which it fails is logged and tried again later."""

    name: ClassVar[str] = "agents"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state = services.state
        # When an agent for which a step has failed is tried again.
        self._skipped: dict[str, float] = {}
        # The agents for which git works.
        self._busy: set[str] = set()
        self._repositories: dict[str, trio.Lock] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prepare and close agents until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                bell = self._state.bell(AGENTS.name)
                with self._state.read() as store:
                    has_agents = bool(store.count(AGENTS_LIVE))
                if has_agents:
                    # Without live agents, no run concerns this worker.
                    bell = self._state.bell(AGENTS.name, RUNS.name, MAILBOXES_DUE.name, GOALS_OPEN.name)
                    while (step := self._find_step()) is not None:
                        agent_id, change = step
                        if change is prepare or (change is finish and self._find_worktree(agent_id)):
                            self._busy.add(agent_id)
                            nursery.start_soon(self._use_git, agent_id, change)
                        else:
                            await self._perform(agent_id, change)
                with trio.move_on_at(min(self._skipped.values(), default=math.inf)):
                    await bell.wait()
                now = trio.current_time()
                self._skipped = {agent_id: at for agent_id, at in self._skipped.items() if at > now}

    def _find_step(self) -> Step | None:
        """Return the next step that is due; None if there is none."""
        with self._state.read() as store:
            for find in (_find_unprepared, _find_tied, _find_settled, _find_closing):
                step = find(store, {*self._skipped, *self._busy})
                if step is not None:
                    return step
        return None

    async def _perform(self, agent_id: str, change: Callable[[Transaction, ManagedAgent], None]) -> bool:
        """Commit a step; return whether it need not be repeated."""

        def run_change(tx: Transaction) -> None:
            agent = tx.need(AGENTS, agent_id)
            if agent.state != "closed":
                change(tx, agent)

        try:
            await self._state.update(run_change)
            with self._state.read() as store:
                if store.need(AGENTS, agent_id).state == "closed":
                    self._services.transcripts.take(agent_id)
        except StorageFull:
            log.warning("the disk is full; a step of agent %s is retried", agent_id)
            await trio.sleep(RETRY_SECONDS)
            return False
        except Exception:
            log.exception("a step of the agent %s has failed", agent_id)
            self._skipped[agent_id] = trio.current_time() + RETRY_FAILED_SECONDS
        return True

    def _find_worktree(self, agent_id: str) -> AgentWorktree | None:
        with self._state.read() as store:
            return store.need(AGENTS, agent_id).worktree

    async def _use_git(self, agent_id: str, change: Callable[[Transaction, ManagedAgent], None]) -> None:
        """Make the worktree of an agent, or remove it as the last step before the agent is closed."""
        from kheishd.hooks.os.git import GitFailed
        from kheishd.hooks.os.worktrees import KeptWork, make_worktree, remove_worktree, undo_worktree

        worktree = self._find_worktree(agent_id)
        assert worktree is not None, "only an agent with a worktree needs git"
        try:
            if change is finish:
                await self._stop_shells(agent_id, worktree.path)
            async with self._repositories.setdefault(worktree.source_root, trio.Lock()):
                try:
                    if change is finish:
                        change = partial(finish, kept=await remove_worktree(worktree))
                    else:
                        await self._require_consent(agent_id, worktree)
                        change = partial(prepare, commit=await make_worktree(worktree))
                except Exception as error:
                    note = error.message if isinstance(error, Refusal) else str(error)
                    if not isinstance(error, GitFailed | Refusal):
                        # It must keep neither the parent waiting, nor the agent open.
                        log.exception("the worktree of the agent %s", agent_id)
                        note = "an internal error, which is in the daemon's log"
                    if change is finish:
                        kept = KeptWork(
                            worktree.path, worktree.branch, f"its worktree was not removed: {note}"
                        )
                        change = partial(finish, kept=kept)
                    else:
                        change = partial(fail_preparation, note=f"its worktree could not be made: {note}")
                        with suppress(GitFailed):
                            await undo_worktree(worktree)
            while not await self._perform(agent_id, change):
                pass
        except Exception:
            log.exception("git has failed for the agent %s", agent_id)
            self._skipped[agent_id] = trio.current_time() + RETRY_FAILED_SECONDS
        finally:
            self._busy.discard(agent_id)

    async def _require_consent(self, agent_id: str, worktree: AgentWorktree) -> None:
        """Require that no hook blocks a worktree. Errors: WorktreeUnavailable."""
        verdict = await decide(
            self._services,
            "worktree_create",
            worktree.path,
            f"{agent_id}.worktree_create",
            lambda: {
                "agent_id": agent_id,
                "path": worktree.path,
                "branch": worktree.branch,
                "source_root": worktree.source_root,
            },
            workspace=worktree.source_root,
        )
        if verdict.block is not None:
            raise WorktreeUnavailable(verdict.block)

    async def _stop_shells(self, agent_id: str, path: str) -> None:
        """Stop the background shells in a worktree, and wait for their ends."""
        while True:
            bell = self._state.bell(SHELLS_LIVE.name)
            with self._state.read() as store:
                # Also those of forks of its session. Other people's sessions do not matter.
                root_id = store.need(AGENTS, agent_id).root_id
                inside = [
                    task
                    for task in live_shells(store)
                    if task.shell is not None
                    and is_within(task.shell.workspace, path)
                    and root_id_of(store.need(SESSIONS, task.session_id)) == root_id
                ]
            if not inside:
                return
            for task in inside:
                await self._perform(agent_id, partial(stop_shell, task_id=task.task_id))
            await bell.wait()


def _find_unprepared(store: Snapshot, skipped: set[str]) -> Step | None:
    """Return the preparation of an agent whose worktree is to be made."""
    for (agent_id,), _ in store.scan(AGENTS_PREPARING):
        if agent_id not in skipped:
            return agent_id, prepare
    return None


def _find_tied(store: Snapshot, skipped: set[str]) -> Step | None:
    """Return the close of an agent whose spawning run has ended without being completed."""
    for (run_id, agent_id), _ in store.scan(AGENTS_TIED):
        run = store.need(RUNS, run_id)
        if agent_id not in skipped and run.status in ("failed", "cancelled", "interrupted"):
            verb = "failed" if run.status == "failed" else f"was {run.status}"
            note = f"the run that spawned it {verb}"
            return agent_id, partial(begin_close, note=note, failed=run.status == "failed")
    return None


def _find_settled(store: Snapshot, skipped: set[str]) -> Step | None:
    """Return the close of an agent that has settled: no open run or goal, no mail, and no work below it."""
    for (agent_id,), _ in store.scan(AGENTS_SETTLED):
        session, mailbox = store.need(SESSIONS, agent_id), store.get(MAILBOXES, agent_id)
        if agent_id in skipped or session.open_runs or next(live_children(store, session), None) is not None:
            continue
        if mailbox is not None and mailbox.pending + mailbox.delivering > 0:
            continue
        if store.get(GOALS_OPEN, agent_id) is not None or has_work_below(store, session):
            continue
        return agent_id, partial(begin_close, note="it has settled")
    return None


def _find_closing(store: Snapshot, skipped: set[str]) -> Step | None:
    """Return the next step of an agent to be closed: all below it, its runs, then the agent itself."""
    for (agent_id,), _ in store.scan(AGENTS_CLOSING):
        if agent_id not in skipped:
            agent, session = store.need(AGENTS, agent_id), store.need(SESSIONS, agent_id)
            step = _find_ending(store, skipped, agent, session)
            if step is not None:
                return step
    return None


def _find_ending(store: Snapshot, skipped: set[str], agent: ManagedAgent, session: Session) -> Step | None:
    """Return the next step by which the session of a closing agent ends, or a created one below it."""
    children = list(open_children(store, session))
    for child in children:
        spawned = store.get(AGENTS, child.session_id)
        if spawned is None:
            step = _find_ending(store, skipped, agent, child)
            if step is not None:
                return step
        elif spawned.state == "open" and spawned.agent_id not in skipped:
            note = f"its parent was closed: {agent.close_note}"
            return spawned.agent_id, partial(begin_close, note=note, failed=agent.failed)
    for run_id in session.open_runs:
        if store.need(RUNS, run_id).cancel is None:
            return agent.agent_id, partial(stop_run, run_id=run_id)
    if children or session.open_runs:
        return None
    # One by one: the commands of all shells of a session do not fit into one transaction.
    for task in live_shells(store, session.session_id):
        if task.shell is not None and task.shell.stop_requested_at_ms is None:
            return agent.agent_id, partial(leave_shell, task_id=task.task_id)
    if session.session_id == agent.agent_id:
        return agent.agent_id, finish
    return agent.agent_id, partial(end_created, session_id=session.session_id)


def prepare(tx: Transaction, agent: ManagedAgent, *, commit: str = "") -> None:
    """Record that the worktree of an agent was made with the files of a commit. Its runs start."""
    if is_preparing(agent):
        writer = SessionWriter(tx, agent.agent_id, session=tx.need(SESSIONS, agent.agent_id))
        writer.append(AgentPrepared(base_commit=commit))
        writer.write()


def fail_preparation(tx: Transaction, agent: ManagedAgent, *, note: str) -> None:
    """Fail the first run of an agent whose worktree cannot be made, and begin to close the agent."""
    if is_preparing(agent):
        session = tx.need(SESSIONS, agent.agent_id)
        if agent.launch_run_id in session.open_runs:
            run = tx.need(RUNS, agent.launch_run_id)
            writer = SessionWriter(tx, agent.agent_id, session=session, run=run)
            writer.carry_out(Fail(RunError("worktree_failed", note)))
            writer.write()
        begin_close(tx, tx.need(AGENTS, agent.agent_id), note=note, failed=True)


def begin_close(tx: Transaction, agent: ManagedAgent, *, note: str, failed: bool = False) -> None:
    """Begin to close an agent that is open."""
    if agent.state == "open":
        writer = SessionWriter(tx, agent.agent_id, session=tx.need(SESSIONS, agent.agent_id))
        writer.append(AgentCloseRequested(note=note, failed=failed))
        writer.write()


def stop_run(tx: Transaction, agent: ManagedAgent, *, run_id: str) -> None:
    """Request the stop of an open run of an agent that is to be closed, or of a session below it."""
    run = tx.need(RUNS, run_id)
    session = tx.need(SESSIONS, run.session_id)
    if run_id in session.open_runs and run.cancel is None:
        writer = SessionWriter(tx, run.session_id, session=session, run=run)
        writer.carry_out(RequestCancel("cancelled", f"the agent is closed: {agent.close_note}"))
        writer.write()


def stop_shell(tx: Transaction, agent: ManagedAgent, *, task_id: str) -> None:
    """Request the stop of a background shell in the worktree of an agent that is to be closed."""
    task = tx.need(TASKS, task_id)
    if task.status in OPEN and task.shell is not None and task.shell.stop_requested_at_ms is None:
        writer = SessionWriter(tx, task.session_id, session=tx.need(SESSIONS, task.session_id))
        writer.append(TaskStopRequested(task_id=task_id, note=f"the worktree of {agent.path} is removed"))
        writer.write()


def finish(tx: Transaction, agent: ManagedAgent, *, kept: KeptWork | None = None) -> None:
    """Close an agent of which nothing runs, and end its session. ``kept`` is what stays of its worktree."""
    session = tx.need(SESSIONS, agent.agent_id)
    if session.open_runs or has_open_children(tx, session):
        return
    writer = SessionWriter(tx, agent.agent_id, session=session)
    closed = AgentClosed()
    if kept is not None and kept.note:
        note = f"{agent.close_note}; {kept.note}"
        closed = AgentClosed(note=note, kept_worktree=kept.path, kept_branch=kept.branch)
    writer.append(closed)
    end(writer, agent.close_note)


def end_created(tx: Transaction, agent: ManagedAgent, *, session_id: str) -> None:
    """End a session that a client created below an agent to be closed, once nothing of it runs."""
    session = tx.need(SESSIONS, session_id)
    if not session.open_runs and not has_open_children(tx, session):
        end(
            SessionWriter(tx, session_id, session=session),
            f"the agent above it was closed: {agent.close_note}",
        )


def end(writer: SessionWriter, note: str) -> None:
    """End a session, settle its budget and delete its checkpoint."""
    tx, session_id = writer.tx, writer.session.session_id
    if writer.session.status == "open":
        writer.append(SessionEnded(note=note))
    writer.write()
    settle(tx, writer.session)
    delete_checkpoint(tx, session_id)
