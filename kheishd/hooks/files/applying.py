"""Changing files: every new content is written whole beside its file, and only then takes the name.

    stage    each new content goes into a file of its own in the same directory, onto the disk; where there
             are several, so does what it replaces, to be put back
    commit   each takes its file's name, by renaming: whoever opens the file sees the old or the new one whole
    tidy     what is left of the names beside is taken away

Until the first renaming everything can be given up and nothing has happened. From there on nobody is asked
whether to go on: it takes microseconds, and what fails is rolled back. A daemon that is killed in between
leaves the names beside, which are made from the call's own, so that they are found again.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from kheishd.hooks.files.confine import Root, explained, open_file, sync
from kheishd.hooks.files.looking import PIECE_BYTES, Check, pieces, stamp_of, still_wanted
from kheishd.hooks.files.planning import Change
from kheishd.kernel.hook import Stale, ToolError

# An edit takes milliseconds; who holds the lock longer is not one of us.
LOCK_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.01

_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(root: Root, check: Check = still_wanted, wait_s: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep other daemons that change files of the same workspace waiting; where locks do not exist, nobody.

    Errors: ToolError if somebody holds the lock for long.
    """
    with explained(root.workspace):
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root.descriptor)
    try:
        _lock(descriptor, root.workspace, check, wait_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, workspace: str, check: Check, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ToolError(f"another program holds the lock on {workspace}; try again later") from None
            check()
            time.sleep(_LOOK_SECONDS)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise ToolError(f"{workspace}: {error.strerror}") from None
            return
        else:
            return


def names_beside(key: str, path: str) -> tuple[str, str]:
    """The names, in a file's directory, of its new content and of what it replaces, for one call."""
    digest = hashlib.sha256(f"{key}\0{path}".encode()).hexdigest()[:24]
    return f".kheish-{digest}.new", f".kheish-{digest}.old"


@dataclass(slots=True)
class _Staged:
    """A change made ready: what it will be is in the directory under another name."""

    change: Change
    directory: int
    name: str
    new: str
    old: str | None = None

    def commit(self) -> None:
        """Give the new content the file's name. Errors: OSError, Stale if the file was changed since."""
        if self._stamp() != self.change.found.stamp:
            raise Stale(f"{self.change.path} was changed by another program meanwhile")
        os.rename(self.new, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            return stamp_of(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def roll_back(self) -> None:
        """Put back what was there. Errors: OSError."""
        if self.old is not None:
            os.rename(self.old, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        else:
            os.unlink(self.name, dir_fd=self.directory)

    def tidy(self) -> None:
        """Take away what is left of the other names."""
        _remove(self.directory, self.new)
        if self.old is not None:
            _remove(self.directory, self.old)


def apply(root: Root, changes: Sequence[Change], key: str, check: Check = still_wanted) -> None:
    """Make all changes or none. ``key`` is a name that no other call has.

    Errors: ToolError; Stale if a file is not what the changes were made from; what ``check`` raises.
    """
    with ExitStack() as stack:
        staged = [_stage(root, change, key, stack, len(changes) > 1, check) for change in changes]
        check()
        _commit(staged)


def _stage(root: Root, change: Change, key: str, stack: ExitStack, keep: bool, check: Check) -> _Staged:
    with explained(change.path):
        directory, name = stack.enter_context(root.parent(change.path, make=True))
        new, old = names_beside(key, change.path)
        staged = _Staged(change, directory, name, new)
        stack.callback(staged.tidy)
        _write(directory, new, change.after, change.found.mode, check)
        if keep and not change.found.absent:
            # A copy rather than a second link: not every file system has those.
            assert change.found.content is not None, "what is replaced in part was read"
            staged.old = old
            _write(directory, old, change.found.content, change.found.mode, check)
    return staged


def _write(directory: int, name: str, content: bytes, mode: int | None, check: Check) -> None:
    """A new file, on the disk when this returns. Where there is no mode to keep, the usual one is given."""
    # One that is there was left by this very call, when the daemon was killed in it.
    _remove(directory, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o666 if mode is None else 0o600, dir_fd=directory)
    try:
        view = memoryview(content)
        while view:
            check()
            view = view[os.write(descriptor, view[:PIECE_BYTES]) :]
        if mode is not None:
            os.fchmod(descriptor, mode & 0o777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(staged: Sequence[_Staged]) -> None:
    """Errors: ToolError, Stale; then all files are what they were, or the error names those that are not."""
    done: list[_Staged] = []
    for each in staged:
        try:
            each.commit()
        except (OSError, Stale) as error:
            _roll_back(done, each.change.path, error)
        done.append(each)
    for directory in {each.directory for each in staged}:
        with explained("what was changed may not outlast a power cut"):
            sync(directory)


def _roll_back(done: Sequence[_Staged], path: str, error: OSError | Stale) -> NoReturn:
    changed = []
    for each in reversed(done):
        try:
            each.roll_back()
        except OSError:
            changed.append(each.change.path)
    if changed:
        raise ToolError(f"{path}: {error}; and {', '.join(changed)} could not be put back") from error
    if isinstance(error, Stale):
        raise error
    with explained(path):
        raise error


def _remove(directory: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


# After the daemon was killed in a call.


def put_back(root: Root, path: str, key: str, digest: str) -> None:
    """Undo one file's part of a call that was cut short, if what it replaced is still there beside."""
    _, old = names_beside(key, path)
    with suppress(OSError, ToolError), root.parent(path) as (directory, name):
        descriptor = open_file(directory, old, path)
        try:
            kept = hashlib.sha256(b"".join(pieces(descriptor, still_wanted)))
        finally:
            os.close(descriptor)
        if kept.hexdigest() == digest:
            os.rename(old, name, src_dir_fd=directory, dst_dir_fd=directory)
            sync(directory)


def tidy(root: Root, path: str, key: str) -> None:
    """Take away what a call that was cut short left beside a file."""
    with suppress(OSError, ToolError), root.parent(path) as (directory, _):
        for name in names_beside(key, path):
            _remove(directory, name)
