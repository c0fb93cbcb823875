"""What a run may cost: budgets that only narrow, money in whole micros, and time in hand. Pure.

A run's time is counted while a worker has it in hand: from when it is taken up until it waits for a person,
is put down or ends. What passed between its last event and a crash is not known, and not counted. A budget is
looked at after each answer (tokens, money) and at every moment (time): what it ends, ends truthfully, with
the answer or the part of it that had arrived, and with a result for every call.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final, TypeVar

from msgspec.structs import replace

from kheishd.core.run.record import RunRecord
from protocol.budget import Budget, Cost, PinnedBudget, Prices
from protocol.events.run import RunStarted
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.run import Pinned, RunError
from protocol.transcript import Usage

N = TypeVar("N", int, float)

MICROS: Final = 1_000_000
PRICED_TOKENS: Final = 1_000_000
"""Prices are for so many tokens."""


NO_LIMIT: Final = Budget()
NO_PINNED_LIMIT: Final = PinnedBudget()


def narrowest(budgets: Iterable[Budget | None]) -> Budget | None:
    """The budget that allows what all allow, or None; 0 and None are no limits, so they take none away."""
    each = tuple(budget for budget in budgets if budget is not None)
    together = Budget(
        max_tokens=_lowest([budget.max_tokens for budget in each]) or 0,
        max_work_s=_lowest([budget.max_work_s for budget in each]) or 0.0,
        max_cost=_lowest([budget.max_cost for budget in each]) or 0.0,
    )
    return together if together != NO_LIMIT else None


def pin_budget(budget: Budget | None) -> PinnedBudget | None:
    """Return a budget as a run pins it, its cost in micros."""
    if budget is None:
        return None
    return PinnedBudget(
        max_tokens=budget.max_tokens,
        max_work_s=budget.max_work_s,
        max_cost_micros=micros(budget.max_cost),
    )


def _lowest(limits: list[N]) -> N | None:
    return min((limit for limit in limits if limit), default=None)


# Money.


def micros(amount: float) -> int:
    """An amount as people write it, ``0.075``, in micros, to the nearest one."""
    return int((Decimal(str(amount)) * MICROS).to_integral_value())


def cost_of(usage: Usage, prices: Prices | None) -> Cost | None:
    """What tokens cost, rounded to a micro once; None without prices."""
    if prices is None:
        return None
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    cheap = prices.cached_input if prices.cached_input is not None else prices.input
    exact = (
        (usage.input_tokens - cached) * prices.input + cached * cheap + usage.output_tokens * prices.output
    )
    return Cost((exact + PRICED_TOKENS // 2) // PRICED_TOKENS, prices.currency)


def added(one: Cost | None, other: Cost | None) -> Cost | None:
    """Two amounts of one currency together; nothing is no amount."""
    if one is None or other is None:
        return one if other is None else other
    assert one.currency == other.currency, "a run has the prices that it pinned"
    return Cost(one.micros + other.micros, one.currency)


def accumulate_cost(costs: list[Cost], cost: Cost) -> list[Cost]:
    """Amounts by currency, with one more."""
    if not any(each.currency == cost.currency for each in costs):
        return [*costs, cost]
    return [
        Cost(each.micros + cost.micros, each.currency) if each.currency == cost.currency else each
        for each in costs
    ]


def shown(amount: Cost) -> str:
    """An amount in a sentence."""
    return f"{Decimal(amount.micros) / MICROS} {amount.currency}"


# What is used up.


def used_up(run: RunRecord, pinned: Pinned, usage: Usage, cost: Cost | None) -> RunError | None:
    """Why a run's model may not be asked again after an answer that used this; None if it may."""
    budget, step = pinned.budget or NO_PINNED_LIMIT, run.turn + 1
    most = pinned.max_turns
    if most and step >= most:
        return RunError("turn_limit", f"the run reached its limit of {most} model calls")
    tokens = sum(each.input_tokens + each.output_tokens for each in (run.usage, usage))
    if budget.max_tokens and tokens >= budget.max_tokens:
        return RunError(
            "token_budget", f"the run used {tokens} tokens, and its budget is {budget.max_tokens}"
        )
    total = added(run.cost, cost)
    if budget.max_cost_micros and total is not None and total.micros >= budget.max_cost_micros:
        allowed = shown(Cost(budget.max_cost_micros, total.currency))
        return RunError("cost_budget", f"the run cost {shown(total)}, and its budget is {allowed}")
    return None


def timed(run: RunRecord, envelope: Envelope, event: JournalEvent) -> RunRecord:
    """The run with the time that has passed until an event, before the event itself is folded."""
    if not run.claimed or isinstance(event, RunStarted):
        return run
    return replace(run, worked_ms=run.worked_ms + max(envelope.at_ms - run.updated_at_ms, 0))


def left_ms(run: RunRecord, pinned: Pinned, now_ms: int) -> int | None:
    """How much of its time a run has left; None without a limit."""
    limit_s = (pinned.budget or NO_PINNED_LIMIT).max_work_s
    if not limit_s:
        return None
    passed = max(now_ms - run.updated_at_ms, 0) if run.claimed else 0
    return max(round(limit_s * 1000) - run.worked_ms - passed, 0)


def time_up(run: RunRecord, pinned: Pinned, now_ms: int) -> RunError | None:
    """Why a run has to end now, if its time is over."""
    return out_of_time(pinned) if left_ms(run, pinned, now_ms) == 0 else None


def out_of_time(pinned: Pinned) -> RunError:
    """Why a run has to end whose time is over."""
    limit_s = (pinned.budget or NO_PINNED_LIMIT).max_work_s
    return RunError("time_budget", f"the run was in hand for {limit_s:g} s, and that is its budget")
