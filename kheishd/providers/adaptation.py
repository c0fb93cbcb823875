"""A model call that adapts to its server: a request refused for a field is sent again without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.kernel.runtime import ModelFailure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from kheishd.kernel.runtime import ModelEvent, ModelRequest
    from kheishd.providers.driver import HttpRequest
    from kheishd.providers.exchange import Exchange
    from kheishd.providers.traits import LearnedTraits, Traits


class AdaptedExchange:
    """The exchanges of one call: refused requests, and the accepted one, whose events it yields.

    ``make_exchange`` returns the request for a server's traits and its exchange.
    """

    def __init__(
        self,
        request: ModelRequest,
        learned: LearnedTraits,
        make_exchange: Callable[[Traits], tuple[HttpRequest, Exchange]],
    ) -> None:
        self._request = request
        self._learned = learned
        self._make_exchange = make_exchange
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        pinned = self._request.pinned
        first = traits = self._learned.find(pinned)
        while True:
            post, exchange = self._make_exchange(traits)
            try:
                events = await exchange.__aenter__()
            except ModelFailure as failure:
                adapted = traits.adapt(failure, post.body)
                if adapted is None:
                    raise
                traits = adapted
                continue
            break
        self._exchange = exchange
        if traits is not first:
            self._learned.remember(pinned, traits)
        # Only summaries and titles have an output limit that the route did not choose.
        return events if self._request.purpose == "answer" else self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            await self._exchange.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        assert self._exchange is not None, "iterate it after entering it"
        try:
            return await anext(self._exchange)
        except ModelFailure as failure:
            if failure.reason == "empty_answer":
                # The model reasons, so its next summary or title has a higher limit.
                pinned = self._request.pinned
                self._learned.remember(pinned, replace(self._learned.find(pinned), has_more_room=True))
            raise
