"""Budgets, prices and amounts of money as they are given and kept."""

from typing import Any

import msgspec
import pytest

from protocol.budget import Budget, Cost, Prices
from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS
from tests.support.samples import refuse, take


def test_a_budget_without_limits_is_nothing() -> None:
    """Nothing of it is written down."""
    assert msgspec.json.encode(Budget()) == b"{}"
    assert take(Budget, {"max_work_s": 90}) == Budget(max_work_s=90.0)


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (Budget, {"max_tokens": -1}, "$.params.max_tokens"),
        (Budget, {"max_tokens": MAX_BUDGET_TOKENS + 1}, "$.params.max_tokens"),
        (Budget, {"max_work_s": MAX_WORK_SECONDS + 1}, "$.params.max_work_s"),
        (Budget, {"max_cost": -0.5}, "$.params.max_cost"),
        (Budget, {"max_cost": MAX_MICROS}, "$.params.max_cost"),
        (Budget, {"max_money": 1}, "$.params.max_money"),
        (Prices, {"currency": "USD", "input": -1, "output": 1}, "$.params.input"),
    ],
)
def test_refused(kind: type[Any], params: dict[str, Any], field: str) -> None:
    """What does not have the shape is refused by its path."""
    assert refuse(kind, params) == field


def test_the_dearest_tokens_fit_a_record() -> None:
    """The most tokens at the highest price are a number that every record holds."""
    worst = Cost(MAX_BUDGET_TOKENS * MAX_MICROS // 1_000_000, "USD")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(worst), type=Cost) == worst
