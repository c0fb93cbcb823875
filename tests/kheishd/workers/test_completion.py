"""Non-streaming model calls."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, ModelRequest, TextDelta
from kheishd.workers.completion import SideCall, complete
from protocol.objects.run import Pinned
from protocol.transcript import Text, Usage, text_of
from tests.support.desk import Scripted, fails, open_desk, says
from tests.support.model_calls import make_request

PINNED = Pinned(route="a", driver="openai", model="m")


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


async def test_a_call_beside_a_run_moves_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It asks the next key after 429, the next route after 5xx or a silence, and lists all failures."""
    keys = [replace(PINNED, route="a", auth_ref=key) for key in ("env:K1", "env:K2")]
    attempts = [*keys, replace(PINNED, route="b"), replace(PINNED, route="c")]
    asked: list[tuple[str, str | None]] = []

    async def part(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        route, key = request.pinned.route, request.pinned.auth_ref
        asked.append((route, key))
        if route == "b":
            assert desk.services.cooldowns.remaining_s("a", "env:K1") > 0
            await trio.sleep_forever()
        if route == "a":
            status = 429 if key == "env:K1" else 503
            raise ModelFailure("server_error", f"status {status}", retryable=True, status=status)
        yield ModelAnswer([Text("done")], Usage(1, 1), "end", "m")

    async with open_desk(tmp_path, Scripted(summary_answers=[part])) as desk:
        call = SideCall(desk.services, attempts, 5.0)
        answer = await call.complete(lambda pinned: replace(make_request(), pinned=pinned, purpose="title"))
        assert (text_of(answer.items), call.usage) == ("done", Usage(1, 1))
        assert asked == [("a", "env:K1"), ("a", "env:K2"), ("b", None), ("c", None)]
        call = SideCall(desk.services, attempts[:-1], 5.0)
        with pytest.raises(ModelFailure) as caught:
            await call.complete(lambda pinned: replace(make_request(), pinned=pinned, purpose="title"))
        assert caught.value.message == (
            "no route of the chain answered: a (env:K1): status 429; a (env:K2): status 503; "
            "b: no answer within 5 s"
        )


async def test_a_mistake_ends_a_call_beside_a_run(tmp_path: Path) -> None:
    """A refused key is the operator's to repair, so no other route is asked."""
    models = Scripted(summary_answers=[lambda request: fails("unauthorized", status=401, retryable=False)])
    async with open_desk(tmp_path, models) as desk:
        call = SideCall(desk.services, [PINNED, replace(PINNED, route="b")], 5.0)
        with pytest.raises(ModelFailure, match="unauthorized"):
            await call.complete(lambda pinned: replace(make_request(), pinned=pinned, purpose="title"))
        assert len(models.summary_requests) == 1
