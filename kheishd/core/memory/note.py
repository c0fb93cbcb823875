"""Notes: the record as a projection of its events, its index, and its form as a Markdown file. Pure."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct

from kheishd.config.toml import find_line
from kheishd.config.validation import find_problems
from kheishd.core.front_matter import FrontMatterError, load_yaml
from kheishd.core.memory.terms import count_terms, fold, fold_name
from kheishd.core.persona import name_from_markdown
from protocol.events.memory import NotebookChanged, NoteDeleted, NoteWritten
from protocol.limits.memory import MAX_NOTE_INDEX_BYTES, MAX_NOTE_NAME_BYTES
from protocol.objects.memory import (
    Note,
    NoteAliases,
    Notebook,
    NotebookTotals,
    NoteFile,
    NoteKind,
    NoteName,
    NoteProperties,
)
from protocol.structs import Value, fields_of
from protocol.text import truncate
from protocol.transcript import InputOrigin

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope

# A row of the index: the number of the note, the separators, and LMDB's head of the row.
_ROW_BYTES: Final = 28

MAX_FILE_STEM_CHARACTERS: Final = 48

_FENCE: Final = re.compile(r"---[ \t]*\r?\n")


# Records.


def evolve(note: Note | None, envelope: Envelope, event: NoteWritten | NoteDeleted) -> Note | None:
    """Return the note after an event; None once it is forgotten.

    Errors: AssertionError for an event that does not follow: the journal is damaged.
    """
    if isinstance(event, NoteDeleted):
        assert note is not None, "a note is written before it is forgotten"
        return None
    assert note is not None or event.number == envelope.cursor, "a note's number is that of its first event"
    return Note(
        **fields_of(NoteProperties, event),
        number=event.number,
        version=note.version + 1 if note is not None else 1,
        created_at_ms=note.created_at_ms if note is not None else envelope.at_ms,
        updated_at_ms=envelope.at_ms,
        updated_cursor=envelope.cursor,
        session_id=envelope.session_id,
    )


def evolve_notebook(notebook: Notebook | None, envelope: Envelope, event: NotebookChanged) -> Notebook:
    """Return the totals of an agent's notes after an event."""
    return Notebook(
        **fields_of(NotebookTotals, event),
        created_cursor=notebook.created_cursor if notebook is not None else envelope.cursor,
        updated_cursor=envelope.cursor,
    )


# The index.


def names_of(note: NoteProperties) -> list[str]:
    """Return the names of a note as they are compared, the name first, each once."""
    return list(dict.fromkeys(map(fold_name, (note.name, *note.aliases))))


def digest_name(name: str) -> str:
    """Return the key of a folded name: a name may be longer than a key."""
    return sha256(name.encode()).hexdigest()[:32]


class Terms(Value, frozen=True):
    """The terms of a note with their numbers, and the number of all terms in it, indexed or not."""

    counts: dict[str, int]
    length: int


def terms_of(note: NoteProperties) -> Terms:
    """Return the terms by which a note is found: those of its names, twice, and of its content.

    Terms beyond ``MAX_NOTE_INDEX_BYTES`` are not indexed.
    """
    names = [note.name, *note.aliases]
    counts = count_terms((*names, *names, note.content))
    length = counts.total()
    room = MAX_NOTE_INDEX_BYTES
    overhead = _ROW_BYTES + len(note.agent.encode())
    for term in list(counts):
        room -= overhead + len(term.encode())
        if room < 0:
            del counts[term]
    return Terms(counts, length)


# Markdown.


class NoteMatter(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The front matter of a note as a file."""

    name: NoteName
    kind: NoteKind = "note"
    aliases: NoteAliases = []
    origins: list[InputOrigin] = []
    sender: Annotated[str, Meta(min_length=1)] | None = None


def format_file(note: NoteProperties) -> NoteFile:
    """Return a note as a Markdown file, which ``parse_file`` reads as the same note."""
    matter = NoteMatter(note.name, note.kind, note.aliases, note.origins, note.sender)
    # JSON is YAML, and keeps every character of a name; only DEL and a few others must be escaped, too.
    lines = [
        f"{key}: {_escape(msgspec.json.encode(value).decode())}"
        for key, value in msgspec.to_builtins(matter).items()
    ]
    text = "\n".join(["---", *lines, "---", note.content])
    stem = "-".join(re.findall(r"[a-z0-9]+", fold(note.name)))[:MAX_FILE_STEM_CHARACTERS].strip("-")
    return NoteFile(f"{stem or 'note'}-{digest_name(fold_name(note.name))[:8]}.md", text)


def _escape(text: str) -> str:
    """Return JSON without the characters that YAML does not allow as they are."""
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def parse_file(content: str, filename: str) -> tuple[NoteMatter, str]:
    """Return the front matter and the content of a Markdown file.

    Without front matter, all of the file is content, and the name is the first heading, else the file's name.
    Errors: FrontMatterError, with a line for every problem.
    """
    opening = _FENCE.match(content)
    if opening is None:
        name = name_from_markdown(content, filename)
        if name is None:
            raise FrontMatterError([(1, "the file is not Markdown by its name")])
        return NoteMatter(truncate(" ".join(name.split()), MAX_NOTE_NAME_BYTES, "")), content
    closing = re.compile(r"^---[ \t]*(?:\r?\n|\Z)", re.MULTILINE).search(content, opening.end())
    if closing is None:
        raise FrontMatterError([(1, "the front matter has no closing '---' line")])
    matter, lines = load_yaml(content[opening.end() : closing.start()])
    problems = list(find_problems(NoteMatter, matter))
    if problems:
        raise FrontMatterError([(find_line(lines, problem.path) or 1, str(problem)) for problem in problems])
    return msgspec.convert(matter, NoteMatter), content[closing.end() :]
