"""The memory of a run: the notes that it is given at its start, and the archive of a compaction.

The notes are chosen once, before the first model call, and committed with their text. So all model calls of a
run see the same, also after a restart, and the journal holds what they saw.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

from kheishd.core.memory.recall import choose_notes
from kheishd.core.run.commands import Compaction, NoteRecall
from kheishd.core.trust import join_origins
from kheishd.objects.agents.notes import (
    ARCHIVE_PREFIX,
    add_snippets,
    find_note,
    readable_notebooks,
    search_notes,
    write_note,
)
from kheishd.objects.talk.bounds import bounds_of
from kheishd.objects.talk.input import origins_read
from kheishd.records.writer import Origin
from kheishd.store.tables import BLOBS, NOTES
from protocol.errors.refusal import Refusal
from protocol.events.run import NotesRecalled
from protocol.limits.memory import MAX_NOTE_BYTES, MAX_QUERY_BYTES
from protocol.objects.memory import NoteProperties, RecalledNote
from protocol.text import truncate, truncate_json
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.core.context.reduction import TranscriptEntry
    from kheishd.core.run.commands import Compact
    from kheishd.kernel.hook import RunContext
    from kheishd.records.writer import SessionWriter
    from kheishd.workers.runs.active import ActiveRun

log = logging.getLogger("kheishd.runs")


async def load_recall(active: ActiveRun, context: RunContext, entries: Sequence[TranscriptEntry]) -> str:
    """Return the text of the notes that a run sees: those committed at its start, or chosen now.

    Only an agent that may recall is given notes, and no guest. Notes are chosen by the newest message.
    """
    run, section = active.record, active.runtime.config.memory
    with active.state.read() as store:
        if run.recall_cursor is not None:
            event = active.read_event(store, run.recall_cursor)
            assert isinstance(event, NotesRecalled), "the record names the event"
            blob = store.get(BLOBS, event.text, 0)
            return blob.decode() if blob is not None else ""
        # Without any notes, a turn pays for this look only.
        if not store.count(NOTES) or run.turn or run.kind == "compaction" or run.guest is not None:
            return ""
        message = entries[-1].message if entries else None
        if not section.recall_limit or not context.allows("recall") or message is None:
            return ""
        query = truncate(text_of(message.items), MAX_QUERY_BYTES, "")
        hits = search_notes(
            store,
            readable_notebooks(store, active.current_runtime, context.session),
            query,
            section.recall_limit,
            lambda note: note.kind == "note",
        )
    text, notes = choose_notes(await add_snippets(hits, query), section.recall_tokens)
    if not notes:
        return ""
    # A daemon that resumes the run reads the stored text, which has no secrets.
    text = active.live.scrubber.scrub_bytes(text.encode()).decode()
    digest, _ = await active.put_blob(text.encode())
    recalled = [RecalledNote(note.agent, note.number, note.name) for note in notes]
    origins = join_origins(*(note.origins for note in notes))
    await active.commit(NoteRecall(recalled, digest, origins))
    return text


async def commit_compaction(active: ActiveRun, command: Compact) -> None:
    """Commit a compaction; the archive of its summary comes first, in the same transaction."""

    def commit(writer: SessionWriter) -> None:
        if isinstance(command.result, Compaction) and command.result.summary:
            _archive(active, writer, command.result.summary)
        writer.carry_out(command)

    await active.transact(commit)


def _archive(active: ActiveRun, writer: SessionWriter, summary: str) -> None:
    """Write the archive of a conversation, if its agent may recall it. A full notebook keeps no run."""
    session, tx = writer.session, writer.tx
    # A session without a sender has no conversation that could recall it.
    if session.sender is None or writer.run.guest is not None:
        return
    if not bounds_of(tx, active.current_runtime, session).allows_tool("recall"):
        return
    # An operator may have imported an archive of this name.
    names = (f"{ARCHIVE_PREFIX}{number}" for number in count(tx.last_cursor + 1))
    archive = NoteProperties(
        agent=session.agent,
        name=next(name for name in names if find_note(tx, session.agent, name) is None),
        content=truncate_json(summary, MAX_NOTE_BYTES),
        kind="archive",
        origins=origins_read(tx, session),
        sender=session.sender,
    )
    try:
        write_note(tx, archive, Origin(f"agent:{session.session_id}"), session_id=session.session_id)
    except Refusal as refusal:
        log.warning("no archive: %s", refusal.message, extra={"session_id": session.session_id})
