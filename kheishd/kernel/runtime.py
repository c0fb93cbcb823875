"""The runtime, an immutable snapshot of everything that a reload replaces, and model calls. Types only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import field

from kheishd.kernel.skills import NoSkills
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.objects.run import RunError
from protocol.structs import Value
from protocol.transcript import Item, Message, ProviderData, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    import trio

    from kheishd.config.sections.config import Config
    from kheishd.core.context.encodings import MessageEncodings
    from kheishd.core.wake_file import WakeFile
    from kheishd.core.workspace import Workspaces
    from kheishd.kernel.hook import Hook, Tool
    from kheishd.kernel.lifecycle import HookSpec
    from kheishd.kernel.skills import Skills
    from protocol.budget import Prices
    from protocol.objects.cron import CronProperties
    from protocol.objects.definition import Definition
    from protocol.objects.mcp import McpServerSettings
    from protocol.objects.route import Driver, PresetName
    from protocol.objects.run import Pinned
    from protocol.objects.trigger import TriggerTerms


class RouteSpec(Value, frozen=True):
    """A route of the configuration or the store, or the built-in one.

    ``auth_ref`` names the credential (``env:NAME``), which is resolved at each call; ``auth_refs`` are all
    keys of a route with several. ``fallback`` are the routes to ask if it fails. ``context_tokens`` is the
    size of the model's context window, answer included.
    """

    route_id: str
    driver: Driver
    model: str
    base_url: str | None = None
    auth_ref: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    context_tokens: int = DEFAULT_CONTEXT_TOKENS
    built_in: bool = False
    stored: bool = False
    prices: Prices | None = None
    preset: PresetName | None = None
    auth_header: str | None = None
    ca_file: str | None = None
    auth_refs: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


class Runtime(Value, frozen=True):
    """One generation of the configuration.

    A run holds its runtime while it is active; a reload replaces the whole. ``load_hooks`` builds the hooks
    at its first call, so that no start waits for tools; each call returns the same. ``warnings`` are problems
    of the configuration that did not prevent the start or the reload. ``stored_default_route`` is the one
    that a client has set. ``lifecycle`` are the operator's hooks.
    """

    generation: int
    config: Config
    routes: Mapping[str, RouteSpec]
    definitions: Mapping[str, Definition]
    models: ModelCaller
    load_hooks: Callable[[], Hook]
    workspaces: Workspaces
    warnings: tuple[str, ...] = ()
    load_skills: Callable[[], Skills] = NoSkills
    subscriptions: WakeFile[TriggerTerms] | None = None
    crons: WakeFile[CronProperties] | None = None
    lifecycle: tuple[HookSpec, ...] = ()
    stored_servers: Mapping[str, McpServerSettings] = field(default_factory=dict)
    stored_default_route: str | None = None

    @property
    def default_route(self) -> str:
        """The route of agents and sessions that name none."""
        return self.stored_default_route or self.config.default_route

    @property
    def skills(self) -> Skills:
        """The skills of this generation; ``load_skills`` reads nothing and is cheap."""
        return self.load_skills()

    @property
    def hooks(self) -> Hook:
        """The tools and prompt sections of this generation."""
        return self.load_hooks()

    @property
    def workspace_root(self) -> str:
        """The workspace of agents and sessions that set none."""
        return self.workspaces.root


class Runtimes(Protocol):
    """The source of runtimes. A replaced runtime lives until its last holder releases it.

    ``on_replace`` is called on the loop when another runtime has become current; it must not block or raise.
    ``changed`` is set when there is another current one; take it before you read that.
    """

    on_replace: Callable[[], None]
    changed: trio.Event

    def current(self) -> Runtime:
        """Return the runtime for new work."""
        ...

    def hold(self) -> AbstractContextManager[Runtime]:
        """Hold the current runtime open until the context is left."""
        ...


# Model calls.


class TextDelta(Value, frozen=True):
    """A piece of the answer."""

    text: str


class ThinkingDelta(Value, frozen=True):
    """A piece of the reasoning."""

    text: str


class ModelAnswer(Value, frozen=True):
    """A complete answer: its items in order, exactly as they enter the transcript.

    ``provider_data`` is the data that the provider attached to the message as a whole.
    """

    items: list[Item]
    usage: Usage
    stop_reason: str
    model: str | None = None
    provider_data: ProviderData | None = None


ModelEvent = TextDelta | ThinkingDelta | ModelAnswer
"""Deltas, then exactly one answer, last."""


class ModelRequest(Value, frozen=True):
    """One model call: the run's pinned values, the instructions, the transcript, and the offered tools.

    ``situation`` is text that changes from call to call. Drivers send it after the transcript, and no
    breakpoint of a prompt cache comes after it: all before it is the beginning of the next request. ``marks``
    are those of each origin in the conversation, also of messages that were compacted. ``encodings`` are kept
    beside the messages for the next call.
    ``withheld``: the model must not call the tools now. ``purpose``: for anything but an answer, the route's
    options that shape answers do not apply, and ``max_answer_tokens`` limits the answer. ``turn`` and
    ``attempt`` identify the call among the run's debug captures.
    """

    pinned: Pinned
    instructions: str
    messages: list[Message]
    tools: Sequence[Tool] = ()
    situation: str = ""
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    encodings: MessageEncodings | None = None
    withheld: bool = False
    session_id: str = ""
    run_id: str = ""
    purpose: Literal["answer", "summary", "title", "judge"] = "answer"
    max_answer_tokens: int | None = None
    turn: int = 0
    attempt: int = 0


class ModelFailure(Exception):
    """A model call without an answer.

    ``reason`` is stable (``rate_limited``, ``overloaded``, ``quota_exhausted``, ``unauthorized``,
    ``context_too_long``, ``bad_request``, ``bad_response``, ``empty_answer``, ``calls_too_large``,
    ``timed_out``, ``connection_failed``, ``route_gone``, ``route_changed``, ``route_forbidden``,
    ``credential_missing``, ``server_error``); ``message`` never holds a credential. ``usage`` is
    the usage of an unusable answer.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retryable: bool,
        status: int | None = None,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.usage = usage or Usage()

    @property
    def error(self) -> RunError:
        """The failure as the journal and the run's record hold it."""
        return RunError(self.reason, self.message, self.status, self.retryable)


class ModelCaller(Protocol):
    """All providers behind one interface."""

    def ask(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        """Call a model; iterate over its events. Leaving the context closes the connection.

        Errors: ModelFailure, from this, from entering or from iterating, never wrapped in a group.
        """
        ...

    def problem(self, route: RouteSpec) -> str | None:
        """Return the problem that makes a route unusable, such as a missing credential; None without one."""
        ...

    async def aclose(self) -> None:
        """Close the connections that are kept between calls."""
        ...
