"""Budgets and costs: tokens, working time, and money where a route has prices.

Money is a whole number of micros, millionths of a unit of currency, so that sums are exact.
"""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS

Micros = Annotated[int, Meta(ge=0, le=MAX_MICROS)]


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits of a run's use; 0 is no limit.

    ``max_tokens`` counts input and output together. ``max_work_s`` counts only the time in which a worker
    executes the run. ``max_cost`` is in units of the currency of the route's prices.
    """

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_BUDGET_TOKENS)] = 0
    max_work_s: Annotated[float, Meta(ge=0, le=MAX_WORK_SECONDS)] = 0.0
    max_cost: Annotated[float, Meta(ge=0, le=MAX_MICROS // 1_000_000)] = 0.0


class PinnedBudget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A budget as a run pins it: ``max_cost_micros`` is a whole number of micros."""

    max_tokens: int = 0
    max_work_s: float = 0.0
    max_cost_micros: int = 0


class Prices(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices in micros for a million tokens.

    ``cached_input`` is for tokens read from the provider's cache, ``cache_write`` for those written to it.
    Null is the price of any input.
    """

    currency: str
    input: Micros
    output: Micros
    cached_input: Micros | None = None
    cache_write: Micros | None = None


class Cost(Struct, frozen=True):
    """An amount of money: ``micros`` millionths of a unit of ``currency``."""

    micros: int
    currency: str
