"""Non-streaming model calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from kheishd.core.fallback import concerns_key, falls_over, join_failures
from kheishd.core.run.budget import add_costs, calculate_cost
from kheishd.kernel.runtime import ModelAnswer, ModelFailure
from protocol.transcript import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.kernel.runtime import ModelCaller, ModelRequest
    from kheishd.kernel.services import Services
    from protocol.budget import Cost
    from protocol.objects.run import Pinned


async def complete(models: ModelCaller, request: ModelRequest) -> ModelAnswer:
    """Make a non-streaming model call.

    An empty answer is requested once more: a model that used its output limit up by reasoning then has a
    higher one. The usage is that of both calls.

    Errors: ModelFailure, also for a call that ends without an answer.
    """
    try:
        return await _call(models, request)
    except ModelFailure as failure:
        if failure.reason != "empty_answer":
            raise
        usage = failure.usage
    try:
        answer = await _call(models, request)
    except ModelFailure as failure:
        failure.usage += usage
        raise
    return replace(answer, usage=usage + answer.usage)


async def _call(models: ModelCaller, request: ModelRequest) -> ModelAnswer:
    answer: ModelAnswer | None = None
    async with models.ask(request) as events:
        async for event in events:
            if isinstance(event, ModelAnswer):
                answer = event
    if answer is None:
        raise ModelFailure("bad_response", "the provider ended without an answer", retryable=True)
    return answer


class SideCall:
    """A model call beside a run, such as a judge's, which asks each of its routes and keys once, in order.

    ``usage`` and ``cost`` are those of all attempts so far, each at the prices of its route.
    """

    def __init__(self, services: Services, attempts: Sequence[Pinned], timeout_s: float) -> None:
        self._services = services
        self._attempts = attempts
        self._timeout_s = timeout_s
        self.usage = Usage()
        self.cost: Cost | None = None

    async def complete(self, make_request: Callable[[Pinned], ModelRequest]) -> ModelAnswer:
        """Return the first answer.

        The failures that move a run on move this call on, too, and so does an attempt that takes too long.
        Errors: ModelFailure, which lists each route and key if several failed.
        """
        failures: list[tuple[str, str]] = []
        unreachable: set[str] = set()
        cooldowns = self._services.cooldowns
        for pinned in self._attempts:
            if pinned.route in unreachable:
                continue
            failure = ModelFailure("timed_out", f"no answer within {self._timeout_s:g} s", retryable=True)
            try:
                with trio.move_on_after(self._timeout_s), self._services.runtimes.hold() as runtime:
                    answer = await complete(runtime.models, make_request(pinned))
                    self._add_usage(answer.usage, pinned)
                    cooldowns.note_answer(pinned.route, pinned.auth_ref)
                    return answer
            except ModelFailure as provider_failure:
                failure = provider_failure
                self._add_usage(failure.usage, pinned)
                if falls_over(failure.error):
                    cooldowns.note_failure(
                        pinned.route, pinned.auth_ref, failure.error, failure.retry_after_s
                    )
            has_keys = sum(other.route == pinned.route for other in self._attempts) > 1
            name = f"{pinned.route} ({pinned.auth_ref})" if has_keys else pinned.route
            failures.append((name, failure.message))
            if not falls_over(failure.error):
                break
            if not concerns_key(failure.error):
                # Its other keys reach the same server.
                unreachable.add(pinned.route)
        if len(failures) > 1:
            error = join_failures(failure.error, failures)
            failure = ModelFailure(
                error.reason, error.message, retryable=error.retryable, status=error.status
            )
        raise failure

    def _add_usage(self, usage: Usage, pinned: Pinned) -> None:
        self.usage += usage
        if usage != Usage():
            self.cost = add_costs(self.cost, calculate_cost(usage, pinned.prices))
