"""Transactions on files: a call changes all of its files or none.

    stage    write each new content to a file of its own in the same directory, with the attributes of the
             old file, onto the disk; if there are several, copy the old contents, too, for a rollback
    commit   rename each to its file's name: a reader sees the old or the new file, always complete
    clean    remove the temporary files

A file that a rename would take something from (another name, an owner or an attribute that the daemon cannot
give) is overwritten in place instead, after its old content was copied.

Until the first rename the transaction can be abandoned without effect. From then on it is not interrupted: it
takes microseconds, and a failure is rolled back. A daemon that is killed in between leaves the temporary
files; their names are derived from the call, so the probe finds them.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, NoReturn

import trio
from msgspec import Struct

from kheishd.hooks.os.files.attributes import FileAttributes, copy_attributes
from kheishd.hooks.os.files.confinement import Root, explain_errors, open_file, open_root, sync_directory
from kheishd.hooks.os.files.diff import diff_of
from kheishd.hooks.os.files.edits import (
    ABSENT,
    PIECE_BYTES,
    Check,
    Edit,
    FileChange,
    binding_of,
    check_cancelled,
    paths_of,
    plan_changes,
    read_pieces,
    read_states,
    stamp_of,
)
from kheishd.hooks.os.files.written import note_written
from kheishd.hooks.os.umask import user_umask
from kheishd.kernel.hook import ProbeResult, Stale, ToolError
from kheishd.kernel.reserve import RESERVE
from protocol.objects.approval import Preview

# An edit takes milliseconds; a lock that is held longer belongs to another program.
LOCK_SECONDS: Final = 3.0
_RETRY_SECONDS: Final = 0.01

# The file system cannot reserve space.
_NO_ALLOCATION: Final = (errno.EOPNOTSUPP, errno.EINVAL)

_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


# The uses of a call that edits files.


def preview_changes(workspace: str, edits: Sequence[Edit]) -> Preview:
    """Show the changes, bound to the files' current state. Errors: ToolError if they are impossible."""
    with open_root(workspace) as root:
        states = read_states(root, edits)
    notes = "".join(
        f"# {path} has {state.attributes.links} hard links: the file changes under each of its names.\n"
        for path, state in states.items()
        if state.attributes is not None and state.attributes.links > 1
    )
    text = notes + diff_of(plan_changes(edits, states))
    return Preview(kind="diff", text=text, binding=binding_of(states))


def collect_digests(workspace: str, edits: Sequence[Edit]) -> dict[str, Any]:
    """Return the files' digests before and after the changes, by sorted path; {} if those are impossible."""
    try:
        changes = find_changes(workspace, edits)
    except ToolError:
        return {}
    return {
        "before": [change.state.digest for change in changes],
        "after": [change.digest for change in changes],
    }


def find_changes(workspace: str, edits: Sequence[Edit]) -> list[FileChange]:
    """Return the changes that edits would make now. Errors: ToolError."""
    with open_root(workspace) as root:
        return plan_changes(edits, read_states(root, edits))


def make_changes(
    workspace: str,
    edits: Sequence[Edit],
    key: str,
    binding: str | None,
    saved: Mapping[str, str] = MappingProxyType({}),
) -> list[FileChange]:
    """Make all changes or none. ``saved`` are the digests of the contents that a checkpoint has.

    Errors: ToolError; Stale if the files are not in the state that ``binding`` was made from.
    """
    with open_root(workspace) as root, lock_workspace(root):
        states = read_states(root, edits)
        if binding is not None and binding_of(states) != binding:
            raise Stale("the files have changed since the preview")
        for path, digest in saved.items():
            if path in states and states[path].digest != (digest or ABSENT):
                raise ToolError(f"{path} was changed by another program meanwhile; read it again")
        changes = plan_changes(edits, states)
        apply_changes(root, changes, key)
        return changes


def probe_changes(
    workspace: str, edits: Sequence[Edit], key: str, evidence: Mapping[str, Any]
) -> ProbeResult:
    """Find out whether a call during which the daemon died took effect. Half-made changes are rolled back."""
    paths = paths_of(edits)
    old, new = evidence.get("before", ()), evidence.get("after", ())
    if not len(paths) == len(old) == len(new):
        return ProbeResult("unknown", "no digests were recorded before it began")
    with open_root(workspace) as root, lock_workspace(root):
        digests = [state.digest for state in read_states(root, edits).values()]
        states = list(zip(paths, digests, old, new, strict=True))
        if digests not in (old, new) and all(
            digest in (before, after) or _is_half_written(root, path, key)
            for path, digest, before, after in states
        ):
            for path, digest in zip(paths, old, strict=True):
                restore_file(root, path, key, digest)
            digests = [state.digest for state in read_states(root, edits).values()]
        for path in paths:
            remove_temporary_files(root, path, key)
    if digests == list(new):
        return ProbeResult("done", "every file has the content that the call was to write")
    if digests == list(old):
        return ProbeResult("not_done", "every file has the content from before the call")
    note = "the files have neither their content from before nor that of after the call"
    return ProbeResult("unknown", note, {"found": digests})


# Locks.


class PathLocks:
    """The locks of paths that calls of this daemon are changing. A reload keeps them."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}

    @asynccontextmanager
    async def lock(self, paths: Iterable[str]) -> AsyncIterator[None]:
        """Lock paths while the block runs. All calls lock in sorted order, so none can deadlock."""
        async with AsyncExitStack() as stack:
            for path in sorted(set(paths)):
                await stack.enter_async_context(self._lock(path))
            yield

    @asynccontextmanager
    async def _lock(self, path: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(path, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            # The last holder removes the lock; a waiting call waits for this same object.
            if not lock.locked() and self._locks.get(path) is lock:
                del self._locks[path]

    def __len__(self) -> int:
        """Return the number of paths that are locked or waited for."""
        return len(self._locks)


@contextmanager
def lock_workspace(
    root: Root, check: Check = check_cancelled, wait_s: float = LOCK_SECONDS
) -> Iterator[None]:
    """Lock a workspace against other daemons; without effect on a file system without locks.

    Errors: ToolError if another program holds the lock for long.
    """
    with explain_errors(root.workspace):
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root.descriptor)
    deadline = time.monotonic() + wait_s
    locked = False
    try:
        while not locked:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    note = f"another program holds the lock on {root.workspace}; try again later"
                    raise ToolError(note) from None
                check()
                time.sleep(_RETRY_SECONDS)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise ToolError(f"{root.workspace}: {error.strerror}") from None
                locked = True
        yield
    finally:
        os.close(descriptor)


# Staging, commit and rollback.


def temporary_names(key: str, path: str) -> tuple[str, str]:
    """Return the names for a call's copies of a file's new and old content, in the file's directory."""
    digest = hashlib.sha256(f"{key}\0{path}".encode()).hexdigest()[:24]
    return f".kheish-{digest}.new", f".kheish-{digest}.old"


class _StagedChange(Struct):
    """A change whose new content is in the directory under a temporary name.

    ``in_place``: the file is overwritten, because a rename would take an attribute or a name from it.
    """

    change: FileChange
    workspace: str
    directory: int
    name: str
    new: str
    old: str | None = None
    in_place: bool = False

    def commit(self) -> None:
        """Give the file its new content. Errors: OSError, Stale if the file has changed."""
        try:
            stamp = stamp_of(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False))
        except FileNotFoundError:
            stamp = None
        if stamp != self.change.state.stamp:
            raise Stale(f"{self.change.path} was changed by another program meanwhile")
        if self.in_place:
            try:
                _overwrite(self.directory, self.name, self.change.content)
            except OSError:
                self.roll_back()
                raise
        else:
            os.rename(self.new, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        note_written(self.workspace, self.change.path, self.change.content)

    def roll_back(self) -> None:
        """Restore the previous state of the file. Errors: OSError."""
        if self.in_place:
            _overwrite(self.directory, self.name, self.change.state.content or b"")
        elif self.old is not None:
            os.rename(self.old, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        else:
            os.unlink(self.name, dir_fd=self.directory)

    def clean(self) -> None:
        """Remove the remaining temporary files."""
        _remove(self.directory, self.new)
        if self.old is not None:
            _remove(self.directory, self.old)


def apply_changes(
    root: Root, changes: Sequence[FileChange], key: str, check: Check = check_cancelled
) -> None:
    """Make all changes or none. ``key`` is unique to the call.

    Errors: ToolError; Stale if a file is not in the state that its change was made from; those of ``check``.
    """
    with ExitStack() as stack:
        backup = len(changes) > 1
        staged = [_stage(root, change, key, stack, backup, check) for change in changes]
        check()
        _commit(staged)


def _stage(
    root: Root, change: FileChange, key: str, stack: ExitStack, backup: bool, check: Check
) -> _StagedChange:
    state = change.state
    with explain_errors(change.path):
        directory, name = stack.enter_context(root.parent(change.path, make=True))
        new, old = temporary_names(key, change.path)
        staged = _StagedChange(change, root.workspace, directory, name, new)
        stack.callback(staged.clean)
        is_equal = _write(directory, new, change.content, state.attributes, check)
        if state.attributes is not None:
            staged.in_place = not is_equal or state.attributes.links > 1
            if staged.in_place and state.content is None:
                raise ToolError(f"{change.path} is too large to be replaced with its attributes preserved")
        if (backup or staged.in_place) and not state.absent:
            # A copy instead of a second link: not every file system has those.
            assert state.content is not None, "an edited file was read"
            staged.old = old
            _write(directory, old, state.content, state.attributes, check)
    return staged


def _write(
    directory: int, name: str, content: bytes, attributes: FileAttributes | None, check: Check
) -> bool:
    """Write a new file and flush it to the disk; return whether it has the attributes to preserve.

    Without those it gets the usual mode of its user's files. Errors: OSError, ToolError.
    """
    # An existing one is from this same call, interrupted when the daemon was killed.
    _remove(directory, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    problem = RESERVE.find_problem(directory, len(content))
    if problem is not None:
        raise ToolError(problem)
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        _write_all(descriptor, content, check)
        if attributes is None:
            os.fchmod(descriptor, 0o666 & ~user_umask())
            is_equal = True
        else:
            is_equal = copy_attributes(attributes, descriptor)
        os.fsync(descriptor)
        return is_equal
    finally:
        os.close(descriptor)


def _overwrite(directory: int, name: str, content: bytes) -> None:
    """Replace the content of an existing file, flushed to the disk. Errors: OSError."""
    descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        if content:
            try:
                # A full disk shows before anything was changed.
                os.posix_fallocate(descriptor, 0, len(content))
            except OSError as error:
                if error.errno not in _NO_ALLOCATION:
                    raise
        _write_all(descriptor, content, lambda: None)
        os.ftruncate(descriptor, len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes, check: Check) -> None:
    view = memoryview(content)
    while view:
        check()
        view = view[os.write(descriptor, view[:PIECE_BYTES]) :]


def _commit(staged: Sequence[_StagedChange]) -> None:
    """Commit all. Errors: ToolError, Stale; all files are restored, or the error names the others."""
    committed: list[_StagedChange] = []
    for change in staged:
        try:
            change.commit()
        except (OSError, Stale) as error:
            _roll_back(committed, change.change.path, error)
        committed.append(change)
    for directory in {change.directory for change in staged}:
        with explain_errors("the change is made, but may not survive a power failure"):
            sync_directory(directory)


def _roll_back(committed: Sequence[_StagedChange], path: str, error: OSError | Stale) -> NoReturn:
    remaining = []
    for change in reversed(committed):
        try:
            change.roll_back()
        except OSError:
            remaining.append(change.change.path)
    if remaining:
        raise ToolError(f"{path}: {error}; and {', '.join(remaining)} could not be restored") from error
    if isinstance(error, Stale):
        raise error
    with explain_errors(path):
        raise error


def _remove(directory: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


# After a crash.


def restore_file(root: Root, path: str, key: str, digest: str) -> None:
    """Undo an interrupted call's change of a file, if the copy of the old content still exists."""
    _, old = temporary_names(key, path)
    with suppress(OSError, ToolError), root.parent(path) as (directory, name):
        copy = _read(directory, old, path)
        if hashlib.sha256(copy).hexdigest() == digest:
            try:
                # The file may be one that is never replaced.
                _overwrite(directory, name, copy)
            except FileNotFoundError:
                os.rename(old, name, src_dir_fd=directory, dst_dir_fd=directory)
            sync_directory(directory)


def _is_half_written(root: Root, path: str, key: str) -> bool:
    """Whether a file is what an interrupted call left: the beginning of the new content, then the old one."""
    try:
        with explain_errors(path), root.parent(path) as (directory, name):
            new, old = (_read(directory, copy, path) for copy in temporary_names(key, path))
            content = _read(directory, name, path)
    except ToolError:
        return False
    pairs = enumerate(zip(content, new, strict=False))
    written = next((index for index, (left, right) in pairs if left != right), min(len(content), len(new)))
    return content[written:] == old[written:]


def _read(directory: int, name: str, path: str) -> bytes:
    descriptor = open_file(directory, name, path)
    try:
        return b"".join(read_pieces(descriptor, check_cancelled))
    finally:
        os.close(descriptor)


def remove_temporary_files(root: Root, path: str, key: str) -> None:
    """Remove the temporary files that an interrupted call left beside a file."""
    with suppress(OSError, ToolError), root.parent(path) as (directory, _):
        for name in temporary_names(key, path):
            _remove(directory, name)
