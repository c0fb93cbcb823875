"""A model call that nobody follows."""

from collections.abc import AsyncIterator

import pytest

from kheishd.kernel.runtime import ModelEvent, ModelFailure, ModelRequest, TextDelta
from kheishd.workers.completion import answer_of
from protocol.transcript import text_of
from tests.support.desk import Scripted, fails, says
from tests.support.model_asking import asking


async def test_what_is_said_in_the_end() -> None:
    """The whole answer, and the call is closed."""
    models = Scripted([lambda request: says("one", " two")])
    answer = await answer_of(models, asking())
    assert text_of(answer.items) == "one two"
    assert models.open == 0


async def test_an_answer_that_never_comes_is_a_failure() -> None:
    """So is one that the provider says."""

    async def silent(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("and then")

    with pytest.raises(ModelFailure) as caught:
        await answer_of(Scripted([silent]), asking())
    assert (caught.value.reason, caught.value.retryable) == ("bad_response", True)
    with pytest.raises(ModelFailure, match="overloaded"):
        await answer_of(Scripted([lambda request: fails("overloaded")]), asking())
