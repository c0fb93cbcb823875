"""Events of budgets, in the stream of the session that gives a part of its budget to a child."""

from protocol.budget import Amounts
from protocol.journal.envelope import Event


class BudgetReserved(Event, frozen=True, tag="budget_reserved"):
    """The session set a part of its budget aside for a child, which starts in the same transaction."""

    child_id: str
    amounts: Amounts


class BudgetSettled(Event, frozen=True, tag="budget_settled"):
    """A child ended: ``used`` is what it and the sessions below it used; the rest of ``amounts`` returns."""

    child_id: str
    amounts: Amounts
    used: Amounts
