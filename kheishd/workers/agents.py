"""The agents worker: it closes spawned agents, level-triggered from what is stored.

After each commit that touches an agent or a run, the worker reads three lists: agents whose spawning run has
not completed, agents that close once they have settled, and agents to be closed. Each step is one transaction
and leaves a state from which the next step follows, also after a crash. An agent is closed after all agents
below it, and once nothing of it runs.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from kheishd.core.run.commands import RequestCancel
from kheishd.objects.agents.tree import live_children
from kheishd.objects.talk.budget import settle
from kheishd.objects.work.shell import request_stop_all
from kheishd.records.checkpoint import delete_checkpoint
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import (
    AGENTS,
    AGENTS_CLOSING,
    AGENTS_LIVE,
    AGENTS_SETTLED,
    AGENTS_TIED,
    MAILBOXES,
    MAILBOXES_DUE,
    RUNS,
    SESSIONS,
)
from kheishd.workers.worker import Worker
from protocol.errors.store import StorageFull
from protocol.events.agent import AgentClosed, AgentCloseRequested
from protocol.events.session import SessionEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.agent import ManagedAgent

log = logging.getLogger("kheishd.agents")

RETRY_SECONDS: Final = 1.0
"""How long to wait before a step is repeated while the disk is full."""

Step = tuple[str, "Callable[[Transaction, ManagedAgent], None]"]
"""An agent's id, and the transaction function of the step that is due."""


class AgentWorker(Worker):
    """Closes agents. An agent that cannot be closed is logged and skipped until the daemon restarts."""

    name: ClassVar[str] = "agents"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state = services.state
        self._skipped: set[str] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close agents until cancelled."""
        task_status.started()
        while True:
            bell = self._state.bell(AGENTS.name)
            with self._state.read() as store:
                has_agents = bool(store.count(AGENTS_LIVE))
            if has_agents:
                # Without live agents, no run concerns this worker.
                bell = self._state.bell(AGENTS.name, RUNS.name, MAILBOXES_DUE.name)
                while (step := self._find_step()) is not None:
                    await self._perform(*step)
            await bell.wait()

    def _find_step(self) -> Step | None:
        """Return the next step that is due; None if there is none."""
        with self._state.read() as store:
            for find in (_find_tied, _find_settled, _find_closing):
                step = find(store, self._skipped)
                if step is not None:
                    return step
        return None

    async def _perform(self, agent_id: str, change: Callable[[Transaction, ManagedAgent], None]) -> None:
        def run_change(tx: Transaction) -> None:
            agent = tx.need(AGENTS, agent_id)
            if agent.state != "closed":
                change(tx, agent)

        try:
            await self._state.update(run_change)
            if change is finish:
                self._services.transcripts.take(agent_id)
        except StorageFull:
            log.warning("the disk is full; the close of agent %s is retried", agent_id)
            await trio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("the agent %s could not be closed", agent_id)
            self._skipped.add(agent_id)


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
    """Return the close of an agent that has settled: no open run, no mail, and no live agent below it."""
    for (agent_id,), _ in store.scan(AGENTS_SETTLED):
        session, mailbox = store.need(SESSIONS, agent_id), store.get(MAILBOXES, agent_id)
        if agent_id in skipped or session.open_runs or next(live_children(store, session), None) is not None:
            continue
        if mailbox is not None and mailbox.pending + mailbox.delivering > 0:
            continue
        return agent_id, partial(begin_close, note="it has settled")
    return None


def _find_closing(store: Snapshot, skipped: set[str]) -> Step | None:
    """Return the next step of an agent to be closed: its children, its runs, then the agent itself."""
    for (agent_id,), _ in store.scan(AGENTS_CLOSING):
        session, closing = store.need(SESSIONS, agent_id), store.need(AGENTS, agent_id)
        if agent_id in skipped:
            continue
        children = [store.need(AGENTS, child_id) for child_id in live_children(store, session)]
        for child in children:
            if child.state == "open" and child.agent_id not in skipped:
                note = f"its parent was closed: {closing.close_note}"
                return child.agent_id, partial(begin_close, note=note, failed=closing.failed)
        runs = [store.need(RUNS, run_id) for run_id in session.open_runs]
        for run in runs:
            if run.cancel is None:
                return agent_id, partial(stop_run, run_id=run.run_id)
        if not children and not runs:
            return agent_id, finish
    return None


def begin_close(tx: Transaction, agent: ManagedAgent, *, note: str, failed: bool = False) -> None:
    """Begin to close an agent that is open."""
    if agent.state == "open":
        writer = SessionWriter(tx, agent.agent_id, session=tx.need(SESSIONS, agent.agent_id))
        writer.append(AgentCloseRequested(note=note, failed=failed))
        writer.write()


def stop_run(tx: Transaction, agent: ManagedAgent, *, run_id: str) -> None:
    """Request the stop of an open run of an agent that is to be closed."""
    run, session = tx.need(RUNS, run_id), tx.need(SESSIONS, agent.agent_id)
    if run_id in session.open_runs and run.cancel is None:
        writer = SessionWriter(tx, agent.agent_id, session=session, run=run)
        writer.carry_out(RequestCancel("cancelled", f"the agent is closed: {agent.close_note}"))
        writer.write()


def finish(tx: Transaction, agent: ManagedAgent) -> None:
    """Close an agent of which nothing runs, and end its session."""
    session = tx.need(SESSIONS, agent.agent_id)
    if session.open_runs or next(live_children(tx, session), None) is not None:
        return
    writer = SessionWriter(tx, agent.agent_id, session=session)
    writer.append(AgentClosed())
    if session.status == "open":
        writer.append(SessionEnded(note=agent.close_note))
    request_stop_all(writer, "the agent was closed")
    writer.write()
    settle(tx, writer.session)
    delete_checkpoint(tx, agent.agent_id)
