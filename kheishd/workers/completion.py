"""Non-streaming model calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.kernel.runtime import ModelAnswer, ModelFailure

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelCaller, ModelRequest


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
