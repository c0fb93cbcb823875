"""Budgets, prices and amounts of money as they are given and kept."""

from typing import Any

import msgspec
import pytest

from protocol.budget import Budget, Cost, Prices
from protocol.limits import BUDGET_TOKENS_MAX, MICROS_MAX, WALL_SECONDS_MAX
from tests.support.samples import refuse, take


def test_a_budget_without_limits_is_nothing() -> None:
    """Nothing of it is written down."""
    assert msgspec.json.encode(Budget()) == b"{}"
    assert take(Budget, {"wall_s_max": 90}) == Budget(wall_s_max=90.0)


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (Budget, {"tokens_max": -1}, "$.params.tokens_max"),
        (Budget, {"tokens_max": BUDGET_TOKENS_MAX + 1}, "$.params.tokens_max"),
        (Budget, {"wall_s_max": WALL_SECONDS_MAX + 1}, "$.params.wall_s_max"),
        (Budget, {"cost_max": 0.5}, "$.params.cost_max"),
        (Budget, {"cost_max": MICROS_MAX + 1}, "$.params.cost_max"),
        (Budget, {"money_max": 1}, "$.params.money_max"),
        (Prices, {"currency": "USD", "input": -1, "output": 1}, "$.params.input"),
    ],
)
def test_refused(kind: type[Any], params: dict[str, Any], field: str) -> None:
    """What does not have the shape is refused by its path."""
    assert refuse(kind, params) == field


def test_the_dearest_tokens_fit_a_record() -> None:
    """The most tokens at the highest price are a number that every record holds."""
    worst = Cost(BUDGET_TOKENS_MAX * MICROS_MAX // 1_000_000, "USD")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(worst), type=Cost) == worst
