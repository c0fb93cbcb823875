"""An export: a session's journal as lines, their hash chain, its end, and a signature.

Every line but the last is ``{"hash": <hex>, "event": <the journal line>}``. The hash is SHA-256 over the hash
of the line before (32 zero bytes for the first one) and the stored bytes of the event. A fork begins a chain
of its own; its first event names the hash at the fork point. The last line is ``{"end": {...}}``: the number
of lines, the last cursor and the last hash. So nothing can be left out, added, moved or changed unless every
later hash and the end are made anew. A signature of the home that wrote the export excludes that, too.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from protocol.events.session import SessionCreated
from protocol.ids import Cursor
from protocol.journal.line import decode_envelope, decode_event
from protocol.lazy import LazyDecoder
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent, Unknown

NO_HASH = bytes(32)
KEY_PREFIX = "ed25519:"
"""The prefix of a public key as text; base64 of its 32 bytes follows."""

_SIGNED = b"kheish export 1\n"
"""What a signature covers begins with this, so that it is valid for nothing else."""

ProblemKind = Literal["unreadable", "edited", "reordered", "truncated", "rechained", "wrong_signature"]


class Signature(Struct, frozen=True):
    """A signature of the end of an export: the public key, and the Ed25519 signature in base64."""

    key: Annotated[str, Meta(max_length=64)]
    value: Annotated[str, Meta(max_length=128)]


class ExportEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of an export: the session, the number of lines before it, the last cursor and the last hash.

    ``epoch`` is the line of history that the cursors belong to.
    """

    session_id: str
    lines: Annotated[int, Meta(ge=0)]
    cursor: Cursor
    hash: str
    epoch: str
    exported_at_ms: int
    signature: Signature | None = None


class _Line(Struct):
    hash: str
    event: Raw


class _EndLine(Struct):
    end: ExportEnd


class ExportProblem(Exception):
    """A line of an export is not what was exported. ``line`` counts from 1."""

    def __init__(self, kind: ProblemKind, line: int, message: str) -> None:
        super().__init__(message)
        self.kind: ProblemKind = kind
        self.line = line


class Entry(Value, frozen=True):
    """An event of an export with its hash and its stored bytes."""

    envelope: Envelope
    event: JournalEvent | Unknown
    digest: bytes
    stored: bytes


_line: LazyDecoder[_Line] = LazyDecoder(_Line)
_end: LazyDecoder[_EndLine] = LazyDecoder(_EndLine)


def encode_end(end: ExportEnd) -> str:
    """Return the last line of an export."""
    return msgspec.json.encode(_EndLine(end)).decode()


def signed_bytes(end: ExportEnd) -> bytes:
    """Return the bytes that a signature of an end covers."""
    unsigned = msgspec.structs.replace(end, signature=None)
    return _SIGNED + msgspec.json.encode(unsigned, order="sorted")


def sign_end(end: ExportEnd, seed: bytes) -> ExportEnd:
    """Return an end with its signature by a private key of 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    value = b64encode(key.sign(signed_bytes(end))).decode()
    return msgspec.structs.replace(end, signature=Signature(derive_key(seed), value))


def derive_key(seed: bytes) -> str:
    """Return the public key of a private key, as text."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return KEY_PREFIX + b64encode(public.public_bytes_raw()).decode()


def has_valid_signature(end: ExportEnd) -> bool:
    """Whether the signature of a signed end is valid."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    assert end.signature is not None, "the end is signed"
    try:
        public = Ed25519PublicKey.from_public_bytes(
            b64decode(end.signature.key.removeprefix(KEY_PREFIX), validate=True)
        )
        public.verify(b64decode(end.signature.value, validate=True), signed_bytes(end))
    except (ValueError, InvalidSignature):
        return False
    return end.signature.key.startswith(KEY_PREFIX)


class ExportReader:
    """A reader of an export, part by part, that verifies every line.

    ``lines``, ``cursor`` and ``last_hash`` are those of the lines so far; pass them to continue an export.
    ``end`` is its end, once it was read.
    """

    def __init__(self, *, last_hash: bytes = NO_HASH, cursor: int = 0, lines: int = 0) -> None:
        self.last_hash = last_hash
        self.cursor = cursor
        self.lines = lines
        self.end: ExportEnd | None = None

    def read(self, texts: Sequence[str]) -> list[Entry]:
        """Verify the next lines; return their events. Errors: ExportProblem, naming the first bad line."""
        entries: list[Entry] = []
        for index, text in enumerate(texts):
            number = self.lines + 1
            if number == 1:
                # A byte order mark of a file is before its first line.
                text = text.removeprefix("\ufeff")
            if self.end is not None:
                raise ExportProblem("edited", number + 1, f"line {number + 1} follows the end of the export")
            if text.startswith('{"end":'):
                self._read_end(text, number)
                continue
            entry = _decode(text, number)
            if entry.envelope.cursor <= self.cursor:
                raise ExportProblem(
                    "reordered",
                    number,
                    f"line {number} was reordered or repeated: its cursor does not rise",
                )
            previous = self.last_hash
            event = entry.event
            if isinstance(event, SessionCreated) and event.fork_of is not None:
                # A fork begins a hash chain of its own, and names the hash at its fork point.
                previous = NO_HASH if event.fork_of.hash == previous.hex() else previous
            if sha256(previous + entry.stored).digest() != entry.digest:
                raise _explain_break(entry, number, texts[index + 1 :])
            entries.append(entry)
            self.last_hash, self.cursor, self.lines = entry.digest, entry.envelope.cursor, number
        return entries

    def require_end(self) -> ExportEnd:
        """Return the end of the export. Errors: ExportProblem if it has none."""
        if self.end is None:
            raise ExportProblem(
                "truncated",
                self.lines + 1,
                f"the export is truncated: after line {self.lines}, more lines or its end are missing (an "
                "export of an earlier version has none: accept it without its end)",
            )
        return self.end

    def _read_end(self, text: str, number: int) -> None:
        try:
            end = _end.decode(text).end
        except msgspec.DecodeError as error:
            raise ExportProblem(
                "unreadable", number, f"line {number} is not the end of an export: {error}"
            ) from error
        statement = "its end states"
        if end.signature is not None:
            key = end.signature.key
            if not has_valid_signature(end):
                message = f"the signature in line {number} is not one by the key {key} of this end"
                raise ExportProblem(
                    "wrong_signature", number, f"{message}: it was edited, or the export was rechained"
                )
            statement = f"its end, signed by the key {key}, states"
        if end.lines > self.lines:
            message = f"the export is truncated at line {number}: {statement} {end.lines} lines"
            raise ExportProblem("truncated", number, message)
        if end.lines < self.lines:
            message = (
                f"the export was rechained: line {end.lines + 1} was added, as {statement} {end.lines} lines"
            )
            raise ExportProblem("rechained", end.lines + 1, message)
        if (end.hash, end.cursor) != (self.last_hash.hex(), self.cursor):
            message = f"the export was rechained: {statement} another hash than that of line {self.lines}"
            raise ExportProblem(
                "rechained", self.lines, f"{message}, so lines were edited and their hashes computed anew"
            )
        self.end = end


def _decode(text: str, number: int) -> Entry:
    try:
        line = _line.decode(text)
        stored = bytes(line.event)
        return Entry(decode_envelope(stored), decode_event(stored), bytes.fromhex(line.hash), stored)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        message = f"line {number} is not a line of an export: {error}"
        raise ExportProblem("unreadable", number, message) from error


def _explain_break(entry: Entry, number: int, later: Sequence[str]) -> ExportProblem:
    """Return the problem of a line whose hash does not continue the chain."""
    for offset, text in enumerate(later, number + 1):
        try:
            candidate = _line.decode(text)
            digest = bytes.fromhex(candidate.hash)
        except (msgspec.DecodeError, ValueError):
            continue
        if sha256(digest + entry.stored).digest() == entry.digest:
            message = f"line {number} was reordered: it belongs after line {offset}"
            return ExportProblem("reordered", number, message)
    message = f"the hash chain breaks at line {number}: it was edited, or lines before it were removed"
    return ExportProblem("edited", number, message)
