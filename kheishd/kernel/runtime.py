"""What a Runtime is: an immutable snapshot of everything that a reload replaces. Types only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

from kheishd.core.compaction import ContextLimits
from protocol.budget import Budget, Prices
from protocol.limits.call import (
    DEFAULT_RUN_OUTPUT_BYTES,
    MAX_CALLS,
    MAX_PARALLEL_CALLS,
    MAX_TOOL_INPUT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
)
from protocol.limits.debug import DEFAULT_DEBUG_BYTES
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.transcript import Item, Message, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from kheishd.core.workspace import Workspaces
    from kheishd.kernel.hook import Hook, Sandbox, Tool
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode, Rule
    from protocol.objects.route import Driver
    from protocol.objects.run import DebugLevel, Pinned


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
class RunLimits:
    """How runs are run: ceilings, retries, timeouts. Seconds unless named otherwise."""

    max_active: int = 256
    max_attempts: int = 4
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    max_retry_after_s: float = 3600.0
    stream_timeout_s: float = 600.0
    inactivity_timeout_s: float = 120.0
    max_turns: int = 500
    max_continuations: int = 3
    max_tokens: int = 0
    max_work_s: float = 0.0
    max_cost: float = 0.0
    approval_expires_s: float = 0.0
    recovery: str = "resume"

    @property
    def budget(self) -> Budget:
        """What a run may use at most, in the currency of its route."""
        return Budget(max_tokens=self.max_tokens, max_work_s=self.max_work_s, max_cost=self.max_cost)


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What tools are held to, from the next batch on; ``max_run_output_bytes`` is for all of a run's."""

    max_parallel: int = MAX_PARALLEL_CALLS
    max_calls: int = MAX_CALLS
    max_timeout_s: float = 180.0
    max_input_bytes: int = MAX_TOOL_INPUT_BYTES
    max_output_bytes: int = MAX_TOOL_OUTPUT_BYTES
    max_run_output_bytes: int = DEFAULT_RUN_OUTPUT_BYTES


@dataclass(frozen=True, slots=True)
class Debugging:
    """What is captured of model calls, and kept; the fields of ``[debug]`` in config.toml.

    ``max_age_s`` is how old a run's captures may become, 0: however old; ``max_bytes`` what all of them take.
    """

    capture: DebugLevel = "off"
    max_age_s: float = 7 * 24 * 3600.0
    max_bytes: int = DEFAULT_DEBUG_BYTES


@dataclass(frozen=True, slots=True)
class Runtime:
    """One generation of configuration. Held by a run while it is active, replaced whole by a reload.

    ``permission_mode`` is for whoever says nothing else, ``max_mode`` the widest that anybody has; ``rules``
    are the managed ones. ``titles``: conversations are named by their models.
    """

    generation: int
    routes: Mapping[str, RouteSpec]
    definitions: Mapping[str, Definition]
    default_agent: str
    default_route: str
    limits: RunLimits
    models: ModelCaller
    hooks: Hook
    workspaces: Workspaces
    tools: ToolLimits = ToolLimits()
    permission_mode: PermissionMode = "default"
    max_mode: PermissionMode = "bypassPermissions"
    rules: tuple[Rule, ...] = ()
    sandbox: Sandbox = "auto"
    context: ContextLimits = field(default_factory=ContextLimits)
    debug: Debugging = field(default_factory=Debugging)
    titles: bool = False
    warnings: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def workspace_root(self) -> str:
        """Where agents work unless something else is said."""
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
