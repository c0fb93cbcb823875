"""The mail worker: accepts the runs that deliver mail, and concludes runs that have ended.

Level-triggered: it reads the questions to agents, the mailboxes with pending messages and the runs to be
concluded.
A mailbox that must wait for a run in flight is read again whenever a run has ended. One whose run cannot be
accepted, because its agent or its route is missing, is read again when the daemon or the session has changed.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

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
    from collections.abc import Callable, Iterator, Mapping

    from kheishd.kernel.services import Services
    from kheishd.store.commit import Job
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.table import Table

log = logging.getLogger("kheishd.mail")

T = TypeVar("T")

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
        """Post the questions of agents to their parents; return whether anything was committed."""
        due = self._find_due(QUESTIONS_TO_AGENTS, mail.must_forward)
        changes = {
            question_id: partial(mail.forward_question, question_id=question_id)
            for question_id, is_due in due.items()
            if is_due
        }
        return await self._update_all(changes)

    async def _conclude(self) -> bool:
        """Conclude the runs that have ended, in the order of their ends; return whether there were any."""
        due = self._find_due(RUNS_TO_CONCLUDE, lambda store, run_id: True)
        return await self._update_all({run_id: partial(mail.conclude, run_id=run_id) for run_id in due})

    async def _deliver(self) -> bool:
        """Accept a run for each mailbox that is due; return whether anything was committed."""
        states = self._find_due(MAILBOXES_DUE, mail.state_of)
        self._has_busy = "busy" in states.values()
        self._refused = {name: note for name, note in self._refused.items() if states.get(name) == "due"}
        changes = {
            session_id: partial(
                mail.deliver,
                runtime=self._runtimes.current(),
                session_id=session_id,
                run_id=self._state.new_id(ids.RUN),
                input_id=self._state.new_id(ids.INPUT),
            )
            for session_id, state in states.items()
            if state == "due"
        }
        return await self._update_all(changes)

    def _find_due(self, table: Table[str], judge: Callable[[Snapshot, str], T]) -> dict[str, T]:
        """Return the values of a table's rows, in order, each with the judgement about it."""
        due: dict[str, T] = {}
        with self._state.read() as store:
            for _, name in store.scan(table):
                if name not in self._skipped:
                    with self._skipping(name):
                        due[name] = judge(store, name)
        return due

    @contextmanager
    def _skipping(self, name: str) -> Iterator[None]:
        """Skip a session, run or question from now on if its records cannot be read."""
        try:
            yield
        except (AssertionError, msgspec.DecodeError):
            log.exception("the mail of %s cannot be settled; check the store", name)
            self._skipped.add(name)

    async def _update_all(self, changes: Mapping[str, Callable[[Transaction], None]]) -> bool:
        """Commit changes, each about the session, run or question of its name; return whether any was.

        On a full disk, they are tried again.
        """
        if not changes:
            return False
        # They are queued together, in order, so the writer commits many of them at once.
        jobs: list[Job[None]] = []
        is_done = trio.Event()

        def count_down(job: Job[None]) -> None:
            jobs.append(job)
            if len(jobs) == len(changes):
                is_done.set()

        names = {id(self._state.submit(change, count_down)): name for name, change in changes.items()}
        await is_done.wait()
        has_changed = is_full = False
        for job in jobs:
            name = names[id(job)]
            try:
                with self._skipping(name):
                    job.unwrap()
                has_changed = True
            except StorageFull:
                log.warning("the disk is full; the mail of %s is tried again", name)
                has_changed = is_full = True
            except Refusal as refusal:
                if self._refused.get(name) != refusal.message:
                    log.warning("the mail of %s is not delivered now: %s", name, refusal.message)
                self._refused[name] = refusal.message
        if is_full:
            await trio.sleep(RETRY_SECONDS)
        return has_changed
