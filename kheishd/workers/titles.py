"""The title worker: lets the model name a session after its first answers, if that is configured.

Titles are optional, so the worker is best-effort: it makes few model calls at once, in the background, and a
failure is only logged. It never replaces a title. Sessions on the built-in offline model get none.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import msgspec
import trio

from kheishd.core.account import is_used_up
from kheishd.kernel.runtime import ModelFailure, ModelRequest
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.output import output_of
from kheishd.records.run import read_pinned
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS, SESSIONS
from kheishd.workers.worker import Worker
from protocol.errors.refusal import Refusal
from protocol.events.run import InputReceived
from protocol.events.session import SessionRenamed
from protocol.journal.line import decode_event
from protocol.transcript import text_of

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session

log = logging.getLogger("kheishd.titles")

MAX_AT_ONCE = 4
MAX_SECONDS = 60.0

MAX_RUNS = 3
"""A session without a title after this many runs never gets one: a failing model is not asked forever."""


class TitleWorker(Worker):
    """Gives sessions their titles."""

    name: ClassVar[str] = "titles"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state = services.state
        self._runtimes = services.runtimes
        self._nursery: trio.Nursery | None = None
        self._busy: set[str] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Name sessions until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def consider(self, run_id: str) -> None:
        """Begin to name the session of a released run, if it needs a title. Never raises."""
        runtime = self._runtimes.current()
        if not runtime.config.titles.auto or self._nursery is None or len(self._busy) >= MAX_AT_ONCE:
            return
        try:
            with self._state.read() as store:
                run = store.get(RUNS, run_id)
                attempts = _list_attempts(store, self._services, run) if run is not None else []
                if run is None or not attempts or run.session_id in self._busy:
                    return
                output = output_of(store, run)
                if output is None or not output.text:
                    return
                question = _input_text(store, run)
        except (msgspec.DecodeError, Refusal):
            # An unreadable record is reported by the doctor.
            return
        self._busy.add(run.session_id)
        self._nursery.start_soon(self._name, run, attempts, question, output.text)

    async def _name(self, run: RunRecord, attempts: list[Pinned], question: str, answer: str) -> None:
        """Ask the run's model for a title and commit it."""
        from kheishd.core.context.summary import (
            MAX_TITLE_TOKENS,
            TITLE_INSTRUCTIONS,
            extract_title,
            make_title_request,
        )
        from kheishd.workers.completion import SideCall

        call = SideCall(self._services, attempts, MAX_SECONDS)
        try:
            reply = await call.complete(
                lambda pinned: ModelRequest(
                    pinned=pinned,
                    instructions=TITLE_INSTRUCTIONS,
                    messages=make_title_request(question, answer),
                    session_id=run.session_id,
                    run_id=run.run_id,
                    purpose="title",
                    max_answer_tokens=MAX_TITLE_TOKENS,
                )
            )
            title = extract_title(reply.items)
            if title is not None:
                renamed = SessionRenamed(title=title, usage=call.usage, cost=call.cost)
                await self._state.update(partial(_rename, session_id=run.session_id, renamed=renamed))
        except (ModelFailure, Refusal) as error:
            log.info("no title: %s", error, extra={"session_id": run.session_id})
        except Exception:
            log.exception("a session could not be named", extra={"session_id": run.session_id})
        finally:
            self._busy.discard(run.session_id)


def _list_attempts(store: Snapshot, services: Services, run: RunRecord) -> list[Pinned]:
    """Return the values of the call that names a run's session; none if it needs no title or gets none."""
    if run.status != "completed" or run.kind != "input" or run.guest is not None:
        return []
    session, runtime = store.get(SESSIONS, run.session_id), services.runtimes.current()
    if session is None or not _needs_title(session):
        return []
    from kheishd.workers.runs.fallover import list_beside

    bounds = bounds_of(store, runtime, session)
    return [
        pinned
        for pinned in list_beside(services, bounds, read_pinned(store, run), run.route)
        if pinned.driver != "offline" and pinned.route in runtime.routes and bounds.allows_route(pinned.route)
    ]


def _needs_title(session: Session) -> bool:
    """Whether a session is an open conversation between people and an agent that has no title yet."""
    return (
        session.title is None
        and session.status == "open"
        and session.parent_session_id is None
        and session.runs <= MAX_RUNS
        and not is_used_up(session)
    )


def _input_text(store: Snapshot, run: RunRecord) -> str:
    """Return the text of the run's input. Source: the event right before the run's acceptance."""
    for _, line in store.entries(run.session_id, run.accepted_cursor, reverse=True):
        event = decode_event(line)
        return text_of(event.items) if isinstance(event, InputReceived) else ""
    return ""


def _rename(tx: Transaction, session_id: str, renamed: SessionRenamed) -> None:
    session = tx.get(SESSIONS, session_id)
    if session is not None and _needs_title(session):
        writer = SessionWriter(tx, session_id, session=session)
        writer.append(renamed)
        writer.write()
