"""Versions of files for checkpoints: read their contents, and bring former ones back.

Links are never followed, and nothing but ordinary files is read or written.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.hooks.os.files.attributes import FileAttributes
from kheishd.hooks.os.files.confinement import Root, explain_errors, open_root, sync_directory
from kheishd.hooks.os.files.diff import diff_of
from kheishd.hooks.os.files.edits import (
    ABSENT,
    FileChange,
    FileState,
    check_cancelled,
    read_pieces,
    read_state,
)
from kheishd.hooks.os.files.transaction import apply_changes, lock_workspace
from kheishd.kernel.hook import FileWrite, SavedFile, Stale, ToolError
from protocol.limits.checkpoint import MAX_CHECKPOINT_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
TOO_LARGE = f"it has more than {MAX_CHECKPOINT_FILE_BYTES} bytes"


def saved_file(change: FileChange) -> SavedFile:
    """Return the version before a change."""
    state = change.state
    digest = None if state.absent else state.digest
    mode = state.attributes.mode if state.attributes is not None else 0
    problem = TOO_LARGE if state.content is None and not state.absent else ""
    return SavedFile(state.path, state.content, digest, mode, change.digest, problem)


def read_version(root: Root, path: str) -> SavedFile:
    """Return the current version of a file; its ``problem`` is why it cannot be read."""
    try:
        with explain_errors(path), root.file(path) as descriptor:
            status = os.fstat(descriptor)
            if status.st_size > MAX_CHECKPOINT_FILE_BYTES:
                return SavedFile(path, None, "", status.st_mode & 0o7777, problem=TOO_LARGE)
            content = b"".join(read_pieces(descriptor, check_cancelled, MAX_CHECKPOINT_FILE_BYTES))
            return SavedFile(path, content, hashlib.sha256(content).hexdigest(), status.st_mode & 0o7777)
    except ToolError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return SavedFile(path, None, None)
        return SavedFile(path, None, "", problem=str(error))


def read_versions(workspace: str, paths: Iterable[str]) -> list[SavedFile]:
    """Return the current versions of files. Errors: ToolError if the workspace is gone."""
    with open_root(workspace) as root:
        return [read_version(root, path) for path in paths]


def write_versions(workspace: str, writes: Sequence[FileWrite], key: str) -> None:
    """Bring all files to former contents, or none; then delete those that did not exist.

    Errors: ToolError; Stale if a file is not as expected.
    """
    with open_root(workspace) as root, lock_workspace(root):
        states = [read_state(root, write.path) for write in writes]
        for write, state in zip(writes, states, strict=True):
            if state.digest != (write.expected or ABSENT):
                raise Stale(f"{write.path} was changed by another program meanwhile")
        changes = [
            FileChange(_with_mode(state, write.mode), write.content)
            for write, state in zip(writes, states, strict=True)
            if write.content is not None
        ]
        apply_changes(root, changes, key)
        for write, state in zip(writes, states, strict=True):
            if write.content is None and not state.absent:
                _delete(root, write.path)


def _with_mode(state: FileState, mode: int) -> FileState:
    """Return the state of a file; one that does not exist gets the mode before others can open it."""
    if not state.absent or not mode:
        return state
    return replace(
        state, attributes=FileAttributes(mode & 0o777, os.geteuid(), os.getegid(), links=1, xattrs={})
    )


def _delete(root: Root, path: str) -> None:
    with explain_errors(path), root.parent(path) as (directory, name):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        sync_directory(directory)


def diff_versions(pairs: Iterable[tuple[SavedFile, SavedFile]]) -> str:
    """Return a unified diff of pairs of versions; a file whose content is not known is only named."""
    notes, changes = [], []
    for before, now in pairs:
        problem = before.problem or now.problem
        if problem:
            notes.append(f"# {before.path}: {problem}\n")
            continue
        size = len(before.content or b"")
        state = FileState(before.path, before.digest or ABSENT, size, before.content)
        if now.content is None:
            notes.append(f"# {before.path} no longer exists.\n")
        changes.append(FileChange(state, now.content or b""))
    return "".join(notes) + (diff_of(changes) if changes else "")
