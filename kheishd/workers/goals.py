"""The goal worker: continues the work towards the goals of sessions, and has their runs judged.

Level-triggered: it looks after every session with an open goal, in a task of its own, which takes the next
step that follows from the records (``kheishd/core/goal.py``) and then waits for an event of the session.
Each step is one transaction. Only a judge's model call comes before its transaction: if the daemon dies
meanwhile, the next one asks again.
"""

from __future__ import annotations

import logging
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from kheishd.core import goal as rules
from kheishd.core.account import is_used_up
from kheishd.core.goal import ContinueStep, ExhaustStep, ReviewStep, WaitStep
from kheishd.kernel.runtime import ModelFailure, ModelRequest
from kheishd.objects.agents import goal as transactions
from kheishd.objects.talk.bounds import bounds_of
from kheishd.records.run import read_pinned
from kheishd.store.tables import GOALS_OPEN, RUNS, SESSIONS
from kheishd.workers.worker import Worker
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFull, StoreDamaged
from protocol.events.goal import GoalReviewed
from protocol.text import truncate

if TYPE_CHECKING:
    from kheishd.core.goal import GoalStep
    from kheishd.kernel.services import Services
    from kheishd.kernel.state import Bell
    from protocol.objects.goal import Goal

log = logging.getLogger("kheishd.goals")

MAX_JUDGES: Final = 4
"""Model calls of judges at once."""

MAX_JUDGE_SECONDS: Final = 120.0

MAX_SLEEP_SECONDS: Final = 30.0
"""How long to sleep at most until a time on the wall clock, which can be set."""

RETRY_SECONDS: Final = 1.0
"""How long to wait before a transaction is tried again while the disk is full."""


class GoalWorker(Worker):
    """Pursues the goals of sessions. A goal that cannot be read is skipped until the daemon restarts."""

    name: ClassVar[str] = "goals"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state = services.state
        self._runtimes = services.runtimes
        self._pursued: set[str] = set()
        self._judges = trio.CapacityLimiter(MAX_JUDGES)
        self._draining = False
        self._nursery: trio.Nursery | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pursue goals until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            with closing(self._state.watch(self._look, GOALS_OPEN.name)) as watch:
                await watch.wait()

    async def drain(self) -> None:
        """Take no further step: the next daemon does."""
        self._draining = True

    def _look(self) -> None:
        """Start a task for each open goal that has none."""
        assert self._nursery is not None
        with self._state.read() as store:
            session_ids = [key[0] for key, _ in store.scan(GOALS_OPEN)]
        for session_id in session_ids:
            if session_id not in self._pursued:
                self._pursued.add(session_id)
                self._nursery.start_soon(self._pursue, session_id)

    async def _pursue(self, session_id: str) -> None:
        """Take the steps of a session's goal until none will be due."""
        try:
            while not self._draining:
                bell = self._state.bell(f"stream:{session_id}")
                with self._state.read() as store:
                    due = transactions.read_step(store, session_id, self._state.now_ms())
                if due is None:
                    self._pursued.discard(session_id)
                    return
                await self._take(session_id, *due, bell)
        except StoreDamaged:
            raise
        except Exception:
            log.exception("a goal is not pursued before a restart", extra={"session_id": session_id})

    async def _take(self, session_id: str, goal: Goal, step: GoalStep, bell: Bell) -> None:
        try:
            match step:
                case WaitStep(until_ms):
                    await self._wait(bell, until_ms)
                case ReviewStep():
                    reviewed = await self._review(session_id, goal, step)
                    await self._state.update(
                        partial(transactions.review, reviewed=reviewed, session_id=session_id)
                    )
                case ExhaustStep():
                    await self._state.update(partial(transactions.exhaust, session_id=session_id))
                case ContinueStep():
                    await self._continue(session_id, goal, bell)
        except StorageFull:
            log.warning("the disk is full; the goal of %s is tried again", session_id)
            await trio.sleep(RETRY_SECONDS)

    async def _wait(self, bell: Bell, until_ms: int | None) -> None:
        """Wait for an event of the session, or until a time on the wall clock."""
        sleep_s = float("inf")
        if until_ms is not None:
            sleep_s = min(max(until_ms - self._state.now_ms(), 0) / 1000, MAX_SLEEP_SECONDS)
        with trio.move_on_after(sleep_s):
            await bell.wait()

    async def _continue(self, session_id: str, goal: Goal, bell: Bell) -> None:
        """Accept the next run, or wait for that of the mail; park the goal if none can be accepted."""
        change = partial(
            transactions.continue_goal,
            runtime=self._runtimes.current(),
            session_id=session_id,
            run_id=self._state.new_id(ids.RUN),
            input_id=self._state.new_id(ids.INPUT),
        )
        try:
            if await self._state.update(change):
                await bell.wait()
        except (StorageFull, StoreDamaged):
            raise
        except Refusal as refusal:
            log.warning("the goal of %s is paused: %s", session_id, refusal.message)
            await self._state.update(
                partial(transactions.park, session_id=session_id, goal_id=goal.goal_id, note=refusal.message)
            )

    # Review.

    async def _review(self, session_id: str, goal: Goal, step: ReviewStep) -> GoalReviewed:
        """Return the review of a run: by its record, or by a judge."""
        with self._state.read() as store:
            run = store.need(RUNS, step.run_id)
        now_ms = self._state.now_ms()
        if step.verdict is None:
            return await self._judge(session_id, goal, step)
        return GoalReviewed(
            goal_id=goal.goal_id,
            reviewed_run_id=step.run_id,
            verdict=step.verdict,
            note=step.note,
            retry_at_ms=rules.retry_at_ms(goal, run, now_ms) if step.verdict == "failed" else None,
        )

    async def _judge(self, session_id: str, goal: Goal, step: ReviewStep) -> GoalReviewed:
        """Ask the run's model whether the goal is reached; return its verdict, or its failure."""
        from kheishd.core import judge
        from kheishd.workers.completion import SideCall
        from kheishd.workers.runs.fallover import list_beside
        from kheishd.workers.runs.transcript import TranscriptReader

        with self._state.read() as store:
            run = store.need(RUNS, step.run_id)
            session = store.need(SESSIONS, session_id)
            bounds = bounds_of(store, self._runtimes.current(), session)
            attempts = list_beside(self._services, bounds, read_pinned(store, run), run.route)
        # The session may have changed since the run.
        problem = bounds.find_problem("route", attempts[0].route)
        if problem is not None or is_used_up(session):
            note = "the budget of the session is used up, so no judge is asked"
            if problem is not None:
                note = f"the judge may not use the route '{attempts[0].route}': {problem}"
            return GoalReviewed(
                goal_id=goal.goal_id,
                reviewed_run_id=run.run_id,
                verdict="unjudged",
                note=truncate(note, rules.MAX_NOTE_BYTES),
            )
        reader = TranscriptReader(self._state, session_id, self._services.transcripts)
        transcript = (await reader.read()).transcript
        entries = [entry for entry in transcript.entries if entry.cursor > run.accepted_cursor]
        reader.close()
        call = SideCall(self._services, attempts, MAX_JUDGE_SECONDS)
        answer, note = None, "the judge gave no verdict"
        try:
            async with self._judges:
                reply = await call.complete(
                    lambda pinned: ModelRequest(
                        pinned=pinned,
                        instructions=judge.JUDGE_INSTRUCTIONS,
                        messages=judge.make_judge_request(goal, entries, run.agent, pinned.context_tokens),
                        session_id=session_id,
                        run_id=run.run_id,
                        purpose="judge",
                        max_answer_tokens=judge.MAX_JUDGE_ANSWER_TOKENS,
                    )
                )
            answer = judge.read_verdict(reply.items)
        except ModelFailure as failure:
            note = f"the judge failed: {failure.message}"
        if answer is not None:
            note = answer.reason or f"the judge says {answer.verdict}"
        retry_at_ms = rules.retry_at_ms(goal, None, self._state.now_ms()) if answer is None else None
        return GoalReviewed(
            goal_id=goal.goal_id,
            reviewed_run_id=run.run_id,
            verdict=answer.verdict if answer is not None else "unjudged",
            note=truncate(note, rules.MAX_NOTE_BYTES),
            usage=call.usage,
            cost=call.cost,
            retry_at_ms=retry_at_ms,
        )
