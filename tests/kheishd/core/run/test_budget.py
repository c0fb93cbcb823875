"""Budgets only narrow, money is exact, and only working time counts."""

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
    CallReturn,
    Compact,
    Compaction,
    EndEarly,
    FailedCompaction,
    Judge,
    Judgement,
    Release,
    RequestCancel,
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
def test_intersect_budgets(budgets: list[Budget], budget: Budget) -> None:
    """Another budget never raises or removes a limit."""
    previous, current = (
        intersect_budgets([*budgets, None]) or Budget(),
        intersect_budgets([*budgets, budget]) or Budget(),
    )
    for name in Budget.__struct_fields__:
        previous_limit, current_limit = getattr(previous, name), getattr(current, name)
        assert current_limit == previous_limit or (
            current_limit and (not previous_limit or current_limit < previous_limit)
        )
        assert current_limit in (previous_limit, getattr(budget, name))


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
def test_to_micros(amount: float, expected: int) -> None:
    """An amount is converted as it is written, not as a binary fraction."""
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
        (Usage(1_000_000, 0, 400_000, 100_000), PRICES, 1_800_000 + 120_000),
        (Usage(1_000_000, 0, 400_000, 100_000), replace(PRICES, cache_write=3_750_000), 1_500_000 + 495_000),
        (Usage(10, 0, 0, 99), replace(PRICES, cache_write=1_000_000), 10),
        (Usage(1, 0), replace(PRICES, input=500_000), 1),
        (Usage(1, 0), replace(PRICES, input=499_999), 0),
    ],
)
def test_calculate_cost(usage: Usage, prices: Prices, expected: int) -> None:
    """Cached input has its own price, and the total is rounded once."""
    assert calculate_cost(usage, prices) == Cost(expected, "USD")
    assert calculate_cost(usage, None) is None


@given(st.lists(st.builds(Cost, st.integers(0, 10**12), st.sampled_from(("USD", "EUR")))))
def test_accumulate_cost(costs: list[Cost]) -> None:
    """Each currency is summed exactly, by itself."""
    totals: list[Cost] = []
    for cost in costs:
        totals = accumulate_cost(totals, cost)
    assert {cost.currency: cost.micros for cost in totals} == {
        currency: sum(cost.micros for cost in costs if cost.currency == currency)
        for currency in {cost.currency for cost in costs}
    }
    assert len(totals) <= 2


def test_amounts_together() -> None:
    """Nothing is no amount; two currencies are never add_costs."""
    assert add_costs(None, None) is None
    assert add_costs(Cost(1, "USD"), None) == add_costs(None, Cost(1, "USD")) == Cost(1, "USD")
    assert add_costs(Cost(1, "USD"), Cost(2, "USD")) == Cost(3, "USD")
    with pytest.raises(AssertionError):
        add_costs(Cost(1, "USD"), Cost(1, "EUR"))
    assert format_cost(Cost(1_500_000, "EUR")) == "1.5 EUR"


# Runs.


def begin_run(**pinned: Any) -> Machine:
    """Return a run with an open model call and these pinned values."""
    machine = Machine()
    machine.pinned = replace(machine.pinned, **pinned)
    return machine.do(Start(), BeginModelCall("itm_1"))


def answer(*items: Item, usage: Usage) -> AcceptAnswer:
    """Make an answer with this usage."""
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
def test_an_exceeded_limit_ends_the_run(budget: Budget, reason: str | None) -> None:
    """A run that would need another model call fails; its calls get results and the answer is kept."""
    machine = begin_run(budget=budget, prices=PRICES).do(answer(CALL, usage=Usage(10, 3)))
    if reason is None:
        assert machine.run.status == "running"
        return
    assert (machine.run.status, machine.run.calls) == ("failed", [])
    assert machine.run.error is not None
    assert machine.run.error.reason == reason
    assert machine.kinds()[-3:] == ["message_appended", "tool_returned", "run_ended"]


def test_a_final_answer_may_exceed_the_budget() -> None:
    """The work is done, so the run completes, with its cost."""
    machine = begin_run(budget=PinnedBudget(max_tokens=5, max_cost_micros=5), prices=PRICES).do(
        answer(usage=Usage(10, 3))
    )
    assert (machine.run.status, machine.run.cost) == ("completed", Cost(75, "USD"))
    event = machine.journal[-2][1]
    assert isinstance(event, MessageAppended)
    assert event.cost == Cost(75, "USD")


DENIED = Judge(
    [
        Judgement(
            Verdict(call_id="call_1", tool="bash", decision="deny", base="deny", why="rule"),
            CallReturn("denied", "no", is_error=True),
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


def test_a_budget_is_for_the_whole_run() -> None:
    """Earlier turns count; without prices there is no cost."""
    machine = begin_run(budget=PinnedBudget(max_tokens=20)).do(answer(CALL, usage=Usage(8, 1)), DENIED)
    assert machine.run.status == "running"
    machine.do(BeginModelCall("itm_2"), answer(CALL, usage=Usage(10, 1)))
    assert machine.run.error == RunError("token_budget", "the run used up its token budget (20 of 20 tokens)")
    assert machine.run.cost is None


def wait(machine: Machine, ms: int) -> Machine:
    """Let time pass before the next event."""
    machine.now_ms += ms
    return machine


TIMED = PinnedBudget(max_work_s=1.0)


def test_the_time_budget() -> None:
    """A run expires when its working time is used up; a stop request comes first."""
    machine = begin_run(budget=TIMED)
    run, pinned = machine.run, machine.pinned
    start_ms = run.updated_at_ms - run.worked_ms
    assert remaining_ms(run, pinned, start_ms) == 1_000 - run.worked_ms
    assert due(run, pinned, start_ms + 999, owned=True) == AskModel()
    error = RunError("time_budget", "the run used up its time budget (1 s)")
    assert due(run, pinned, start_ms + 1_000, owned=True) == Expire(error)
    assert make_timeout(pinned) == error
    assert due(replace(run, cancel="cancelled"), pinned, start_ms + 9_999, owned=True) == StopEffect()
    assert remaining_ms(run, PINNED, 10**15) is None


def test_an_expired_run_fails_and_keeps_its_partial_answer() -> None:
    """An expired run fails unless a stop was requested; arrived text is kept."""
    error = RunError("time_budget", "over")
    machine = begin_run(budget=TIMED).do(EndEarly([Text("so far")], error=error))
    assert (machine.run.status, machine.run.error, machine.run.claimed) == ("failed", error, False)
    assert machine.kinds()[-2:] == ["message_appended", "run_ended"]
    with_calls = begin_run(budget=TIMED).do(answer(CALL, usage=Usage()), EndEarly([], error=error))
    assert with_calls.kinds()[-2:] == ["tool_returned", "run_ended"]
    cancelled = begin_run(budget=TIMED).do(RequestCancel("cancelled"), EndEarly([], error=error))
    assert cancelled.run.status == "cancelled"


def test_only_working_time_counts() -> None:
    """Waiting for a person, a release, and the daemon's downtime do not count."""
    machine = begin_run(budget=TIMED).do(answer(CALL, usage=Usage()), ASKED)
    assert machine.run.status == "waiting_for_approval"
    worked = machine.run.worked_ms
    wait(machine, 60_000).do(AnswerApprovals([ApprovalAnswer("call_1", "allow")]))
    wait(machine, 60_000).do(Start())
    assert (machine.run.worked_ms, machine.run.claimed) == (worked, True)
    wait(machine, 100).do(Release("shutdown"))
    assert machine.run.worked_ms == worked + 110
    wait(machine, 60_000).do(Start())
    wait(machine, 60_000).do(Start())
    assert machine.run.worked_ms == worked + 110
    assert remaining_ms(machine.run, machine.pinned, machine.now_ms) == 1_000 - worked - 110


def test_a_clock_that_is_set_back() -> None:
    """A clock that is set back neither adds nor removes working time."""
    machine = wait(begin_run(budget=TIMED), -500_000).do(Release("shutdown"))
    assert machine.run.worked_ms == 10


def test_the_cost_of_a_summary_counts() -> None:
    """A summary or its failure costs money, but does not end the run by itself."""
    summary = Compaction(upto=1, strategy="summary", trigger="auto", usage=Usage(10, 1))
    failed = FailedCompaction("auto", RunError("no_summary", "no"), Usage(5, 0))
    machine = begin_run(prices=PRICES, budget=PinnedBudget(max_cost_micros=1)).do(
        Compact(summary), Compact(failed)
    )
    assert (machine.run.cost, machine.run.status) == (Cost(30 + 15 + 15, "USD"), "running")
    assert machine.do(answer(CALL, usage=Usage())).run.status == "failed"
