"""``kheishctl session export|import``: a session as a JSONL file, and back."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO

import click

from kheishctl.cli import App, complete, given, mutating, verb
from kheishctl.client import Failure, Json, RequestRefused
from kheishctl.render.layout import clean, facts, json_safe
from protocol.limits.session import MAX_IMPORT_BYTES, MAX_IMPORT_LINES

MAX_PART_BYTES = MAX_IMPORT_BYTES
MAX_PART_LINES = MAX_IMPORT_LINES
EXPORT_PAGE_LINES = 500


@verb(
    None,
    "export",
    method="session.export",
    examples=(
        "kheishctl session export ses_0EXAMPLE session.jsonl",
        "kheishctl session export ses_0EXAMPLE | zstd > s.zst",
    ),
)
@click.argument("session_id", metavar="SESSION", shell_complete=complete("sessions"), help="The session.")
@click.argument(
    "file", default="-", type=click.Path(dir_okay=False), help="Where to write; else standard output."
)
def export(app: App, session_id: str, file: str) -> None:
    """Write a session's journal with its hash chain, as JSONL.

    A file appears only once it is complete. With --json, FILE is needed and what was written is told.
    """
    if app.as_json and file == "-":
        raise click.UsageError("with --json, name a FILE: the export itself is JSON lines")
    lines = _exported(app, session_id)
    if file == "-":
        _write(sys.stdout, lines)
        return
    # The first page is fetched before anything is written: an unknown session leaves no file.
    first = next(lines, None)
    part = f"{file}.part"
    with open(part, "w", encoding="utf-8", opener=_private) as out:
        count = _write(out, chain(() if first is None else (first,), lines))
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    app.emit({"session_id": session_id, "file": file, "lines": count}, facts)


def _private(path: str, flags: int) -> int:
    """Open a file for us alone, which is no link that somebody laid out: a session is a conversation."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _exported(app: App, session_id: str) -> Iterator[str]:
    after: str | None = None
    while True:
        page = app.call("session.export", given(session_id=session_id, after=after, limit=EXPORT_PAGE_LINES))
        yield from page["lines"]
        after = page["next"]
        if after is None:
            return


def _write(out: IO[str], lines: Iterable[str]) -> int:
    """Write lines as they are, as a hash covers each; a terminal is shown escapes for what it would obey."""
    count = 0
    terminal = out.isatty()
    for line in lines:
        out.write((clean(json_safe(line)) if terminal else line) + "\n")
        count += 1
    return count


@verb(
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
    "--agent", shell_complete=complete("agents"), help="The agent that goes on with it; else the same."
)
@mutating
def import_(app: App, file: str, agent: str | None, idempotency_key: str | None, check: bool) -> None:
    """Read an export back, as a new session that can be continued."""
    messages = taken = 0
    before: Json = {}
    with click.open_file(file, encoding="utf-8") as source:
        for number, part in enumerate(parts(_lines(source))):
            # Each part is a request of its own, so each has a key of its own.
            key = f"{idempotency_key}.{number}" if idempotency_key else None
            params = given(lines=part, agent=agent, idempotency_key=key, check=check)
            result = _part(app, params | before, taken)
            before = {name: result[name] for name in ("session_id", "last_hash")}
            messages, taken = messages + result["messages"], taken + len(part)
            if check:
                break
    if not taken:
        raise click.UsageError(f"{file} holds no lines")
    app.emit(before | {"messages": messages}, facts)


def _lines(source: IO[str]) -> Iterator[str]:
    try:
        yield from (line.rstrip("\n") for line in source)
    except UnicodeDecodeError:
        raise Failure("this is no export: it is not UTF-8 text") from None


def _part(app: App, params: Json, taken: int) -> Json:
    """Send a part. Errors: Failure, saying what there is of the parts before."""
    try:
        result: Json = app.call("session.import", params)
    except RequestRefused as refused:
        if taken:
            held = f"which the session {params['session_id']} holds"
            refused.note += f" (counted after the first {taken} lines, {held})"
        raise
    return result


def parts(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines in parts that fit into one request each; empty ones are passed over."""
    part: list[str] = []
    length = 0
    for line in filter(None, lines):
        if part and (length + len(line.encode()) > MAX_PART_BYTES or len(part) == MAX_PART_LINES):
            yield part
            part, length = [], 0
        part.append(line)
        length += len(line.encode())
    if part:
        yield part
