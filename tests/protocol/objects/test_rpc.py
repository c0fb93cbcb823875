"""Methods of the protocol itself."""

import pytest

from protocol.objects.rpc import Cancel
from protocol.rpc.method import NoParams
from tests.support.samples import refuse, take


@pytest.mark.parametrize("id_", [1, 1.5, "a", "", None, 10**40])
def test_cancel_takes_any_id(id_: object) -> None:
    """Any valid request id can be cancelled."""
    assert take(Cancel, {"id": id_}).id == id_


@pytest.mark.parametrize("id_", [True, [1], {"id": 1}])
def test_cancel_takes_no_other(id_: object) -> None:
    """An invalid id is refused."""
    assert refuse(Cancel, {"id": id_}) == "$.params.id"


def test_cancel_needs_an_id() -> None:
    """The id is required; null is an id."""
    assert refuse(Cancel, {}) == "$.params.id"


def test_nothing_is_nothing() -> None:
    """A method without params refuses any field."""
    take(NoParams, {})
    assert refuse(NoParams, {"a": 1}) == "$.params.a"
