"""A session as a file: the params and results of ``session.export`` and ``session.import``."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.ids import Id
from protocol.limits.session import MAX_IMPORT_LINES
from protocol.objects.run import Name
from protocol.rpc.method import Mutation, Page


class SessionExportParams(Page, frozen=True, kw_only=True):
    """Params of ``session.export``: a page of journal lines; all pages joined are a JSONL file."""

    session_id: Id


class SessionExport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Journal lines with their chain hashes.

    Each of ``lines`` is ``{"hash": <hex>, "event": <the journal line>}``: the SHA-256 over the previous
    line's hash (32 zero bytes for the first line) and the stored bytes of the line.
    """

    session_id: str
    lines: list[str]
    next: str | None


class SessionImport(Mutation, frozen=True, kw_only=True):
    """Params of ``session.import``: lines of an export, in order, into a new session.

    A file that is too long for one message is sent in parts: ``session_id`` and ``last_hash`` are the values
    that the previous part returned.
    """

    lines: Annotated[list[str], Meta(min_length=1, max_length=MAX_IMPORT_LINES)]
    session_id: Id | None = None
    last_hash: str | None = None
    agent: Name | None = None


class SessionImportResult(Struct, frozen=True, kw_only=True):
    """The new session, with the number of messages imported so far and the hash of the last line."""

    session_id: str
    messages: int
    last_hash: str
