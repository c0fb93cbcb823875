"""Every provider behind one face: a pinned route and a transcript in, model events out.

The drivers know their wire and nothing else; what is common to them is here: choosing the driver, the
two timeouts, and that only ModelFailure (or a cancellation) ever comes out.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import cast

import trio

from kheishd.kernel.runtime import ModelEvent, ModelFailure, ModelRequest, RouteSpec, RunLimits
from kheishd.providers import credentials, offline


class Models:
    """The ModelCaller: one for each generation of configuration. ``environ`` is where ``env:`` looks."""

    def __init__(self, limits: RunLimits | None = None, *, environ: Mapping[str, str] = os.environ) -> None:
        self._limits = limits or RunLimits()
        self._environ = environ

    def ask(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Ask a model; iterate its events; leaving the context closes the connection.

        Errors: ModelFailure, from entering or from iterating, never wrapped in a group.
        """
        return _Asking(self._events(request), self._limits)

    def problem(self, route: RouteSpec) -> str | None:
        """Why the route could not be used now (a missing credential, say), or None."""
        if route.driver == "offline":
            return None
        if not route.base_url:
            return f"the route '{route.route_id}' has no base_url"
        return credentials.problem(route.auth_ref, self._environ)

    async def aclose(self) -> None:
        """Close what is kept open between calls."""

    def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        match request.pinned.driver:
            case "offline":
                return offline.answer(request)
            case other:
                raise ModelFailure("route_gone", f"this version has no driver '{other}'", retryable=False)


class _Asking:
    """One model call: iterates the driver's events under both timeouts."""

    def __init__(self, events: AsyncIterator[ModelEvent], limits: RunLimits) -> None:
        self._events = events
        self._limits = limits
        self._deadline = 0.0

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        self._deadline = trio.current_time() + self._limits.stream_timeout_s
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cast("AsyncGenerator[ModelEvent]", self._events).aclose()

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        quiet_until = trio.current_time() + self._limits.inactivity_timeout_s
        with trio.move_on_at(min(self._deadline, quiet_until)) as scope:
            return await anext(self._events)
        assert scope.cancelled_caught
        raise self._timed_out(total=self._deadline < quiet_until)

    def _timed_out(self, *, total: bool) -> ModelFailure:
        limits = self._limits
        if total:
            message = f"the answer was not complete after {limits.stream_timeout_s:g} s"
        else:
            message = f"the model sent nothing for {limits.inactivity_timeout_s:g} s"
        return ModelFailure("timed_out", message, retryable=True)
