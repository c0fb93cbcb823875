"""Non-streaming model calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.kernel.runtime import ModelAnswer, ModelFailure

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelCaller, ModelRequest


async def complete(models: ModelCaller, request: ModelRequest) -> ModelAnswer:
    """Make a non-streaming model call. Errors: ModelFailure, also for a call that ends without an answer."""
    answer: ModelAnswer | None = None
    async with models.ask(request) as events:
        async for event in events:
            if isinstance(event, ModelAnswer):
                answer = event
    if answer is None:
        raise ModelFailure("bad_response", "the provider ended without an answer", retryable=True)
    return answer
