"""Limits of model answers and of their context."""

from protocol.limits.units import KIB

# One answer of a model, as JSON in the journal: 192 KiB is about 48,000 tokens of text and leaves 64 KiB
# of its transaction to the records and a checkpoint. What a model sends beyond it is not kept, and the
# answer says so: its stop reason is ``length``.
MAX_ANSWER_BYTES = 192 * KIB

# What a model can be shown where its route does not say: what most models that are offered today take.
DEFAULT_CONTEXT_TOKENS = 200_000

# A summary of a conversation: 16 KiB are some 4,000 tokens, and as JSON 96 KiB at most of its transaction.
MAX_SUMMARY_BYTES = 16 * KIB
