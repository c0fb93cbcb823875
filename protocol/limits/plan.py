"""Limits of todos and plans."""

from protocol.limits.units import KIB

# Todos and plans. A list of 64 one-line todos is more than anybody follows, and it is part of the
# instructions of every model call; a plan is a document, shown completely to the person who approves it.
MAX_TODOS = 64
MAX_TODO_BYTES = 512
MAX_TODOS_BYTES = 16 * KIB
MAX_PLAN_BYTES = 48 * KIB
MAX_PLAN_SUMMARY_BYTES = 512
