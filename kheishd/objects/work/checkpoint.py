"""Checkpoints of workspace files: save the contents that a call is about to change, show them, restore them.

The contents of large files are stored before the event that names them, small ones in its transaction. A
restore is a change like that of a call: the contents that it replaces are saved first, then the files are
written, then the event says so. If the daemon dies in between, the files tell at the next restore how far it
came.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

from kheishd.core.checkpoint import FileRevert, choose_redo, choose_undo, merge, stored_bytes
from kheishd.kernel.call import Call, control, origin_of, query
from kheishd.kernel.hook import CheckpointDraft, FileWrite, SavedFile, Stale, ToolError
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.address import find_session
from kheishd.objects.talk.workspace import find_problem
from kheishd.records.file_checkpoint import CHECKPOINT
from kheishd.records.writer import BY_DAEMON, SessionWriter
from kheishd.store.blobs import chunks
from kheishd.store.contents import delete_unused, put_content, put_content_chunk, read_content, read_total
from kheishd.store.tables import FILE_CHECKPOINTS, FILE_CHECKPOINTS_BY_AGE, RECORDS_BY_SESSION, SESSIONS
from protocol import ids
from protocol.errors.checkpoint import CheckpointNotFound, FilesChanged, NothingToRestore, RestoreTooLarge
from protocol.errors.session import SessionBusy, WorkspaceMissing
from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved
from protocol.limits.checkpoint import (
    MAX_CHECKPOINT_CONTENT_BYTES,
    MAX_CHECKPOINT_EVENT_BYTES,
    MAX_CHECKPOINT_FILES,
    MAX_DROPS,
    MAX_HOME_CHECKPOINT_BYTES,
    MAX_INLINE_CONTENT_BYTES,
    MAX_SESSION_CHECKPOINT_BYTES,
    MAX_SESSION_CHECKPOINTS,
)
from protocol.limits.units import MIB
from protocol.objects import checkpoint as rows
from protocol.objects.checkpoint import (
    Checkpoint,
    CheckpointDiff,
    CheckpointDiffParams,
    CheckpointKind,
    CheckpointList,
    CheckpointListParams,
    CheckpointRestore,
    CheckpointRestored,
    CheckpointSelection,
    FileVersion,
    RestoredFile,
)
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from kheishd.kernel.hook import WorkspaceFiles
    from kheishd.store.environment import Snapshot, Transaction

    Store = Callable[[Callable[[Transaction], object]], Awaitable[object]]
    """Runs a transaction."""

# The JSON of a file in an event besides its path: two digests and the names of the fields.
_ROW_BYTES = 250

# Refusals name this many files.
_MAX_NAMED = 8


# Saving.


class PreparedCheckpoint(Value, frozen=True):
    """A checkpoint to commit: its event, and the contents that are not stored yet."""

    event: CheckpointSaved
    contents: list[bytes]


async def prepare_checkpoint(
    store: Store,
    new_id: str,
    draft: CheckpointDraft,
    *,
    call_id: str = "",
    tool: str = "",
    kind: CheckpointKind = "call",
    reverts: Sequence[str] = (),
    restores: Sequence[str] = (),
) -> PreparedCheckpoint:
    """Store the large contents of a checkpoint and return its event. Errors: as ``store``."""
    files: list[FileVersion] = []
    contents: list[bytes] = []
    total = inline = event_bytes = 0
    for file in draft.files:
        event_bytes += len(file.path.encode(errors="replace")) + _ROW_BYTES
        if len(files) == MAX_CHECKPOINT_FILES or event_bytes > MAX_CHECKPOINT_EVENT_BYTES:
            break
        content, problem = file.content, file.problem
        if content is not None and total + len(content) > MAX_CHECKPOINT_CONTENT_BYTES:
            content, problem = None, "the files of one change are too large together"
        if content is not None:
            total += len(content)
            if inline + len(content) <= MAX_INLINE_CONTENT_BYTES:
                inline += len(content)
                contents.append(content)
            else:
                assert file.digest is not None, "a content has a digest"
                for number, chunk in chunks(content):
                    await store(partial(put_content_chunk, name=file.digest, number=number, chunk=chunk))
        files.append(
            FileVersion(
                path=file.path,
                before=file.digest,
                after=file.after,
                bytes=0 if content is None else len(content),
                mode=file.mode,
                problem=problem,
            )
        )
    event = CheckpointSaved(
        checkpoint_id=new_id,
        workspace=draft.workspace,
        kind=kind,
        files=files,
        call_id=call_id,
        tool=tool,
        more=draft.more + len(draft.files) - len(files),
        note=draft.note,
        reverts=[*reverts],
        restores=[*restores],
    )
    return PreparedCheckpoint(event, contents)


def save_checkpoint(writer: SessionWriter, prepared: PreparedCheckpoint, run_id: str | None = None) -> None:
    """Append a checkpoint with its small contents, and drop the oldest ones beyond the limits.

    Call it last: it writes the records.
    """
    tx = writer.tx
    for content in prepared.contents:
        put_content(tx, content)
    writer.append(prepared.event, run_id=run_id)
    writer.write()
    kept = [*_session_checkpoints(tx, writer.session_id)]
    size, excess = 0, []
    for number, record in enumerate(kept, 1):
        size += stored_bytes(record)
        if number > MAX_SESSION_CHECKPOINTS or (number > 1 and size > MAX_SESSION_CHECKPOINT_BYTES):
            excess.append(record)
    for record in excess[::-1][:MAX_DROPS]:
        _drop(tx, record)
    for _, checkpoint_id in tx.scan(FILE_CHECKPOINTS_BY_AGE) if _is_home_full(tx) else ():
        if not _is_home_full(tx) or checkpoint_id == prepared.event.checkpoint_id:
            break
        _drop(tx, tx.need(FILE_CHECKPOINTS, checkpoint_id))


def _is_home_full(tx: Transaction) -> bool:
    return read_total(tx) > MAX_HOME_CHECKPOINT_BYTES


def _drop(tx: Transaction, record: Checkpoint) -> None:
    """Drop a checkpoint, and the contents that no other one uses."""
    writer = SessionWriter(
        tx, record.session_id, session=tx.get(SESSIONS, record.session_id), origin=BY_DAEMON
    )
    writer.append(CheckpointDropped(checkpoint_id=record.checkpoint_id))
    writer.write()
    for digest in {file.before for file in record.files if file.before is not None and not file.problem}:
        delete_unused(tx, digest)


def _session_checkpoints(store: Snapshot, session_id: str, before: int | None = None) -> Iterator[Checkpoint]:
    """Yield the checkpoints of a session, newest first."""
    after = None if before is None else (session_id, CHECKPOINT, before)
    for _, checkpoint_id in store.scan(RECORDS_BY_SESSION, session_id, CHECKPOINT, after=after, reverse=True):
        yield store.need(FILE_CHECKPOINTS, checkpoint_id)


# Showing.


@query(rows.LIST)
def list_(call: Call, params: CheckpointListParams) -> CheckpointList:
    """List the checkpoints of a session, newest first. Errors: SessionNotFound."""
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        records = _session_checkpoints(store, session.session_id, cursor_after(params.after))
        keyed = (((record.created_cursor,), record) for record in records)
        page, following = page_of(keyed, params.limit, lambda record: True)
    return CheckpointList(page, following)


class _Selection(Value, frozen=True):
    """The checkpoints to revert, oldest first, and the contents of the files before them, by digest."""

    kind: CheckpointKind
    records: list[Checkpoint]
    reverts: list[FileRevert]
    contents: dict[str, bytes]
    all: list[Checkpoint]

    @property
    def workspace(self) -> str:
        """The workspace of the changes."""
        return self.records[0].workspace

    @property
    def ids(self) -> list[str]:
        """The ids of the checkpoints."""
        return [record.checkpoint_id for record in self.records]

    @property
    def note(self) -> str:
        """The changes that the checkpoints do not cover."""
        return "; ".join(dict.fromkeys(record.note for record in self.records if record.note))


def _select(call: Call, params: CheckpointSelection, *, redo: bool = False) -> _Selection:
    """Return the selected changes. Errors: SessionNotFound, CheckpointNotFound, NothingToRestore."""
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        records = [*_session_checkpoints(store, session.session_id)]
        if params.checkpoint_id is not None:
            selected = [record for record in records if record.checkpoint_id == params.checkpoint_id]
            if not selected:
                text = f"the session has no checkpoint '{params.checkpoint_id}'"
                raise CheckpointNotFound(text, field="$.params.checkpoint_id")
        elif params.since is not None:
            # Files of another workspace cannot be restored in the same step.
            calls = [record for record in records if record.kind == "call" and record.status == "done"]
            later = [record for record in calls if record.created_cursor > params.since]
            selected = [record for record in later if record.workspace == later[0].workspace]
        else:
            newest = choose_redo(records) if redo else choose_undo(records)
            selected = [newest] if newest is not None else []
        if not selected:
            raise NothingToRestore("there is no undo to revert" if redo else None)
        reverts = merge(selected[::-1])
        contents = {
            digest: content
            for digest in {revert.version.before for revert in reverts if revert.version.before}
            if (content := read_content(store, digest)) is not None
        }
    kind: CheckpointKind = "redo" if selected[0].kind == "undo" else "undo"
    return _Selection(kind, selected[::-1], reverts, contents, records)


def _require_usable(call: Call, workspace: str) -> WorkspaceFiles:
    """Return the files, if agents may work in a workspace. Errors: WorkspaceForbidden, WorkspaceMissing."""
    call.runtime.workspaces.require_allowed(workspace, field=None)
    problem = find_problem(workspace)
    if problem is not None:
        raise WorkspaceMissing(f"the workspace {workspace} {problem}")
    files = call.runtime.hooks.files
    if files is None:
        raise WorkspaceMissing("no tool of this daemon reads files")
    return files


@control(rows.DIFF)
async def diff(call: Call, params: CheckpointDiffParams) -> CheckpointDiff:
    """Show how files have changed from before the selected checkpoints until now.

    Errors: SessionNotFound, CheckpointNotFound, NothingToRestore, WorkspaceForbidden, WorkspaceMissing.
    """
    selection = _select(call, params)
    files = _require_usable(call, selection.workspace)
    try:
        current = await files.read(selection.workspace, [revert.version.path for revert in selection.reverts])
        pairs = [
            (_saved_before(revert.version, selection.contents), now)
            for revert, now in zip(selection.reverts, current, strict=True)
        ]
        text = await files.diff([pair for pair in pairs if pair[0].digest != pair[1].digest])
    except ToolError as error:
        raise WorkspaceMissing(str(error)) from None
    return CheckpointDiff(
        checkpoints=selection.ids,
        text=call.live.scrubber.scrub_bytes(text.encode(errors="replace")).decode(errors="replace"),
        files=[before.path for before, now in pairs if before.digest != now.digest],
        more=sum(record.more for record in selection.records),
        note=selection.note,
    )


def _saved_before(version: FileVersion, contents: dict[str, bytes]) -> SavedFile:
    content = contents.get(version.before) if version.before else None
    problem = version.problem
    if version.before and content is None and not problem:
        problem = "its content is kept no longer"
    return SavedFile(version.path, content, version.before, version.mode, problem=problem)


# Restoring.


class _RestorePlan(Value, frozen=True):
    """What a restore does: the files to write, their contents now, and the report on all files."""

    writes: list[FileWrite]
    replaced: list[SavedFile]
    report: list[RestoredFile]

    @property
    def changed(self) -> list[str]:
        """The files that others have changed since."""
        return [file.path for file in self.report if file.action == "changed"]


@control(rows.RESTORE)
async def restore(call: Call, params: CheckpointRestore) -> CheckpointRestored:
    """Undo or redo changes of files; nothing is written if a file changed since, unless forced.

    Errors: SessionNotFound, SessionBusy, CheckpointNotFound, NothingToRestore, FilesChanged,
    RestoreTooLarge, WorkspaceForbidden, WorkspaceMissing, StorageFull.
    """
    selection = _select(call, params, redo=params.redo)
    if any(record.status != "done" or record.kind == "redo" for record in selection.records):
        raise NothingToRestore(f"the checkpoint {selection.ids[0]} is reverted already, or is a redo")
    files = _require_usable(call, selection.workspace)
    async with files.lock([f"checkpoints of {params.session_id}"]):
        # Another client may have restored the same while this one waited.
        selection = _select(call, params, redo=params.redo)
        try:
            plan = await _make_plan(files, selection, force=params.force)
        except ToolError as error:
            raise WorkspaceMissing(str(error)) from None
        result = CheckpointRestored(
            kind=selection.kind,
            reverts=selection.ids,
            files=plan.report,
            more=sum(record.more for record in selection.records),
            note=selection.note,
        )
        if params.check:
            return result
        if plan.changed:
            _refuse_changed(plan.changed)
        return await _carry_out(call, files, selection, plan, result)


def _refuse_changed(paths: list[str]) -> NoReturn:
    names = ", ".join(paths[:_MAX_NAMED]) + (", …" if len(paths) > _MAX_NAMED else "")
    raise FilesChanged(f"changed since by others: {names}; nothing was restored. 'force' overwrites them")


async def _make_plan(files: WorkspaceFiles, selection: _Selection, *, force: bool) -> _RestorePlan:
    """Compare the files with the selected changes. Errors: ToolError."""
    current = await files.read(selection.workspace, [revert.version.path for revert in selection.reverts])
    writes, replaced, report = [], [], []
    for revert, now in zip(selection.reverts, current, strict=True):
        target = _saved_before(revert.version, selection.contents)
        if now.digest == target.digest and not now.problem:
            report.append(RestoredFile(now.path, "unchanged"))
        elif target.problem or now.problem:
            report.append(RestoredFile(now.path, "unsaved", target.problem or now.problem))
        elif not force and (now.digest != revert.expected or not revert.is_chained):
            report.append(RestoredFile(now.path, "changed"))
        else:
            writes.append(FileWrite(now.path, target.content, target.mode, now.digest))
            replaced.append(SavedFile(now.path, now.content, now.digest, now.mode, after=target.digest))
            report.append(RestoredFile(now.path, "deleted" if target.content is None else "written"))
    return _RestorePlan(writes, replaced, report)


async def _carry_out(
    call: Call, files: WorkspaceFiles, selection: _Selection, plan: _RestorePlan, result: CheckpointRestored
) -> CheckpointRestored:
    """Save the contents that are replaced, write the files, and record that.

    Errors: SessionBusy, NothingToRestore, FilesChanged, RestoreTooLarge, StorageFull.
    """
    session_id = selection.records[0].session_id
    restores = [name for record in selection.records for name in record.restores or record.reverts]
    restores = restores if selection.kind == "redo" else []
    # One that the daemon died in, after it had written all files.
    begun = next((record for record in selection.all if _is_finished(record, selection, plan)), None)
    checkpoint_id = begun.checkpoint_id if begun is not None else call.state.new_id(ids.CHECKPOINT)

    def open_writer(tx: Transaction) -> SessionWriter:
        session = find_session(tx, call, session_id)
        if session.open_runs:
            raise SessionBusy("the session has a run that has not ended; stop it or wait, then restore files")
        if any(tx.get(FILE_CHECKPOINTS, record.checkpoint_id) != record for record in selection.records):
            raise NothingToRestore("the checkpoint was reverted or dropped meanwhile")
        return SessionWriter(tx, session_id, session=session, origin=origin_of(call))

    if begun is None:
        prepared = await prepare_checkpoint(
            call.state.update,
            checkpoint_id,
            CheckpointDraft(selection.workspace, plan.replaced),
            kind=selection.kind,
            reverts=selection.ids,
            restores=restores,
        )
        if prepared.event.more or any(file.problem for file in prepared.event.files):
            raise RestoreTooLarge(
                f"the {len(plan.writes)} files to write hold more than one undo keeps "
                f"({MAX_CHECKPOINT_FILES} files, {MAX_CHECKPOINT_CONTENT_BYTES // MIB} MiB); "
                "nothing was restored. Restore fewer checkpoints"
            )
        await call.state.update(lambda tx: save_checkpoint(open_writer(tx), prepared))
    try:
        await files.write(selection.workspace, plan.writes, checkpoint_id)
    except Stale as stale:
        raise FilesChanged(f"{stale}; nothing was restored") from None
    except ToolError as error:
        raise FilesChanged(f"the files could not be written: {error}") from None

    def conclude(tx: Transaction) -> None:
        session = tx.need(SESSIONS, session_id)
        writer = SessionWriter(tx, session_id, session=session, origin=origin_of(call))
        writer.append(
            CheckpointReverted(checkpoint_id=checkpoint_id, reverts=selection.ids, restores=restores)
        )
        writer.write()

    await call.state.update(conclude)
    return CheckpointRestored(
        kind=result.kind,
        reverts=result.reverts,
        files=result.files,
        checkpoint_id=checkpoint_id,
        more=result.more,
        note=result.note,
    )


def _is_finished(record: Checkpoint, selection: _Selection, plan: _RestorePlan) -> bool:
    """Whether a checkpoint is a restore of the same changes whose end is only not recorded."""
    return record.status == "begun" and record.reverts == selection.ids and not plan.writes


HANDLERS = (list_, diff, restore)
