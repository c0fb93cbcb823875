"""A checkpoint: the contents of files in a workspace before a tool call, an undo or a redo changed them.

The journal has the paths and the digests. The contents are in the store only; nothing but
``checkpoint.diff`` shows them.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.checkpoint import CheckpointNotFound, FilesChanged, NothingToRestore, RestoreTooLarge
from protocol.errors.session import SessionBusy, SessionNotFound, WorkspaceForbidden, WorkspaceMissing
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.rpc.method import Method, Page, Params

CheckpointKind = Literal["call", "undo", "redo"]
CheckpointStatus = Literal["begun", "done", "reverted"]


class FileVersion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file before and after a change.

    ``before`` and ``after`` are the SHA-256 of its content, in hex. Null: there was no such file. Empty: it
    is not known. ``bytes`` and ``mode`` are those before; ``problem`` is why its content was not saved.
    """

    path: str
    before: str | None = None
    after: str | None = None
    bytes: int = 0
    mode: int = 0
    problem: str = ""


class Checkpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A checkpoint as stored and as shown.

    ``kind``: the change was that of a tool call, an undo or a redo. ``more`` is the number of changed files
    that are not in ``files``; ``note`` says what is not covered. ``status``: an undo or redo is ``begun``
    until its files are written; what it has ``reverts`` is ``reverted`` then, and ``restores`` is done again.
    """

    checkpoint_id: Id
    session_id: Id
    kind: CheckpointKind
    status: CheckpointStatus
    workspace: str
    created_at_ms: int
    created_cursor: Cursor
    updated_cursor: Cursor
    files: list[FileVersion] = []
    run_id: str | None = None
    call_id: str = ""
    tool: str = ""
    more: int = 0
    note: str = ""
    reverts: list[str] = []
    restores: list[str] = []


class CheckpointList(Struct, frozen=True):
    """A page of checkpoints, newest first."""

    checkpoints: list[Checkpoint]
    next: str | None


class CheckpointListParams(Page, frozen=True, kw_only=True):
    """Params of ``checkpoint.list``."""

    session_id: Id


class CheckpointSelection(Params, frozen=True, kw_only=True):
    """Params that select changes of a session: one checkpoint, or all of calls after a cursor.

    Without either, the newest one is meant that is not reverted.
    """

    session_id: Id
    checkpoint_id: Id | None = None
    since: Annotated[Cursor, Meta(description="Every change after this cursor.")] | None = None


class CheckpointDiffParams(CheckpointSelection, frozen=True, kw_only=True):
    """Params of ``checkpoint.diff``."""


class CheckpointRestore(CheckpointSelection, frozen=True, kw_only=True):
    """Params of ``checkpoint.restore``.

    ``redo`` reverts the newest undo. ``force`` overwrites files that changed since. ``check`` changes nothing
    and reports what would happen, also for files that changed since.
    """

    redo: bool = False
    force: bool = False
    check: bool = False


FileAction = Literal["written", "deleted", "unchanged", "unsaved", "changed"]


class RestoredFile(Struct, frozen=True, omit_defaults=True):
    """A file in the result of a restore.

    ``unchanged``: it is as it was before. ``unsaved``: its content was not saved. ``changed``: it was changed
    since by others. ``problem`` says more.
    """

    path: str
    action: FileAction
    problem: str = ""


class CheckpointRestored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of ``checkpoint.restore``; ``checkpoint_id`` is that of the undo or redo itself."""

    kind: CheckpointKind
    reverts: list[str]
    files: list[RestoredFile]
    checkpoint_id: str | None = None
    more: int = 0
    note: str = ""


class CheckpointDiff(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The changes of files from before the selected checkpoints until now, as a unified diff."""

    checkpoints: list[str]
    text: str
    files: list[str]
    more: int = 0
    note: str = ""


LIST = Method(
    "checkpoint.list",
    "query",
    CheckpointListParams,
    CheckpointList,
    "List a session's checkpoints of workspace files, newest first.",
    errors=(SessionNotFound,),
)
DIFF = Method(
    "checkpoint.diff",
    "control",
    CheckpointDiffParams,
    CheckpointDiff,
    "Show how files have changed since a checkpoint.",
    errors=(
        SessionNotFound,
        CheckpointNotFound,
        NothingToRestore,
        WorkspaceForbidden,
        WorkspaceMissing,
    ),
)
RESTORE = Method(
    "checkpoint.restore",
    "control",
    CheckpointRestore,
    CheckpointRestored,
    "Undo or redo changes of workspace files; a file that changed since is overwritten only if forced.",
    scope="approve",
    errors=(
        SessionNotFound,
        SessionBusy,
        CheckpointNotFound,
        NothingToRestore,
        FilesChanged,
        RestoreTooLarge,
        WorkspaceForbidden,
        WorkspaceMissing,
        StorageFull,
    ),
)

METHODS = (LIST, DIFF, RESTORE)
