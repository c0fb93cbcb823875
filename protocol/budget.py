"""Budgets and costs: tokens, working time, and money where a route has prices.

Money is a whole number of micros, millionths of a unit of currency, so that sums are exact.
"""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_MICROS, MAX_WORK_SECONDS

Micros = Annotated[int, Meta(ge=0, le=MAX_MICROS)]


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The limits of the use of a run, or of a session and all sessions below it; 0 is no limit.

    ``max_tokens`` counts input and output together. ``max_work_s`` counts only the time in which a worker
    executes a run. ``max_cost`` is in units of the currency of the route's prices.
    """

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_BUDGET_TOKENS)] = 0
    max_work_s: Annotated[float, Meta(ge=0, le=MAX_WORK_SECONDS)] = 0.0
    max_cost: Annotated[float, Meta(ge=0, le=MAX_MICROS // 1_000_000)] = 0.0


class PinnedBudget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A budget as a run pins it: ``max_cost_micros`` is a whole number of micros."""

    max_tokens: int = 0
    max_work_s: float = 0.0
    max_cost_micros: int = 0


class Amounts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Amounts of what budgets limit; of money, micros of any currency are added as they are."""

    tokens: int = 0
    work_ms: int = 0
    cost_micros: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            tokens=self.tokens + other.tokens,
            work_ms=self.work_ms + other.work_ms,
            cost_micros=self.cost_micros + other.cost_micros,
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            tokens=self.tokens - other.tokens,
            work_ms=self.work_ms - other.work_ms,
            cost_micros=self.cost_micros - other.cost_micros,
        )


class Reservation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a budget that is set aside for a child; 0 is no limit. ``run_id``: the run that did it."""

    child_id: str
    amounts: Amounts
    run_id: str | None = None


class Account(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a session has used of its budget since it has one: each call of a model once.

    ``used`` is by its own calls of models and its ended runs, ``delegated`` by children whose reservations
    are settled, ``reserved`` is set aside for live children.
    """

    used: Amounts = Amounts()
    delegated: Amounts = Amounts()
    reserved: list[Reservation] = []


class Remainder(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is left of a budget; null: no limit. Negative by what a last answer took too much."""

    tokens: int | None = None
    work_ms: int | None = None
    cost_micros: int | None = None


class BudgetUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The budget of a session and of all sessions below it, and what is used, reserved and left of it.

    ``used`` includes the working time of a run in flight. ``given`` null: no limit.
    """

    given: Budget | None = None
    used: Amounts = Amounts()
    delegated: Amounts = Amounts()
    reserved: Amounts = Amounts()
    left: Remainder = Remainder()


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
