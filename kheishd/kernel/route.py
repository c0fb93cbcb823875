"""Make routes from their settings, in the configuration or in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kheishd.config.presets import find_base_url
from kheishd.config.sections.routes import (
    BUILT_IN_ROUTE,
    ChainRoute,
    RouteSection,
    find_fallback_problems,
)
from kheishd.config.validation import find_problems
from kheishd.core.run.budget import to_micros
from kheishd.kernel.runtime import RouteSpec
from protocol.budget import Prices
from protocol.errors.route import RouteInvalid
from protocol.objects.run import Pinned, PinnedRoute, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.objects.route import RouteSettings


def make_built_in_route() -> RouteSpec:
    """Return the built-in route."""
    return RouteSpec(BUILT_IN_ROUTE, "offline", "offline", built_in=True)


def make_route(route_id: str, section: RouteSection, *, stored: bool = False) -> RouteSpec:
    """Return the route that a section describes."""
    prices = None
    if section.price_input is not None and section.price_output is not None:
        cached, written = section.price_cached_input, section.price_cache_write
        prices = Prices(
            currency=section.currency,
            input=to_micros(section.price_input),
            output=to_micros(section.price_output),
            cached_input=to_micros(cached) if cached is not None else None,
            cache_write=to_micros(written) if written is not None else None,
        )
    return RouteSpec(
        route_id,
        section.effective_driver,
        section.model,
        section.base_url,
        section.auth_refs[0] if section.auth_refs else section.auth_ref,
        section.options,
        section.context_tokens,
        prices=prices,
        preset=section.preset,
        auth_header=section.auth_header,
        ca_file=section.ca_file,
        stored=stored,
        auth_refs=tuple(section.auth_refs) if len(section.auth_refs) > 1 else (),
        fallback=tuple(section.fallback),
    )


def make_stored_route(
    route_id: str, settings: RouteSettings, routes: Mapping[str, RouteSpec] | None = None
) -> RouteSpec:
    """Return the route that stored settings describe; with ``routes``, its fallback must consist of them.

    Errors: RouteInvalid, with the field of the first problem.
    """
    table: dict[str, Any] = msgspec.to_builtins(settings)
    problems = list(find_problems(RouteSection, table))
    if not problems:
        section = msgspec.convert(table, RouteSection)
        problems = list(section.find_problems(()))
    if not problems and routes is not None:
        chain_routes = {
            name: ChainRoute(spec.driver, spec.prices.currency if spec.prices is not None else None)
            for name, spec in routes.items()
        }
        problems = list(find_fallback_problems(route_id, section, chain_routes, ()))
    if problems:
        path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in problems[0].path)
        raise RouteInvalid("; ".join(map(str, problems)), field=f"$.params.settings{path}")
    return make_route(route_id, section, stored=True)


def chain_of(routes: Mapping[str, RouteSpec], spec: RouteSpec) -> list[RouteSpec]:
    """Return the routes that a run may ask after its own.

    Routes may have changed since the chain was stored: one that is gone, has other prices or none, or has
    become a stand-in, is left out. So a limit of money holds on every route of the chain.
    """
    currency = spec.prices.currency if spec.prices is not None else None
    usable = []
    for route in (routes[name] for name in spec.fallback if name in routes and name != spec.route_id):
        if route.driver == "offline" and spec.driver != "offline":
            continue
        priced_in = route.prices.currency if route.prices is not None else None
        if priced_in != currency and (spec.prices is not None or None not in (priced_in, currency)):
            continue
        currency = currency or priced_in
        usable.append(route)
    return usable


def keys_of(spec: RouteSpec) -> list[RouteSpec]:
    """Return a route once for each of its keys."""
    return [replace(spec, auth_ref=key, auth_refs=()) for key in spec.auth_refs] or [spec]


def find_route_error(routes: Mapping[str, RouteSpec], pinned: PinnedRoute | Pinned) -> RunError | None:
    """Return why a run must not ask a route that it pinned, with the key that it pinned; None if it may.

    A reference resolves to the current credential, so it goes only to the server that its route has now: by
    now, a slot or a variable may hold the key of another provider.
    """
    name, spec = pinned.route, routes.get(pinned.route)
    if spec is None:
        return RunError("route_gone", f"the route '{name}', which this run is pinned to, is gone")
    changes = {
        "driver": pinned.driver != spec.driver,
        "base_url": find_base_url(pinned.driver, pinned.preset, pinned.base_url)
        != find_base_url(spec.driver, spec.preset, spec.base_url),
        "auth_header": pinned.auth_header != spec.auth_header,
        "auth_ref": pinned.auth_ref not in (None, spec.auth_ref, *spec.auth_refs),
    }
    changed = [field for field, is_changed in changes.items() if is_changed]
    if not changed:
        return None
    message = (
        f"the route '{name}' has changed since this run was accepted ({', '.join(changed)}), and no key "
        "goes to the server of its former settings; send the message again to use the route as it is now"
    )
    return RunError("route_changed", message)


def pin_route(spec: RouteSpec, model: str | None = None) -> PinnedRoute:
    """Return a route as a run pins it, with its own model or another one."""
    return PinnedRoute(
        route=spec.route_id,
        driver=spec.driver,
        model=model or spec.model,
        base_url=spec.base_url,
        auth_ref=spec.auth_ref,
        auth_refs=list(spec.auth_refs),
        preset=spec.preset,
        auth_header=spec.auth_header,
        ca_file=spec.ca_file,
        options=dict(spec.options),
        context_tokens=spec.context_tokens,
        prices=spec.prices,
    )
