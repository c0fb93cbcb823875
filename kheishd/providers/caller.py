"""Every provider behind one face: a pinned route and a transcript in, model events out.

The drivers know their wire and nothing else; what is common to them is here and in ``exchange``: choosing
the driver, the credential, the two timeouts, and that what goes wrong comes out as one ModelFailure.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from kheishd.kernel.runtime import ModelEvent, ModelFailure, ModelRequest, RouteSpec, RunLimits
from kheishd.providers import anthropic, credentials, offline, openai
from kheishd.providers.exchange import Exchange, Patience, Places, host_of
from kheishd.providers.failures import Refusing
from kheishd.providers.wire import Driver

DRIVERS: Mapping[str, Driver] = {"openai": openai, "anthropic": anthropic}
"""The drivers that speak over HTTP."""


class Models:
    """The ModelCaller: one for each generation of configuration.

    ``environ`` is where ``env:`` looks; ``in_thread`` runs what would hold up the loop. ``learned`` is told
    each credential before it is used, as it may be newer than the configuration.
    """

    def __init__(
        self,
        limits: RunLimits | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
        learned: Callable[[str], None] = lambda secret: None,
    ) -> None:
        self._learned = learned
        self._limits = limits or RunLimits()
        self._environ = environ
        self._places = Places(self._limits.active_max, in_thread)

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        """Ask a model; iterate its events; leaving the context closes the connection.

        Errors: ModelFailure, from entering or from iterating, never wrapped in a group.
        """
        patience = Patience(self._limits)
        if request.pinned.driver == "offline":
            async with aclosing(offline.answer(request)) as events:
                yield _Timed(events, patience)
        else:
            async with self._exchange(request, patience) as events:
                yield events

    def problem(self, route: RouteSpec) -> str | None:
        """Why the route could not be used now (a missing credential, say), or None."""
        if route.driver == "offline":
            return None
        return credentials.problem(route.auth_ref, self._environ)

    async def aclose(self) -> None:
        """Close what is kept open between calls."""
        await self._places.aclose()

    def _exchange(self, request: ModelRequest, patience: Patience) -> Exchange:
        pinned = request.pinned
        driver = DRIVERS.get(pinned.driver)
        if driver is None:
            message = f"this version has no driver '{pinned.driver}'"
            raise ModelFailure("route_gone", message, retryable=False)
        secret = credentials.resolve(pinned.auth_ref, self._environ)
        if secret is not None and credentials.scrubbed(secret):
            self._learned(secret)
        base_url = pinned.base_url or driver.BASE_URL
        refusing = Refusing(host_of(base_url), secret)
        return Exchange(
            self._places,
            driver.post(request, base_url, secret),
            driver.reader(refusing),
            refusing,
            patience,
        )


class _Timed:
    """Events under both timeouts."""

    def __init__(self, events: AsyncIterator[ModelEvent], patience: Patience) -> None:
        self._events = events
        self._patience = patience

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        return await self._patience.wait(self._events.__anext__)
