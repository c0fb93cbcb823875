"""Notes in the store: find, write, forget and search them; and the agents whose notes a session may read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio
from msgspec.structs import replace

from kheishd.core.memory.note import digest_name, terms_of
from kheishd.core.memory.ranking import Collection, rank
from kheishd.core.memory.terms import choose_query_terms, fold_name, make_snippet
from kheishd.core.trust import join_origins
from kheishd.objects.talk.bounds import ancestors
from kheishd.records.memory import note_stream, notebook_stream
from kheishd.records.writer import StreamWriter
from kheishd.store.postings import Postings
from kheishd.store.tables import NOTE_POSTINGS, NOTEBOOKS, NOTES, NOTES_BY_NAME
from protocol.errors.memory import NotebookFull, NoteNameTaken, NoteProtected
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.events.memory import NotebookChanged, NoteDeleted, NoteWritten
from protocol.limits.memory import (
    MAX_NOTE_BYTES,
    MAX_NOTEBOOK_BYTES,
    MAX_NOTES,
    MAX_POSTINGS_READ,
    MAX_QUERY_TERMS,
)
from protocol.objects.memory import NoteHit, NoteProperties
from protocol.structs import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.kernel.runtime import Runtime
    from kheishd.records.writer import Origin
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.memory import Note
    from protocol.objects.session import Session

ARCHIVE_PREFIX: Final = "archive-"


# Access.


def readable_notebooks(store: Snapshot, runtime: Runtime, session: Session) -> list[str]:
    """Return the agents whose notes a session's agent may read, its own first.

    Another agent's notes must be named by the definition, and by those of all sessions above or be their own:
    so no chain of agents reads notes that its root may not read.
    """
    names = _notebooks_of(runtime, session)
    foreign = [name for name in names if name != session.agent]
    if foreign:
        for parent in ancestors(store, session):
            allowed = {parent.agent, *_notebooks_of(runtime, parent)}
            foreign = [name for name in foreign if name in allowed]
    return [session.agent, *foreign] if session.agent in names else foreign


def _notebooks_of(runtime: Runtime, session: Session) -> list[str]:
    definition = runtime.definitions.get(session.agent)
    memory = definition.memory if definition is not None else None
    return [session.agent] if memory is None else memory


# Changes.


def find_note(store: Snapshot, agent: str, name: str) -> Note | None:
    """Return an agent's note by its name or an alias; None if there is none."""
    number = store.get(NOTES_BY_NAME, agent, digest_name(fold_name(name)))
    return None if number is None else store.need(NOTES, number)


def require_valid(properties: NoteProperties) -> None:
    """Require names of one line that are not blank, and a content that fits.

    Errors: InvalidParams, InputTooLarge.
    """
    for field, names in (("name", [properties.name]), ("aliases", properties.aliases)):
        if not all(fold_name(name) and name.isprintable() for name in names):
            raise InvalidParams("a name is one line of printable text", field=f"$.params.{field}")
    # A content of control characters would take six times as much in the journal.
    size = len(msgspec.json.encode(properties.content))
    if size > MAX_NOTE_BYTES:
        text = f"the note takes {size} bytes as JSON; the limit is {MAX_NOTE_BYTES}: split it into several"
        raise InputTooLarge(text, field="$.params.content")


def write_note(
    tx: Transaction,
    properties: NoteProperties,
    origin: Origin,
    *,
    session_id: str | None = None,
    keeps_aliases: bool = False,
) -> Note:
    """Write a note, or replace the one of its name; one that is the same already stays as it is.

    ``session_id`` is the session that writes. With ``keeps_aliases``, a note that is replaced keeps its own,
    and the origins of their author.
    Errors: NoteNameTaken, NoteProtected, NotebookFull.
    """
    agent = properties.agent
    note = find_note(tx, agent, properties.name)
    if note is not None:
        if fold_name(note.name) != fold_name(properties.name):
            text = f"'{properties.name}' is an alias of the note '{note.name}'; use that name, or another one"
            raise NoteNameTaken(text, field="$.params.name")
        if keeps_aliases and note.aliases:
            origins = join_origins(note.origins, properties.origins)
            properties = replace(properties, aliases=note.aliases, origins=origins)
        if fields_of(NoteProperties, note) == fields_of(NoteProperties, properties):
            return note
        if "archive" in (note.kind, properties.kind):
            text = f"'{note.name}' is an archive, which stays as it was written; choose another name"
            if note.kind == "note":
                text = f"there is a note '{note.name}' already; forget it before the archive is written"
            raise NoteProtected(text, field="$.params.name")
    names = {"name": properties.name}
    names |= {f"aliases[{index}]": alias for index, alias in enumerate(properties.aliases)}
    for field, name in names.items() if properties.kind == "note" else ():
        if fold_name(name).startswith(ARCHIVE_PREFIX):
            text = f"names that begin with '{ARCHIVE_PREFIX}' are those of archives; choose another one"
            raise NoteProtected(text, field=f"$.params.{field}")
    for index, alias in enumerate(properties.aliases):
        taken = find_note(tx, agent, alias)
        if taken is not None and (note is None or taken.number != note.number):
            text = f"'{alias}' is a name of the note '{taken.name}'; leave it out, or choose another one"
            raise NoteNameTaken(text, field=f"$.params.aliases[{index}]")
    _require_room(tx, properties, note)
    number = note.number if note is not None else tx.last_cursor + 1
    writer = StreamWriter(tx, note_stream(number), session_id=session_id, origin=origin)
    writer.append(NoteWritten(number=number, **fields_of(NoteProperties, properties)))
    writer.write()
    written = tx.need(NOTES, number)
    _count(tx, note, written, origin)
    return written


def _require_room(tx: Transaction, properties: NoteProperties, note: Note | None) -> None:
    """Require room for a note. Errors: NotebookFull."""
    notebook = tx.get(NOTEBOOKS, properties.agent)
    if notebook is None:
        return
    if note is None and notebook.notes + notebook.archives >= MAX_NOTES:
        raise NotebookFull(f"the agent has {MAX_NOTES} notes, the maximum; forget some first")
    previous_bytes = len(note.content.encode()) if note is not None else 0
    if notebook.content_bytes - previous_bytes + len(properties.content.encode()) > MAX_NOTEBOOK_BYTES:
        text = f"the agent's notes would take more than {MAX_NOTEBOOK_BYTES} bytes; forget some first"
        raise NotebookFull(text)


def forget_note(tx: Transaction, note: Note, origin: Origin) -> None:
    """Delete a note or an archive."""
    writer = StreamWriter(tx, note_stream(note.number), origin=origin)
    writer.append(NoteDeleted(number=note.number))
    writer.write()
    _count(tx, note, None, origin)


def _count(tx: Transaction, previous: Note | None, note: Note | None, origin: Origin) -> None:
    """Append the totals of an agent's notes after a change of one of them."""
    changed = note or previous
    assert changed is not None, "a change has a note before it, or after"
    totals = NotebookChanged(agent=changed.agent, number=changed.number)
    notebook = tx.get(NOTEBOOKS, changed.agent)
    if notebook is not None:
        totals = replace(
            totals,
            notes=notebook.notes,
            archives=notebook.archives,
            content_bytes=notebook.content_bytes,
            terms=notebook.terms,
        )
    for state, sign in ((previous, -1), (note, 1)):
        if state is not None:
            totals = replace(
                totals,
                notes=totals.notes + sign * (state.kind == "note"),
                archives=totals.archives + sign * (state.kind == "archive"),
                content_bytes=totals.content_bytes + sign * len(state.content.encode()),
                terms=totals.terms + sign * terms_of(state).length,
            )
    writer = StreamWriter(tx, notebook_stream(changed.agent), origin=origin)
    writer.append(totals)
    writer.write()


# Search.


def search_notes(
    store: Snapshot, agents: Sequence[str], query: str, limit: int, accept: Callable[[Note], bool]
) -> list[tuple[Note, NoteHit]]:
    """Return the notes of some agents that fit a query and are accepted, the best first.

    A note with exactly this name comes before all others. ``add_snippets`` completes the hits.
    """
    terms = choose_query_terms(query, MAX_QUERY_TERMS)
    # The work for one search is the same for any number of agents.
    max_rows = MAX_POSTINGS_READ // max(len(agents), 1)
    hits: list[tuple[Note, NoteHit]] = []
    for agent in agents:
        notebook = store.get(NOTEBOOKS, agent)
        if notebook is None:
            continue
        named = find_note(store, agent, query)
        documents = notebook.notes + notebook.archives
        collection = Collection(documents, notebook.terms, notebook.created_cursor)
        ranked = rank(Postings(store, NOTE_POSTINGS, agent), terms, collection, max_rows)
        scores = {number: score for number, score in ranked}
        if named is not None:
            best = max(scores.values(), default=0.0)
            scores = {named.number: best + 1.0} | {
                number: score for number, score in scores.items() if number != named.number
            }
        accepted = 0
        for number, score in scores.items():
            note = store.need(NOTES, number)
            if accept(note):
                hits.append((note, _hit_of(note, score)))
                accepted += 1
            if accepted == limit:
                break
    hits.sort(key=lambda hit: (-hit[1].score, -hit[1].number))
    return hits[:limit]


async def add_snippets(hits: Sequence[tuple[Note, NoteHit]], query: str) -> list[tuple[Note, NoteHit]]:
    """Return the hits of a search with their excerpts; other tasks run between any two."""
    terms = choose_query_terms(query, MAX_QUERY_TERMS)
    completed: list[tuple[Note, NoteHit]] = []
    for note, hit in hits:
        completed.append((note, replace(hit, snippet=make_snippet(note.content, terms))))
        await trio.lowlevel.checkpoint()
    return completed


def _hit_of(note: Note, score: float) -> NoteHit:
    return NoteHit(
        agent=note.agent,
        name=note.name,
        kind=note.kind,
        number=note.number,
        score=round(score, 4),
        snippet="",
        updated_at_ms=note.updated_at_ms,
        aliases=note.aliases,
        origins=note.origins,
    )
