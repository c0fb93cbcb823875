"""The executor of one run: it performs the effects that the run machine asks for, one after another."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, assert_never

import trio

from kheishd.core.run.commands import EndEarly, Fail, Interrupt, Release, Start
from kheishd.core.run.due import (
    AskModel,
    Effect,
    ExecuteCalls,
    Expire,
    JudgeCalls,
    Pause,
    ProbeCalls,
    StopEffect,
    TakeUp,
    due,
)
from kheishd.workers.runs.active import ActiveRun
from kheishd.workers.runs.calls import CallExecutor
from kheishd.workers.runs.model import ModelTurn
from kheishd.workers.runs.probes import CallProber
from protocol.errors.run import RunAlreadyEnded
from protocol.objects.run import ENDED, RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.services import Services
    from protocol.objects.run import Pinned

log = logging.getLogger("kheishd.runs")

DAEMON_RESTARTED = RunError("daemon_restarted", "the daemon was restarted while this run was working")


class RunExecutor:
    """The executor of one run.

    ``suspect``: the run may have crashed the daemon and must run alone; ``on_progress`` is called when it has
    made progress. ``interrupt``: the run was left running by another daemon and must only be marked as
    interrupted. ``begun``: the run started in the transaction that accepted it. ``previous``: the executor of
    the session's previous run, if that has not ended: it still has the session's transcript.
    """

    def __init__(
        self,
        services: Services,
        record: RunRecord,
        pinned: Pinned,
        *,
        on_progress: Callable[[], None],
        suspect: bool = False,
        interrupt: bool = False,
        begun: bool = False,
        previous: RunExecutor | None = None,
    ) -> None:
        self._runtimes = services.runtimes
        self._interrupt = interrupt
        self._started = begun
        self._previous = previous
        self.ended = trio.Event()
        """Set by the worker when ``perform`` has returned."""
        self._slept_until_ms = 0
        self._pauses = False
        self._on_progress = on_progress
        self._active = ActiveRun(services, record, pinned, suspect=suspect, on_progress=on_progress)
        self._active.is_call_begun = begun and record.item_id is not None
        self._calls = CallExecutor(self._active)
        self._prober = CallProber(self._active)
        self._model = ModelTurn(self._active)

    @property
    def suspect(self) -> bool:
        """Whether no other run may run beside this one."""
        return self._active.suspect

    @property
    def is_paused(self) -> bool:
        """Whether the run only waits, for a later attempt or for other runs."""
        return self._pauses or not self.takes_slot

    @property
    def takes_slot(self) -> bool:
        """Whether the run takes a slot: none while its calls wait for other runs."""
        return not self._active.waiting_calls

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, so that no worker is needed any more."""
        return self._active.record.status in ENDED

    def stop(self) -> None:
        """Stop the current effect and read the record again: a client has asked to cancel the run."""
        self._active.stop()

    async def perform(self) -> None:
        """Execute the run until it has ended or waits for a person; release it on cancellation.

        Errors: those of the commit that marks a run as failed after an internal error; ImportError and
        SyntaxError if code of kheish cannot be imported, which is no fault of the run.
        """
        with self._runtimes.hold() as self._active.runtime:
            try:
                if self._previous is not None:
                    await self._previous.ended.wait()
                    self._previous = None
                while (effect := self._next_effect()) is not None:
                    await self._perform(effect)
            except RunAlreadyEnded:
                # Cancelled in its queue between the worker's read and this executor's first commit.
                pass
            except (ImportError, SyntaxError):
                # The files of kheish were replaced under the daemon: the next one finishes the run.
                await self._release()
                raise
            except Exception:
                log.exception("a run failed inside the daemon", extra={"run_id": self._active.record.run_id})
                note = "something failed inside the daemon; its log has the details"
                await self._active.commit(Fail(RunError("internal_error", note)))
            except BaseException:
                # Cancellation. It comes as a group from a provider that runs tasks of its own.
                await self._release()
                raise
            finally:
                self._calls.close()
                self._model.close()

    def _next_effect(self) -> Effect | None:
        """Return the effect that is due; a run without time left can only end."""
        active = self._active
        effect = due(active.record, active.pinned, active.state.now_ms(), owned=self._started)
        if (
            active.out_of_time
            and active.record.status == "running"
            and not isinstance(effect, StopEffect | ProbeCalls)
        ):
            return Expire(active.timeout)
        return effect

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case TakeUp() if self._interrupt:
                await self._active.commit(Interrupt(DAEMON_RESTARTED))
            case TakeUp():
                await self._active.advance(Start())
                self._started = True
            case StopEffect():
                await self._end(None)
            case Expire(error):
                await self._end(error)
            case Pause(until_ms) if until_ms <= self._slept_until_ms:
                # The pause is over once it was slept through, even if the wall clock was set back meanwhile.
                await self._model.ask()
            case Pause(until_ms):
                await self._pause(until_ms)
            case AskModel():
                await self._model.ask()
            case JudgeCalls(indexes):
                await self._calls.judge(indexes)
            case ExecuteCalls(indexes):
                await self._calls.execute(indexes)
            case ProbeCalls(indexes):
                await self._prober.probe(indexes)
            case _:
                assert_never(effect)

    async def _end(self, error: RunError | None) -> None:
        """End the run after its effect was stopped, with the results of all its calls."""
        await self._calls.save_ended()
        await self._active.commit(EndEarly([], self._calls.stopped_results(), error))

    async def _pause(self, until_ms: int) -> None:
        # A pause is never longer than the longest configured one, even if the clock was set back.
        limits = self._active.runtime.config.runs
        longest_s = max(limits.max_backoff_s, limits.max_retry_after_s)
        with self._active.effect():
            self._pauses = True
            self._on_progress()
            try:
                await trio.sleep(min(max(until_ms - self._active.state.now_ms(), 0) / 1000, longest_s))
            finally:
                self._pauses = False
            self._slept_until_ms = until_ms
        self._active.reload()

    async def _release(self) -> None:
        """Record that the daemon stops and the run is left in order. A failure to do so is harmless."""
        if not self._started or self._active.record.status != "running":
            return
        self._active.retries = False
        try:
            with trio.CancelScope(shield=True):
                await self._calls.save_ended()
                results = self._calls.stopped_results(keep_repeatable=True)
                if self._active.record.status == "running":
                    await self._active.commit(Release("shutdown", results))
        except Exception as error:
            run_id = self._active.record.run_id
            log.warning("a run could not be released: %s", error, extra={"run_id": run_id})
