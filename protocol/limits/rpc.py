"""Limits of messages, requests and connections."""

from protocol.limits.units import KIB, MIB

# One message. A megabyte of text is a long book chapter; 16 MiB leave room for a pasted log and,
# base64-encoded (4/3), for a 12 MiB attachment.
MAX_LINE_BYTES = 16 * MIB

# The params of one request, unless the method's row states another limit. Decoding a megabyte of the smallest
# possible values takes the loop about 50 ms. The largest input takes 768 KiB with every character escaped
# (six bytes each), its metadata another 96 KiB.
MAX_PARAMS_BYTES = 1 * MIB

# One JSON-RPC batch: 1,000 small queries take the loop a few milliseconds.
MAX_BATCH_MESSAGES = 1_000

# One header line of a peer that frames messages with headers: 'Content-Length: 16777216'.
MAX_HEADER_BYTES = 4 * KIB

# A request's id is kept while the request is open and repeated in its answer. A UUID has 36 bytes.
MAX_ID_BYTES = 1 * KIB

# The nesting of a free-form value such as metadata. Decoding recurses once per level and Python 3.11 stops at
# 1,000 levels, of which the callers use up to 100: a value that was decoded once must also decode from a
# deeper stack.
MAX_NESTING = 128

# The resources of one connection. 64 waiting requests serve a script that pipelines one every few
# milliseconds; 1 MiB of unsent data is several times a kernel socket buffer.
MAX_OPEN_REQUESTS = 64
MAX_UNSENT_BYTES = 1 * MIB
MAX_SUBSCRIPTIONS = 256

# The requests of one caller that wait for the same run: when it settles, each takes the loop about 100 µs.
MAX_RUN_WAITS = 64

# The connections of each other user and token, and the bytes of unfinished messages of all of them: four of
# the longest. The daemon's own user and root are exempt.
MAX_CALLER_CONNECTIONS = 128
MAX_UNFINISHED_BYTES = 64 * MIB
# A message of up to this size is never given up: the clients of ordinary messages do not suffer from others.
MAX_SMALL_MESSAGE_BYTES = 64 * KIB

# Connections over TCP that are not authenticated yet. A handshake takes a few milliseconds in a local network
# and holds up to 100 KiB (TLS, the head of the request): 128 serve thousands of clients a second from 13 MiB.
MAX_HANDSHAKES = 128

# Idempotency keys are kept for a week.
IDEMPOTENCY_RETENTION_MS = 7 * 24 * 3600 * 1000

# The longest wait of one request: a day. A client that wants to wait longer asks again.
MAX_WAIT_SECONDS = 24 * 3600
