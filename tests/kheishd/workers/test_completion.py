"""Non-streaming model calls."""

from collections.abc import AsyncIterator

import pytest

from kheishd.kernel.runtime import ModelEvent, ModelFailure, ModelRequest, TextDelta
from kheishd.workers.completion import complete
from protocol.transcript import Usage, text_of
from tests.support.desk import Scripted, fails, says
from tests.support.model_calls import make_request


async def test_the_whole_answer_is_returned() -> None:
    """The answer is complete, and the call is closed."""
    models = Scripted([lambda request: says("one", " two")])
    answer = await complete(models, make_request())
    assert text_of(answer.items) == "one two"
    assert models.open_calls == 0


async def test_a_missing_answer_is_a_failure() -> None:
    """A call without an answer fails and may be retried; the provider's own failures are passed on."""

    async def silent(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("and then")

    with pytest.raises(ModelFailure) as caught:
        await complete(Scripted([silent]), make_request())
    assert (caught.value.reason, caught.value.retryable) == ("bad_response", True)
    with pytest.raises(ModelFailure, match="overloaded"):
        await complete(Scripted([lambda request: fails("overloaded")]), make_request())


async def test_an_empty_answer_is_requested_again() -> None:
    """An empty answer is requested once more, and the usage is that of both calls."""
    empty = {"usage": Usage(5, 64)}
    models = Scripted([lambda request: fails("empty_answer", **empty), lambda request: says("a title")])
    answer = await complete(models, make_request())
    assert text_of(answer.items) == "a title"
    assert answer.usage.output_tokens > 64
    twice = Scripted([lambda request: fails("empty_answer", **empty)] * 2)
    with pytest.raises(ModelFailure) as caught:
        await complete(twice, make_request())
    assert (caught.value.reason, caught.value.usage) == ("empty_answer", Usage(10, 128))
