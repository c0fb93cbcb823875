"""Limits of model answers and of their context."""

from protocol.limits.units import KIB, MIB

# One answer of a model, as JSON in the journal: 192 KiB are about 48,000 tokens of text and leave 64 KiB of
# the transaction to the records and a checkpoint. The rest of a longer answer is dropped, and its stop reason
# is ``length``.
MAX_ANSWER_BYTES = 192 * KIB

# The data that a provider attaches to one message and its calls, as JSON: 128 KiB are about 32,000 tokens of
# reasoning, or the results of a few web searches. It counts within the longest answer and leaves 64 KiB, some
# 16,000 tokens, to text and calls; if those need more, the data is dropped first. What does not fit is
# dropped whole: a part of a signature is worth nothing.
MAX_PROVIDER_DATA_BYTES = 128 * KIB

# The context of a model whose route does not state it: that of most current models.
DEFAULT_CONTEXT_TOKENS = 200_000

# A summary of a conversation: 16 KiB are about 4,000 tokens and, as JSON, at most 96 KiB of its transaction.
MAX_SUMMARY_BYTES = 16 * KIB

# The transcripts of sessions between their runs, with the encodings of their messages; and the longest one. A
# million tokens are about 3.5 MB of text, and as much again for each of the encodings that are kept.
MAX_TRANSCRIPT_CACHE_BYTES = 32 * MIB
MAX_CACHED_TRANSCRIPT_BYTES = 16 * MIB
