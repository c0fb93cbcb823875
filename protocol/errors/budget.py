"""Refusals about budgets."""

from __future__ import annotations

from protocol.errors.refusal import LimitReached


class BudgetExhausted(LimitReached, reason="budget_exhausted"):
    """The budget does not have that much left; wait until children end, or ask for less."""
