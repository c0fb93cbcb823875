"""A model call that adapts to its server: a request refused for a field is sent again without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.config.presets import find_base_url
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers.address import host_of
from kheishd.providers.attachments import origin_of
from kheishd.providers.exchange import CallTimeouts, Exchange
from kheishd.providers.failures import FailureFactory
from kheishd.providers.refusals import adapt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from kheishd.config.sections.runs import RunsSection
    from kheishd.kernel.captures import Capture
    from kheishd.kernel.runtime import ModelEvent, ModelRequest
    from kheishd.providers.driver import Driver, HttpRequest
    from kheishd.providers.exchange import ConnectionPools
    from kheishd.providers.traits import LearnedTraits, Traits


class AdaptedExchange:
    """The exchanges of one call: refused requests, and the accepted one, whose events it yields.

    A server may refuse a request by its status, or by an error inside a stream before any event.
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
        self._traits = self._first_traits = learned.find(request.pinned)
        self._post: HttpRequest | None = None
        self._exchange: Exchange | None = None
        self._is_accepted = False

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            await self._exchange.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        while True:
            assert self._exchange is not None, "iterate it after entering it"
            try:
                event = await anext(self._exchange)
            except ModelFailure as failure:
                # Only summaries and titles have an output limit that the route did not choose.
                if failure.reason == "empty_answer" and self._request.purpose != "answer":
                    # The model reasons, so its next summary or title has a higher limit.
                    self._traits = replace(self._traits, has_more_room=True)
                    self._learned.remember(self._request.pinned, self._traits)
                if self._is_accepted or not self._adapt(failure):
                    raise
                refused, self._exchange = self._exchange, None
                await refused.__aexit__(None, None, None)
                await self._open()
                continue
            if not self._is_accepted:
                self._is_accepted = True
                if self._traits is not self._first_traits:
                    self._learned.remember(self._request.pinned, self._traits)
            return event

    async def _open(self) -> None:
        """Send the request until its server does not refuse it. Errors: ModelFailure."""
        while True:
            self._post, exchange = self._make_exchange(self._traits)
            try:
                await exchange.__aenter__()
            except ModelFailure as failure:
                if not self._adapt(failure):
                    raise
                continue
            self._exchange = exchange
            return

    def _adapt(self, failure: ModelFailure) -> bool:
        """Adapt the traits to a refusal; return whether another request may be accepted."""
        assert self._post is not None, "it was refused"
        adapted = adapt(self._traits, failure, self._post.body)
        self._traits = adapted or self._traits
        return adapted is not None


def open_call(
    request: ModelRequest,
    driver: Driver,
    secret: str | None,
    pools: ConnectionPools,
    learned: LearnedTraits,
    limits: RunsSection,
    capture: Capture,
) -> AdaptedExchange:
    """Return the exchanges of a model call; ``limits`` has its timeouts, which begin now."""
    pinned = request.pinned
    base_url = find_base_url(pinned.driver, pinned.preset, pinned.base_url) or driver.BASE_URL
    failures = FailureFactory(host_of(base_url), secret, pinned.auth_ref)
    timeouts = CallTimeouts(limits)

    def make_exchange(traits: Traits) -> tuple[HttpRequest, Exchange]:
        post = replace(driver.post(request, base_url, secret, traits), ca_file=pinned.ca_file)
        reader = driver.reader(failures, origin_of(pinned, base_url))
        reader.situation = post.situation
        return post, Exchange(pools, post, reader, failures, timeouts, capture)

    return AdaptedExchange(request, learned, make_exchange)
