"""Notes: texts that an agent keeps beyond its conversations, with names, and the search in them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.memory import NotebookFull, NoteInvalid, NoteNameTaken, NoteNotFound, NoteProtected
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.memory import (
    MAX_HITS,
    MAX_NOTE_ALIASES,
    MAX_NOTE_BYTES,
    MAX_NOTE_FILE_BYTES,
    MAX_NOTE_NAME_BYTES,
    MAX_QUERY_BYTES,
)
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import InputOrigin

NoteKind = Literal["note", "archive"]
"""``note``: written by an agent or an operator. ``archive``: the summary of a compacted conversation."""

NoteName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NOTE_NAME_BYTES,
        description="One line. Case and width of letters do not count.",
    ),
]
NoteAliases = Annotated[
    list[NoteName],
    Meta(max_length=MAX_NOTE_ALIASES, description="Other names, by which the note is found as well."),
]
NoteContent = Annotated[str, Meta(max_length=MAX_NOTE_BYTES, description="The text, exactly.")]
QueryText = Annotated[
    str, Meta(min_length=1, max_length=MAX_QUERY_BYTES, description="Words, in any order and inflection.")
]


class NoteProperties(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a note, as its record and its events hold them.

    ``origins`` are those of everything that its author had read. ``sender`` limits an archive to the
    conversations of that sender.
    """

    agent: str
    name: str
    content: str
    kind: NoteKind = "note"
    aliases: list[str] = []
    origins: list[InputOrigin] = []
    sender: str | None = None


class Note(NoteProperties, frozen=True, kw_only=True, omit_defaults=True):
    """A note. ``number`` is the cursor of its first event; ``version`` counts its changes from 1.

    ``session_id`` is the session that wrote it last; null: an operator.
    """

    number: Cursor
    version: int
    created_at_ms: int
    updated_at_ms: int
    updated_cursor: Cursor = 0
    session_id: str | None = None


class NotebookTotals(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The notes of an agent: how many, their bytes, and the words in their index."""

    agent: str
    notes: int = 0
    archives: int = 0
    content_bytes: int = 0
    terms: int = 0


class Notebook(NotebookTotals, frozen=True, kw_only=True, omit_defaults=True):
    """The totals of an agent's notes, as stored."""

    created_cursor: Cursor
    updated_cursor: Cursor


class NoteHit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A note in the result of a search, with an excerpt around the words of the query."""

    agent: str
    name: str
    kind: NoteKind
    number: Cursor
    score: float
    snippet: str
    updated_at_ms: int
    aliases: list[str] = []
    origins: list[InputOrigin] = []


class RecalledNote(Struct, frozen=True):
    """A note that a run was given at its start."""

    agent: str
    number: Cursor
    name: str


class NoteHits(Struct, frozen=True):
    """The notes that fit a query, the best first."""

    notes: list[NoteHit]


class NoteList(Struct, frozen=True):
    """A page of notes, the oldest first."""

    notes: list[Note]
    next: str | None


class NoteFile(Struct, frozen=True):
    """A note as a Markdown file: front matter with its name, and its content exactly."""

    filename: str
    content: str


class NoteFiles(Struct, frozen=True):
    """A page of notes as Markdown files, the oldest first."""

    files: list[NoteFile]
    next: str | None


class MemoryRemember(Mutation, frozen=True, kw_only=True):
    """Params of ``memory.remember``. Without ``aliases``, an existing note keeps its own."""

    agent: Id
    name: NoteName
    content: NoteContent
    aliases: NoteAliases | None = None


class MemoryRecall(Params, frozen=True, kw_only=True):
    """Params of ``memory.recall``; without a ``kind``, both kinds."""

    agent: Id
    query: QueryText
    kind: NoteKind | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_HITS)] = 5


class MemoryListParams(Page, frozen=True, kw_only=True):
    """Params of ``memory.list``."""

    agent: Id
    kind: NoteKind = "note"


class NoteRef(Params, frozen=True, kw_only=True):
    """Params that name a note, by its name or an alias."""

    agent: Id
    name: NoteName


class MemoryForget(Mutation, frozen=True, kw_only=True):
    """Params of ``memory.forget``: a note or an archive."""

    agent: Id
    name: NoteName


class MemoryImport(Mutation, frozen=True, kw_only=True):
    """Params of ``memory.import``: one Markdown file.

    Without front matter, the first heading is the name, else the file's name without its end.
    """

    agent: Id
    content: Annotated[str, Meta(max_length=MAX_NOTE_FILE_BYTES)]
    filename: Annotated[str, Meta(min_length=1, max_length=255, description="It ends in .md or .markdown.")]


_READ = (AgentForbidden,)
_READ_ALL = (AgentForbidden, AgentNotFound)
_WRITE = (AgentForbidden, AgentNotFound, NoteNameTaken, NoteProtected, NotebookFull)
_STORE = (InputTooLarge, StorageFull)

REMEMBER = Method(
    "memory.remember",
    "mutation",
    MemoryRemember,
    Note,
    "Write a note of an agent, or replace the one of that name.",
    scope="operate",
    errors=(*_WRITE, *_STORE),
)
RECALL = Method(
    "memory.recall",
    "control",
    MemoryRecall,
    NoteHits,
    "Search the notes of an agent by words, the best first.",
    errors=_READ_ALL,
)
GET = Method("memory.get", "query", NoteRef, Note, "Show a note.", errors=(*_READ, NoteNotFound))
LIST = Method(
    "memory.list",
    "query",
    MemoryListParams,
    NoteList,
    "List the notes of an agent, by age.",
    errors=_READ_ALL,
)
FORGET = Method(
    "memory.forget",
    "mutation",
    MemoryForget,
    Note,
    "Delete a note or an archive of an agent.",
    scope="operate",
    errors=(AgentForbidden, NoteNotFound, StorageFull),
)
EXPORT = Method(
    "memory.export",
    "query",
    MemoryListParams,
    NoteFiles,
    "Show the notes of an agent as Markdown files, by age.",
    errors=_READ_ALL,
)
IMPORT = Method(
    "memory.import",
    "mutation",
    MemoryImport,
    Note,
    "Write a note of an agent from a Markdown file, or replace the one of that name.",
    scope="operate",
    errors=(*_WRITE, NoteInvalid, *_STORE),
)

METHODS = (REMEMBER, RECALL, GET, LIST, FORGET, EXPORT, IMPORT)
