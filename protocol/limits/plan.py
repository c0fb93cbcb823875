"""Limits of todos and plans."""

from protocol.limits.units import KIB

# What an agent means to do. A list of 64 things of a line each is more than anybody follows, and stands in
# the instructions of every model call; a plan is a document, shown whole to whoever is to agree.
MAX_TODOS = 64
MAX_TODO_BYTES = 512
MAX_TODOS_BYTES = 16 * KIB
MAX_PLAN_BYTES = 48 * KIB
MAX_PLAN_SUMMARY_BYTES = 512
