"""Budgets down the tree: reserve a part for a child before it starts, and settle it after it has ended.

Both happen in the transaction that creates or ends the child, so a reservation is neither lost nor settled
twice, whenever the daemon dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.account import plan_reservation, settle_child, use_of
from kheishd.objects.talk.bounds import ancestors, open_children
from kheishd.records.run import read_pinned
from kheishd.records.writer import BY_DAEMON, Origin, SessionWriter
from kheishd.store.tables import RUNS, SESSIONS
from protocol.limits.budget import MAX_RESERVATIONS

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.budget import Budget, BudgetUse
    from protocol.events.budget import BudgetReserved
    from protocol.objects.session import Session


def plan_budget(
    store: Snapshot,
    runtime: Runtime,
    parent: Session,
    requested: Budget | None,
    *,
    child_id: str,
    now_ms: int,
    run_id: str | None = None,
) -> tuple[Budget | None, BudgetReserved | None]:
    """Return the budget of a new child, and the event for its parent's stream; None where nothing limits it.

    Args:   ``run_id`` is the parent's run that spawns the child; its own budget counts, too.
    Errors: BudgetExhausted, naming the budget and the remainder.
    """
    run = store.get(RUNS, parent.open_runs[0]) if parent.open_runs else None
    pinned = read_pinned(store, run) if run is not None and run.run_id == run_id else None
    return plan_reservation(
        parent,
        requested,
        child_id,
        run=run,
        pinned=pinned,
        max_children=runtime.config.agents.max_children,
        now_ms=now_ms,
    )


def reserve(
    tx: Transaction,
    runtime: Runtime,
    parent: Session,
    requested: Budget | None,
    *,
    child_id: str,
    run_id: str | None = None,
    origin: Origin = BY_DAEMON,
) -> Budget | None:
    """Set a part of a parent's budget aside for a new child, and return the child's budget.

    Args, errors: as for ``plan_budget``.
    """
    parent = settle_ended(tx, parent)
    budget, reserved = plan_budget(
        tx, runtime, parent, requested, child_id=child_id, now_ms=tx.now_ms, run_id=run_id
    )
    if reserved is not None:
        writer = SessionWriter(tx, parent.session_id, session=parent, origin=origin)
        writer.append(reserved, run_id=run_id)
        writer.write()
    return budget


def settle(tx: Transaction, child: Session) -> None:
    """Return to its parent what a child that has ended did not use. A second time changes nothing.

    Where a parent has ended before the child, the one above has the child's reservation, too.
    """
    for parent in ancestors(tx, child):
        reserved = parent.account.reserved if parent.account is not None else []
        for item in reserved:
            if item.child_id == child.session_id:
                writer = SessionWriter(tx, parent.session_id, session=parent)
                for event in settle_child(child, item, MAX_RESERVATIONS + 1 - len(reserved)):
                    writer.append(event, run_id=item.run_id)
                writer.write()


def settle_ended(tx: Transaction, parent: Session) -> Session:
    """Settle the reservations of children that have ended, which a restore can leave; return the parent."""
    for item in parent.account.reserved if parent.account is not None else ():
        child = tx.get(SESSIONS, item.child_id)
        if child is not None and child.status == "ended":
            settle(tx, child)
    return tx.need(SESSIONS, parent.session_id)


def is_reserved(store: Snapshot, session: Session) -> bool:
    """Whether a session's budget is a part of its parent's."""
    if session.parent_session_id is None:
        return False
    account = store.need(SESSIONS, session.parent_session_id).account
    return account is not None and any(item.child_id == session.session_id for item in account.reserved)


def has_open_children(store: Snapshot, session: Session) -> bool:
    """Whether a session has children that have not ended."""
    return next(open_children(store, session), None) is not None


def budget_of(store: Snapshot, session: Session) -> BudgetUse | None:
    """Return the use of a session's budget as shown; None if it has neither a budget nor reservations."""
    if session.account is None:
        return None
    run = store.get(RUNS, session.open_runs[0]) if session.open_runs else None
    return use_of(session, run)
