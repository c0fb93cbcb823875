"""Limits of notes, and of searches in them."""

from protocol.limits.units import KIB, MIB

# A note is one transaction: its content of 16 KiB as JSON in its event and again in its record, its names in
# both, and the rows of its index. 64 KiB of rows are 1,500 different words of eight letters with the names of
# their agent. A change writes the new rows and deletes the old ones, 64 KiB each: 180 KiB of 256 together.
MAX_NOTE_BYTES = 16 * KIB
MAX_NOTE_INDEX_BYTES = 64 * KIB
MAX_NOTE_NAME_BYTES = 128
MAX_NOTE_ALIASES = 8

# The characters of a message that are indexed, and of a text that an excerpt is made of: 5,000 words. Some
# characters stand for a whole phrase: what counts is also the length without differences of case and width.
# At most 20 ms in every script.
MAX_SEARCHED_CHARACTERS = 32 * KIB

# The notes of one agent: 64 MiB are 100,000 notes of a hundred words. Their index takes about five times as
# much as their texts.
MAX_NOTES = 100_000
MAX_NOTEBOOK_BYTES = 64 * MIB

# A search reads the newest 2,048 notes of each of at most 16 words: some 30 ms if all of them are as common,
# below a millisecond for rare words. Notes with rare words are found wherever they are.
MAX_QUERY_BYTES = 4 * KIB
MAX_QUERY_TERMS = 16
MAX_POSTINGS_READ = 2_048
MAX_CANDIDATES = 64
MAX_HITS = 20

# A word in the index. Two names and a word form a key of LMDB, which has at most 511 bytes: 128 + 128 + 10.
MAX_TERM_CHARACTERS = 32

# A note as a Markdown file: its content, its names and its origins.
MAX_NOTE_FILE_BYTES = 32 * KIB

# The notes that a run is given at its start, in tokens: a quarter of a small model's context.
MAX_RECALL_TOKENS = 8_000

# The excerpt of a note in the result of a search.
MAX_SNIPPET_CHARACTERS = 240

# The agents whose notes a definition may name, besides its own.
MAX_NOTEBOOKS = 16
