"""Limits of budgets."""

# Budgets: more tokens than anybody pays for, a month of working time, a million units of money in micros. At
# the highest price, 10**12 micros for a million tokens, 10**12 tokens cost 10**18 micros, which fit eight
# bytes.
MAX_BUDGET_TOKENS = 10**12
MAX_WORK_SECONDS = 31 * 24 * 3600
MAX_MICROS = 10**12

# What a session has reserved for its live children stands in its record, which each of its answers writes
# again: 32 reservations of two ids and three numbers take 4 KiB.
MAX_RESERVATIONS = 32

# The last answer within a budget is cut off where the budget ends, or a few sentences beyond it.
MAX_OVERDRAWN_TOKENS = 256
