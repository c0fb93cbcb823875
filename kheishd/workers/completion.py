"""Non-streaming model calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.kernel.runtime import ModelAnswer, ModelFailure

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelCaller, ModelRequest


async def complete(models: ModelCaller, request: ModelRequest) -> ModelAnswer:
    """Make a non-streaming model call.

    A model that used its output limit up before the first word is called once more: the caller of models then
    raises the limit. The usage is that of both calls.

    Errors: ModelFailure, also for a call that ends without an answer.
    """
    answer = await _call(models, request)
    if not answer.is_used_up:
        return answer
    second = await _call(models, request)
    return replace(second, usage=answer.usage + second.usage)


async def _call(models: ModelCaller, request: ModelRequest) -> ModelAnswer:
    answer: ModelAnswer | None = None
    async with models.ask(request) as events:
        async for event in events:
            if isinstance(event, ModelAnswer):
                answer = event
    if answer is None:
        raise ModelFailure("bad_response", "the provider ended without an answer", retryable=True)
    return answer
