"""One run in the hands of the worker: ask what is due, do it, commit what came of it, ask again."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, assert_never

import trio

from kheishd.core.run.answers import parts_of
from kheishd.core.run.budget import left_ms, out_of_time
from kheishd.core.run.calls import distinct
from kheishd.core.run.commands import (
    Answered,
    Ask,
    Command,
    Errored,
    Fail,
    Interrupt,
    Release,
    Start,
    Stopped,
)
from kheishd.core.run.due import (
    AskModel,
    Effect,
    Execute,
    Expire,
    JudgeCalls,
    LookInto,
    Pause,
    Stop,
    TakeUp,
    due,
)
from kheishd.core.run.retry import fitted, retry_at_ms
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, TextDelta, ThinkingDelta
from kheishd.objects.fold import SessionWriter
from kheishd.objects.talk.contract import checked
from kheishd.objects.talk.output import answer_text
from kheishd.store.tables import RUNS, SESSIONS
from kheishd.workers.runs.calls import CallExecutor
from kheishd.workers.runs.context import ContextWindow, given_up
from kheishd.workers.runs.saving import DurableCommit
from kheishd.workers.runs.transcript import Checkpoint, TranscriptReader
from protocol import ids
from protocol.errors.run import RunAlreadyEnded
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.output import MAX_REPAIR_OVERHEAD_BYTES
from protocol.objects.run import Pinned, RunError
from protocol.transcript import Item, Text, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.core.contract import AnswerCheck
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.live import Writing
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction

log = logging.getLogger("kheishd.runs")

DAEMON_RESTARTED = RunError("daemon_restarted", "the daemon was restarted while this run was working")


class RunExecutor:
    """A run being executed. ``perform`` returns when nothing is due any more.

    ``suspect``: it is to be alone, having brought the daemon down before; ``relieved`` is called once it
    has made progress and others may be beside it. ``interrupt``: it was left running and is only to be
    marked so.
    """

    def __init__(
        self,
        services: Services,
        run: RunRecord,
        pinned: Pinned,
        *,
        relieved: Callable[[], None],
        suspect: bool = False,
        interrupt: bool = False,
    ) -> None:
        self.suspect = suspect
        self._state = services.state
        self._live = services.live
        self._runtimes = services.runtimes
        self._runtime = services.runtimes.current()
        self._run = run
        self._pinned = pinned
        self._relieved = relieved
        self._interrupt = interrupt
        self._held = False
        self._patient_until_ms = 0
        self._over = False
        self._asked = False
        self._shown = TranscriptReader(services.state, run.session_id)
        self._effect = trio.CancelScope()
        self._saving = DurableCommit(services.state, services.live, run.run_id)
        self._writing: Writing | None = None
        self._calls: CallExecutor
        self._room: ContextWindow

    def stop(self) -> None:
        """Somebody asked for the run to be stopped: leave the effect and look at the record again."""
        self._effect.cancel()

    async def perform(self) -> None:
        """Execute the run until it has ended or waits for a person; on cancellation, put it down.

        Errors: whatever kept a run that failed inside the daemon from being marked so.
        """
        with self._runtimes.hold() as self._runtime:
            self._calls = CallExecutor(
                self._state,
                self._live,
                self._runtime,
                self._runtimes.current,
                self._saving,
                self._commit,
                self._pinned,
            )
            self._room = ContextWindow(self._state, self._runtime, self._shown, self._commit, self._pinned)
            await self._guarded()

    async def _guarded(self) -> None:
        try:
            await self._perform()
        except RunAlreadyEnded:
            # Cancelled in its queue between our look at the list and our commit.
            pass
        except Exception:
            log.exception("a run failed inside the daemon", extra={"run_id": self._run.run_id})
            error = RunError("internal_error", "something failed inside the daemon; its log has the details")
            await self._commit(Fail(error))
        except BaseException:
            # Cancelled; where a provider had tasks of its own, that comes as a group.
            await self._put_down()
            raise
        finally:
            self._calls.close()
            self._write_no_more()

    async def _perform(self) -> None:
        while True:
            effect = self._due()
            match effect:
                case None:
                    return
                case TakeUp() if self._interrupt:
                    await self._commit(Interrupt(DAEMON_RESTARTED))
                case TakeUp():
                    await self._take_up()
                case Stop():
                    await self._calls.save_ended(self._run)
                    await self._commit(Stopped([], self._calls.stopped(self._run)))
                case Expire(error):
                    await self._calls.save_ended(self._run)
                    await self._commit(Stopped([], self._calls.stopped(self._run), error))
                case Pause(until_ms) if until_ms <= self._patient_until_ms:
                    # A pause is over when it was slept through, whatever the wall clock has done meanwhile.
                    await self._ask()
                case Pause(until_ms):
                    await self._pause(until_ms)
                case AskModel():
                    await self._ask()
                case JudgeCalls(places):
                    await self._stoppable(self._calls.judge, places)
                case Execute(places):
                    await self._stoppable(self._calls.execute, places)
                case LookInto(places):
                    await self._calls.look_into(self._run, places)
                case _:
                    assert_never(effect)

    def _due(self) -> Effect | None:
        """What is due; once the time was over by the clock that nobody sets, nothing else than to end."""
        effect = due(self._run, self._pinned, self._state.now_ms(), held=self._held)
        if self._over and self._run.status == "running" and not isinstance(effect, Stop | LookInto):
            return Expire(out_of_time(self._pinned))
        return effect

    # Committing.

    def _fold(self, tx: Transaction) -> SessionWriter:
        run = tx.need(RUNS, self._run.run_id)
        session = tx.get(SESSIONS, run.session_id)
        return SessionWriter(tx, run.session_id, session=session, run=run, pinned=self._pinned)

    async def _take_up(self) -> None:
        """Start and, if that is due at once, ask: one commit."""
        item_id = self._state.new_id(ids.ITEM)

        def start(tx: Transaction) -> tuple[RunRecord, bool]:
            fold = self._fold(tx)
            fold.carry_out(Start())
            asked = isinstance(due(fold.run, self._pinned, tx.now_ms, held=True), AskModel)
            if asked:
                fold.carry_out(Ask(item_id))
            fold.write()
            return fold.run, asked

        self._run, self._asked = await self._saving.update(start)
        self._held = True

    async def _commit(
        self, command: Command | Callable[[Snapshot], Command], checkpoint: Checkpoint | None = None
    ) -> RunRecord:
        """Carry out a command; the run as it is then. Several calls that return together do so at once."""

        def carry_out(tx: Transaction) -> RunRecord:
            fold = self._fold(tx)
            fold.carry_out(command(tx) if callable(command) else command)
            fold.write()
            if checkpoint is not None:
                checkpoint.write(tx)
            return fold.run

        run = await self._saving.update(carry_out)
        if run.updated_cursor >= self._run.updated_cursor:
            self._run = run
        if self.suspect and self._run.starts_without_progress == 0:
            self.suspect = False
            self._relieved()
        return self._run

    async def _put_down(self) -> None:
        """The daemon stops: say that the run was left in good order. Failing to say so is no harm."""
        if not self._held or self._run.status != "running":
            return
        self._saving.patient = False
        try:
            with trio.CancelScope(shield=True):
                await self._calls.save_ended(self._run)
                await self._commit(Release("shutdown", self._calls.stopped(self._run, for_good=False)))
        except Exception as error:
            log.warning("a run was not put down in order: %s", error, extra={"run_id": self._run.run_id})

    def _reread(self) -> None:
        with self._state.read() as store:
            run = store.get(RUNS, self._run.run_id)
        assert run is not None, "a run's record is never deleted"
        self._run = run

    # Effects.

    def _next_effect(self) -> trio.CancelScope:
        """The scope of an effect that begins: cancelled from the start where ``stop`` came before it."""
        left = left_ms(self._run, self._pinned, self._state.now_ms())
        scope = trio.CancelScope() if left is None else trio.move_on_after(left / 1000)
        if self._effect.cancel_called:
            scope.cancel()
        self._effect = scope
        return scope

    def _left(self, scope: trio.CancelScope) -> bool:
        """Whether an effect was left before it ended: it is to be stopped, or the run's time is over."""
        self._over = self._over or (scope.cancelled_caught and trio.current_time() >= scope.deadline)
        return scope.cancelled_caught

    async def _stoppable(
        self, effect: Callable[[RunRecord, tuple[int, ...]], Awaitable[None]], places: tuple[int, ...]
    ) -> None:
        with self._next_effect() as scope:
            await effect(self._run, places)
        if self._left(scope):
            self._reread()

    async def _pause(self, until_ms: int) -> None:
        # No pause is longer than patience, even if the clock was set back while nobody looked.
        longest_s = max(self._runtime.config.runs.max_backoff_s, self._runtime.config.runs.max_retry_after_s)
        with self._next_effect() as scope:
            await trio.sleep(min(max(until_ms - self._state.now_ms(), 0) / 1000, longest_s))
            self._patient_until_ms = until_ms
        self._left(scope)
        self._reread()

    async def _ask(self) -> None:
        if not self._asked:
            await self._commit(Ask(self._state.new_id(ids.ITEM)))
            if self._run.cancel is not None:
                return
        self._asked = False
        problem = self._gone()
        if problem is not None:
            await self._commit(Fail(problem))
            return
        if self._run.kind == "compaction":
            await self._compact()
            return
        heard: list[str] = []
        try:
            answer = await self._listen(heard)
        except ModelFailure as failure:
            await (self._overflowed if failure.reason == "context_too_long" else self._failed)(failure)
            return
        if answer is None:
            text = "".join(heard)
            said: list[Item] = [Text(text)] if text else []
            items, _ = fitted(said, MAX_ANSWER_BYTES)
            await self._commit(Stopped(items, error=out_of_time(self._pinned) if self._over else None))
            return
        await self._answered(answer)

    def _gone(self) -> RunError | None:
        route = self._pinned.route
        if route in self._runtime.routes:
            return None
        return RunError("route_gone", f"the route '{route}', which this run is pinned to, is gone")

    async def _listen(self, heard: list[str]) -> ModelAnswer | None:
        """The model's answer; None if it was stopped, with what had arrived by then in ``heard``."""
        run = self._run
        assert run.item_id is not None, "the model is asked for a message that has an id"
        answer: ModelAnswer | None = None
        with self._next_effect() as effect:
            request = await self._room.request(run, self._calls.place(run))
            writing = self._writing = self._live.begin(run.session_id, run.run_id, run.item_id, run.attempt)
            async with self._runtime.models.ask(request) as events:
                async for event in events:
                    match event:
                        case TextDelta(text):
                            heard.append(text)
                            self._live.text(writing, "text", text)
                        case ThinkingDelta(text):
                            self._live.text(writing, "thinking", text)
                        case ModelAnswer():
                            answer = event
                        case _:
                            assert_never(event)
        if self._left(effect) and answer is None:
            return None
        self._live.whole(writing)
        if answer is None:
            raise ModelFailure("bad_response", "the provider ended without an answer", retryable=True)
        return answer

    async def _answered(self, answer: ModelAnswer) -> None:
        bound = self._pinned.output_contract is not None
        room = MAX_ANSWER_BYTES - (MAX_REPAIR_OVERHEAD_BYTES if bound else 0)
        items, cut = fitted(distinct(answer.items, self._shown.call_ids()), room)
        command = Answered(
            items=items,
            usage=answer.usage,
            stop_reason="length" if cut else answer.stop_reason,
            model=answer.model,
            cut=cut,
            max_calls=self._runtimes.current().config.tools.max_calls,
            checked=self._checked(items),
        )
        checkpoint = self._shown.checkpoint(items, room)
        await self._commit(command, checkpoint)
        self._write_no_more()
        if checkpoint is None:
            await self._shown.keep()

    def _write_no_more(self) -> None:
        """The message is in the journal, or will not come."""
        if self._writing is not None:
            self._live.end(self._writing)

    # What is shown becomes shorter.

    async def _overflowed(self, failure: ModelFailure) -> None:
        """The provider refused what it was shown as too long: show less, and ask again."""
        with self._next_effect() as scope:
            if not await self._room.overflowed(self._run, self._calls.place(self._run)):
                await self._failed(given_up(failure))
        if self._left(scope):
            self._reread()

    async def _compact(self) -> None:
        """Sum up the session, which is all that this run is for."""
        command: Command | None = None
        try:
            with self._next_effect() as scope:
                command = await self._room.all_summed_up(self._run, self._calls.place(self._run))
        except ModelFailure as failure:
            await self._failed(failure)
            return
        self._left(scope)
        await self._commit(command or Stopped([], error=out_of_time(self._pinned) if self._over else None))
        await self._keep_short()

    async def _keep_short(self) -> None:
        """What is left after a summary is written down at once: nothing before it is read again."""
        if self._run.status == "completed":
            await self._shown.transcript()
            self._shown.became_shorter()
            await self._shown.keep()

    def _checked(self, items: list[Item]) -> AnswerCheck | None:
        """What an answer is, against what the run must give."""
        if self._pinned.output_contract is None:
            return None
        with self._state.read() as store:
            before = answer_text(store, self._run, parts_of(self._run))
            return checked(store, self._run, self._pinned, before + text_of(items))

    async def _failed(self, failure: ModelFailure) -> None:
        limits = self._runtime.config.runs
        error = RunError(failure.reason, failure.message, failure.status, failure.retryable)
        again = None
        if failure.retryable:
            again = retry_at_ms(
                now_ms=self._state.now_ms(),
                attempt=self._run.failures + 1,
                max_attempts=limits.max_attempts,
                backoff_s=limits.backoff_s,
                max_backoff_s=limits.max_backoff_s,
                retry_after_s=failure.retry_after_s,
                max_retry_after_s=limits.max_retry_after_s,
                jitter=random.random(),
            )
        await self._commit(Errored(error, again))
