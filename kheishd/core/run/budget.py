"""The budget of a run: limits that only narrow, money in whole micros, and working time. Pure.

Working time counts from when a worker takes up the run until it waits for a person, is released or ends. The
time between the last event and a crash is unknown and does not count. Tokens and cost are checked after each
answer, working time at any moment. A run that exceeds its budget keeps its answer, or the part of it that had
arrived, and a result for every call.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final, TypeVar

from msgspec.structs import replace

from kheishd.core.run.record import RunRecord
from protocol.budget import Budget, Cost, PinnedBudget, Prices, Remainder
from protocol.events.run import RunStarted
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.run import Pinned, RunError
from protocol.transcript import Usage

N = TypeVar("N", int, float)

MICROS: Final = 1_000_000
PRICED_TOKENS: Final = 1_000_000
"""The number of tokens that a price is for."""


NO_LIMIT: Final = Budget()
NO_PINNED_LIMIT: Final = PinnedBudget()


def intersect_budgets(budgets: Iterable[Budget | None]) -> Budget | None:
    """Return the lowest of each limit; None if there is none. 0 and None mean no limit."""
    limits = [budget for budget in budgets if budget is not None and budget != NO_LIMIT]
    if not limits:
        return None
    lowest = Budget(
        max_tokens=_lowest([limit.max_tokens for limit in limits]) or 0,
        max_work_s=_lowest([limit.max_work_s for limit in limits]) or 0.0,
        max_cost=_lowest([limit.max_cost for limit in limits]) or 0.0,
    )
    return lowest if lowest != NO_LIMIT else None


def pin_budget(budget: Budget | None) -> PinnedBudget | None:
    """Return a budget as a run pins it, its cost in micros."""
    if budget is None:
        return None
    return PinnedBudget(
        max_tokens=budget.max_tokens,
        max_work_s=budget.max_work_s,
        max_cost_micros=to_limit(budget.max_cost),
    )


def _lowest(limits: list[N]) -> N | None:
    return min((limit for limit in limits if limit), default=None)


# Money.


def to_micros(amount: float) -> int:
    """Convert a decimal amount such as ``0.075`` to micros, rounded to the nearest."""
    return int((Decimal(str(amount)) * MICROS).to_integral_value())


def to_limit(amount: float) -> int:
    """Convert a limit to micros; the smallest one stays a limit, as 0 is none."""
    return max(to_micros(amount), 1) if amount else 0


def calculate_cost(usage: Usage, prices: Prices | None) -> Cost | None:
    """Return the cost of tokens, rounded once to the nearest micro; None without prices."""
    if prices is None:
        return None
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    cached_price = prices.cached_input if prices.cached_input is not None else prices.input
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    write_price = prices.cache_write if prices.cache_write is not None else prices.input
    exact = (
        (usage.input_tokens - cached - written) * prices.input
        + cached * cached_price
        + written * write_price
        + usage.output_tokens * prices.output
    )
    return Cost((exact + PRICED_TOKENS // 2) // PRICED_TOKENS, prices.currency)


def add_costs(total: Cost | None, cost: Cost | None) -> Cost | None:
    """Return the sum of two amounts of one currency; None is no amount."""
    if total is None or cost is None:
        return total if cost is None else cost
    assert total.currency == cost.currency, "a run has one currency, that of its pinned prices"
    return Cost(total.micros + cost.micros, total.currency)


def accumulate_cost(totals: list[Cost], cost: Cost) -> list[Cost]:
    """Return the totals by currency with one more amount."""
    if not any(total.currency == cost.currency for total in totals):
        return [*totals, cost]
    return [
        Cost(total.micros + cost.micros, total.currency) if total.currency == cost.currency else total
        for total in totals
    ]


def format_cost(cost: Cost) -> str:
    """Format an amount for a sentence."""
    return f"{Decimal(cost.micros) / MICROS} {cost.currency}"


# Limits.


def find_exceeded_limit(
    run: RunRecord, pinned: Pinned, usage: Usage, cost: Cost | None, left: Remainder | None = None
) -> RunError | None:
    """Return the limit that forbids another model call after an answer of this usage; None if none does.

    Args:   ``left`` is what the session's budget had left before the answer; None without a budget.
    """
    turns = run.turn + 1
    if pinned.max_turns and turns >= pinned.max_turns:
        return RunError("turn_limit", f"the run reached its limit of {pinned.max_turns} model calls")
    return find_used_up(run, pinned, usage, cost, left)


def find_used_up(
    run: RunRecord, pinned: Pinned, usage: Usage, cost: Cost | None, left: Remainder | None
) -> RunError | None:
    """Return the budget, of the run or its session, that is used up by an answer; None if none is.

    What the run's children have used and reserved counts.
    """
    budget = pinned.budget or NO_PINNED_LIMIT
    used = run.usage + usage
    tokens = used.input_tokens + used.output_tokens + run.delegated.tokens + run.reserved.tokens
    if budget.max_tokens and tokens >= budget.max_tokens:
        return RunError(
            "token_budget", f"the run used up its token budget ({tokens} of {budget.max_tokens} tokens)"
        )
    total = add_costs(run.cost, cost)
    micros = (total.micros if total is not None else 0) + run.delegated.cost_micros + run.reserved.cost_micros
    if budget.max_cost_micros and micros >= budget.max_cost_micros:
        currency = total.currency if total is not None else "units"
        spent, allowed = (format_cost(Cost(it, currency)) for it in (micros, budget.max_cost_micros))
        return RunError("cost_budget", f"the run used up its cost budget ({spent} of {allowed})")
    if left is None:
        return None
    if left.tokens is not None and left.tokens <= usage.input_tokens + usage.output_tokens:
        return _session_error("session_token_budget", "token budget")
    if left.cost_micros is not None and left.cost_micros <= (cost.micros if cost is not None else 0):
        return _session_error("session_cost_budget", "cost budget")
    if left.work_ms is not None and left.work_ms <= 0:
        return make_session_timeout()
    return None


def _session_error(reason: str, name: str) -> RunError:
    text = f"the session used up its {name}, with what its children have used and reserved"
    return RunError(reason, text)


def make_session_timeout() -> RunError:
    """Make the error of a run whose session has used up its working time."""
    return _session_error("session_time_budget", "time budget")


def remainder_of_run(run: RunRecord, pinned: Pinned, now_ms: int) -> Remainder:
    """Return what is left of a run's own budget, without what its children have used and reserved."""
    budget = pinned.budget or NO_PINNED_LIMIT
    taken = run.delegated + run.reserved
    tokens = run.usage.input_tokens + run.usage.output_tokens + taken.tokens
    micros = (run.cost.micros if run.cost is not None else 0) + taken.cost_micros
    return Remainder(
        tokens=budget.max_tokens - tokens if budget.max_tokens else None,
        work_ms=remaining_ms(run, pinned, now_ms),
        cost_micros=budget.max_cost_micros - micros if budget.max_cost_micros else None,
    )


def add_work_time(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """Return the run with the working time until an event, before the event is applied."""
    if not run.claimed or isinstance(event, RunStarted):
        return run
    return replace(run, worked_ms=run.worked_ms + max(envelope.at_ms - run.updated_at_ms, 0))


def remaining_ms(run: RunRecord, pinned: Pinned, now_ms: int) -> int | None:
    """Return the working time that a run has left, without that of its children; None without a limit."""
    limit_s = (pinned.budget or NO_PINNED_LIMIT).max_work_s
    if not limit_s:
        return None
    elapsed = max(now_ms - run.updated_at_ms, 0) if run.claimed else 0
    children_ms = run.delegated.work_ms + run.reserved.work_ms
    return max(round(limit_s * 1000) - run.worked_ms - elapsed - children_ms, 0)


def make_timeout(pinned: Pinned) -> RunError:
    """Make the error of a run that has used up its working time."""
    limit_s = (pinned.budget or NO_PINNED_LIMIT).max_work_s
    return RunError("time_budget", f"the run used up its time budget ({limit_s:g} s)")
