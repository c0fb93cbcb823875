"""Limits of permission rules, grants and resolutions."""

from protocol.limits.call import MAX_WAITING_CALLS
from protocol.limits.units import KIB

# Every judgement reads the rules and grants, and they stand in records that many events write again: 4 KiB
# are 64 rules with a short command each, or as many grants. A grant that does not fit replaces the oldest.
MAX_RULES = 64
MAX_RULES_BYTES = 4 * KIB
MAX_GRANTS_BYTES = 4 * KIB
MAX_GRANT_USES = 1_000_000

# Answers to approvals: one transaction for all pending approvals of a message. Besides a person's texts, each
# takes an event, a vote, a result, a record with its subject, its audience and the votes, and part of a
# receipt: at most 4.3 KiB, 77 KiB for all; the run's record with 256 open calls takes 48 KiB, and the
# session's record 40 KiB if it remembers grants. 88 KiB remain for changed inputs (written once),
# justifications (three times, with that of a vote) and notes (four times).
MAX_RESOLUTIONS = MAX_WAITING_CALLS
MAX_RESOLUTIONS_BYTES = 88 * KIB
