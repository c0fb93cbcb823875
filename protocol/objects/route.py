"""A route: a driver, a model and the name of a credential. Clients choose a route, never a credential."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.budget import Cost, Prices
from protocol.errors.route import (
    RouteDefinedInFile,
    RouteInUse,
    RouteInvalid,
    RouteLimit,
    RouteNotFound,
    RouteRevisionConflict,
    RouteRevisionNotFound,
)
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, Id
from protocol.limits.budget import MAX_MICROS
from protocol.limits.model import DEFAULT_CONTEXT_TOKENS
from protocol.limits.names import MAX_MODEL_BYTES
from protocol.limits.route import MAX_FALLBACKS, MAX_KEYS
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import Usage

Driver = Literal["openai", "responses", "anthropic", "google", "offline"]

PresetName = Literal[
    "azure",
    "deepseek",
    "fireworks",
    "gemini",
    "groq",
    "litellm",
    "llamacpp",
    "lmstudio",
    "mistral",
    "moonshot",
    "ollama",
    "openai",
    "openrouter",
    "together",
    "vllm",
    "xai",
    "zai",
]
"""The servers whose differences kheish knows."""


RouteText = Annotated[str, Meta(extra=IDENTITY)]
Price = Annotated[float, Meta(ge=0, le=MAX_MICROS // 1_000_000)]


class RouteSettings(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The properties of a route, as its section of the configuration has them.

    ``auth_ref`` names the credential, which is never part of a route; ``auth_refs`` names several. The routes
    of ``fallback`` are asked in order if the route fails. Prices are for a million tokens.
    """

    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_BYTES)]
    driver: Driver | None = None
    preset: PresetName | None = None
    base_url: RouteText | None = None
    auth_ref: RouteText | None = None
    auth_refs: Annotated[list[RouteText], Meta(max_length=MAX_KEYS)] = []
    auth_header: RouteText | None = None
    ca_file: RouteText | None = None
    fallback: Annotated[list[Id], Meta(max_length=MAX_FALLBACKS)] = []
    options: dict[str, Any] = {}
    context_tokens: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = DEFAULT_CONTEXT_TOKENS
    price_input: Price | None = None
    price_cached_input: Price | None = None
    price_cache_write: Price | None = None
    price_output: Price | None = None
    currency: str = "USD"


class RouteRevision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of a stored route since a change. ``rollback_of``: they were those of that revision."""

    revision: int
    settings: RouteSettings
    updated_at_ms: int = 0
    rollback_of: int | None = None


class Cooldown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key, or with ``auth_ref`` null the whole route, that runs with other routes or keys pass over.

    ``failures`` counts the failures in a row, ``reason`` is that of the last one.
    """

    reason: str
    failures: int
    until_ms: int
    auth_ref: str | None = None


class Route(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route as shown to clients; a credential appears by reference only.

    ``base_url`` is the URL of the API, named by the route, its preset or its driver; null if there is none.
    ``auth_header`` null: the usual header. ``context_tokens`` is the size of the model's context; ``prices``
    are for a million tokens. ``ready``: a run could use the route now; otherwise ``problem`` says why not.
    ``auth_refs`` are all keys of a route with several, the first of which is ``auth_ref``. ``warnings`` are
    problems of other keys and of the routes of ``fallback``. ``cooldowns`` are the current ones.
    ``revision`` is that of a stored route; ``route.get`` lists its ``revisions`` that are kept, newest first.
    """

    route_id: str
    driver: Driver
    model: str
    source: Literal["built_in", "file", "stored"]
    default: bool = False
    preset: PresetName | None = None
    base_url: str | None = None
    auth_ref: str | None = None
    auth_refs: list[str] = []
    auth_header: str | None = None
    ca_file: str | None = None
    fallback: list[str] = []
    options: dict[str, Any] = {}
    context_tokens: int = 0
    prices: Prices | None = None
    ready: bool = True
    problem: str | None = None
    warnings: list[str] = []
    cooldowns: list[Cooldown] = []
    revision: int | None = None
    revisions: list[RouteRevision] = []


class RouteList(Struct, frozen=True):
    """A page of routes, by id."""

    routes: list[Route]
    next: str | None


class RouteRef(Params, frozen=True, kw_only=True):
    """Params of ``route.get``."""

    route_id: Annotated[Id, Meta(description="The id in [routes.<id>] of the configuration, or 'offline'.")]


class RouteListParams(Page, frozen=True, kw_only=True):
    """Params of ``route.list``."""


CheckName = Literal["connect", "authenticate", "stream", "tool_call", "usage", "context"]


class RouteCheck(Struct, frozen=True, omit_defaults=True):
    """One step of a test. ``skipped``: an earlier step failed, or the step does not apply to the route.

    ``context`` is checked for presets of servers whose operator sets the size of the context.
    """

    name: CheckName
    status: Literal["ok", "failed", "skipped"]
    note: str = ""


class KeyTest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The test of a route with one key: ``ok`` if no step failed. ``model`` is the model that answered.

    ``auth_ref`` is the key if the route has several.
    """

    route_id: str
    ok: bool
    checks: list[RouteCheck]
    duration_ms: int
    usage: Usage
    cost: Cost | None = None
    model: str | None = None
    auth_ref: str | None = None


class RouteTest(KeyTest, frozen=True, kw_only=True, omit_defaults=True):
    """The test of a route. ``others`` are those of its other keys and of the routes of its ``fallback``.

    It is ``ok`` if no step of any of them failed.
    """

    others: list[KeyTest] = []


class RouteTestParams(RouteRef, frozen=True, kw_only=True):
    """Params of ``route.test``."""


class RoutePut(Mutation, frozen=True, kw_only=True):
    """Params of ``route.put``. The settings replace all earlier ones."""

    route_id: Id
    settings: RouteSettings
    expected_revision: (
        Annotated[
            int,
            Meta(ge=0, description="Refuse unless this is the current revision; 0: none is stored."),
        ]
        | None
    ) = None


class RouteRollback(Mutation, frozen=True, kw_only=True):
    """Params of ``route.rollback``. The settings of an earlier revision become a new one."""

    route_id: Id
    revision: Annotated[int, Meta(ge=1, description="Default: the one before the current.")] | None = None
    expected_revision: (
        Annotated[int, Meta(ge=1, description="Refuse unless this is the route's current revision.")] | None
    ) = None


class RouteDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``route.delete``."""

    route_id: Id
    expected_revision: (
        Annotated[int, Meta(ge=1, description="Refuse unless this is the route's current revision.")] | None
    ) = None


class RouteDefault(Mutation, frozen=True, kw_only=True):
    """Params of ``route.default``."""

    route_id: Annotated[Id, Meta(description="Absent: the default route of the configuration.")] | None = None


class ChangedRoute(RouteRevision, frozen=True, kw_only=True, omit_defaults=True):
    """The current revision of a route that was stored."""

    route_id: str


class DeletedRoute(Struct, frozen=True):
    """The id of a route that was deleted from the store."""

    route_id: str


class DefaultRoute(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The default route; ``stored``: it was set by a request, and not by the configuration."""

    route_id: str
    stored: bool = False


LIST = Method("route.list", "query", RouteListParams, RouteList, "List the routes, by id.")
GET = Method("route.get", "query", RouteRef, Route, "Show one route.", errors=(RouteNotFound,))
TEST = Method(
    "route.test",
    "control",
    RouteTestParams,
    RouteTest,
    "Make one small call with one tool, and report step by step what worked.",
    scope="operate",
    errors=(ScopeWouldWiden, RouteNotFound),
)

PUT = Method(
    "route.put",
    "mutation",
    RoutePut,
    ChangedRoute,
    "Store a route, or replace the settings of a stored one; new runs use it at once.",
    scope="admin",
    errors=(
        ScopeWouldWiden,
        RouteDefinedInFile,
        RouteInvalid,
        RouteLimit,
        RouteRevisionConflict,
        InputTooLarge,
        StorageFull,
    ),
)
ROLLBACK = Method(
    "route.rollback",
    "mutation",
    RouteRollback,
    ChangedRoute,
    "Give a stored route the settings of an earlier revision again.",
    scope="admin",
    errors=(
        ScopeWouldWiden,
        RouteDefinedInFile,
        RouteInvalid,
        RouteNotFound,
        RouteRevisionConflict,
        RouteRevisionNotFound,
        StorageFull,
    ),
)
DELETE = Method(
    "route.delete",
    "mutation",
    RouteDelete,
    DeletedRoute,
    "Delete a stored route; runs that pinned it fail at their next model call.",
    scope="admin",
    errors=(
        ScopeWouldWiden,
        RouteDefinedInFile,
        RouteInUse,
        RouteNotFound,
        RouteRevisionConflict,
        StorageFull,
    ),
)
DEFAULT = Method(
    "route.default",
    "mutation",
    RouteDefault,
    DefaultRoute,
    "Make a route the default one for agents and sessions that name none.",
    scope="admin",
    errors=(ScopeWouldWiden, RouteNotFound, StorageFull),
)

METHODS = (LIST, GET, TEST, PUT, ROLLBACK, DELETE, DEFAULT)
