"""Limits of audiences."""

# The people of an audience, two of whom may be the requester's names. Their names stand in the event of a
# request, in its record and once more in the record's votes: 3 x 256 bytes, and 50 bytes for each of 8 votes;
# or twice, with the requester's names, of 290 bytes. See MAX_WAITING_CALLS.
MAX_PEOPLE = 8
MAX_REQUESTER_NAMES = 2
MAX_PEOPLE_BYTES = 256
