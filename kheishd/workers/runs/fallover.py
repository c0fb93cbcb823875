"""The choice of the route and the key for each model call of a run that may ask several.

A run keeps to the route that answered last. Before each call, and after a failure that moves it on, it takes
the first route and key of its chain that is usable: one that exists, that the session may use, whose
credential is there, that is not cooling down, and whose context the prompt fits. Each is asked once in a
round; once all have failed, the run pauses and a new round begins. A run whose own route is gone, has changed
or has no credential ends instead: another route would hide the mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.context.compaction import max_prompt_tokens
from kheishd.core.fallback import (
    Candidate,
    concerns_key,
    falls_over,
    join_failures,
    list_candidates,
    use_candidate,
    use_route,
)
from kheishd.kernel.route import find_route_error
from kheishd.kernel.runtime import ModelFailure
from protocol.limits.route import MAX_CHAIN_FAILURE_BYTES, MAX_PASSED_OVER
from protocol.objects.run import RunError
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.core.scope import Bounds
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.services import Services
    from kheishd.workers.runs.active import ActiveRun
    from protocol.objects.run import Pinned


def find_error(runtime: Runtime, candidate: Candidate) -> RunError | None:
    """Return why a candidate must not be asked by any run: its route is gone or changed, or has no key."""
    route = replace(candidate.route, auth_ref=candidate.auth_ref)
    if (error := find_route_error(runtime.routes, route)) is not None:
        return error
    spec = replace(runtime.routes[route.route], auth_ref=candidate.auth_ref, auth_refs=())
    problem = runtime.models.problem(spec)
    return RunError("credential_missing", problem) if problem is not None else None


def list_beside(services: Services, bounds: Bounds, pinned: Pinned, route_id: str | None) -> list[Pinned]:
    """Return the values of a call beside a run, such as a judge's: one for each attempt that it may make.

    They are the usable routes and keys of the run's chain, the route that answered last first. Without a
    usable one, it is that route.
    """
    runtime, answered = services.runtimes.current(), route_id or pinned.route
    usable = [
        use_candidate(pinned, candidate)
        for candidate in sorted(list_candidates(pinned), key=lambda it: it.route.route != answered)
        if not services.cooldowns.remaining_s(candidate.route.route, candidate.auth_ref)
        and find_error(runtime, candidate) is None
        and bounds.find_problem("route", candidate.route.route) is None
    ]
    return usable or [use_route(pinned, route_id)]


class RouteChain:
    """The routes and keys of one run, in order. ``measure`` returns the tokens of the next prompt."""

    def __init__(self, active: ActiveRun, measure: Callable[[], Awaitable[int]]) -> None:
        self._active = active
        self._measure = measure
        self._candidates = list_candidates(active.accepted)
        self._current = next(it for it in self._candidates if it.route.route == active.pinned.route)
        # The route and key that answered last, where each round begins.
        self._home = self._current
        # The failures of this round, the routes and keys that had their turn, and the last problem of each.
        self._round: list[ModelFailure] = []
        self._tried: list[Candidate] = []
        self._notes: dict[str, str] = {}
        self._is_chosen = False
        # The problems of those before the current one, and before the next one.
        self.passed_over: list[str] = []
        self._next_passed_over: list[str] = []

    async def choose(self) -> RunError | None:
        """Choose the route and key of the next call; without a usable one, that which may be asked first.

        Return the error of a run that must not ask its own route with any of its keys.
        """
        own_route = self._active.accepted.route
        own = [candidate for candidate in self._candidates if candidate.route.route == own_route]
        errors = [find_error(self._active.current_runtime, candidate) for candidate in own]
        if None not in errors:
            return errors[0]
        if self._is_chosen:
            self._is_chosen = False
            return None
        usable = await self._find_usable()
        self.passed_over = self._next_passed_over
        if usable is not None:
            self._use(usable)
            return None
        cooldowns = self._active.services.cooldowns
        waiting = [
            (cooldowns.remaining_s(candidate.route.route, candidate.auth_ref), index, candidate)
            for index, candidate in enumerate(self._ordered())
            if await self._find_problem(candidate) is None
        ]
        self._use(min(waiting)[-1] if waiting else self._home)
        return None

    def note_answer(self) -> None:
        """Keep to the route that has answered."""
        self._home = self._current
        self._round.clear()
        self._tried.clear()
        self._notes.clear()

    async def find_next(self, failure: ModelFailure) -> Candidate | None:
        """Return the route and key to ask after a failure that moves the run on; None if all have failed."""
        failed = self._current
        self._round.append(failure)
        self._note(failed, failure.message)
        self._tried.append(failed)
        if not concerns_key(failure.error):
            # Its other keys reach the same server.
            self._tried += [it for it in self._candidates if it.route.route == failed.route.route]
        return await self._find_usable()

    async def may_move(self, failure: ModelFailure) -> bool:
        """Whether another route or key is asked after the failure of a summary."""
        return falls_over(failure.error) and await self.find_next(failure) is not None

    def follow(self, candidate: Candidate) -> None:
        """Ask this route and key next."""
        self._use(candidate)
        self._is_chosen = True
        self.passed_over = self._next_passed_over

    def combine(self, failure: ModelFailure) -> ModelFailure:
        """Return the last failure of a round, retryable if any of the round is, after the shortest delay."""
        delays = [failed.retry_after_s for failed in self._round if failed.retry_after_s is not None]
        return ModelFailure(
            failure.reason,
            failure.message,
            retryable=any(failed.retryable for failed in self._round),
            status=failure.status,
            retry_after_s=min(delays) if len(delays) == len(self._round) else None,
            usage=failure.usage,
        )

    def explain(self, error: RunError) -> RunError | None:
        """Return the error of the run if this one of its current route ends it; None if there is no other."""
        self._note(self._current, error.message)
        return join_failures(error, self._notes.items()) if len(self._notes) > 1 else None

    def begin_round(self) -> None:
        """Begin anew: each route and key may be asked again, first the one that answered last."""
        self._round.clear()
        if self._tried:
            self._tried.clear()
            self._use(self._home)

    def _note(self, candidate: Candidate, note: str) -> None:
        # The newest comes last.
        self._notes.pop(candidate.name, None)
        self._notes[candidate.name] = note

    def _use(self, candidate: Candidate) -> None:
        self._current = candidate
        self._active.pinned = use_candidate(self._active.accepted, candidate)

    def _ordered(self) -> list[Candidate]:
        """Return all candidates, the current one first."""
        return [self._current, *(it for it in self._candidates if it is not self._current)]

    async def _find_usable(self) -> Candidate | None:
        """Return the first candidate that can be asked now and has not failed in this round."""
        cooldowns = self._active.services.cooldowns
        passed_over: list[str] = []
        self._next_passed_over = passed_over
        for candidate in self._ordered():
            if candidate in self._tried:
                continue
            seconds = cooldowns.remaining_s(candidate.route.route, candidate.auth_ref)
            problem = await self._find_problem(candidate)
            if problem is None and seconds > 0:
                problem = f"it failed a moment ago and is passed over for {seconds:.0f} s"
            if problem is None:
                return candidate
            self._notes.setdefault(candidate.name, problem)
            if len(passed_over) < MAX_PASSED_OVER:
                passed_over.append(f"{candidate.name}: {truncate(problem, MAX_CHAIN_FAILURE_BYTES)}")
        return None

    async def _find_problem(self, candidate: Candidate) -> str | None:
        """Return why a candidate cannot be asked at all."""
        active, route = self._active, candidate.route
        bounds = active.context().bounds
        if bounds is not None and (forbidden := bounds.find_problem("route", route.route)) is not None:
            return forbidden
        if (error := find_error(active.current_runtime, candidate)) is not None:
            return error.message
        if route.context_tokens >= active.pinned.context_tokens:
            return None
        limit = max_prompt_tokens(active.runtime.config.context, route.context_tokens, route.options)
        tokens = await self._measure()
        return f"the prompt of {tokens} tokens does not fit into its context" if tokens > limit else None
