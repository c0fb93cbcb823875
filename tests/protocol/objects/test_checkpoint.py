"""Checkpoints on the wire."""

import msgspec

from protocol.objects.checkpoint import LIST, RESTORE, CheckpointRestore, FileVersion


def test_a_restore_needs_the_right_to_approve() -> None:
    """Who may allow an edit may undo one; a list is for readers."""
    assert (RESTORE.scope, LIST.scope) == ("approve", "read")


def test_an_absent_file_and_one_that_was_not_saved_differ() -> None:
    """No digest means no file; a problem says why the content is missing."""
    assert msgspec.to_builtins(FileVersion(path="a")) == {"path": "a"}
    params = msgspec.convert({"session_id": "s", "since": 0}, CheckpointRestore)
    assert (params.since, params.force, params.check) == (0, False, False)
