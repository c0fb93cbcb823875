"""The account of a session: its budget, what it has used, and what it has reserved for its children. Pure.

A budget is that of a session and of all sessions below it. Before a child starts, its parent reserves a part
of its own remainder, which is the child's budget; when the child ends, what it used stays with the parent as
*delegated* and the rest returns. So the sum of what is used and reserved below a session is at most what it
was given, except for what a last answer takes too much: a model call is refused once nothing is left, but
its size is known only afterwards.

Where the spawning run has a limit of its own, the child's part is reserved from that, too.
"""

from decimal import Decimal
from typing import Final

import msgspec
from msgspec.structs import replace

from kheishd.core.run.budget import MICROS, NO_LIMIT, remainder_of_run, to_limit
from kheishd.core.run.record import RunRecord
from protocol.budget import (
    Account,
    Amounts,
    Budget,
    BudgetUse,
    Cost,
    Remainder,
    Reservation,
)
from protocol.errors.budget import BudgetExhausted
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeWouldWiden
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.run import ModelFailed, RunEnded
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.limits.budget import MAX_RESERVATIONS
from protocol.objects.run import Pinned
from protocol.objects.session import Session
from protocol.transcript import Usage

NOTHING: Final = Amounts()

FIELDS: Final = {"tokens": "max_tokens", "work_ms": "max_work_s", "cost_micros": "max_cost"}
"""The amounts, and the limits of a budget that they belong to."""


# The record.


def count_call(session: Session, usage: Usage, cost: Cost | None) -> Session:
    """Return the session with a call of a model on its account, if it has one."""
    if session.account is None:
        return session
    amounts = Amounts(
        tokens=usage.input_tokens + usage.output_tokens, cost_micros=cost.micros if cost is not None else 0
    )
    return replace(session, account=replace(session.account, used=session.account.used + amounts))


def count_work(session: Session, worked_ms: int) -> Session:
    """Return the session with the working time of a run that has ended on its account, if it has one."""
    if session.account is None or not worked_ms:
        return session
    used = session.account.used + Amounts(work_ms=worked_ms)
    return replace(session, account=replace(session.account, used=used))


def evolve_account(session: Session, envelope: Envelope, event: JournalEvent) -> Session:
    """Return the session after a failed call of a model, or after one of its reservations changed.

    A reservation that was settled is gone, so that a second settlement changes nothing.
    """
    if isinstance(event, ModelFailed):
        return count_call(session, event.usage, event.cost)
    if not isinstance(event, BudgetReserved | BudgetSettled):
        return session
    account = session.account or Account()
    reserved = [item for item in account.reserved if item.child_id != event.child_id]
    if isinstance(event, BudgetReserved):
        item = Reservation(child_id=event.child_id, amounts=event.amounts, run_id=envelope.run_id)
        return replace(session, account=replace(account, reserved=[*reserved, item]))
    if len(reserved) == len(account.reserved):
        return session
    delegated = account.delegated + event.used
    return replace(session, account=replace(account, reserved=reserved, delegated=delegated))


def evolve_run_budget(run: RunRecord, event: BudgetReserved | BudgetSettled) -> RunRecord:
    """Return the run after a reservation for one of its children was made or settled."""
    if isinstance(event, BudgetReserved):
        return replace(run, reserved=run.reserved + event.amounts)
    return replace(run, reserved=run.reserved - event.amounts, delegated=run.delegated + event.used)


def state_work(events: list[JournalEvent], run: RunRecord, now_ms: int) -> list[JournalEvent]:
    """Return the events of a run with its working time in its end, for the session's account."""
    worked_ms = _measure_work(run, now_ms)
    return [replace(event, worked_ms=worked_ms) if isinstance(event, RunEnded) else event for event in events]


# What is left.


def amounts_of(budget: Budget | None) -> Amounts:
    """Return the limits of a budget as whole amounts; 0 is no limit."""
    if budget is None:
        return NOTHING
    return Amounts(
        tokens=budget.max_tokens,
        # A limit below the unit stays a limit, as 0 is none.
        work_ms=max(round(budget.max_work_s * 1000), 1) if budget.max_work_s else 0,
        cost_micros=to_limit(budget.max_cost),
    )


def use_of(session: Session, run: RunRecord | None = None, now_ms: int = 0) -> BudgetUse:
    """Return the use of a session's budget.

    Args:   ``run`` is its run in flight, whose working time is not on the account yet.
    """
    account, limits = session.account or Account(), amounts_of(session.budget)
    used, reserved = account.used, sum_reserved(account)
    if run is not None and run.ended_at_ms is None:
        used += Amounts(work_ms=_measure_work(run, now_ms))
    taken = used + account.delegated + reserved
    return BudgetUse(
        given=session.budget,
        used=used,
        delegated=account.delegated,
        reserved=reserved,
        left=Remainder(
            tokens=limits.tokens - taken.tokens if limits.tokens else None,
            work_ms=limits.work_ms - taken.work_ms if limits.work_ms else None,
            cost_micros=limits.cost_micros - taken.cost_micros if limits.cost_micros else None,
        ),
    )


def is_used_up(session: Session) -> bool:
    """Whether nothing is left of a session's budget for one more call of a model."""
    if session.budget is None:
        return False
    left = use_of(session).left
    return any(amount is not None and amount <= 0 for amount in (left.tokens, left.work_ms, left.cost_micros))


def sum_reserved(account: Account) -> Amounts:
    """Return the sum of all reservations of an account."""
    total = NOTHING
    for item in account.reserved:
        total += item.amounts
    return total


def _measure_work(run: RunRecord, now_ms: int) -> int:
    return run.worked_ms + (max(now_ms - run.updated_at_ms, 0) if run.claimed else 0)


# Reserve and settle.


def plan_reservation(
    parent: Session,
    requested: Budget | None,
    child_id: str,
    *,
    run: RunRecord | None = None,
    pinned: Pinned | None = None,
    max_children: int,
    now_ms: int,
) -> tuple[Budget | None, BudgetReserved | None]:
    """Return the budget of a new child, and the event that sets it aside; None where nothing limits.

    A limit that the request leaves open is an equal share of what the parent has left: one for each child
    that it may still have, and one for itself.

    Args:   ``run`` is the parent's run in flight, and ``pinned`` its values if it spawns the child.
    Errors: BudgetExhausted, naming the budget, the remainder and the field.
    """
    whose = f"the session {parent.session_id}"
    sources = [(whose, use_of(parent, run, now_ms).left)]
    if run is not None and pinned is not None:
        sources.append((f"the run {run.run_id}", remainder_of_run(run, pinned, now_ms)))
    account = parent.account or Account()
    shares = max(max_children - len(account.reserved), 1) + 1
    given, reserved = msgspec.structs.asdict(amounts_of(requested)), dict.fromkeys(FIELDS, 0)
    for name, field in FIELDS.items():
        lefts = [
            (left, source) for source, remainder in sources if (left := getattr(remainder, name)) is not None
        ]
        if not lefts:
            continue
        left, source = min(lefts)
        amount = given[name] or left // shares
        if not 0 < amount <= left:
            remedy = "ask for less" if left > 0 else "raise it"
            if account.reserved:
                remedy = "wait for its children, or close some"
            wanted = f"the child asks for {format_amount(name, amount)}" if given[name] else "a share is 0"
            raise BudgetExhausted(
                f"the budget '{field}' of {source} has {format_amount(name, max(left, 0))} left, and "
                f"{wanted}; {remedy}",
                field=f"$.params.budget.{field}",
            )
        given[name] = reserved[name] = amount
    amounts = Amounts(**reserved)
    if amounts == NOTHING:
        return requested, None
    if len(account.reserved) >= MAX_RESERVATIONS:
        text = (
            f"{whose} has parts of its budget reserved for {MAX_RESERVATIONS} children, the most; close some"
        )
        raise BudgetExhausted(text, field="$.params.budget")
    # A float of 0 that is not the default itself would be sent.
    budget = Budget(
        max_tokens=given["tokens"],
        max_work_s=given["work_ms"] / 1000 or NO_LIMIT.max_work_s,
        max_cost=given["cost_micros"] / MICROS or NO_LIMIT.max_cost,
    )
    return budget, BudgetReserved(child_id=child_id, amounts=amounts)


def format_amount(name: str, amount: int) -> str:
    """Format an amount for a sentence, in the unit of its budget."""
    match name:
        case "tokens":
            return f"{amount} tokens"
        case "work_ms":
            return f"{amount / 1000:g} s"
        case _:
            return f"{Decimal(amount) / MICROS} units of money"


def settle_child(child: Session, reservation: Reservation, room: int) -> list[BudgetSettled | BudgetReserved]:
    """Return the events that settle the reservation for a child that has ended.

    What the child has reserved for children that go on is reserved from its parent now.

    Args:   ``room`` is how many reservations the parent may have; beyond them, they count as used.
    """
    account = child.account or Account()
    used = account.used + account.delegated
    for item in account.reserved[room:]:
        used += item.amounts
    return [
        BudgetSettled(child_id=child.session_id, amounts=reservation.amounts, used=used),
        *(BudgetReserved(child_id=item.child_id, amounts=item.amounts) for item in account.reserved[:room]),
    ]


def includes_budget(budget: Budget | None, requested: Budget | None) -> bool:
    """Whether a budget has every limit that was requested."""
    limits = amounts_of(budget)
    return all(
        limit in (0, getattr(limits, name))
        for name, limit in msgspec.structs.asdict(amounts_of(requested)).items()
    )


def require_budget_change(
    session: Session, budget: Budget | None, *, is_reserved: bool, has_children: bool
) -> None:
    """Require that a session may have a budget from now on. One that its parent reserved is only narrowed.

    Children that run have nothing reserved of a limit that did not exist when they began.

    Errors: ScopeWouldWiden; BudgetExhausted below what is used or reserved already; InvalidParams.
    """
    limits, current, use = amounts_of(budget), amounts_of(session.budget), use_of(session)
    taken = use.used + use.delegated + use.reserved
    for name, field in FIELDS.items():
        limit, previous = getattr(limits, name), getattr(current, name)
        if has_children and limit and not previous:
            text = "a limit cannot be added while the session has open children; end them first"
            raise InvalidParams(text, field=f"$.params.budget.{field}")
        if is_reserved and previous and not 0 < limit <= previous:
            text = (
                f"the parent has given this session {format_amount(name, previous)}; its budget only narrows"
            )
            raise ScopeWouldWiden(text, field=f"$.params.budget.{field}")
        if session.account is not None and limit and limit < getattr(taken, name):
            text = f"the session has used or reserved {format_amount(name, getattr(taken, name))} already"
            raise BudgetExhausted(text, field=f"$.params.budget.{field}")
