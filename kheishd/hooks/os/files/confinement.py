"""Confinement of file access: open paths of a workspace without following links out of it.

A path is a sequence of names below the workspace's root. Each directory on the way is opened by its name in
the previous directory, the root itself from ``/`` on, and a link is never followed: the kernel enforces that
(``O_NOFOLLOW``). So there is no moment between check and use in which another process could place a link.

Links are not followed even if they stay inside: rules and approvals name paths, and a path that leads
elsewhere would be judged as one file and opened as another. The error says where a link leads.

``openat2`` with ``RESOLVE_BENEATH`` walks in one call, but Python does not offer it, containers often forbid
it, and it follows links: a second walk with other rules would have to exist beside it.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kheishd.hooks.os.umask import user_umask
from kheishd.kernel.hook import ToolError
from protocol.limits.names import MAX_PATH_BYTES

ROOT = "."
"""The path of the workspace itself."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_MESSAGES = {
    errno.ENOENT: "there is no such file or directory; list_files lists the existing ones",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ENOSPC: "the disk is full; nothing was changed",
    errno.EDQUOT: "the disk quota is used up; nothing was changed",
    errno.EFBIG: "the file would be larger than this system allows; nothing was changed",
    errno.EROFS: "it cannot be changed: the file system is read-only",
}


def relative_path(text: str, workspace: str) -> str:
    """Return a path from a tool's argument relative to the workspace, without ``.`` and ``..``.

    An absolute path must begin with the workspace's own, or with a link to it. A path with unprintable
    characters is rejected, because a person who approves must see it correctly.
    Errors: ToolError.
    """
    if not text.isprintable() or len(text.encode(errors="replace")) > MAX_PATH_BYTES:
        raise ToolError(f"a path has at most {MAX_PATH_BYTES} bytes, all of them printable")
    if posixpath.isabs(text):
        absolute = posixpath.normpath(text)
        text = posixpath.relpath(absolute, workspace)
        if _leads_out(text):
            text = _find_below_link(absolute, workspace) or text
    path = posixpath.normpath(text or ROOT)
    if _leads_out(path):
        raise ToolError(
            f"the path leads out of the workspace {workspace}; give one inside it, relative to it"
        )
    return path


def _leads_out(path: str) -> bool:
    return path == ".." or path.startswith("../")


def _find_below_link(absolute: str, workspace: str) -> str | None:
    """Return the rest of an absolute path behind a link to the workspace; None if it has no such part."""
    above, rest = absolute, ROOT
    while above not in ("/", "//"):
        if os.path.realpath(above) == workspace:
            return rest
        above, name = posixpath.split(above)
        rest = posixpath.join(name, rest)
    return None


@contextmanager
def explain_errors(path: str) -> Iterator[None]:
    """Translate an error of the system about a path. Errors: ToolError."""
    try:
        yield
    except OSError as error:
        message = _MESSAGES.get(error.errno or 0) or (error.strerror or "it cannot be used").lower()
        raise ToolError(f"{path}: {message}") from error


class Root:
    """The root of a workspace, held open: it stays the same directory, whatever is renamed meanwhile."""

    def __init__(self, workspace: str, descriptor: int) -> None:
        self.workspace = workspace
        self.descriptor = descriptor

    @contextmanager
    def directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        """Open a directory, for opening entries in it; ``make`` creates it if it is missing.

        Errors: OSError; ToolError if a link is on the way.
        """
        descriptor = _descend(self.descriptor, names_of(path), 0o777 & ~user_umask() if make else None)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory that contains a file; the second value is the file's name there.

        Errors: OSError; ToolError for the root itself, or if a link is on the way.
        """
        if path == ROOT:
            raise ToolError("that is the workspace itself, a directory; name a file in it")
        above, name = posixpath.split(path)
        with self.directory(above or ROOT, make=make) as directory:
            yield directory, name

    @contextmanager
    def file(self, path: str) -> Iterator[int]:
        """Open a file for reading. Opening never blocks.

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
    """Open a workspace, an absolute path without links.

    Errors: ToolError if there is no such directory: an empty new one would look as if the files were gone.
    """
    above = os.open("/", _WALK)
    try:
        with explain_errors(f"the workspace {workspace}"):
            descriptor = _descend(above, names_of(workspace.strip("/") or ROOT), None, "/")
    except ToolError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ToolError(
                f"the workspace {workspace} does not exist; it was moved or removed. Ask the user to restore "
                "it, or to continue in another one"
            ) from None
        raise
    finally:
        os.close(above)
    try:
        yield Root(workspace, descriptor)
    finally:
        os.close(descriptor)


def open_file(directory: int, name: str, path: str) -> int:
    """Open an ordinary file for reading. Errors: OSError; ToolError for everything else."""
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_error(directory, name, path) from None
        if error.errno == errno.ENXIO:
            raise ToolError(f"{path} is a socket or a device, which file tools do not open") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise ToolError(f"{path} is a directory; list_files lists its entries")
    raise ToolError(f"{path} is a pipe or a device, which file tools do not open")


def sync_directory(directory: int) -> None:
    """Flush the names in a directory to the disk, if it may be read."""
    with suppress(PermissionError):
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def names_of(path: str) -> list[str]:
    """Return the names of a relative path; none for the root."""
    return [] if path == ROOT else path.split("/")


def _descend(above: int, names: list[str], make: int | None, prefix: str = "") -> int:
    """Open the directory at a sequence of names below another. ``prefix`` is for error messages."""
    current = os.open(".", _WALK, dir_fd=above)
    for count, name in enumerate(names, 1):
        try:
            following = _enter(current, name, prefix + "/".join(names[:count]), make)
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
        raise _link_error(directory, name, path) from None
    with suppress(FileExistsError):
        os.mkdir(name, make, dir_fd=directory)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            # The daemon's own umask took bits; the group's bit comes from the directory above.
            try:
                os.fchmod(made, make | (os.fstat(made).st_mode & stat.S_ISGID))
            except PermissionError:
                # A service with RestrictSUIDSGID may not set that bit, but its group needs access.
                os.fchmod(made, make)
        finally:
            os.close(made)
        sync_directory(directory)
    return _enter(directory, name, path, None)


def _link_error(directory: int, name: str, path: str) -> Exception:
    """Return the error for a name that could not be opened: a link, or no directory."""
    try:
        target = os.readlink(name, dir_fd=directory)
    except OSError:
        return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    target = target if target.isprintable() else "a name that cannot be printed"
    return ToolError(f"{path} is a link to {target}; links are not followed, give the path it leads to")


def read_begin(path: str, max_bytes: int) -> bytes:
    """Return the first bytes of a file, none of a pipe: nothing waits for its writer. Errors: OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(max_bytes) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
