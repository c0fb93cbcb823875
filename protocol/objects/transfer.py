"""A session as a file: the params and results of ``session.export``, ``import`` and ``key``."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.ids import Id
from protocol.limits.session import MAX_IMPORT_LINES
from protocol.objects.run import Name
from protocol.rpc.method import Mutation, Page

Key = Annotated[str, Meta(min_length=1, max_length=64, description="A public key: 'ed25519:' and base64.")]


class SessionExportParams(Page, frozen=True, kw_only=True):
    """Params of ``session.export``: a page of journal lines; all pages joined are a JSONL file.

    ``sign``: the end is signed by the key of this home, see ``session.key``.
    """

    session_id: Id
    sign: bool = False


class SessionExport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Journal lines with their chain hashes; the last line of the last page is the end of the export.

    Each other line is ``{"hash": <hex>, "event": <the journal line>}``: the SHA-256 over the previous line's
    hash (32 zero bytes for the first line) and the stored bytes of the line. The end is ``{"end": {...}}``
    with the number of lines, the last cursor, the last hash and perhaps a signature.
    """

    session_id: str
    lines: list[str]
    next: str | None


class SessionImport(Mutation, frozen=True, kw_only=True):
    """Params of ``session.import``: lines of an export, in order, into a new session.

    A file that is too long for one message is sent in parts: all but the last one have ``more``, and
    ``session_id`` and ``last_hash`` are the values that the previous part returned. The last part ends with
    the end of the export. ``without_end`` accepts an export of a version that wrote none; then a truncated
    file is not noticed. ``signed_by`` refuses an export that this key did not sign.
    """

    lines: Annotated[list[str], Meta(min_length=1, max_length=MAX_IMPORT_LINES)]
    session_id: Id | None = None
    last_hash: str | None = None
    agent: Name | None = None
    more: bool = False
    without_end: bool = False
    signed_by: Key | None = None


class SessionImportResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The new session, with the number of messages imported so far and the hash of the last line.

    ``signed_by`` is the key that signed the export, if one did.
    """

    session_id: str
    messages: int
    last_hash: str
    signed_by: str | None = None


class ExportKey(Struct, frozen=True):
    """The public key with which this home signs exports."""

    key: str
