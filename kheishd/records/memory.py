"""Records of notes, with their index, and of the totals of each agent's notes.

Each note has a stream of its own, so that a replay of one with many changes stays short. The totals have a
stream for each agent, with an event for every change of one of its notes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core.memory.note import digest_name, evolve, evolve_notebook, names_of, terms_of
from kheishd.records.projection import IndexRow, Projection, key_in
from kheishd.store.postings import pack_posting
from kheishd.store.tables import NOTE_POSTINGS, NOTEBOOKS, NOTES, NOTES_BY_KIND, NOTES_BY_NAME
from protocol.events.memory import NotebookChanged, NoteDeleted, NoteWritten

if TYPE_CHECKING:
    from protocol.objects.memory import Note

NOTE_KIND: Final = "note"
NOTEBOOK_KIND: Final = "notebook"


def note_stream(number: int) -> str:
    """Return the stream of a note."""
    return f"{NOTE_KIND}/{number}"


def notebook_stream(agent: str) -> str:
    """Return the stream of the totals of an agent's notes."""
    return f"{NOTEBOOK_KIND}/{agent}"


def index_rows(note: Note) -> frozenset[IndexRow]:
    """Return the index rows of a note: its names, its kind, and its terms."""
    agent, number, terms = note.agent, note.number, terms_of(note)
    return frozenset(
        (
            IndexRow(NOTES_BY_KIND, (agent, note.kind, number)),
            *(IndexRow(NOTES_BY_NAME, (agent, digest_name(name)), number) for name in names_of(note)),
            *(
                IndexRow(NOTE_POSTINGS, (agent, term, number), pack_posting(count, terms.length))
                for term, count in terms.counts.items()
            ),
        )
    )


NOTE_RECORDS: Final = Projection(
    kind=NOTE_KIND,
    table=NOTES,
    begins=NoteWritten,
    events=(NoteWritten, NoteDeleted),
    key=key_in("number"),
    evolve=evolve,
    source=lambda store, key, note: (note_stream(note.number), note.number),
    stream=NOTE_KIND,
    rows=index_rows,
    indexes=(NOTES_BY_KIND, NOTES_BY_NAME, NOTE_POSTINGS),
    # One record in a stream.
    bounded=True,
)

NOTEBOOK_RECORDS: Final = Projection(
    kind=NOTEBOOK_KIND,
    table=NOTEBOOKS,
    begins=NotebookChanged,
    events=(NotebookChanged,),
    key=key_in("agent"),
    evolve=evolve_notebook,
    source=lambda store, key, notebook: (notebook_stream(notebook.agent), notebook.created_cursor),
    stream=NOTEBOOK_KIND,
    # One record in a stream.
    bounded=True,
)
