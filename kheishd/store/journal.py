"""The journal's law: one rising cursor for the daemon, one hash chain for each stream.

An entry is stored as the chain's hash and the line: 32 bytes and the rest. The hash is SHA-256 of the
hash before it and the line's bytes; before the first line stand 32 zero bytes.
"""

import hashlib

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
"""What stands before the first entry of a stream."""
STREAM_BELL = "stream:"
"""The bell of a stream is called this and the stream's name."""


def link(previous: bytes, line: bytes) -> bytes:
    """The chain's hash at ``line``, given the hash before it."""
    return hashlib.sha256(previous + line).digest()
