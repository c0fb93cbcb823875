"""Paths of a workspace, opened so that nothing outside of it is ever touched.

A path is a row of names below the workspace's root. Every directory on the way is opened by its name in the
directory before it, the root itself from ``/`` on, and a link is never followed: the kernel sees to it
(``O_NOFOLLOW``). So there is no moment between looking and opening in which somebody could put a link there.

Links are not followed even where they stay inside: rules and approvals name paths, and a path that leads
elsewhere would be judged as one file and opened as another. The refusal says where a link leads.

``openat2`` with ``RESOLVE_BENEATH`` walks in one call, but Python does not offer it, containers often forbid
it, and it follows links: a second way of walking, with other rules, would have to stand beside it.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kheishd.kernel.hook import ToolError
from protocol.limits.names import MAX_PATH_BYTES

ROOT = "."
"""The path of the workspace itself, as tools say it."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_SENTENCES = {
    errno.ENOENT: "there is no such file or directory; list_files shows what there is",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ENOSPC: "the disk is full; nothing was changed",
    errno.EDQUOT: "the disk quota is used up; nothing was changed",
    errno.EFBIG: "the file would be larger than this system allows; nothing was changed",
    errno.EROFS: "it cannot be changed: the file system is read-only",
}


def relative(text: str, workspace: str) -> str:
    """A path as a tool is given it, as one relative to the workspace, without ``.`` and ``..``.

    Absolute paths are taken if they begin with the workspace's own. Names that cannot be printed are
    refused: a person who approves must see what is meant.
    Errors: ToolError.
    """
    if not text.isprintable() or len(text.encode(errors="replace")) > MAX_PATH_BYTES:
        raise ToolError(f"a path has at most {MAX_PATH_BYTES} bytes, all of them printable")
    if posixpath.isabs(text):
        text = posixpath.relpath(posixpath.normpath(text), workspace)
    path = posixpath.normpath(text or ROOT)
    if path == ".." or path.startswith("../"):
        raise ToolError(
            f"the path leads out of the workspace {workspace}; give one inside it, relative to it"
        )
    return path


def names_of(path: str) -> list[str]:
    """The names that a relative path is made of; none for the root."""
    return [] if path == ROOT else path.split("/")


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Errors: ToolError, saying what the system said of this path."""
    try:
        yield
    except OSError as error:
        said = _SENTENCES.get(error.errno or 0) or (error.strerror or "it cannot be used").lower()
        raise ToolError(f"{path}: {said}") from error


class Root:
    """The root of a workspace, held open: whatever is renamed meanwhile, it stays that directory."""

    def __init__(self, workspace: str, descriptor: int) -> None:
        self.workspace = workspace
        self.descriptor = descriptor

    @contextmanager
    def directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        """A directory's descriptor, good for opening what is in it; with ``make`` it is made if missing.

        Errors: OSError; ToolError if a link is on the way.
        """
        descriptor = _descend(self.descriptor, names_of(path), 0o777 if make else None)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The directory that a file is in, and the file's name there.

        Errors: OSError; ToolError for the root itself, or if a link is on the way.
        """
        if path == ROOT:
            raise ToolError("that is the workspace itself, a directory; name a file in it")
        above, name = posixpath.split(path)
        with self.directory(above or ROOT, make=make) as directory:
            yield directory, name

    @contextmanager
    def file(self, path: str) -> Iterator[int]:
        """A file's descriptor, for reading. Nothing that would have to be waited for is opened.

        Errors: OSError; ToolError if it is not an ordinary file.
        """
        with self.parent(path) as (directory, name):
            descriptor = open_file(directory, name, path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def open_root(workspace: str) -> Iterator[Root]:
    """Open a workspace, which is an absolute path without links; it is made, for us alone, if missing.

    Errors: ToolError.
    """
    with explained(f"the workspace {workspace}"):
        above = os.open("/", _WALK)
        try:
            descriptor = _descend(above, names_of(workspace.strip("/") or ROOT), 0o700, "/")
        finally:
            os.close(above)
    try:
        yield Root(workspace, descriptor)
    finally:
        os.close(descriptor)


def open_file(directory: int, name: str, path: str) -> int:
    """An ordinary file's descriptor, for reading. Errors: OSError; ToolError if it is something else."""
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_a_link(directory, name, path) from None
        if error.errno == errno.ENXIO:
            raise ToolError(f"{path} is a socket or a device, which file tools do not open") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise ToolError(f"{path} is a directory; list_files shows what is in it")
    raise ToolError(f"{path} is no ordinary file but a pipe or a device, which file tools do not open")


def sync(directory: int) -> None:
    """See the names in a directory to the disk, as far as it may be read."""
    with suppress(PermissionError):
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _descend(above: int, names: list[str], make: int | None, shown: str = "") -> int:
    """A new descriptor of the directory that lies so many names below another, which is ``shown`` so."""
    current = os.open(".", _WALK, dir_fd=above)
    for number, name in enumerate(names, 1):
        try:
            following = _enter(current, name, shown + "/".join(names[:number]), make)
        finally:
            os.close(current)
        current = following
    return current


def _enter(directory: int, name: str, path: str, make: int | None) -> int:
    try:
        return os.open(name, _WALK, dir_fd=directory)
    except FileNotFoundError:
        if make is None:
            raise
    except NotADirectoryError:
        raise _is_a_link(directory, name, path) from None
    with suppress(FileExistsError):
        os.mkdir(name, make, dir_fd=directory)
        sync(directory)
    return _enter(directory, name, path, None)


def _is_a_link(directory: int, name: str, path: str) -> Exception:
    """What to say of a name that could not be entered."""
    try:
        target = os.readlink(name, dir_fd=directory)
    except OSError:
        return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    shown = target if target.isprintable() else "a name that cannot be printed"
    return ToolError(f"{path} is a link to {shown}; links are not followed, give the path it leads to")
