"""A route: a driver, a model and the name of a credential. Clients choose a route, never a credential."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.budget import Cost, Prices
from protocol.errors.route import RouteNotFound
from protocol.ids import Id
from protocol.rpc.method import Method, Page, Params
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


class Route(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route as shown to clients; a credential appears by reference only.

    ``base_url`` is the URL of the API, named by the route, its preset or its driver; null if there is none.
    ``auth_header`` null: the usual header. ``context_tokens`` is the size of the model's context; ``prices``
    are for a million tokens. ``ready``: a run could use the route now; otherwise ``problem`` says why not.
    """

    route_id: str
    driver: Driver
    model: str
    source: Literal["built_in", "file"]
    default: bool = False
    preset: PresetName | None = None
    base_url: str | None = None
    auth_ref: str | None = None
    auth_header: str | None = None
    ca_file: str | None = None
    options: dict[str, Any] = {}
    context_tokens: int = 0
    prices: Prices | None = None
    ready: bool = True
    problem: str | None = None


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


class RouteTest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a test: ``ok`` if no step failed. ``model`` is the model's name as it states it."""

    route_id: str
    ok: bool
    checks: list[RouteCheck]
    duration_ms: int
    usage: Usage
    cost: Cost | None = None
    model: str | None = None


class RouteTestParams(RouteRef, frozen=True, kw_only=True):
    """Params of ``route.test``."""


LIST = Method("route.list", "query", RouteListParams, RouteList, "List the routes, by id.")
GET = Method("route.get", "query", RouteRef, Route, "Show one route.", errors=(RouteNotFound,))
TEST = Method(
    "route.test",
    "control",
    RouteTestParams,
    RouteTest,
    "Make one small call with one tool, and report step by step what worked.",
    scope="operate",
    errors=(RouteNotFound,),
)

METHODS = (LIST, GET, TEST)
