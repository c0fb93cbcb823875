"""Routes made from stored settings."""

from typing import Any

import msgspec
import pytest

from kheishd.config.sections.routes import RouteSection
from kheishd.kernel.route import make_stored_route
from protocol.errors.route import RouteInvalid
from protocol.objects.route import RouteSettings


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
        ({"options": {"tools": [1]}}, ".options.tools", "expected a list of tables"),
        ({"currency": "euro"}, ".currency", "currency"),
        ({"base_url": "http://h/v1", "driver": None}, "", "the key 'driver' is missing"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], field: str, message: str) -> None:
    """The refusal names the field, and never repeats a key."""
    with pytest.raises(RouteInvalid, match=message) as refused:
        make_stored_route("r", RouteSettings(**({"model": "m", "driver": "openai"} | settings)))
    assert refused.value.field == f"$.params.settings{field}"
    assert "sk-1234567890" not in refused.value.message
