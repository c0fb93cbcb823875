"""A scan of a workspace for the paths that the sandbox treats specially, before and after a command.

- *Protected* paths (``core.permissions.protected``) are mounted read-only: other programs execute or obey
  them. Of a git directory, only its configuration and its hooks are protected, so that git can commit.
- *Closed* paths, which a permission rule keeps from the tools that read, are covered.

Directories are scanned level by level, so the upper levels come first, up to a number of entries. Links are
not followed. Below ``node_modules`` nothing is protected: nobody works there, and package managers must be
able to replace it.

A command may take away its own right to list a directory, and give it back in the next command. So the
owner's rights to list and to enter a directory are restored before it is scanned.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import re
import stat
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from kheishd.core.permissions.claims import matches_subject
from kheishd.core.permissions.protected import PROTECTED_SUFFIXES, protected_names
from kheishd.hooks.os.files.confinement import read_begin
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

log = logging.getLogger(__name__)

# Ten thousand entries take about ten milliseconds. Where rules close paths, more is worth the time.
MAX_ENTRIES: Final = 10_000
MAX_ENTRIES_AFTERWARDS: Final = 50_000
MAX_ENTRIES_WITH_RULES: Final = 200_000

# Each takes a descriptor until the command has started, and a millisecond.
MAX_PROTECTED_MOUNTS: Final = 256

# Submodules may have submodules.
MAX_MODULE_DEPTH: Final = 6

# Each takes a tenth of a millisecond.
MAX_GIT_DIRECTORIES: Final = 1000

GIT: Final = ".git"
GIT_LINK: Final = b"gitdir:"
MAX_GIT_FILE_BYTES: Final = 64 * 1024
MAX_GIT_CONFIG_FILES: Final = 32

# An error names a directory, whose path may be longer than the system allows.
MAX_SHOWN: Final = 200

GUARDED_IN_GIT: Final = ("config", "config.worktree", "hooks", "commondir")
"""The parts of a git directory that name programs, or another directory with such parts."""

CONTAINERS_IN_GIT: Final = ("worktrees", "modules")
"""The directories in a git directory that contain others."""

# Settings whose value is a file or a directory that git executes, or obeys like its configuration.
_CONFIGURED: Final = re.compile(
    r"(?:^|\])[ \t]*(hookspath|path|fsmonitor|attributesfile)[ \t]*=[ \t]*\"?([^\"#;\n]+)",
    re.IGNORECASE | re.MULTILINE,
)

_BARE_REPOSITORY: Final = frozenset(("HEAD", "objects", "refs"))

Identity = tuple[int, int]
"""The device and the inode of a file."""


class PathRules(Value, frozen=True):
    """Patterns of paths: those that configuration protects, and those that rules close to tools that read."""

    protected: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


class Scan:
    """The special paths of a workspace, relative to it.

    ``protected`` are files and directories, with their identities; those in ``links`` are symbolic links,
    which cannot be mounted. ``git`` are git directories. ``masked`` are closed files and directories (True).
    ``pinned`` are directories that may not be renamed: a rule closes paths below them by their names.
    ``directories`` are those that were scanned, with their inodes; ``changed_ns`` are the times of the last
    change of protected files, and ``parents`` the directories in which these are. ``complete``: everything
    was scanned. ``has_failed``: it was not, by a fault of this code. ``obstacle`` is why not all paths that
    rules close are known.
    """

    def __init__(self) -> None:
        self.protected: dict[str, Identity] = {}
        self.links: set[str] = set()
        self.git: set[str] = set()
        self.masked: dict[str, bool] = {}
        self.pinned: set[str] = set()
        self.directories: dict[str, int] = {}
        self.changed_ns: dict[str, int] = {}
        self.parents: dict[str, Identity] = {}
        self.complete = True
        self.has_failed = False
        self.obstacle: str | None = None

    @property
    def mounts(self) -> dict[str, bool]:
        """The pinned and protected paths that the sandbox mounts, and whether each is writable.

        If there are too many, the deepest ones are replaced by their directories, which become read-only.
        """
        mounts = {
            path: not lies_in(path, self.protected)
            for path in (*self.pinned, *self.protected)
            if path not in self.links and not lies_in(path, self.masked)
        }
        while len(mounts) > MAX_PROTECTED_MOUNTS:
            depth = max(path.count("/") for path in mounts)
            deepest = {posixpath.dirname(path) for path in mounts if path.count("/") == depth}
            mounts = {path: writable for path, writable in mounts.items() if path.count("/") < depth}
            mounts |= dict.fromkeys(deepest, False)
        return mounts

    def pin(self, path: str) -> None:
        """Pin all directories above a path."""
        while path := posixpath.dirname(path):
            self.pinned.add(path)


def lies_in(path: str, paths: Collection[str]) -> bool:
    """Whether a path, or a directory above it, is one of the paths."""
    while path and path not in paths:
        path = posixpath.dirname(path)
    return bool(path)


def scan_workspace(
    root: str, workspace: str, rules: PathRules, skipped: Collection[str] = (), *, max_entries: int = 0
) -> Scan:
    """Scan a workspace whose directory is ``root``; ``workspace`` is its path.

    ``skipped`` are absolute paths that are not entered. A failure of this code leaves what is known so far:
    a file that nobody expected must neither keep later commands from running nor hide other files.
    Reads the file system.
    """
    scan = Scan()
    try:
        _fill(scan, root, workspace, rules, skipped, max_entries or MAX_ENTRIES)
    except Exception:
        log.exception("a workspace cannot be scanned completely", extra={"workspace": workspace})
        scan.complete = False
        scan.obstacle = "the scan has failed" if rules.closed else None
        scan.has_failed = True
    return scan


def _fill(
    scan: Scan, root: str, workspace: str, rules: PathRules, skipped: Collection[str], max_entries: int
) -> None:
    """Find the special paths of a workspace, level by level."""
    # A rule about all paths is one about the tool.
    closed = [(pattern, make_matcher(pattern)) for pattern in rules.closed if pattern.strip("*")]
    beginnings = [pattern.partition("*")[0] for pattern, _ in closed]
    scanned = 0
    queue = deque([("", "", 0, False)])
    while queue:
        directory, name, inode, is_dependency = queue.popleft()
        above = f"{directory}/" if directory else ""
        may_close = any(text.startswith(above) or above.startswith(text) for text in beginnings)
        limit = MAX_ENTRIES_WITH_RULES if may_close else max_entries
        try:
            if scanned >= limit:
                raise OSError(errno.EOVERFLOW, f"the workspace has more than {limit} entries")
            entries = _list(f"{root}/{directory}")
        except OSError as error:
            scan.complete = False
            if may_close and scan.obstacle is None:
                place = directory if len(directory) <= MAX_SHOWN else f"{directory[:MAX_SHOWN]}…"
                scan.obstacle = f"{place or 'the workspace'} cannot be searched: {error.strerror}"
            continue
        scan.directories[directory] = inode
        scanned += len(entries)
        if entries.keys() >= _BARE_REPOSITORY:
            _add_git(scan, root, workspace, directory)
        names = protected_names(name)
        for entry in entries.values():
            path = above + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if closed and _is_masked(scan, root, path, closed, entry):
                continue
            folded = entry.name.casefold()
            is_protected = (
                folded in names
                or folded.endswith(PROTECTED_SUFFIXES)
                or any(matches_subject(pattern, path) for pattern in rules.protected)
            )
            if is_protected and not is_dependency:
                _add_protected(scan, root, workspace, path, entry)
            elif is_directory and f"{workspace}/{path}" not in skipped:
                inside = is_dependency or entry.name == "node_modules"
                if closed or not inside:
                    queue.append((path, entry.name, entry.inode(), inside))
    # Only now, all directories on the way can be entered.
    for path in scan.git:
        _add_configured(scan, root, workspace, path)


def _list(directory: str) -> dict[str, os.DirEntry[str]]:
    """Return the entries of a directory; none if it is gone, or if nobody of this user can enter it.

    Errors: OSError if it cannot be listed and commands may be able to.
    """
    try:
        if not os.access(directory, os.R_OK | os.X_OK):
            descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if status.st_uid == os.geteuid():
                    mode = stat.S_IMODE(status.st_mode) | stat.S_IRUSR | stat.S_IXUSR
                    os.chmod(f"/proc/self/fd/{descriptor}", mode)
            finally:
                os.close(descriptor)
        with os.scandir(directory) as entries:
            return {entry.name: entry for entry in entries}
    except OSError as error:
        is_shut = error.errno == errno.EACCES and not os.access(directory, os.X_OK)
        if is_shut or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return {}
        raise


def make_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test whether a path matches a pattern; the usual patterns take a fraction of the time."""
    first, *rest = pattern.split("*")
    match first, rest:
        case _, []:
            return pattern.__eq__
        case "", [last]:
            return lambda path: path.endswith(last)
        case _, [""]:
            return lambda path: path.startswith(first)
        case _:
            return partial(matches_subject, pattern)


def _is_masked(
    scan: Scan, root: str, path: str, closed: list[tuple[str, Callable[[str], bool]]], entry: os.DirEntry[str]
) -> bool:
    """Mask a closed path. A directory is masked as a whole if everything in it is closed.

    Of a link, the file or directory that it leads to is masked.
    """
    is_directory = entry.is_dir(follow_symlinks=False) or (
        entry.is_symlink() and os.path.isdir(f"{root}/{path}")
    )
    inside = [f"/{entry.name}/\0"] if is_directory else []
    names = [f"/{entry.name}", *inside]
    paths = [path, *(posixpath.dirname(path) + name for name in inside)]
    matching = [closing for closing in closed if any(closing[1](text.lstrip("/")) for text in paths)]
    if not matching:
        return False
    if entry.is_symlink():
        # Nothing is pinned: a command can remove the link anyway.
        target = resolve(root, path)
        if target not in (None, "."):
            scan.masked[target] = is_directory
        return False
    scan.masked[path] = is_directory
    # Unless the path is closed whatever the directories above it are called, they keep their names.
    if not any(pattern.startswith("*") and any(map(matches, names)) for pattern, matches in matching):
        scan.pin(path)
    return True


def resolve(root: str, path: str) -> str | None:
    """Return the existing path in the workspace to which a path with links leads; None if there is none."""
    # A path from a configuration may contain a NUL.
    with suppress(OSError, ValueError):
        target = posixpath.relpath(os.path.realpath(f"{root}/{path}", strict=True), os.path.realpath(root))
        return None if target.startswith("..") else target
    return None


def _add_protected(scan: Scan, root: str, workspace: str, path: str, entry: os.DirEntry[str]) -> None:
    if entry.name.casefold() == GIT and entry.is_dir(follow_symlinks=False):
        scan.pinned.add(path)
        _add_git(scan, root, workspace, path)
        return
    _add(scan, root, path)
    if entry.name.casefold() == GIT:
        target = read_git_link(root, workspace, path)
        if target is not None and os.path.isdir(f"{root}/{target}"):
            _add_git(scan, root, workspace, target)


def _add(scan: Scan, root: str, path: str) -> None:
    with suppress(OSError):
        status = os.lstat(f"{root}/{path}")
        parent = os.stat(f"{root}/{posixpath.dirname(path)}")
        scan.protected[path] = (status.st_dev, status.st_ino)
        scan.parents[path] = (parent.st_dev, parent.st_ino)
        scan.changed_ns[path] = status.st_ctime_ns
        if stat.S_ISLNK(status.st_mode):
            scan.links.add(path)


def _add_git(scan: Scan, root: str, workspace: str, path: str, depth: int = 0) -> None:
    """Add the guarded parts of a git directory, and of those of its worktrees and submodules.

    If there are too many git directories, or too deep ones, they are added as a whole.
    """
    if path in scan.git:
        return
    if len(scan.git) >= MAX_GIT_DIRECTORIES:
        _add(scan, root, path)
        return
    scan.git.add(path)
    for name in ("", *CONTAINERS_IN_GIT):
        # Whatever cannot be listed now is no longer hidden when a command restores its rights.
        with suppress(OSError):
            entries = _list(posixpath.join(root, path, name).rstrip("/"))
            if name == "worktrees" and len(entries) > MAX_GIT_DIRECTORIES:
                _add(scan, root, posixpath.join(path, name))
            elif name == "worktrees":
                for worktree in entries:
                    _add_git(scan, root, workspace, posixpath.join(path, name, worktree), depth)
    for name in GUARDED_IN_GIT:
        _add(scan, root, posixpath.join(path, name))
    modules = deque([posixpath.join(path, "modules")])
    visited = 0
    while modules:
        above = modules.popleft()
        visited += 1
        try:
            entries = _list(f"{root}/{above}")
        except OSError:
            entries = {}
        if "HEAD" in entries:
            _add_git(scan, root, workspace, above, depth + 1)
            continue
        if entries and (
            depth >= MAX_MODULE_DEPTH or visited + len(modules) + len(entries) > MAX_GIT_DIRECTORIES
        ):
            _add(scan, root, above)
            continue
        modules.extend(
            posixpath.join(above, name)
            for name, entry in entries.items()
            if entry.is_dir(follow_symlinks=False) and above.count("/") < path.count("/") + 8
        )


def _add_configured(scan: Scan, root: str, workspace: str, path: str) -> None:
    """Add the files of the workspace that a git configuration names: hooks, included configuration."""
    files = deque(posixpath.join(path, name) for name in ("config", "config.worktree"))
    read: set[str] = set()
    while files and len(read) < MAX_GIT_CONFIG_FILES:
        file = files.popleft()
        read.add(file)
        for name, value in _CONFIGURED.findall(os.fsdecode(_read(f"{root}/{file}"))):
            text = os.path.expanduser(value.strip())
            # Relative to the working tree, to the git directory, or to the file itself.
            for base in {posixpath.dirname(path), path, posixpath.dirname(file)}:
                target = posixpath.relpath(posixpath.join(workspace, base, text), workspace)
                real = resolve(root, target)
                is_above = real == "." or f"{path}/".startswith(f"{real}/")
                if real is None or is_above or target.startswith(".."):
                    continue
                # What is below a link cannot be mounted.
                if resolve(root, posixpath.dirname(target)) == (posixpath.dirname(target) or "."):
                    _add(scan, root, target)
                _add(scan, root, real)
                scan.pin(real)
                if name.casefold() == "path" and target not in read:
                    files.append(target)


def read_git_link(root: str, workspace: str, path: str) -> str | None:
    """Return the directory that a ``.git`` file names, if it is inside the workspace."""
    content = _read(f"{root}/{path}")
    if not content.startswith(GIT_LINK):
        return None
    target = os.fsdecode(content[len(GIT_LINK) :].strip())
    if os.path.isabs(target):
        target = posixpath.relpath(target, workspace)
    else:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return None if target.startswith("..") else target


def _read(path: str) -> bytes:
    """Return the begin of a file; nothing if it cannot be read."""
    try:
        return b"" if os.path.islink(path) else read_begin(path, MAX_GIT_FILE_BYTES).replace(b"\0", b"")
    except OSError:
        return b""
