"""Limits of permission rules, grants and resolutions."""

from protocol.limits.call import MAX_WAITING_CALLS
from protocol.limits.units import KIB

# Rules and grants are read at every judgement and stand in records that many events write again: 4 KiB are
# 64 rules about a short command each, or as many grants. A grant that finds no room pushes the oldest out.
MAX_RULES = 64
MAX_RULES_BYTES = 4 * KIB
MAX_GRANTS_BYTES = 4 * KIB
MAX_GRANT_USES = 1_000_000

# Answers to approvals are one transaction: all that one message has waiting. Besides what a person writes,
# each takes an event, a result, a record with its subject and a part of a receipt: 3.1 KiB at most, 75 for
# all; the run's record with 256 open calls takes 48, and the session's, where it remembers, 40. That leaves
# 88 KiB to changed inputs, written once, justifications, written twice, and reasons, three times.
MAX_RESOLUTIONS = MAX_WAITING_CALLS
MAX_RESOLUTIONS_BYTES = 88 * KIB
