"""``kheishctl session export|verify|import|key``: a session as a JSONL file, its verification, and back."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import contextmanager
from itertools import chain
from typing import IO, TYPE_CHECKING

import click

from kheishctl.cli import App, command
from kheishctl.client import Failure, RequestRefused
from kheishctl.contract import MAX_IMPORT_BYTES, MAX_IMPORT_LINES, MAX_PAGE_ROWS, Json
from kheishctl.options import complete, drop_unset, mutating, session_argument
from kheishctl.progress import measure_path, progress
from kheishctl.render.layout import Display, format_record
from protocol.text import escape_json, sanitize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from protocol.export import ExportReader


@command(
    None,
    "export",
    method="session.export",
    examples=(
        "kheishctl session export ses_0EXAMPLE session.jsonl --sign",
        "kheishctl session export ses_0EXAMPLE | zstd > s.zst",
    ),
)
@session_argument
@click.option("--sign", is_flag=True, help="Sign the end of the export by the key of the daemon's home.")
@click.argument(
    "file", default="-", type=click.Path(dir_okay=False), help="The file (default: standard output)."
)
def export(app: App, session_id: str, sign: bool, file: str) -> None:
    """Write a session's journal with its hash chain and its end, as JSONL.

    The end states the number of lines and the last hash, so a truncated or changed file is refused. Only a
    signature excludes that all hashes were computed anew. The file appears when it is complete. With --json,
    FILE is required and the command prints a summary.
    """
    if app.as_json and file == "-":
        raise click.UsageError("with --json, name a FILE: the export itself is JSON lines")
    lines = _read_export(app, session_id, sign=sign)
    if file == "-":
        _write(sys.stdout, lines)
        return
    # The first page is fetched before anything is written: an unknown session leaves no file.
    first = next(lines, None)
    rest = chain(() if first is None else (first,), lines)
    if os.path.exists(file) and not os.path.isfile(file):
        # A device or a pipe is written to, not replaced.
        with open(file, "w", encoding="utf-8") as out:
            count = _write(out, rest)
    else:
        file_path = os.path.realpath(file)
        with progress(app, "exporting", lambda: measure_path(f"{file_path}.part")):
            count = _replace(file_path, rest)
    # The end is no line of the journal.
    app.emit({"session_id": session_id, "file": file, "lines": count - 1}, format_record)


def _replace(file: str, lines: Iterable[str]) -> int:
    """Write lines into a file that appears complete, in the place of an older one; return their number."""
    if not os.path.isdir(os.path.dirname(file)):
        raise Failure(f"the directory {os.path.dirname(file)} does not exist")
    part = f"{file}.part"
    with open(part, "w", encoding="utf-8", opener=_open_private) as out:
        count = _write(out, lines)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    return count


def _open_private(path: str, flags: int) -> int:
    """Open a file for this user only, and never through a link: a session is a private conversation."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _read_export(app: App, session_id: str, *, sign: bool) -> Iterator[str]:
    params: Json = {"session_id": session_id, "limit": MAX_PAGE_ROWS} | drop_unset(sign=sign)
    while True:
        page = app.call("session.export", params)
        yield from page["lines"]
        if page["next"] is None:
            return
        params["after"] = page["next"]


def _write(out: IO[str], lines: Iterable[str]) -> int:
    """Write lines and return their number.

    A file receives them unchanged, because a hash covers each; a terminal receives them escaped.
    """
    count = 0
    terminal = out.isatty()
    for line in lines:
        out.write((sanitize(escape_json(line)) if terminal else line) + "\n")
        count += 1
    return count


def _require_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Require the form of a public key. Errors: BadParameter."""
    if value is not None and not re.fullmatch(r"ed25519:[A-Za-z0-9+/]{43}=", value):
        raise click.BadParameter("a key is 'ed25519:' and 44 characters of base64; see 'session key'")
    return value


signer_option = click.option(
    "--signed-by",
    metavar="KEY",
    callback=_require_key,
    help="Require a signature by this key; see 'session key'.",
)
end_option = click.option(
    "--without-end",
    is_flag=True,
    help="Accept an export of an earlier version, which has no end: a truncated one is not noticed then.",
)
file_argument = click.argument(
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="The export; '-' is standard input.",
)


@command(None, "key", method="session.key", examples=("kheishctl session key --json | jq -r .key",))
def key(app: App) -> None:
    """Show the public key with which the daemon's home signs exports.

    The private key is in the home, in 'export.key'. It is in no backup.
    """
    app.emit(app.call("session.key"), format_record)


@command(
    None,
    "verify",
    examples=('kheishctl session verify session.jsonl --signed-by "$KEY"',),
)
@file_argument
@signer_option
@end_option
def verify(app: App, file: str, signed_by: str | None, without_end: bool) -> None:
    """Verify an export without a daemon: every line, its end, its signature.

    The exit code is 1 for an export that was truncated, edited, reordered or rechained.
    """
    with click.open_file(file, encoding="utf-8-sig") as source:
        reader = _verify(source, signed_by, without_end=without_end)
    signature = reader.end.signature if reader.end is not None else None
    result = {"intact": True, "lines": reader.lines, "cursor": reader.cursor, "hash": reader.last_hash.hex()}
    app.emit(result | {"signed_by": None if signature is None else signature.key}, _format_verified)


def _format_verified(result: Json, display: Display) -> str:
    return format_record(result | {"signed_by": result["signed_by"] or "nobody"}, display)


def _verify(source: IO[str], signed_by: str | None, *, without_end: bool) -> ExportReader:
    """Verify a whole export. Errors: Failure, naming the first bad line."""
    # Imported on first use: few commands need the events of the journal.
    from protocol.export import ExportProblem, ExportReader

    reader = ExportReader()
    try:
        for part in split_parts(_read_lines(source)):
            reader.read(part)
        if reader.lines == 0 and reader.end is None:
            raise click.UsageError("there are no lines in the export")
        if not without_end:
            reader.require_end()
    except ExportProblem as problem:
        raise Failure(str(problem)) from None
    signature = reader.end.signature if reader.end is not None else None
    if signed_by is not None and (signature is None or signature.key != signed_by):
        if signature is None:
            raise Failure("the export is not signed")
        raise Failure(f"the export is signed by the key {signature.key}, not by the key {signed_by}")
    return reader


@contextmanager
def _open_seekable(file: str) -> Iterator[IO[str]]:
    """Open a file; standard input is stored first, because an export is read twice."""
    with click.open_file(file, encoding="utf-8-sig") as source:
        if file != "-":
            yield source
            return
        with tempfile.TemporaryFile("w+", encoding="utf-8") as stored:
            for line in _read_lines(source):
                stored.write(line + "\n")
            stored.seek(0)
            yield stored


@command(
    None,
    "import",
    method="session.import",
    examples=(
        "kheishctl session import session.jsonl",
        "zstdcat s.zst | kheishctl session import - --agent reviewer",
    ),
)
@file_argument
@click.option(
    "--agent",
    shell_complete=complete("agents"),
    help="Another agent for the new session (default: the same).",
)
@signer_option
@end_option
@mutating
def import_(
    app: App,
    file: str,
    agent: str | None,
    signed_by: str | None,
    without_end: bool,
    idempotency_key: str | None,
    check: bool,
) -> None:
    """Import an export as a new session.

    The whole export is verified before anything is sent.
    """
    messages = sent = 0
    previous: Json = {}
    with _open_seekable(file) as source, progress(app, "importing", lambda: f"{sent} lines sent"):
        _verify(source, signed_by, without_end=without_end)
        source.seek(0)
        for index, (part, more) in enumerate(_mark_last(split_parts(_read_lines(source)))):
            # Each part is a separate request, so each has its own key.
            key = f"{idempotency_key}.{index}" if idempotency_key else None
            params = drop_unset(
                lines=part,
                agent=agent,
                more=more,
                without_end=without_end,
                signed_by=signed_by,
                idempotency_key=key,
                check=check,
            )
            try:
                result = app.call("session.import", params | previous)
            except RequestRefused as refused:
                if sent:
                    refused.note += f" (the session {previous['session_id']} holds the first {sent} lines)"
                raise
            previous = {name: result[name] for name in ("session_id", "last_hash")}
            messages, sent = messages + result["messages"], sent + len(part)
            if check:
                break
    app.emit(result | {"messages": messages}, format_record)


def _mark_last(parts: Iterable[list[str]]) -> Iterator[tuple[list[str], bool]]:
    """Yield each part, and whether more follow."""
    previous: list[str] | None = None
    for part in parts:
        if previous is not None:
            yield previous, True
        previous = part
    if previous is not None:
        yield previous, False


def _read_lines(source: IO[str]) -> Iterator[str]:
    try:
        yield from (line.rstrip("\n") for line in source)
    except UnicodeDecodeError:
        raise Failure("this is not an export: it is not UTF-8 text") from None


def split_parts(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines, without empty ones, in parts that fit one request each."""
    part: list[str] = []
    length = 0
    for line in filter(None, lines):
        size = len(line.encode())
        if part and (length + size > MAX_IMPORT_BYTES or len(part) == MAX_IMPORT_LINES):
            yield part
            part, length = [], 0
        part.append(line)
        length += size
    if part:
        yield part
