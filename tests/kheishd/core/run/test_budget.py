"""Budgets only narrow, money is whole, and time counts only while a run is in hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.run.budget import (
    accumulate_cost,
    add_costs,
    calculate_cost,
    format_cost,
    intersect_budgets,
    make_timeout,
    remaining_ms,
    to_micros,
)
from kheishd.core.run.commands import (
    AcceptAnswer,
    AnswerApprovals,
    ApprovalAnswer,
    ApprovalAsk,
    BeginModelCall,
    CallResult,
    Cancel,
    Compact,
    Compaction,
    EndEarly,
    FailedCompaction,
    Judge,
    Judgement,
    Release,
    Start,
)
from kheishd.core.run.due import AskModel, Expire, StopEffect, due
from protocol.budget import Budget, Cost, PinnedBudget, Prices
from protocol.events.run import MessageAppended
from protocol.objects.permission import Verdict
from protocol.objects.run import RunError
from protocol.transcript import Item, Text, ToolCall, Usage
from tests.support.machine import PINNED, Machine

PRICES = Prices(currency="USD", input=3_000_000, output=15_000_000, cached_input=300_000)
CALL = ToolCall("call_1", "bash", {})

BUDGETS = st.builds(
    Budget,
    max_tokens=st.integers(0, 9),
    max_work_s=st.sampled_from((0.0, 1.0, 2.5)),
    max_cost=st.integers(0, 9),
)


@given(st.lists(BUDGETS, max_size=4), BUDGETS)
def test_a_budget_only_narrows(budgets: list[Budget], one: Budget) -> None:
    """With one more there is no more to use of anything, and no limit is lost."""
    without, together = (
        intersect_budgets([*budgets, None]) or Budget(),
        intersect_budgets([*budgets, one]) or Budget(),
    )
    for name in Budget.__struct_fields__:
        before, after = getattr(without, name), getattr(together, name)
        assert after == before or (after and (not before or after < before))
        assert after in (before, getattr(one, name))


# Money.


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (0, 0),
        (3, 3_000_000),
        (0.075, 75_000),
        (0.1 + 0.2, 300_000),
        (1e-6, 1),
        (1e-7, 0),
        (999_999.5, 999_999_500_000),
    ],
)
def test_an_amount_in_micros(amount: float, expected: int) -> None:
    """As it is written, not as a binary fraction has it."""
    assert to_micros(amount) == expected


@pytest.mark.parametrize(
    ("usage", "prices", "expected"),
    [
        (Usage(), PRICES, 0),
        (Usage(1_000_000, 0), PRICES, 3_000_000),
        (Usage(0, 1_000_000), PRICES, 15_000_000),
        (Usage(1_000_000, 0, 400_000), PRICES, 1_800_000 + 120_000),
        (Usage(1_000_000, 0, 400_000), replace(PRICES, cached_input=None), 3_000_000),
        (Usage(1_000_000, 0, 400_000), replace(PRICES, cached_input=0), 1_800_000),
        (Usage(10, 0, 99), PRICES, 3),
        (Usage(1, 0), replace(PRICES, input=500_000), 1),
        (Usage(1, 0), replace(PRICES, input=499_999), 0),
    ],
)
def test_what_tokens_cost(usage: Usage, prices: Prices, expected: int) -> None:
    """Cached input costs less where a price says so; what is rounded is rounded once, to the nearest."""
    assert calculate_cost(usage, prices) == Cost(expected, "USD")
    assert calculate_cost(usage, None) is None


@given(st.lists(st.builds(Cost, st.integers(0, 10**12), st.sampled_from(("USD", "EUR")))))
def test_sums_of_money_lose_nothing(costs: list[Cost]) -> None:
    """Each currency by itself, to the micro."""
    total: list[Cost] = []
    for cost in costs:
        total = accumulate_cost(total, cost)
    assert {each.currency: each.micros for each in total} == {
        currency: sum(each.micros for each in costs if each.currency == currency)
        for currency in {each.currency for each in costs}
    }
    assert len(total) <= 2


def test_amounts_together() -> None:
    """Nothing is no amount; two currencies are never add_costs."""
    assert add_costs(None, None) is None
    assert add_costs(Cost(1, "USD"), None) == add_costs(None, Cost(1, "USD")) == Cost(1, "USD")
    assert add_costs(Cost(1, "USD"), Cost(2, "USD")) == Cost(3, "USD")
    with pytest.raises(AssertionError):
        add_costs(Cost(1, "USD"), Cost(1, "EUR"))
    assert format_cost(Cost(1_500_000, "EUR")) == "1.5 EUR"


# Runs.


def begun(**pinned: Any) -> Machine:
    """A run whose model was asked, with what it may cost."""
    machine = Machine()
    machine.pinned = replace(machine.pinned, **pinned)
    return machine.do(Start(), BeginModelCall("itm_1"))


def says(*items: Item, usage: Usage) -> AcceptAnswer:
    """An answer that used so many tokens."""
    return AcceptAnswer(list(items) or [Text("done")], usage, "end", "m")


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (PinnedBudget(max_tokens=13), "token_budget"),
        (PinnedBudget(max_tokens=14), None),
        (PinnedBudget(max_cost_micros=75), "cost_budget"),
        (PinnedBudget(max_cost_micros=76), None),
    ],
)
def test_a_budget_that_is_used_up_ends_the_run(budget: Budget, reason: str | None) -> None:
    """Where it would need another model call; its calls get their results, and the answer is kept."""
    machine = begun(budget=budget, prices=PRICES).do(says(CALL, usage=Usage(10, 3)))
    if reason is None:
        assert machine.run.status == "running"
        return
    assert (machine.run.status, machine.run.calls) == ("failed", [])
    assert machine.run.error is not None
    assert machine.run.error.reason == reason
    assert machine.kinds()[-3:] == ["message_appended", "tool_returned", "run_ended"]


def test_an_answer_that_uses_up_the_budget_is_still_the_answer() -> None:
    """The work is done; and what it cost is what the record says."""
    machine = begun(budget=PinnedBudget(max_tokens=5, max_cost_micros=5), prices=PRICES).do(
        says(usage=Usage(10, 3))
    )
    assert (machine.run.status, machine.run.cost) == ("completed", Cost(75, "USD"))
    event = machine.journal[-2][1]
    assert isinstance(event, MessageAppended)
    assert event.cost == Cost(75, "USD")


DENIED = Judge(
    [
        Judgement(
            Verdict(call_id="call_1", tool="bash", decision="deny", base="deny", why="rule"),
            CallResult("denied", "no", is_error=True),
        )
    ]
)
ASKED = Judge(
    [
        Judgement(
            Verdict(call_id="call_1", tool="bash", decision="ask", base="ask", why="default"),
            ApprovalAsk("apr_1"),
        )
    ]
)


def test_what_was_used_before_counts() -> None:
    """A budget is for the whole run; without prices there is no cost."""
    machine = begun(budget=PinnedBudget(max_tokens=20)).do(says(CALL, usage=Usage(8, 1)), DENIED)
    assert machine.run.status == "running"
    machine.do(BeginModelCall("itm_2"), says(CALL, usage=Usage(10, 1)))
    assert machine.run.error == RunError("token_budget", "the run used up its token budget (20 of 20 tokens)")
    assert machine.run.cost is None


def passes(machine: Machine, ms: int) -> Machine:
    """Time passes before the next event."""
    machine.now_ms += ms
    return machine


TIMED = PinnedBudget(max_work_s=1.0)


def test_time_is_over_when_it_was_in_hand_so_long() -> None:
    """Then the run is to be ended, whatever it does; to stop it because somebody asked comes first."""
    machine = begun(budget=TIMED)
    run, pinned = machine.run, machine.pinned
    begins = run.updated_at_ms - run.worked_ms
    assert remaining_ms(run, pinned, begins) == 1_000 - run.worked_ms
    assert due(run, pinned, begins + 999, owned=True) == AskModel()
    error = RunError("time_budget", "the run used up its time budget (1 s)")
    assert due(run, pinned, begins + 1_000, owned=True) == Expire(error)
    assert make_timeout(pinned) == error
    assert due(replace(run, cancel="cancelled"), pinned, begins + 9_999, owned=True) == StopEffect()
    assert remaining_ms(run, PINNED, 10**15) is None


def test_what_its_time_ends_has_failed_and_what_had_arrived_is_kept() -> None:
    """Unless somebody wanted it stopped anyway."""
    error = RunError("time_budget", "over")
    machine = begun(budget=TIMED).do(EndEarly([Text("so far")], error=error))
    assert (machine.run.status, machine.run.error, machine.run.claimed) == ("failed", error, False)
    assert machine.kinds()[-2:] == ["message_appended", "run_ended"]
    with_calls = begun(budget=TIMED).do(says(CALL, usage=Usage()), EndEarly([], error=error))
    assert with_calls.kinds()[-2:] == ["tool_returned", "run_ended"]
    cancelled = begun(budget=TIMED).do(Cancel("cancelled"), EndEarly([], error=error))
    assert cancelled.run.status == "cancelled"


def test_waiting_for_a_person_costs_no_time() -> None:
    """Nor does being put down, nor the time in which the daemon was dead."""
    machine = begun(budget=TIMED).do(says(CALL, usage=Usage()), ASKED)
    assert machine.run.status == "waiting_for_approval"
    worked = machine.run.worked_ms
    passes(machine, 60_000).do(AnswerApprovals([ApprovalAnswer("call_1", "allow")]))
    passes(machine, 60_000).do(Start())
    assert (machine.run.worked_ms, machine.run.claimed) == (worked, True)
    passes(machine, 100).do(Release("shutdown"))
    assert machine.run.worked_ms == worked + 110
    passes(machine, 60_000).do(Start())
    passes(machine, 60_000).do(Start())
    assert machine.run.worked_ms == worked + 110
    assert remaining_ms(machine.run, machine.pinned, machine.now_ms) == 1_000 - worked - 110


def test_a_clock_that_is_set_back_gives_no_time_back() -> None:
    """It does not take any, either."""
    machine = passes(begun(budget=TIMED), -500_000).do(Release("shutdown"))
    assert machine.run.worked_ms == 10


def test_what_a_summary_costs_is_counted() -> None:
    """At the prices of its run, whether it was one or not; it does not end the run by itself."""
    summary = Compaction(upto=1, strategy="summary", trigger="auto", usage=Usage(10, 1))
    failed = FailedCompaction("auto", RunError("no_summary", "no"), Usage(5, 0))
    machine = begun(prices=PRICES, budget=PinnedBudget(max_cost_micros=1)).do(
        Compact(summary), Compact(failed)
    )
    assert (machine.run.cost, machine.run.status) == (Cost(30 + 15 + 15, "USD"), "running")
    assert machine.do(says(CALL, usage=Usage())).run.status == "failed"
