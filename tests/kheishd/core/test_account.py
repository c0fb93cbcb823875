"""The account of a session: what is used, reserved and left, and what a child may be given."""

import pytest
from msgspec.structs import replace

from kheishd.core.account import (
    amounts_of,
    count_call,
    count_work,
    evolve_account,
    evolve_run_budget,
    format_amount,
    includes_budget,
    is_used_up,
    plan_reservation,
    require_budget_change,
    settle_child,
    state_work,
    sum_reserved,
    use_of,
)
from kheishd.core.run.record import RunRecord
from protocol.budget import Account, Amounts, Budget, Cost, PinnedBudget, Remainder, Reservation
from protocol.errors.budget import BudgetExhausted
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeWouldWiden
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.run import RunEnded, RunStarted
from protocol.journal.envelope import Envelope
from protocol.limits.budget import MAX_RESERVATIONS
from protocol.objects.session import Session
from protocol.transcript import Usage
from tests.support.machine import PINNED

BUDGET = Budget(max_tokens=1000, max_work_s=10.0, max_cost=0.5)
SESSION = Session(
    session_id="s",
    agent="a",
    status="open",
    created_at_ms=0,
    updated_at_ms=0,
    budget=BUDGET,
    account=Account(),
)
FREE = replace(SESSION, budget=None, account=None)
RUN = RunRecord(
    run_id="r",
    session_id="s",
    agent="a",
    input_id="i",
    status="running",
    accepted_at_ms=0,
    updated_at_ms=1000,
    accepted_cursor=1,
    updated_cursor=1,
    claimed=True,
    worked_ms=500,
)
AT = Envelope(cursor=9, at_ms=2000, session_id="s", run_id="r")


def reserve(session: Session, child_id: str, **amounts: int) -> Session:
    """Return the session after a reservation."""
    return evolve_account(session, AT, BudgetReserved(child_id=child_id, amounts=Amounts(**amounts)))


def test_each_call_and_run_is_counted_once() -> None:
    """Tokens in and out, money and the working time of ended runs are used; a run in flight is added."""
    session = count_call(SESSION, Usage(100, 20), Cost(7, "USD"))
    session = count_work(session, 1500)
    assert session.account == Account(used=Amounts(tokens=120, work_ms=1500, cost_micros=7))
    use = use_of(session, RUN, 1200)
    assert use.used.work_ms == 1500 + 500 + 200
    assert use.left == Remainder(tokens=880, work_ms=7800, cost_micros=499_993)
    assert count_call(FREE, Usage(100, 20), None) is FREE
    assert count_work(FREE, 5) is FREE


def test_the_smallest_limit_is_a_limit() -> None:
    """Amounts below a unit count as one, because 0 is no limit."""
    amounts = amounts_of(Budget(max_cost=1e-7, max_work_s=0.0003))
    assert (amounts.work_ms, amounts.cost_micros) == (1, 1)
    assert amounts_of(Budget()) == amounts_of(None)


def test_a_reservation_is_settled_once() -> None:
    """What the child used stays, the rest returns, and a second settlement changes nothing."""
    session = reserve(SESSION, "c", tokens=400)
    assert use_of(session).left.tokens == 600
    child = replace(SESSION, session_id="c", account=Account(used=Amounts(tokens=150)))
    assert session.account is not None
    (settled,) = settle_child(child, session.account.reserved[0], 9)
    assert settled == BudgetSettled(child_id="c", amounts=Amounts(tokens=400), used=Amounts(tokens=150))
    session = evolve_account(session, AT, settled)
    assert use_of(session).left.tokens == 850
    assert evolve_account(session, AT, settled) is session


def test_what_a_child_has_reserved_stays_reserved() -> None:
    """A child that ends before its own children leaves its reservations to its parent, if that has room."""
    child = reserve(replace(SESSION, session_id="c"), "grandchild", tokens=300)
    reservation = Reservation(child_id="c", amounts=Amounts(tokens=500))
    settled = BudgetSettled(child_id="c", amounts=Amounts(tokens=500), used=Amounts())
    moved = BudgetReserved(child_id="grandchild", amounts=Amounts(tokens=300))
    assert settle_child(child, reservation, 1) == [settled, moved]
    assert settle_child(child, reservation, 0) == [replace(settled, used=Amounts(tokens=300))]


def test_a_child_is_given_what_it_asks_for_or_a_share() -> None:
    """A limit of the parent that a request leaves out is an equal share of the remainder."""
    budget, reserved = plan_reservation(SESSION, Budget(max_tokens=400), "c", max_children=3, now_ms=0)
    assert budget == Budget(max_tokens=400, max_work_s=2.5, max_cost=0.125)
    assert reserved is not None
    assert reserved.amounts == amounts_of(budget)
    parent = reserve(SESSION, "c", tokens=400, work_ms=2500, cost_micros=125_000)
    budget, _ = plan_reservation(parent, None, "d", max_children=3, now_ms=0)
    assert budget == Budget(max_tokens=200, max_work_s=2.5, max_cost=0.125)
    # Reservations of more children than that leave the parent its share, too.
    budget, _ = plan_reservation(parent, None, "d", max_children=1, now_ms=0)
    assert budget == Budget(max_tokens=300, max_work_s=3.75, max_cost=0.1875)


def test_nothing_limits_a_child_of_a_parent_without_a_budget() -> None:
    """It has the budget that it asks for, and nothing is reserved."""
    assert plan_reservation(FREE, None, "c", max_children=3, now_ms=0) == (None, None)
    assert plan_reservation(FREE, BUDGET, "c", max_children=3, now_ms=0) == (BUDGET, None)
    tokens_only = replace(SESSION, budget=Budget(max_tokens=1000))
    budget, reserved = plan_reservation(tokens_only, Budget(max_work_s=5.0), "c", max_children=3, now_ms=0)
    assert budget == Budget(max_tokens=250, max_work_s=5.0)
    assert reserved is not None
    assert reserved.amounts == Amounts(tokens=250)


@pytest.mark.parametrize(
    ("budget", "field", "words"),
    [
        (
            Budget(max_tokens=601),
            "max_tokens",
            "session s has 600 tokens left, and the child asks for 601 tokens",
        ),
        (Budget(max_work_s=8.5), "max_work_s", "session s has 8 s left, and the child asks for 8.5 s"),
        (Budget(max_cost=0.6), "max_cost", "has 0.5 units of money left"),
    ],
)
def test_a_child_is_refused_more_than_is_left(budget: Budget, field: str, words: str) -> None:
    """The refusal names the budget, the remainder and the field."""
    parent = reserve(SESSION, "other", tokens=400, work_ms=2000)
    with pytest.raises(BudgetExhausted) as caught:
        plan_reservation(parent, budget, "c", max_children=3, now_ms=0)
    assert caught.value.field == f"$.params.budget.{field}"
    assert words in caught.value.message
    assert caught.value.message.endswith("wait for its children, or close some")


def test_a_refusal_of_a_parent_without_children_names_another_remedy() -> None:
    """There is nothing to wait for."""
    with pytest.raises(BudgetExhausted, match="asks for 1001 tokens; ask for less"):
        plan_reservation(SESSION, Budget(max_tokens=1001), "c", max_children=3, now_ms=0)


def test_a_share_of_nothing_is_refused() -> None:
    """A child without tokens could not begin."""
    parent = count_call(SESSION, Usage(998, 0), None)
    with pytest.raises(BudgetExhausted, match="has 2 tokens left, and a share is 0"):
        plan_reservation(parent, None, "c", max_children=3, now_ms=0)
    parent = count_call(SESSION, Usage(1100, 0), None)
    with pytest.raises(BudgetExhausted, match=r"has 0 tokens left, .*; raise it"):
        plan_reservation(parent, Budget(max_tokens=1), "c", max_children=3, now_ms=0)


def test_a_session_has_a_limited_number_of_reservations() -> None:
    """They stand in its record."""
    parent = SESSION
    for number in range(MAX_RESERVATIONS):
        parent = reserve(parent, f"c{number}", tokens=1)
    with pytest.raises(BudgetExhausted, match=f"reserved for {MAX_RESERVATIONS} children"):
        plan_reservation(parent, None, "c", max_children=100, now_ms=0)


def test_a_run_with_a_budget_reserves_from_it() -> None:
    """The lower remainder counts: that of the session or that of the run that spawns."""
    pinned = replace(PINNED, budget=PinnedBudget(max_tokens=100))
    for session in (SESSION, FREE):
        with pytest.raises(BudgetExhausted, match="of the run r has 100 tokens left"):
            plan_reservation(
                session, Budget(max_tokens=101), "c", run=RUN, pinned=pinned, max_children=3, now_ms=1000
            )
    run = evolve_run_budget(RUN, BudgetReserved(child_id="c", amounts=Amounts(tokens=60)))
    with pytest.raises(BudgetExhausted, match="of the run r has 40 tokens left"):
        plan_reservation(
            FREE, Budget(max_tokens=50), "d", run=run, pinned=pinned, max_children=3, now_ms=1000
        )
    settled = BudgetSettled(child_id="c", amounts=Amounts(tokens=60), used=Amounts(tokens=20))
    run = evolve_run_budget(run, settled)
    assert (run.reserved, run.delegated) == (Amounts(), Amounts(tokens=20))


def test_the_end_of_a_run_states_its_work() -> None:
    """The session's account needs it, and the run's record alone has it."""
    started, ended = RunStarted(starts=1), RunEnded(outcome="completed")
    assert state_work([started, ended], RUN, 1700) == [started, replace(ended, worked_ms=1200)]
    assert state_work([ended], replace(RUN, claimed=False), 1700) == [replace(ended, worked_ms=500)]


def test_a_budget_that_was_reserved_only_narrows() -> None:
    """A root's budget changes freely, but not below what is used or reserved."""
    parent = reserve(count_call(SESSION, Usage(100, 0), None), "c", tokens=300)

    def change(budget: Budget | None, *, is_reserved: bool = False, has_children: bool = False) -> None:
        require_budget_change(parent, budget, is_reserved=is_reserved, has_children=has_children)

    change(Budget(max_tokens=400))
    change(Budget(max_tokens=5000))
    change(None)
    with pytest.raises(BudgetExhausted, match="has used or reserved 400 tokens already"):
        change(Budget(max_tokens=399))
    change(replace(BUDGET, max_tokens=900), is_reserved=True)
    for wider in (None, replace(BUDGET, max_tokens=1001), replace(BUDGET, max_tokens=0)):
        with pytest.raises(ScopeWouldWiden, match="has given this session 1000 tokens"):
            change(wider, is_reserved=True)
    change(BUDGET, has_children=True)
    with pytest.raises(InvalidParams, match="open children"):
        require_budget_change(FREE, BUDGET, is_reserved=False, has_children=True)


def test_a_budget_is_used_up_when_nothing_is_left() -> None:
    """Whether one more call may begin."""
    assert not is_used_up(FREE)
    assert not is_used_up(SESSION)
    assert is_used_up(count_call(SESSION, Usage(1000, 0), None))
    assert is_used_up(reserve(SESSION, "c", cost_micros=500_000))


def test_small_things() -> None:
    """Sums, comparisons and texts of amounts."""
    assert sum_reserved(Account()) == Amounts()
    assert includes_budget(BUDGET, Budget(max_tokens=1000))
    assert not includes_budget(BUDGET, Budget(max_tokens=999))
    assert includes_budget(None, None)
    assert [format_amount(name, 1500) for name in ("tokens", "work_ms", "cost_micros")] == [
        "1500 tokens",
        "1.5 s",
        "0.0015 units of money",
    ]
