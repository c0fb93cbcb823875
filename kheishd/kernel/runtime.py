"""What a Runtime is: an immutable snapshot of everything that a reload replaces. Types only."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from msgspec import Struct

from kheishd.core.budget import micros
from kheishd.core.compaction import ContextLimits
from kheishd.core.workspace import Workspaces
from kheishd.kernel.hook import Hook, Sandbox, Tool
from protocol.budget import Budget, Prices
from protocol.limits import (
    CALLS_MAX,
    CONTEXT_TOKENS_DEFAULT,
    DEBUG_BYTES_DEFAULT,
    PARALLEL_CALLS_MAX,
    RUN_OUTPUT_BYTES_DEFAULT,
    TOOL_INPUT_BYTES_MAX,
    TOOL_OUTPUT_BYTES_MAX,
)
from protocol.objects.definition import Definition
from protocol.objects.permission import PermissionMode, Rule
from protocol.objects.route import Driver
from protocol.objects.run import DebugLevel, Pinned
from protocol.transcript import Item, Message, Usage


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
    context_tokens: int = CONTEXT_TOKENS_DEFAULT
    built_in: bool = False
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How runs are run: ceilings, retries, timeouts. Seconds unless named otherwise."""

    active_max: int = 256
    attempts_max: int = 4
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    retry_after_max_s: float = 3600.0
    stream_timeout_s: float = 600.0
    inactivity_timeout_s: float = 120.0
    turns_max: int = 500
    continuations_max: int = 3
    tokens_max: int = 0
    wall_s_max: float = 0.0
    cost_max: float = 0.0
    approval_expires_s: float = 0.0
    recovery: str = "resume"

    @property
    def budget(self) -> Budget:
        """What a run may use at most, as it is pinned: ``cost_max`` is in units here, and there in micros."""
        return Budget(tokens_max=self.tokens_max, wall_s_max=self.wall_s_max, cost_max=micros(self.cost_max))


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """What tools are held to, from the next batch on; ``run_output_bytes_max`` is for all of a run's."""

    parallel_max: int = PARALLEL_CALLS_MAX
    calls_max: int = CALLS_MAX
    timeout_max_s: float = 180.0
    input_bytes_max: int = TOOL_INPUT_BYTES_MAX
    output_bytes_max: int = TOOL_OUTPUT_BYTES_MAX
    run_output_bytes_max: int = RUN_OUTPUT_BYTES_DEFAULT


@dataclass(frozen=True, slots=True)
class Debugging:
    """What is captured of model calls, and kept; the fields of ``[debug]`` in config.toml.

    ``kept_s`` is how old a run's captures may become, 0: however old; ``bytes_max`` what all of them take.
    """

    capture: DebugLevel = "off"
    kept_s: float = 7 * 24 * 3600.0
    bytes_max: int = DEBUG_BYTES_DEFAULT


@dataclass(frozen=True, slots=True)
class Runtime:
    """One generation of configuration. Held by a run while it is active, replaced whole by a reload.

    ``permission_mode`` is for whoever says nothing else, ``mode_max`` the widest that anybody has; ``rules``
    are the managed ones. ``titles``: conversations are named by their models.
    """

    generation: int
    routes: Mapping[str, RouteSpec]
    definitions: Mapping[str, Definition]
    default_agent: str
    default_route: str
    limits: RunLimits
    models: "ModelCaller"
    hooks: Hook
    workspaces: Workspaces
    tools: ToolLimits = ToolLimits()
    permission_mode: PermissionMode = "default"
    mode_max: PermissionMode = "bypassPermissions"
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


class Answer(Struct, frozen=True):
    """The end of an answer: every item in order, exactly as it goes into the transcript."""

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None = None


ModelEvent = TextDelta | ThinkingDelta | Answer
"""Deltas, then exactly one Answer, last."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call: what was pinned, the instructions, the transcript so far, the tools it may ask for.

    ``withheld``: it may ask for none of them now. ``purpose``: for anything but an answer the options of the
    route that shape answers do not count, and ``answer_tokens_max`` is how long what is asked for may become.
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
    answer_tokens_max: int | None = None
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
