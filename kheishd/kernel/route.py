"""Make routes from their settings, in the configuration or in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.config.sections.routes import BUILT_IN_ROUTE, RouteSection
from kheishd.config.validation import find_problems
from kheishd.core.run.budget import to_micros
from kheishd.kernel.runtime import RouteSpec
from protocol.budget import Prices
from protocol.errors.route import RouteInvalid

if TYPE_CHECKING:
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
        section.auth_ref,
        section.options,
        section.context_tokens,
        prices=prices,
        preset=section.preset,
        auth_header=section.auth_header,
        ca_file=section.ca_file,
        stored=stored,
    )


def make_stored_route(route_id: str, settings: RouteSettings) -> RouteSpec:
    """Return the route that stored settings describe.

    Errors: RouteInvalid, with the field of the first problem.
    """
    table: dict[str, Any] = msgspec.to_builtins(settings)
    problems = list(find_problems(RouteSection, table))
    if not problems:
        section = msgspec.convert(table, RouteSection)
        problems = list(section.find_problems(()))
    if problems:
        path = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in problems[0].path)
        raise RouteInvalid("; ".join(map(str, problems)), field=f"$.params.settings{path}")
    return make_route(route_id, section, stored=True)
