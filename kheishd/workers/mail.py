"""The mail worker: accepts the runs that deliver mail, and concludes runs that have ended.

Level-triggered: it reads the questions to agents, the mailboxes with pending messages and the runs to be
concluded.
A mailbox that must wait for a run in flight is read again whenever a run has ended. One whose run cannot be
accepted, because its agent or its route is missing, is read again when the daemon or the session has changed.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import trio

from kheishd.objects.agents import mail
from kheishd.store.tables import MAILBOXES_DUE, QUESTIONS_TO_AGENTS, RUNS_READY, RUNS_TO_CONCLUDE
from kheishd.workers.worker import Worker
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFull
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.kernel.services import Services
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.mail")

RETRY_SECONDS: Final = 1.0
"""How long to wait before a transaction is tried again while the disk is full."""


class MailWorker(Worker):
    """Delivers mail and concludes runs. A record that cannot be read is skipped until the daemon restarts."""

    name: ClassVar[str] = "mail"

    def __init__(self, services: Services) -> None:
        self._state = services.state
        self._runtimes = services.runtimes
        self._skipped: set[str] = set()
        # Sessions whose run could not be accepted, with the reason.
        self._refused: dict[str, str] = {}
        self._has_busy = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver and conclude until cancelled."""
        task_status.started()
        names = self._bells()
        while True:
            bell = self._state.bell(*names)
            has_changed = await self._forward() or await self._conclude() or await self._deliver()
            # What is left may wait for bells that were not listened for.
            previous, names = names, self._bells()
            if not has_changed and names <= previous:
                await bell.wait()

    def _bells(self) -> frozenset[str]:
        """Return the names of the bells after which there may be more to do."""
        names = {MAILBOXES_DUE.name, RUNS_TO_CONCLUDE.name, QUESTIONS_TO_AGENTS.name}
        if self._has_busy:
            names.add(RUNS_READY.name)
        if self._refused:
            names |= {f"stream:{DAEMON_STREAM}", *(f"stream:{session_id}" for session_id in self._refused)}
        return frozenset(names)

    async def _forward(self) -> bool:
        """Post the questions of agents to their parents; return whether there were any."""
        with self._state.read() as store:
            question_ids = [
                question_id
                for _, question_id in store.scan(QUESTIONS_TO_AGENTS)
                if question_id not in self._skipped and mail.must_forward(store, question_id)
            ]
        for question_id in question_ids:
            await self._update(question_id, partial(mail.forward_question, question_id=question_id))
        return bool(question_ids)

    async def _conclude(self) -> bool:
        """Conclude the runs that have ended, in the order of their ends; return whether there were any."""
        with self._state.read() as store:
            run_ids = [run_id for _, run_id in store.scan(RUNS_TO_CONCLUDE) if run_id not in self._skipped]
        for run_id in run_ids:
            await self._update(run_id, partial(mail.conclude, run_id=run_id))
        return bool(run_ids)

    async def _deliver(self) -> bool:
        """Accept a run for each mailbox that is due; return whether anything was committed."""
        with self._state.read() as store:
            session_ids = [session_id for _, session_id in store.scan(MAILBOXES_DUE)]
            states = {
                session_id: mail.state_of(store, session_id)
                for session_id in session_ids
                if session_id not in self._skipped
            }
        self._has_busy = "busy" in states.values()
        self._refused = {name: note for name, note in self._refused.items() if states.get(name) == "due"}
        has_changed = False
        for session_id in (name for name, state in states.items() if state == "due"):
            change = partial(
                mail.deliver,
                runtime=self._runtimes.current(),
                session_id=session_id,
                run_id=self._state.new_id(ids.RUN),
                input_id=self._state.new_id(ids.INPUT),
            )
            has_changed |= await self._update(session_id, change)
        return has_changed

    async def _update(self, name: str, change: Callable[[Transaction], None]) -> bool:
        """Commit a change about a session or a run; return whether it has an effect or is tried again."""
        try:
            await self._state.update(change)
        except StorageFull:
            log.warning("the disk is full; the mail of %s is tried again", name)
            await trio.sleep(RETRY_SECONDS)
        except Refusal as refusal:
            if self._refused.get(name) != refusal.message:
                log.warning("the mail of %s is not delivered now: %s", name, refusal.message)
            self._refused[name] = refusal.message
            return False
        except (AssertionError, msgspec.DecodeError):
            log.exception("the mail of %s cannot be settled; check the store", name)
            self._skipped.add(name)
        return True
