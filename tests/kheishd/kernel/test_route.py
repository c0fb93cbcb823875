"""Routes made from stored settings."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kheishd.config.sections.routes import RouteSection
from kheishd.kernel.route import chain_of, keys_of, make_built_in_route, make_stored_route, pin_route
from kheishd.kernel.runtime import RouteSpec
from protocol.budget import Prices
from protocol.errors.route import RouteInvalid
from protocol.objects.route import RouteSettings

EUROS, DOLLARS = (Prices(currency=currency, input=1, output=1) for currency in ("EUR", "USD"))
OTHERS = {"b": RouteSpec("b", "openai", "m"), "offline": make_built_in_route()}


def test_a_stored_route() -> None:
    """A stored route is made like one of the file: with defaults, and prices in micros."""
    settings = RouteSettings(
        model="m", base_url="http://127.0.0.1:9/v1", driver="openai", price_input=1, price_output=2
    )
    spec = make_stored_route("r", settings)
    assert (spec.route_id, spec.driver, spec.stored, spec.built_in) == ("r", "openai", True, False)
    assert spec.prices is not None
    assert (spec.prices.input, spec.prices.output, spec.prices.currency) == (1_000_000, 2_000_000, "USD")


def test_settings_are_those_of_the_configuration() -> None:
    """Every key of a section can be stored, with the same default."""
    keys = {field.name: field.default for field in msgspec.structs.fields(RouteSection)}
    assert {field.name: field.default for field in msgspec.structs.fields(RouteSettings)} == keys


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        ({"auth_ref": "sk-1234567890"}, ".auth_ref", "not the key itself"),
        ({"base_url": "http://u:p@h/v1"}, ".base_url", "must not contain a credential"),
        ({"options": {"headers": {"x-api-key": "1"}}}, ".options.headers.x-api-key", "set auth_ref"),
        ({"options": {"headers": {"x-a": "b\r\nhost: c"}}}, ".options.headers.x-a", "in one line"),
        ({"options": {"headers": {"x-ä": "b"}}}, ".options.headers.x-ä", "no name of a header"),
        ({"options": {"headers": {"Host": "b"}}}, ".options.headers.Host", "of HTTP itself"),
        ({"options": {"headers": {"x-a": ["b"]}}}, ".options.headers.x-a", "printable ASCII"),
        ({"options": {"headers": ["x-a"]}}, ".options.headers", "expected a table"),
        ({"auth_header": "content-length"}, ".auth_header", "of HTTP itself"),
        ({"auth_header": "Host"}, ".auth_header", "of HTTP itself"),
        ({"base_url": "http://h/v1\0"}, ".base_url", "control characters"),
        ({"base_url": "http+unix://%2Fa%00.sock/v1"}, ".base_url", "control characters"),
        ({"options": {"tools": [1]}}, ".options.tools", "expected a list of tables"),
        ({"currency": "euro"}, ".currency", "currency"),
        ({"fallback": ["b", "gone"]}, ".fallback[1]", "no route 'gone'"),
        (
            {"fallback": ["b"], "price_input": 1, "price_output": 1},
            ".fallback[0]",
            "'b' states no prices, and 'r' does",
        ),
        ({"fallback": ["r"]}, ".fallback[0]", "names the route itself"),
        ({"auth_refs": ["env:A", "sk-1234567890"]}, ".auth_refs[1]", "not the key itself"),
        ({"base_url": "http://h/v1", "driver": None}, "", "the key 'driver' is missing"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], field: str, message: str) -> None:
    """The refusal names the field, and never repeats a key."""
    with pytest.raises(RouteInvalid, match=message) as refused:
        make_stored_route("r", RouteSettings(**({"model": "m", "driver": "openai"} | settings)), OTHERS)
    assert refused.value.field == f"$.params.settings{field}"
    assert "sk-1234567890" not in refused.value.message


def test_a_chain() -> None:
    """A chain has the routes that exist, are models, and whose prices are in one currency."""
    first = RouteSpec("a", "openai", "m", prices=EUROS, fallback=("b", "c", "gone", "offline", "d", "a"))
    specs = [RouteSpec("c", "openai", "m", prices=DOLLARS), RouteSpec("d", "openai", "m", prices=EUROS)]
    routes = {**OTHERS, "a": first, **{spec.route_id: spec for spec in specs}}
    assert [spec.route_id for spec in chain_of(routes, first)] == ["d"]
    without_prices = replace(first, prices=None)
    assert [spec.route_id for spec in chain_of(routes, without_prices)] == ["b", "c"]


def test_keys() -> None:
    """A route with several keys is one with each of them; one key is no list."""
    keys = ["env:A", "env:B"]
    spec = make_stored_route("r", RouteSettings(model="m", driver="openai", auth_refs=keys))
    assert (spec.auth_ref, spec.auth_refs) == ("env:A", ("env:A", "env:B"))
    assert [(key.auth_ref, key.auth_refs) for key in keys_of(spec)] == [("env:A", ()), ("env:B", ())]
    single = make_stored_route("r", RouteSettings(model="m", driver="openai", auth_refs=["env:A"]))
    assert (single.auth_ref, single.auth_refs, keys_of(single)) == ("env:A", (), [single])


def test_a_pinned_route() -> None:
    """A run pins a route with the model that was chosen for it."""
    spec = RouteSpec("r", "openai", "m", auth_ref="env:A", auth_refs=("env:A", "env:B"), prices=EUROS)
    pinned = pin_route(spec, "other")
    assert (pinned.route, pinned.model, pinned.auth_refs, pinned.prices) == (
        "r",
        "other",
        ["env:A", "env:B"],
        EUROS,
    )
    assert pin_route(spec).model == "m"
