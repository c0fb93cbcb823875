"""What a Runtime is: an immutable snapshot of everything that a reload replaces. Types only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.transcript import Item, Message, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from kheishd.config.sections.config import Config
    from kheishd.core.workspace import Workspaces
    from kheishd.kernel.hook import Hook, Tool
    from protocol.budget import Prices
    from protocol.objects.definition import Definition
    from protocol.objects.route import Driver
    from protocol.objects.run import Pinned


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route as configured. ``auth_ref`` is a name (``env:NAME``), resolved at each call.

    ``context_tokens`` is how much its model can be shown, answer included.
    """

    route_id: str
    driver: Driver
    model: str
    base_url: str | None = None
    auth_ref: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    built_in: bool = False
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """One generation of the configuration.

    A run holds its runtime while it is active; a reload replaces the whole. ``warnings`` are problems of the
    configuration that did not prevent the start or the reload.
    """

    generation: int
    config: Config
    routes: Mapping[str, RouteSpec]
    definitions: Mapping[str, Definition]
    models: ModelCaller
    hooks: Hook
    workspaces: Workspaces
    warnings: tuple[str, ...] = ()

    @property
    def workspace_root(self) -> str:
        """The workspace of agents and sessions that set none."""
        return self.workspaces.root


class Runtimes(Protocol):
    """Where the current runtime is had. One that a reload replaced lives until its last holder is done."""

    def current(self) -> Runtime:
        """The runtime that new work takes."""
        ...

    def hold(self) -> AbstractContextManager[Runtime]:
        """The current runtime, kept open until the context is left."""
        ...


# What a provider gives while a model answers.


class TextDelta(Struct, frozen=True):
    """A piece of the answer."""

    text: str


class ThinkingDelta(Struct, frozen=True):
    """A piece of the reasoning."""

    text: str


class ModelAnswer(Struct, frozen=True):
    """The end of an answer: every item in order, exactly as it goes into the transcript."""

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None = None


ModelEvent = TextDelta | ThinkingDelta | ModelAnswer
"""Deltas, then exactly one Answer, last."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call: what was pinned, the instructions, the transcript so far, the tools it may ask for.

    ``withheld``: it may ask for none of them now. ``purpose``: for anything but an answer the options of the
    route that shape answers do not count, and ``max_answer_tokens`` is how long what is asked for may become.
    ``turn`` and ``attempt`` tell a call from the run's others, where it is captured.
    """

    pinned: Pinned
    instructions: str
    messages: list[Message]
    tools: Sequence[Tool] = ()
    withheld: bool = False
    session_id: str = ""
    run_id: str = ""
    purpose: Literal["answer", "summary", "title"] = "answer"
    max_answer_tokens: int | None = None
    turn: int = 0
    attempt: int = 0


class ModelFailure(Exception):
    """A model call that gave no answer.

    ``reason`` is stable (``rate_limited``, ``overloaded``, ``unauthorized``, ``context_too_long``,
    ``bad_request``, ``bad_response``, ``connection_failed``, ``timed_out``, ``route_gone``,
    ``credential_missing``, ``server_error``); ``message`` never holds a credential.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retryable: bool,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s


class ModelCaller(Protocol):
    """Every provider behind one face."""

    def ask(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Ask a model; iterate its events; leaving the context closes the connection.

        Errors: ModelFailure, from entering or from iterating, never wrapped in a group.
        """
        ...

    def problem(self, route: RouteSpec) -> str | None:
        """Why the route could not be used now (a missing credential, say), or None."""
        ...

    async def aclose(self) -> None:
        """Close what is kept open between calls."""
        ...
