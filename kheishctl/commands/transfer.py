"""``kheishctl session export|import``: a session as a JSONL file, and back."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO

import click

from kheishctl.cli import App, command
from kheishctl.client import Failure, RequestRefused
from kheishctl.contract import MAX_IMPORT_BYTES, MAX_IMPORT_LINES, MAX_PAGE_ROWS, Json
from kheishctl.options import complete, drop_unset, mutating, session_argument
from kheishctl.render.layout import format_record
from protocol.text import escape_json, sanitize


@command(
    None,
    "export",
    method="session.export",
    examples=(
        "kheishctl session export ses_0EXAMPLE session.jsonl",
        "kheishctl session export ses_0EXAMPLE | zstd > s.zst",
    ),
)
@session_argument
@click.argument(
    "file", default="-", type=click.Path(dir_okay=False), help="The file (default: standard output)."
)
def export(app: App, session_id: str, file: str) -> None:
    """Write a session's journal with its hash chain, as JSONL.

    The file appears when it is complete. With --json, FILE is required and the command prints a summary.
    """
    if app.as_json and file == "-":
        raise click.UsageError("with --json, name a FILE: the export itself is JSON lines")
    lines = _read_export(app, session_id)
    if file == "-":
        _write(sys.stdout, lines)
        return
    # The first page is fetched before anything is written: an unknown session leaves no file.
    first = next(lines, None)
    part = f"{file}.part"
    with open(part, "w", encoding="utf-8", opener=_open_private) as out:
        count = _write(out, chain(() if first is None else (first,), lines))
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    app.emit({"session_id": session_id, "file": file, "lines": count}, format_record)


def _open_private(path: str, flags: int) -> int:
    """Open a file for this user only, and never through a link: a session is a private conversation."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _read_export(app: App, session_id: str) -> Iterator[str]:
    params: Json = {"session_id": session_id, "limit": MAX_PAGE_ROWS}
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


@command(
    None,
    "import",
    method="session.import",
    examples=(
        "kheishctl session import session.jsonl",
        "zstdcat s.zst | kheishctl session import - --agent reviewer",
    ),
)
@click.argument(
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="The export; '-' is standard input.",
)
@click.option(
    "--agent",
    shell_complete=complete("agents"),
    help="Another agent for the new session (default: the same).",
)
@mutating
def import_(app: App, file: str, agent: str | None, idempotency_key: str | None, check: bool) -> None:
    """Import an export as a new session."""
    messages = sent = 0
    previous: Json = {}
    with click.open_file(file, encoding="utf-8-sig") as source:
        for index, part in enumerate(split_parts(_read_lines(source))):
            # Each part is a separate request, so each has its own key.
            key = f"{idempotency_key}.{index}" if idempotency_key else None
            params = drop_unset(lines=part, agent=agent, idempotency_key=key, check=check)
            try:
                result = app.call("session.import", params | previous)
            except RequestRefused as refused:
                if sent:
                    session = f"which session {previous['session_id']} holds"
                    refused.note += f" (counted after the first {sent} lines, {session})"
                raise
            previous = {name: result[name] for name in ("session_id", "last_hash")}
            messages, sent = messages + result["messages"], sent + len(part)
            if check:
                break
    if not sent:
        raise click.UsageError(f"{file} contains no lines")
    app.emit(previous | {"messages": messages}, format_record)


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
