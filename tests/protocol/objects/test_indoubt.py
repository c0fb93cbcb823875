"""Calls in doubt: what may be said of one."""

import msgspec
import pytest

from protocol.objects.indoubt import Indoubt, IndoubtListParams, IndoubtResolve, IndoubtView
from tests.support.samples import refuse, sample, take


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (IndoubtResolve, {"indoubt_id": "d"}, "$.params.outcome"),
        (IndoubtResolve, {"indoubt_id": "d", "outcome": "perhaps"}, "$.params.outcome"),
        (IndoubtResolve, {"outcome": "done"}, "$.params.indoubt_id"),
        (IndoubtListParams, {"status": "pending"}, "$.params.status"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """What has the wrong shape is refused by its path."""
    assert refuse(kind, params) == field


def test_lists_show_what_is_open() -> None:
    """Unless it is asked for otherwise."""
    assert take(IndoubtListParams, {}).status == "open"


def test_a_view_is_a_record_and_more() -> None:
    """Every field that is kept is shown under its name."""
    shown = msgspec.to_builtins(msgspec.convert(sample(Indoubt, full=True), Indoubt))
    assert msgspec.to_builtins(msgspec.convert(shown, IndoubtView)) == shown
