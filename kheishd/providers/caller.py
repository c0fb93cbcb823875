"""The provider caller: calls the model of a pinned route, whatever its driver, and yields model events.

Each driver knows only its protocol. Shared parts are here and in ``exchange``: the choice of the driver, the
credential, the two timeouts, and the translation of every error into one ModelFailure.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.captures import NO_CAPTURE
from kheishd.kernel.credentials import CredentialMissing, find_problem, resolve_credential
from kheishd.kernel.route import find_route_error
from kheishd.kernel.runtime import ModelFailure
from kheishd.kernel.secrets import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from kheishd.kernel.captures import Capture, Captures
    from kheishd.kernel.runtime import ModelEvent, ModelRequest, RouteSpec
    from kheishd.kernel.secrets import SlotReader
    from kheishd.providers.adaptation import AdaptedExchange
    from kheishd.providers.driver import Driver
    from kheishd.providers.exchange import CallTimeouts, ConnectionPools
    from kheishd.providers.traits import LearnedTraits


@cache
def find_driver(name: str) -> Driver | None:
    """Return the driver of this name that uses HTTP; None for the offline stand-in.

    A driver is imported at its first call, because few daemons use all of them.
    """
    match name:
        case "openai":
            from kheishd.providers import openai

            return openai
        case "responses":
            from kheishd.providers import responses

            return responses
        case "anthropic":
            from kheishd.providers import anthropic

            return anthropic
        case "google":
            from kheishd.providers import google

            return google
        case _:
            return None


class ProviderCaller:
    """The ModelCaller of one generation of the configuration.

    ``environ`` resolves ``env:`` references, ``slots`` resolves slots; ``in_thread`` runs blocking work.
    ``learned`` receives each credential before its use, because it may be newer than the configuration.
    ``captures`` stores debug captures. ``routes`` returns the current routes, which may be newer than the
    generation: without them, no route is compared with the one that a run pinned.
    """

    def __init__(
        self,
        limits: RunsSection | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
        learned: Callable[[str], None] = lambda secret: None,
        captures: Captures | None = None,
        slots: SlotReader | None = None,
        routes: Callable[[], Mapping[str, RouteSpec]] | None = None,
    ) -> None:
        self._routes = routes
        self._slots = slots or Vault()
        self._learned = learned
        self._captures = captures
        self._limits = limits or RunsSection()
        self._environ = environ
        self._in_thread = in_thread

    # The first call imports and makes the rest, not the start of the daemon.

    @cached_property
    def _pools(self) -> ConnectionPools:
        from kheishd.providers.exchange import ConnectionPools

        return ConnectionPools(self._limits.max_active, self._in_thread)

    @cached_property
    def _traits(self) -> LearnedTraits:
        from kheishd.providers.traits import LearnedTraits

        return LearnedTraits()

    @cached_property
    def _open_call(self) -> Callable[..., AdaptedExchange]:
        from kheishd.providers.adaptation import open_call

        return open_call

    def ask(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Call a model; iterate its events; leaving the context closes the connection.

        Errors: ModelFailure, from this, from entering or from iterating, never wrapped in a group.
        """
        capture = NO_CAPTURE if self._captures is None else self._captures.start(request)
        if capture is NO_CAPTURE:
            return self._open_events(request, capture)
        return self._ask_captured(request, capture)

    @asynccontextmanager
    async def _ask_captured(
        self, request: ModelRequest, capture: Capture
    ) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        with capture:
            async with self._open_events(request, capture) as events:
                yield _CapturedEvents(events, capture)

    def problem(self, route: RouteSpec) -> str | None:
        """Return why the route cannot be used now (such as a missing credential), or None.

        One key suffices where there are several.
        """
        if route.driver == "offline":
            return None
        keys = route.auth_refs or (route.auth_ref,)
        problems = [find_problem(key, self._slots, self._environ) for key in keys]
        return None if None in problems else problems[0]

    async def aclose(self) -> None:
        """Close idle connections."""
        if "_pools" in vars(self):
            await self._pools.aclose()

    def _open_events(
        self, request: ModelRequest, capture: Capture
    ) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        pinned = request.pinned
        if pinned.driver == "offline":
            from kheishd.providers import offline
            from kheishd.providers.exchange import CallTimeouts

            capture.record_local_request()
            return _TimedEvents(offline.answer(request), CallTimeouts(self._limits))
        driver = find_driver(pinned.driver)
        if driver is None:
            message = f"this version has no driver '{pinned.driver}'"
            raise ModelFailure("route_gone", message, retryable=False)
        changed = find_route_error(self._routes(), pinned) if self._routes is not None else None
        if changed is not None:
            raise ModelFailure(changed.reason, changed.message, retryable=False)
        try:
            secret = resolve_credential(pinned.auth_ref, self._slots, self._environ)
        except CredentialMissing as error:
            raise ModelFailure("credential_missing", str(error), retryable=False) from None
        if secret is not None:
            self._learned(secret)
        return self._open_call(request, driver, secret, self._pools, self._traits, self._limits, capture)


class _CapturedEvents:
    """An iterator of events that captures each one when the caller receives it."""

    def __init__(self, events: AsyncIterator[ModelEvent], capture: Capture) -> None:
        self._events = events
        self._capture = capture

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        event = await anext(self._events)
        self._capture.record_event(event)
        return event


class _TimedEvents:
    """A context with events under both timeouts; leaving it closes their source."""

    def __init__(self, events: AsyncGenerator[ModelEvent], timeouts: CallTimeouts) -> None:
        self._events = events
        self._timeouts = timeouts

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._events.aclose()

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        return await self._timeouts.wait(self._events.__anext__)
