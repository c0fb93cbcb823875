"""``kheishctl memory``: the notes that agents keep beyond their conversations."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.client import Failure
from kheishctl.contract import MAX_PAGE_ROWS
from kheishctl.options import WholeNumber, complete, drop_unset, mutating, name_option, options, paged
from kheishctl.render.layout import Column, format_record
from protocol.text import sanitize

group = make_group("memory", "Memory: the notes of agents.")

COLUMNS = (
    Column("NAME", "name"),
    Column("ALIASES", lambda row: ", ".join(row.get("aliases", ()))),
    Column("VERSION", "version", "count"),
    Column("UPDATED", "updated_at_ms", "time"),
)
HIT_COLUMNS = (
    Column("NAME", "name"),
    Column("KIND", "kind"),
    Column("SCORE", "score"),
    Column("EXCERPT", "snippet"),
)

MARKDOWN = (".md", ".markdown")

_agent = name_option(
    "--agent", "agent", "agents", "The agent (default: default).", default="default", metavar="AGENT"
)
_name = click.argument(
    "name", metavar="NAME", shell_complete=complete("notes"), help="The name of the note, or an alias."
)
_kind = click.option(
    "--kind",
    type=click.Choice(("note", "archive")),
    metavar="KIND",
    help="note, or archive: the summaries of compacted conversations (default: note).",
)
_aliases = click.option(
    "--alias", "aliases", multiple=True, metavar="NAME", help="Another name of the note (repeatable)."
)


@command(group, "list", method="memory.list", examples=("kheishctl memory list --agent reviewer",))
@options(_agent, _kind)
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List an agent's notes, the oldest first."""
    page = fetch_pages(app, "memory.list", drop_unset(**params), "notes", everything=everything)
    show_table(app, page, "notes", COLUMNS, "No notes.")


@command(group, "show", alias="get", method="memory.get", examples=("kheishctl memory show 'build steps'",))
@_name
@_agent
def show(app: App, **params: Any) -> None:
    """Show a note; its text comes last."""
    result = app.call("memory.get", params)
    fields = {field: value for field, value in result.items() if field != "content"}
    content = sanitize(result["content"])
    app.emit(result, lambda _, display: f"{format_record(fields, display)}\n\n{content}".rstrip("\n"))


@command(
    group,
    "search",
    alias="recall",
    method="memory.recall",
    examples=("kheishctl memory search release date",),
)
@click.argument("query", nargs=-1, required=True, metavar="WORD...", help="The words to search for.")
@_agent
@click.option(
    "--kind", type=click.Choice(("note", "archive")), metavar="KIND", help="Only notes, or archives."
)
@click.option("--limit", type=WholeNumber(1, 20), metavar="N", help="Maximum notes (default: 5).")
def search(app: App, query: tuple[str, ...], **params: Any) -> None:
    """Search an agent's notes by words, the best first."""
    result = app.call("memory.recall", drop_unset(query=" ".join(query), **params))
    show_table(app, result, "notes", HIT_COLUMNS, "No note fits.")


@command(
    group,
    "remember",
    method="memory.remember",
    examples=(
        "kheishctl memory remember 'build steps' 'Run make.'",
        "kheishctl memory remember 'build steps' - < steps.txt",
    ),
)
@_name
@click.argument("content", metavar="TEXT", help="The text; with '-', it is read from standard input.")
@options(_agent, _aliases)
@mutating
def remember(app: App, content: str, aliases: tuple[str, ...], **params: Any) -> None:
    """Write a note, or replace the one of that name."""
    content = sys.stdin.read() if content == "-" else content
    params = drop_unset(content=content, aliases=list(aliases) or None, **params)
    app.emit(app.call("memory.remember", params), format_record)


@command(
    group, "edit", method="memory.remember", examples=("EDITOR=nano kheishctl memory edit 'build steps'",)
)
@_name
@_agent
@mutating
def edit(app: App, **params: Any) -> None:
    """Change the text of a note in $EDITOR."""
    note = app.call("memory.get", {"agent": params["agent"], "name": params["name"]})
    if note.get("kind") == "archive":
        raise Failure(f"'{note['name']}' is an archive, which stays as it was written")
    content = click.edit(note["content"], extension=".md")
    if content is None or content == note["content"]:
        app.emit(note, lambda *_: "The note was not changed.")
        return
    params = drop_unset(**{**params, "name": note["name"], "content": content})
    app.emit(app.call("memory.remember", params), format_record)


@command(group, "forget", method="memory.forget", examples=("kheishctl memory forget 'build steps'",))
@_name
@_agent
@mutating
def forget(app: App, **params: Any) -> None:
    """Delete a note or an archive."""
    app.emit(app.call("memory.forget", drop_unset(**params)), format_record)


@command(group, "export", method="memory.export", examples=("kheishctl memory export notes/",))
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False), help="The directory.")
@options(_agent, _kind)
def export(app: App, directory: str, **params: Any) -> None:
    """Write an agent's notes as Markdown files, one for each, into a directory.

    Files of the same names are replaced, others stay.
    """
    params = drop_unset(limit=MAX_PAGE_ROWS, **params)
    os.makedirs(directory, exist_ok=True)
    names = []
    while True:
        page = app.call("memory.export", params)
        for file in page["files"]:
            # The daemon makes the name, and a path in it would leave the directory.
            name = os.path.basename(file["filename"])
            with open(os.path.join(directory, name), "w", encoding="utf-8", newline="") as out:
                out.write(file["content"])
            names.append(name)
        if page["next"] is None:
            break
        params["after"] = page["next"]
    app.emit(
        {"directory": directory, "files": names}, lambda *_: f"{_count(len(names), 'file')} in {directory}"
    )


@command(group, "import", method="memory.import", examples=("kheishctl memory import notes/",))
@click.argument("path", metavar="PATH", type=click.Path(exists=True), help="A Markdown file, or a directory.")
@_agent
@click.option("--check", is_flag=True, help="Dry run: report what would happen, change nothing.")
def import_(app: App, path: str, agent: str, check: bool) -> None:
    """Write notes from Markdown files; notes of the same names are replaced.

    A file without front matter is named by its first heading, else by its own name. The first file that is
    refused ends the command; what was imported before stays.
    """
    names = []
    for file in _find_files(path):
        try:
            with open(file, encoding="utf-8", newline="") as source:
                content = source.read()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"{file} cannot be read: {error}") from None
        params = {"agent": agent, "content": content, "filename": os.path.basename(file), "check": check}
        names.append(app.call("memory.import", params)["name"])
    app.emit({"agent": agent, "notes": names}, lambda *_: f"{_count(len(names), 'note')} of {agent}")


def _count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _find_files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for name in sorted(os.listdir(path)):
        if name.lower().endswith(MARKDOWN):
            yield os.path.join(path, name)
