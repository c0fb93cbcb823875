"""Limits of the search in sessions."""

from protocol.limits.units import KIB

# One step of the index is one transaction: it looks at 256 events, and indexes 16 messages, or fewer long
# ones, in about 5 ms. No message follows once a step has read 32 Ki characters, as many as one message has. A
# message writes at most 48 KiB of rows; one with more terms is found by its first ones.
MAX_STEP_EVENTS = 256
MAX_STEP_MESSAGES = 16
MAX_MESSAGE_INDEX_BYTES = 48 * KIB

# Of a word, a search looks at the newest 16,384 messages of an agent that contain it, for those of the wanted
# sessions and senders: at most 10 ms for each of the words.
MAX_POSTINGS_SCANNED = 16_384

# The agents that one search looks through, unless it names one.
MAX_SEARCHED_AGENTS = 256

# The time that a search may take to index what is new. The first search of a long journal takes minutes.
DEFAULT_INDEX_SECONDS = 10
MAX_INDEX_SECONDS = 600
