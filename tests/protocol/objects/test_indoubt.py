"""In-doubt calls: the shapes of params and records."""

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
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_lists_show_what_is_open() -> None:
    """A list shows open calls by default."""
    assert take(IndoubtListParams, {}).status == "open"


def test_a_view_is_a_record_and_more() -> None:
    """A view has every field of the record under its name."""
    shown = msgspec.to_builtins(msgspec.convert(sample(Indoubt, full=True), Indoubt))
    assert msgspec.to_builtins(msgspec.convert(shown, IndoubtView)) == shown
