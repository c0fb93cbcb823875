"""A run that this daemon executes: its current record, its commits, and the scope of its current effect.

All parts of the executor share one :class:`ActiveRun`. Only its commits change the run's record.

On a full disk a commit is retried until there is room, because an effect that has happened cannot be undone.
No further effect begins meanwhile. Only an orderly stop of the daemon ends the retries.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio
from msgspec.structs import replace

from kheishd.core.account import use_of
from kheishd.core.fallback import use_route
from kheishd.core.run.budget import make_session_timeout, make_timeout, remaining_ms
from kheishd.kernel.hook import RunContext
from kheishd.objects.talk.bounds import bounds_of
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS, SESSIONS
from kheishd.workers.runs.results import MAX_INLINE_SCRUB_BYTES
from protocol import ids
from protocol.errors.store import StorageFull
from protocol.events.approval import ApprovalAnswered
from protocol.events.hook import CallInputChanged
from protocol.events.run import MessageAppended
from protocol.journal.line import JournalEvent, Unknown, decode_event
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from kheishd.core.run.commands import Command
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.run import Pinned

log = logging.getLogger("kheishd.runs")

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""How long to wait before a failed commit is retried while the disk is full."""

"""Up to here, removing secrets takes milliseconds; for a large output it takes up to a second."""


class ActiveRun:
    """A run that is being executed.

    ``accepted`` are the values that the run pinned; ``pinned`` are those in force, with the route and the key
    that are asked now.

    ``runtime`` is the generation that the run holds while it is active; permission rules and tool limits
    follow the current one. ``suspect``: the run must run alone, as it may have crashed the daemon;
    ``on_progress`` is called when it has made progress and other runs may start. ``retries`` is False once a
    full disk must fail a commit at once. ``out_of_time``: the run's time is used up by the monotonic clock,
    and ``timeout`` is the error that says whose. ``waiting_calls`` counts the calls that wait for other runs.
    ``is_call_begun``: the begin of the next model call is committed already.
    """

    def __init__(
        self,
        services: Services,
        record: RunRecord,
        pinned: Pinned,
        *,
        suspect: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.services = services
        self.state = services.state
        self.live = services.live
        self.runtime = services.runtimes.current()
        self.record = record
        self.accepted = pinned
        self.pinned = use_route(pinned, record.route)
        self.suspect = suspect
        self.retries = True
        self.out_of_time = False
        self.timeout = make_timeout(pinned)
        self.is_call_begun = False
        self.waiting_calls = 0
        self._on_progress = on_progress
        self._effect = trio.CancelScope()

    @property
    def current_runtime(self) -> Runtime:
        """The newest generation, which may be newer than ``runtime``."""
        return self.services.runtimes.current()

    # Effects.

    def stop(self) -> None:
        """Stop the current effect, or the next one if none is running."""
        self._effect.cancel()

    @contextmanager
    def effect(self) -> Iterator[trio.CancelScope]:
        """Perform an effect that ``stop`` and the end of the run's time cut short."""
        left_ms = self._remaining_ms()
        scope = trio.CancelScope() if left_ms is None else trio.move_on_after(left_ms / 1000)
        if self._effect.cancel_called:
            # ``stop`` came before this effect.
            scope.cancel()
        self._effect = scope
        with scope:
            yield scope
        if scope.cancelled_caught and trio.current_time() >= scope.deadline:
            self.out_of_time = True

    def _remaining_ms(self) -> int | None:
        """Return the working time that the run and its session have left; None without a limit."""
        now_ms = self.state.now_ms()
        left_ms = remaining_ms(self.record, self.pinned, now_ms)
        if not self.pinned.is_accounted:
            return left_ms
        with self.state.read() as store:
            session = store.need(SESSIONS, self.record.session_id)
        session_ms = use_of(session, self.record, now_ms).left.work_ms
        if session_ms is None or (left_ms is not None and left_ms <= session_ms):
            return left_ms
        self.timeout = make_session_timeout()
        return max(session_ms, 0)

    @contextmanager
    def yield_slot(self) -> Iterator[None]:
        """Take no slot while a call waits for another run, which may need it."""
        self.waiting_calls += 1
        self._on_progress()
        try:
            yield
        finally:
            self.waiting_calls -= 1

    # Commits.

    async def commit(self, command: Command) -> RunRecord:
        """Commit a command; return the record after it."""
        await self.transact(lambda writer: writer.carry_out(command))
        return self.record

    async def advance(self, command: Command) -> None:
        """Commit a command and, if it makes a model call due, the begin of that call."""
        await self.transact(lambda writer: writer.carry_out(command), advances=True)

    async def transact(self, change: Callable[[SessionWriter], T], *, advances: bool = False) -> T:
        """Commit what ``change`` does with the run's session.

        With ``advances``, a model call that is due then begins in the same commit. Calls that return together
        are committed at once, so transactions may be committed in another order than they return here: the
        newest record counts.
        """
        item_id = self.state.new_id(ids.ITEM) if advances else ""

        def run_change(tx: Transaction) -> tuple[RunRecord, bool, bool, T]:
            record = tx.need(RUNS, self.record.run_id)
            session = tx.get(SESSIONS, record.session_id)
            writer = SessionWriter(tx, record.session_id, session=session, run=record, pinned=self.pinned)
            result = change(writer)
            begins = advances and writer.begin_model_call(item_id)
            writer.write()
            return writer.run, writer.has_progressed, begins, result

        record, has_progressed, begins, result = await self.update(run_change)
        if begins:
            self.is_call_begun = True
        if record.updated_cursor >= self.record.updated_cursor:
            self.record = record
        if self.suspect and has_progressed:
            self.suspect = False
            self._on_progress()
        return result

    async def update(self, fn: Callable[[Transaction], T]) -> T:
        """Run a transaction. Errors: as ``State.update``; StorageFull only if ``retries`` is False."""
        return await self._retry(partial(self.state.update, fn, is_firm=True))

    async def put_blob(self, content: bytes) -> tuple[str, int]:
        """Store a large value without its secrets; return its name and size. Errors: as ``update``."""
        scrubber = self.live.scrubber
        if scrubber.secrets and len(content) > MAX_INLINE_SCRUB_BYTES:
            scrubbed = await trio.to_thread.run_sync(scrubber.scrub_bytes, content)
        else:
            scrubbed = scrubber.scrub_bytes(content)

        async def write() -> str:
            with trio.CancelScope(shield=True):
                name = await self.state.put_blob(scrubbed)
            return name

        return await self._retry(write), len(scrubbed)

    async def _retry(self, write: Callable[[], Awaitable[T]]) -> T:
        """Await a write, which cannot be cancelled, until it succeeds; the pauses can be cancelled."""
        while True:
            try:
                return await write()
            except StorageFull:
                if not self.retries:
                    raise
                log.warning(
                    "the disk is full; a commit of a run is retried", extra={"run_id": self.record.run_id}
                )
                await trio.sleep(RETRY_SECONDS)

    # Reads.

    def reload(self) -> None:
        """Read the record again, after another party may have changed it."""
        with self.state.read() as store:
            self.record = store.need(RUNS, self.record.run_id)

    def context(self) -> RunContext:
        """Return the surroundings of the run's calls."""
        with self.state.read() as store:
            session = store.need(SESSIONS, self.record.session_id)
            # A session may have been narrowed since the run pinned its tools.
            bounds = bounds_of(store, self.current_runtime, session)
        return RunContext(
            session=session,
            run=self.record,
            pinned=self.pinned,
            workspace=self.pinned.workspace or self.runtime.workspace_root,
            sandbox=self.runtime.config.workspace.sandbox,
            state=self.state,
            bounds=bounds,
        )

    def tool_calls(self) -> list[ToolCall]:
        """Return the calls of the newest message, as an approver or a hook changed their arguments."""
        assert self.record.output_cursor is not None, "a call stands in a message"
        with self.state.read() as store:
            message = self.read_event(store, self.record.output_cursor)
            assert isinstance(message, MessageAppended)
            tool_calls = [item for item in message.message.items if isinstance(item, ToolCall)]
            for index, call in enumerate(self.record.calls):
                if call.input_cursor is not None:
                    change = self.read_event(store, call.input_cursor)
                    assert isinstance(change, ApprovalAnswered | CallInputChanged)
                    tool_calls[index] = replace(tool_calls[index], arguments=change.updated_input or {})
        return tool_calls

    def read_event(self, store: Snapshot, cursor: int) -> JournalEvent:
        """Return an event of the session that a record names."""
        entry = store.entry(self.record.session_id, cursor)
        assert entry is not None, "a record refers to an event of the journal"
        event = decode_event(entry[1])
        assert not isinstance(event, Unknown), "this version wrote the event that a record refers to"
        return event
