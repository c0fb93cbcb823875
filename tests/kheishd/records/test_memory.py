"""Records of notes, their index, and totals."""

from kheishd.records.memory import NOTE_RECORDS, NOTEBOOK_RECORDS, note_stream, notebook_stream
from kheishd.records.projection import stream_kind
from protocol.events.memory import NotebookChanged, NoteWritten
from tests.support.records import fold_record, index_rows

WRITTEN = NoteWritten(number=1, agent="a", name="Build", content="Run make.", aliases=["make"])


def test_the_index_of_a_note() -> None:
    """A note is found by each of its names, by its kind, and by its terms."""
    rows = index_rows(NOTE_RECORDS, WRITTEN)
    assert rows["notes_by_kind"] == [("a", "note", 1)]
    assert len(rows["notes_by_name"]) == 2
    assert rows["note_postings"] == [("a", "build", 1), ("a", "make", 1), ("a", "run", 1)]


def test_streams() -> None:
    """Notes and totals have streams of their own kinds, which are no sessions'."""
    assert (stream_kind(note_stream(7)), stream_kind(notebook_stream("a"))) == ("note", "notebook")
    record = fold_record(NOTEBOOK_RECORDS, NotebookChanged(agent="a", number=1, notes=1))
    assert (record.agent, record.notes) == ("a", 1)
