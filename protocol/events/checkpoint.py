"""Events of checkpoints."""

from typing import Literal

from protocol.journal.envelope import Event
from protocol.objects.checkpoint import FileVersion


class CheckpointSaved(Event, frozen=True, tag="checkpoint_saved"):
    """The contents of files before a change were saved: by a call, or by an undo or redo that begins.

    ``reverts`` are the checkpoints that an undo or redo reverts, ``restores`` those that it brings back.
    """

    checkpoint_id: str
    workspace: str
    kind: Literal["call", "undo", "redo"] = "call"
    files: list[FileVersion] = []
    call_id: str = ""
    tool: str = ""
    more: int = 0
    note: str = ""
    reverts: list[str] = []
    restores: list[str] = []


class CheckpointReverted(Event, frozen=True, tag="checkpoint_reverted"):
    """The files of an undo or redo were written; the fields are those of its ``checkpoint_saved``."""

    checkpoint_id: str
    reverts: list[str]
    restores: list[str] = []


class CheckpointDropped(Event, frozen=True, tag="checkpoint_dropped"):
    """A checkpoint is kept no longer, because newer ones need its room."""

    checkpoint_id: str
