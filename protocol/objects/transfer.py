"""A session as a file: the params and results of ``session.export`` and ``session.import``."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.ids import Id
from protocol.limits.session import MAX_IMPORT_LINES
from protocol.objects.run import Name
from protocol.rpc.method import Mutation, Page


class SessionExportParams(Page, frozen=True, kw_only=True):
    """Params of ``session.export``: a page of journal lines; put together they are a JSONL file."""

    session_id: Id


class SessionExport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Journal lines with their chain hashes.

    Each of ``lines`` is ``{"hash": <hex>, "event": <the journal line>}``: SHA-256 over the hash of the
    line before (32 zero bytes before the first) and the bytes of the line as stored.
    """

    session_id: str
    lines: list[str]
    next: str | None


class SessionImport(Mutation, frozen=True, kw_only=True):
    """Params of ``session.import``: lines of an export, in order, into a new session.

    A file too long for one message is sent in parts: ``session_id`` names the session the part before
    gave, and ``last_hash`` the hash of its last line.
    """

    lines: Annotated[list[str], Meta(min_length=1, max_length=MAX_IMPORT_LINES)]
    session_id: Id | None = None
    last_hash: str | None = None
    agent: Name | None = None


class SessionImportResult(Struct, frozen=True, kw_only=True):
    """What an import gave: the new session and how much came across so far."""

    session_id: str
    messages: int
    last_hash: str
