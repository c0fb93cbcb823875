"""Events of notes: each note has a stream, ``note/NUMBER``, and the notes of an agent ``notebook/AGENT``."""

from protocol.ids import Cursor
from protocol.journal.envelope import Event
from protocol.objects.memory import NotebookTotals, NoteProperties


class NoteWritten(NoteProperties, Event, frozen=True, tag="note_written"):
    """A note was written, or replaced. The number of a new note is the cursor of this event."""

    number: Cursor


class NoteDeleted(Event, frozen=True, tag="note_deleted"):
    """A note was deleted. Its texts stay in the journal, and in no index."""

    number: Cursor


class NotebookChanged(NotebookTotals, Event, frozen=True, tag="notebook_changed"):
    """The notes of an agent changed to these totals, by a change of the note with this number."""

    number: Cursor
