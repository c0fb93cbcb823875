"""Checkpoints: a transcript encoded for the store, its messages in chunks that are only appended to. Pure.

The head holds all of a transcript but its messages, and the range of the chunks that hold those. The chunks
are one sequence of encoded messages, cut anywhere. A transcript that has grown is saved by further chunks and
a new head. After a compaction a new sequence begins behind the chunks of the old one, which stay valid until
the new head is written.

A checkpoint is a cache: replaying the journal from the beginning gives the same transcript.
"""

from typing import Literal
from zlib import crc32

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.context.transcript import Transcript
from protocol.limits.units import KIB

CHECKPOINT_EVENTS = 64
"""Number of events after which a further checkpoint is worth its bytes: about ten text turns."""

CHECKPOINT_BYTES = 32 * KIB
"""Bytes of events that are worth a checkpoint while it still fits beside an answer."""


class Chunks(Struct, frozen=True, array_like=True):
    """The chunks of the checkpoint at ``cursor``, from number ``first`` to ``last``, and their content."""

    cursor: int
    first: int
    last: int
    entries: int = 0
    size_bytes: int = 0
    checksum: int = 0

    def extend(self, chunk: bytes) -> "Chunks":
        """Return the chunks with a further one."""
        return replace(
            self,
            last=self.last + 1,
            size_bytes=self.size_bytes + len(chunk),
            checksum=crc32(chunk, self.checksum),
        )


class _Head(Struct, array_like=True):
    """The head of a checkpoint. ``shape`` changes with the shape of a transcript."""

    shape: Literal[4]
    chunks: Chunks
    transcript: Raw


class _Whole(Struct, array_like=True):
    """A checkpoint of an earlier version: a whole transcript, which it wrote up to 240 KiB."""

    shape: Literal[3]
    transcript: Transcript


class _Shape(Struct, array_like=True):
    shape: int


_encoder = msgspec.msgpack.Encoder()
_shape = msgspec.msgpack.Decoder(_Shape)
_head = msgspec.msgpack.Decoder(_Head)
_whole = msgspec.msgpack.Decoder(_Whole)
_transcript = msgspec.msgpack.Decoder(Transcript)
_entries = msgspec.msgpack.Decoder(list[TranscriptEntry])


def encode_entry(entry: TranscriptEntry) -> bytes:
    """Encode a message. Errors: OverflowError, RecursionError for values that MessagePack cannot hold."""
    return _encoder.encode(entry)


def encode_state(transcript: Transcript) -> bytes:
    """Encode all of a transcript but its messages. Errors: as ``encode_entry``."""
    return _encoder.encode(replace(transcript, entries=[]))


def encode_head(chunks: Chunks, state: bytes) -> bytes:
    """Encode the head of a checkpoint."""
    return _encoder.encode(_Head(4, chunks, Raw(state)))


def decode_head(content: bytes) -> tuple[Transcript, Chunks | None]:
    """Decode a head: the transcript without its messages, and their chunks.

    The chunks are None for a checkpoint of an earlier version, which is the whole transcript.
    Errors: msgspec.DecodeError for one of another shape: replay the journal then.
    """
    if _shape.decode(content).shape == 3:
        return _whole.decode(content).transcript, None
    head = _head.decode(content)
    return _transcript.decode(head.transcript), head.chunks


def decode_entries(chunks: Chunks, content: bytes) -> list[TranscriptEntry]:
    """Decode the messages in joined chunks. Errors: ValueError if the content is not theirs."""
    require_content(chunks, content)
    # MessagePack's head of an array with more than 65,535 elements, which any array may have.
    return _entries.decode(b"\xdd" + chunks.entries.to_bytes(4, "big") + content)


def require_content(chunks: Chunks, content: bytes) -> None:
    """Require that joined chunks are complete and unchanged. Errors: ValueError."""
    if len(content) != chunks.size_bytes or crc32(content) != chunks.checksum:
        raise ValueError("the chunks of a checkpoint are not those that were written")
