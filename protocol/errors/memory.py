"""Refusals about notes."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, LimitReached, NotFound, Unprocessable


class NoteNotFound(NotFound, reason="note_not_found"):
    """The agent has no note of that name; memory.list shows its notes."""


class NoteNameTaken(Conflict, reason="note_name_taken"):
    """Another note has that name or alias; choose another one."""


class NoteProtected(Conflict, reason="note_protected"):
    """The note is an archive, which is not changed; choose another name."""


class NoteInvalid(Unprocessable, reason="note_invalid"):
    """The file is no note; the message names the line and the problem."""


class NotebookFull(LimitReached, reason="notebook_full"):
    """The agent has the maximum of notes; forget some first."""

    retryable = False
