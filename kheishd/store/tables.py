"""Every table, its key layout and its value type, on one page.

A key is the parts below, one after another: a ``str`` is UTF-8, closed by a zero byte unless it comes
last; an ``int`` is 8 bytes, big-endian. So keys sort by their parts, numbers by size, and ids by the time
they were made. A value is MessagePack for a struct, UTF-8 for ``str``, itself for ``bytes``.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from kheishd.core.run.record import RunRecord
from kheishd.store.records import Binding, DaemonRules, Receipt, TokenRecord
from protocol.objects.approval import Approval
from protocol.objects.indoubt import Indoubt
from protocol.objects.question import QuestionRequest
from protocol.objects.run import Pinned
from protocol.objects.session import Session
from protocol.objects.task import Task

V = TypeVar("V")
KeyPart = str | int
Key = tuple[Any, ...]
"""The parts of a key. Readers know their types from the page below."""


class Table(Generic[V]):
    """One ordered map from keys to values.

    ``pack`` and ``unpack`` turn key parts into bytes and back, ``encode`` and ``decode`` values; all
    four are chosen once, here, because they run for every row.
    """

    __slots__ = ("decode", "encode", "key", "name", "pack", "unpack", "value")

    def __init__(self, name: str, key: tuple[type[str] | type[int], ...], value: type[V]) -> None:
        self.name = name
        self.key = key
        self.value = value
        self.pack: Callable[[Key], bytes] = _packer(key)
        self.unpack: Callable[[bytes], Key] = _unpacker(key)
        self.encode: Callable[[V], bytes] = _encoder(value)
        self.decode: Callable[[bytes], V] = _decoder(value)

    def __repr__(self) -> str:
        return f"<table {self.name}>"

    def prefix(self, parts: Key) -> bytes:
        """The bytes that every key beginning with ``parts`` begins with."""
        if len(parts) == len(self.key):
            return self.pack(parts)
        return b"".join(_pack_part(part) for part in parts)


def _pack_part(part: KeyPart) -> bytes:
    return _pack_text(part) if isinstance(part, str) else part.to_bytes(8, "big")


def _pack_text(text: str) -> bytes:
    """Errors: ValueError for a zero character, which would end the part too early."""
    if "\0" in text:
        raise ValueError("a key part may not contain a zero character")
    return text.encode() + b"\0"


def _pack_id(key: Key) -> bytes:
    (text,) = key
    if not text:
        raise ValueError("a key may not be empty")
    packed: bytes = text.encode()
    return packed


def _pack_number(key: Key) -> bytes:
    (number,) = key
    packed: bytes = number.to_bytes(8, "big")
    return packed


def _pack_id_number(key: Key) -> bytes:
    text, number = key
    packed: bytes = _pack_text(text) + number.to_bytes(8, "big")
    return packed


def _packer(key: tuple[type[str] | type[int], ...]) -> Callable[[Key], bytes]:
    """The packer of one layout: written out for the layouts of hot tables, general for the rest."""
    written_out = {(str,): _pack_id, (int,): _pack_number, (str, int): _pack_id_number}
    return written_out.get(key) or _pack_any(key)


def _pack_any(kinds: tuple[type[str] | type[int], ...]) -> Callable[[Key], bytes]:
    def pack(key: Key) -> bytes:
        if len(key) != len(kinds):
            raise TypeError(f"a key of this table has {len(kinds)} parts")
        *most, last = key
        tail: bytes = last.encode() if isinstance(last, str) else last.to_bytes(8, "big")
        return b"".join(map(_pack_part, most)) + tail

    return pack


def _unpacker(kinds: tuple[type[str] | type[int], ...]) -> Callable[[bytes], Key]:
    if kinds == (str,):
        return lambda packed: (packed.decode(),)
    if kinds == (int,):
        return lambda packed: (int.from_bytes(packed, "big"),)
    if kinds == (str, int):
        return lambda packed: (packed[:-9].decode(), int.from_bytes(packed[-8:], "big"))
    return lambda packed: _unpack_any(kinds, packed)


def _unpack_any(kinds: tuple[type[str] | type[int], ...], packed: bytes) -> Key:
    parts: list[KeyPart] = []
    start = 0
    for place, kind in enumerate(kinds, 1):
        if kind is int:
            end = after = start + 8
            parts.append(int.from_bytes(packed[start:end], "big"))
        else:
            end = packed.index(0, start) if place < len(kinds) else len(packed)
            after = end + 1
            parts.append(packed[start:end].decode())
        start = after
    return tuple(parts)


_msgpack = msgspec.msgpack.Encoder()


def _encoder(value: type[Any]) -> Callable[[Any], bytes]:
    if value is bytes:
        return lambda content: content
    return str.encode if value is str else _msgpack.encode


def _decoder(value: type[Any]) -> Callable[[bytes], Any]:
    if value is bytes:
        return lambda stored: stored
    return bytes.decode if value is str else msgspec.msgpack.Decoder(value).decode


JOURNAL = Table("journal", (str, int), bytes)
"""(stream, cursor) → the chain's hash, 32 bytes, and the line."""
CURSORS = Table("cursors", (int,), str)
"""(cursor) → the stream it is in."""
SESSIONS = Table("sessions", (str,), Session)
"""(session id) → the session."""
CHILDREN = Table("children", (str, str), bytes)
"""(parent session id, child session id) → nothing."""
CONVERSATIONS = Table("conversations", (str, str), Binding)
"""(agent, sender) → the session they mean."""
RUNS = Table("runs", (str,), RunRecord)
"""(run id) → the run's record."""
PINNED = Table("pinned", (str,), Pinned)
"""(run id) → the values pinned when the run was accepted. Written once."""
RUNS_BY_SESSION = Table("runs_by_session", (str, int), str)
"""(session id, cursor of acceptance) → run id: a session's line, in order."""
RUNS_READY = Table("runs_ready", (int,), str)
"""(cursor of acceptance) → run id: first in its line, not ended, waiting for nobody."""
RUNS_CANCELLED = Table("runs_cancelled", (int,), str)
"""(cursor of acceptance) → run id: somebody wants it stopped and it has not ended."""
APPROVALS = Table("approvals", (str,), Approval)
"""(approval id) → the approval."""
APPROVALS_WAITING = Table("approvals_waiting", (int,), str)
"""(cursor of the request) → approval id: it waits for a person."""
QUESTIONS = Table("questions", (str,), QuestionRequest)
"""(question id) → the questions of one call."""
QUESTIONS_WAITING = Table("questions_waiting", (int,), str)
"""(cursor where it was asked) → question id: it waits for a person."""
INDOUBTS = Table("indoubts", (str,), Indoubt)
"""(id of the doubt) → the call in doubt."""
INDOUBTS_OPEN = Table("indoubts_open", (int,), str)
"""(cursor where it was found) → id of the doubt: nobody has settled it."""
TASKS = Table("tasks", (str,), Task)
"""(task id) → the task."""
TASKS_OPEN = Table("tasks_open", (str, str, str), bytes)
"""(session id, digest of the folded title, task id) → nothing: it has not ended. Shells are not here."""
TASKS_WAITING = Table("tasks_waiting", (str, str), bytes)
"""(id of a task, id of an open task that waits for it) → nothing."""
SHELLS_LIVE = Table("shells_live", (int,), str)
"""(cursor of its creation) → task id: a shell that has not ended."""
SHELLS_STOPPING = Table("shells_stopping", (int,), str)
"""(cursor of its creation) → task id: somebody wants it stopped and it has not ended."""
RECORDS_BY_SESSION = Table("records_by_session", (str, str, int), str)
"""(session id, kind, cursor where it began) → id of an approval, a question, a doubt, a task."""
RECORDS_BY_RUN = Table("records_by_run", (str, str, int), str)
"""(run id, kind, cursor where it began) → id of an approval, a question, a doubt."""
DEADLINES = Table("deadlines", (int, str, str), bytes)
"""(when, kind, id) → nothing: what expires then."""
TOKENS = Table("tokens", (str,), TokenRecord)
"""(token id) → the token."""
TOKENS_BY_DIGEST = Table("tokens_by_digest", (str,), str)
"""(SHA-256 of a secret, hex) → token id."""
PERMISSIONS = Table("permissions", (str,), DaemonRules)
"""("daemon") → the permission rules of the whole daemon; sessions and runs hold their own."""
RECEIPTS = Table("receipts", (str, str, str), Receipt)
"""(principal, method, idempotency key) → what was asked and given."""
RECEIPTS_BY_AGE = Table("receipts_by_age", (int, str, str, str), bytes)
"""(when, principal, method, idempotency key) → nothing: which receipts to forget."""
CHECKPOINTS = Table("checkpoints", (str, int), bytes)
"""(session id, cursor) → a fold of everything up to the cursor, opaque to the store."""
BLOBS = Table("blobs", (str, int), bytes)
"""(SHA-256 of the whole, hex; number of the chunk) → the chunk."""
META = Table("meta", (str,), bytes)
"""(name) → what the store says about itself: schema, version, identity."""

TABLES: tuple[Table[Any], ...] = (
    JOURNAL,
    CURSORS,
    SESSIONS,
    CHILDREN,
    CONVERSATIONS,
    RUNS,
    PINNED,
    RUNS_BY_SESSION,
    RUNS_READY,
    RUNS_CANCELLED,
    APPROVALS,
    APPROVALS_WAITING,
    QUESTIONS,
    QUESTIONS_WAITING,
    INDOUBTS,
    INDOUBTS_OPEN,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
    SHELLS_LIVE,
    SHELLS_STOPPING,
    RECORDS_BY_SESSION,
    RECORDS_BY_RUN,
    DEADLINES,
    TOKENS,
    TOKENS_BY_DIGEST,
    PERMISSIONS,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    CHECKPOINTS,
    BLOBS,
    META,
)
