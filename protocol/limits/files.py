"""Limits of the file tools."""

from protocol.limits.units import KIB, MIB

# File tools. A source file rarely exceeds 128 KiB, and no file that a person edits has 4 MiB. Hashing 64 MiB
# takes a tenth of a second and reading 100,000 directory entries half a second, so both end within the five
# seconds of a tool.
MAX_READ_BYTES = 128 * KIB
MAX_EDIT_BYTES = 4 * MIB
MAX_HASHED_BYTES = 64 * MIB
MAX_WALKED_ENTRIES = 100_000

# Search results. 200 paths or lines of a hundred bytes are 20 of the 32 KiB that a model reads at once. Of a
# long line, the 512 bytes around the match are shown. ripgrep's report on its matches is a few times their
# size; a line of its output holds a line of the file.
MAX_MATCHES = 200
MAX_PATTERN_BYTES = 1 * KIB
MAX_PATTERN_ALTERNATIVES = 64
MAX_MATCH_BYTES = 512
MAX_GREP_OUTPUT_BYTES = 16 * MIB
MAX_GREP_LINE_BYTES = 256 * KIB

# One patch. Two digests of each file (2 x 67 bytes as JSON) are its evidence: 24 x 134 bytes fit into 4 KiB.
# The old and new contents of all files are in memory, at most twice 16 MiB.
MAX_PATCH_HUNKS = 128
MAX_PATCH_FILES = 24
MAX_PATCH_BYTES = 16 * MIB

# A diff. 256 KiB are about 5,000 lines, more than anybody reads; a longer one is marked as truncated.
MAX_DIFF_BYTES = 256 * KIB
MAX_DIFF_LINES = 1_000
