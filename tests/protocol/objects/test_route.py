"""Routes as clients see them."""

import msgspec
import pytest

from protocol.objects.route import Route, RouteRef
from tests.support.samples import refuse, sample, take


def test_a_route_shows_no_credential() -> None:
    """A route has a reference to its credential and no field for the value."""
    assert "auth_ref" in Route.__struct_fields__
    assert not {"api_key", "key", "token", "secret", "credential"} & set(Route.__struct_fields__)


def test_a_route_is_ready_unless_it_says_why_not() -> None:
    """A route is ready by default; otherwise it states the problem."""
    route = msgspec.convert(sample(Route, full=False), Route)
    assert (route.ready, route.problem) == (True, None)
    assert "ready" not in msgspec.to_builtins(route)


@pytest.mark.parametrize("route_id", ["", "a b", "a/b", 5, None])
def test_route_id(route_id: object) -> None:
    """A route's id has the shape of an id."""
    assert take(RouteRef, {"route_id": "local"}).route_id == "local"
    assert refuse(RouteRef, {"route_id": route_id}) == "$.params.route_id"
