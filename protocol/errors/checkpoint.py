"""Refusals about checkpoints."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class CheckpointNotFound(NotFound, reason="checkpoint_not_found"):
    """The session has no such checkpoint; checkpoint.list shows those that are kept."""


class NothingToRestore(Conflict, reason="nothing_to_restore"):
    """There are no saved changes of files to undo."""


class FilesChanged(Conflict, reason="files_changed"):
    """Files have changed since the checkpoint; ``force`` overwrites them."""


class RestoreTooLarge(Conflict, reason="restore_too_large"):
    """A restore replaces more than one undo keeps; restore fewer checkpoints."""
