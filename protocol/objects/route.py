"""A route: a driver, a model and the name of a credential. Clients choose a route, never a credential."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.budget import Prices
from protocol.errors.route import RouteNotFound
from protocol.ids import Id
from protocol.rpc.method import Method, Page, Params

Driver = Literal["openai", "anthropic", "offline"]


class Route(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A route as shown to clients; a credential appears by reference only.

    ``context_tokens`` is the size of the model's context; ``prices`` are for a million tokens. ``ready``: a
    run could use the route now; otherwise ``problem`` says why not.
    """

    route_id: str
    driver: Driver
    model: str
    source: Literal["built_in", "file"]
    default: bool = False
    base_url: str | None = None
    auth_ref: str | None = None
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


LIST = Method("route.list", "query", RouteListParams, RouteList, "List the routes, by id.")
GET = Method("route.get", "query", RouteRef, Route, "Show one route.", errors=(RouteNotFound,))

METHODS = (LIST, GET)
