"""Limits of messages, requests and connections."""

from protocol.limits.units import KIB, MIB

# One message. A megabyte of text is a long book chapter; 16 of them leave room for a pasted log
# and, base64-encoded (4/3), for a 12 MiB attachment.
MAX_LINE_BYTES = 16 * MIB

# The params of one request, unless the method's row says otherwise. Decoding a megabyte of the smallest
# values there are takes the loop some 50 ms; the largest input takes 768 KiB if every character is escaped
# (six bytes for one), and its metadata another 96.
MAX_PARAMS_BYTES = 1 * MIB

# One JSON-RPC batch. 1,000 small queries fit into a millisecond-sized slice of work each.
MAX_BATCH_MESSAGES = 1_000

# One header line before a message, where a peer frames messages so: 'Content-Length: 16777216'.
MAX_HEADER_BYTES = 4 * KIB

# A request's id is kept while the request is open and repeated in its answer. A UUID has 36 bytes.
MAX_ID_BYTES = 1 * KIB

# How deep a value of a caller's own shape (metadata) may nest. Decoding recurses once a level, and
# Python 3.11 stops at 1,000, of which the callers use up to 100: what was read once must also be
# readable from deeper down.
MAX_NESTING = 128

# What one connection can make the daemon hold. 64 requests that wait (one every few milliseconds
# for a script that pipelines), 1 MiB unsent (what a kernel socket buffer holds, several times over).
MAX_OPEN_REQUESTS = 64
MAX_UNSENT_BYTES = 1 * MIB
MAX_SUBSCRIPTIONS = 256

# Idempotency keys are remembered for a week.
IDEMPOTENCY_KEPT_MS = 7 * 24 * 3600 * 1000

# Where a caller may wait, and for how long: a day. Longer waiting is asking again.
MAX_WAIT_SECONDS = 24 * 3600
