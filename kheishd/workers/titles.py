"""Naming conversations: after its first answers a session without a title gets one, if that is configured.

It is a courtesy and nothing rests on it: few at a time, in the background, and where it fails nobody hears
of it. A title that somebody gave meanwhile stays. The built-in stand-in has nothing to say and is not asked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import trio

from kheishd.core.run.budget import cost_of
from kheishd.core.titles import INSTRUCTIONS, MAX_ANSWER_TOKENS, request_of, title_of
from kheishd.kernel.runtime import ModelFailure, ModelRequest
from kheishd.objects.talk.giving import output_of
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import PINNED, RUNS, SESSIONS
from kheishd.workers.completion import answer_of
from protocol.errors.refusal import Refusal
from protocol.events.run import InputReceived
from protocol.events.session import SessionRenamed
from protocol.journal.line import decode_event
from protocol.transcript import text_of

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime, Runtimes
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session
    from protocol.transcript import Usage

log = logging.getLogger("kheishd.titles")

MAX_AT_ONCE = 4
MAX_SECONDS = 60.0

MAX_RUNS = 3
"""A session that has no title after so many runs has none: nobody is asked again and again."""


@dataclass(frozen=True, slots=True)
class _Untitled:
    """A conversation that is to have a title: a run of it, and its first input and answer."""

    run: RunRecord
    pinned: Pinned
    beginning: tuple[str, str]


class Titles:
    """Gives sessions their titles."""

    def __init__(self, state: State, runtimes: Runtimes) -> None:
        self._state = state
        self._runtimes = runtimes
        self._nursery: trio.Nursery | None = None
        self._busy: set[str] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Name conversations until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def consider(self, run_id: str) -> None:
        """A run is over, or waits: perhaps its session is to have a title. Never raises."""
        runtime = self._runtimes.current()
        if not runtime.config.titles.auto or self._nursery is None or len(self._busy) >= MAX_AT_ONCE:
            return
        try:
            with self._state.read() as store:
                wanted = self._wanted(store, runtime, run_id)
        except (msgspec.DecodeError, Refusal):
            # What cannot be read is somebody else's to find.
            return
        if wanted is not None and wanted.run.session_id not in self._busy:
            self._busy.add(wanted.run.session_id)
            self._nursery.start_soon(self._name, wanted)

    def _wanted(self, store: Snapshot, runtime: Runtime, run_id: str) -> _Untitled | None:
        """Return the conversation that a run belongs to, if it is to be named by the run's model."""
        run = store.get(RUNS, run_id)
        if run is None or run.status != "completed" or run.kind != "input" or run.guest is not None:
            return None
        pinned = store.need(PINNED, run_id)
        if pinned.driver == "offline" or pinned.route not in runtime.routes:
            return None
        session = store.get(SESSIONS, run.session_id)
        if session is None or not _nameless(session):
            return None
        answered = output_of(store, run)
        if answered is None or not answered.text:
            return None
        return _Untitled(run, pinned, (_asked(store, run), answered.text))

    async def _name(self, untitled: _Untitled) -> None:
        run = untitled.run
        try:
            with trio.move_on_after(MAX_SECONDS), self._runtimes.hold() as runtime:
                answer = await answer_of(runtime.models, _request(untitled))
                title = title_of(answer.items)
                if title is not None:
                    await self._state.update(lambda tx: _rename(tx, untitled, title, answer.usage))
        except (ModelFailure, Refusal) as error:
            log.info("no title: %s", error, extra={"session_id": run.session_id})
        except Exception:
            log.exception("a conversation could not be named", extra={"session_id": run.session_id})
        finally:
            self._busy.discard(run.session_id)


def _nameless(session: Session) -> bool:
    """Whether a session is to be named: one that people talk in, and that has no name."""
    return (
        session.title is None
        and session.status == "open"
        and session.parent_session_id is None
        and session.runs <= MAX_RUNS
    )


def _asked(store: Snapshot, run: RunRecord) -> str:
    """What the run was to answer: its input stands right before its acceptance."""
    for _, line in store.entries(run.session_id, run.accepted_cursor, reverse=True):
        event = decode_event(line)
        return text_of(event.items) if isinstance(event, InputReceived) else ""
    return ""


def _request(untitled: _Untitled) -> ModelRequest:
    run = untitled.run
    return ModelRequest(
        pinned=untitled.pinned,
        instructions=INSTRUCTIONS,
        messages=request_of(*untitled.beginning),
        session_id=run.session_id,
        run_id=run.run_id,
        purpose="title",
        max_answer_tokens=MAX_ANSWER_TOKENS,
    )


def _rename(tx: Transaction, untitled: _Untitled, title: str, usage: Usage) -> None:
    session_id = untitled.run.session_id
    session = tx.get(SESSIONS, session_id)
    if session is None or not _nameless(session):
        return
    fold = SessionWriter(tx, session_id, session=session)
    fold.append(SessionRenamed(title=title, usage=usage, cost=cost_of(usage, untitled.pinned.prices)))
    fold.write()
