"""A scan of a workspace for the paths that the sandbox treats specially, before and after a command.

- *Protected* paths (``core.permissions.protected``) are mounted read-only: other programs execute or obey
  them. Of a git directory, only its configuration and its hooks are protected, so that git can commit.
- *Closed* paths, which a permission rule keeps from the tools that read, are covered.

Directories are scanned level by level, so the upper levels come first, up to a number of entries. Links are
not followed. Below ``node_modules`` nothing is protected: nobody works there, and package managers must be
able to replace it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from kheishd.core.permissions.claims import matches_subject
from kheishd.core.permissions.protected import PROTECTED_SUFFIXES, protected_names
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# Ten thousand entries take about ten milliseconds. Where rules close paths, more is worth the time.
MAX_ENTRIES: Final = 10_000
MAX_ENTRIES_WITH_RULES: Final = 50_000

# Each takes a descriptor until the command has started, and a millisecond.
MAX_PROTECTED_MOUNTS: Final = 128

# Submodules may have submodules.
MAX_MODULE_DEPTH: Final = 6

GIT: Final = ".git"
GIT_LINK: Final = b"gitdir:"
MAX_GIT_FILE_BYTES: Final = 64 * 1024

_NO_LINK: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

GUARDED_IN_GIT: Final = ("config", "config.worktree", "hooks", "commondir")
"""The parts of a git directory that name programs, or another directory with such parts."""

# Settings whose value is a file or a directory that git executes, or obeys like its configuration.
_CONFIGURED: Final = re.compile(
    r"^\s*(?:hookspath|path|fsmonitor|attributesfile)\s*=\s*(.+)$", re.IGNORECASE | re.MULTILINE
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
    was scanned.
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

    @property
    def mounts(self) -> list[str]:
        """The pinned and protected paths that the sandbox mounts: the first ones, thus the upper levels."""
        paths = [*sorted(self.pinned), *(path for path in self.protected if path not in self.links)]
        return paths[:MAX_PROTECTED_MOUNTS]


def scan_workspace(
    root: str, workspace: str, rules: PathRules, skipped: Collection[str] = (), *, max_entries: int = 0
) -> Scan:
    """Scan a workspace whose directory is ``root``; ``workspace`` is its path.

    ``skipped`` are absolute paths that are not entered. Reads the file system.
    """
    scan = Scan()
    budget = max_entries or (MAX_ENTRIES_WITH_RULES if rules.closed else MAX_ENTRIES)
    # A rule about all paths is one about the tool.
    closed = [(pattern, make_matcher(pattern)) for pattern in rules.closed if pattern.strip("*")]
    queue = deque([("", "", 0, False)])
    while queue:
        directory, name, inode, is_dependency = queue.popleft()
        if budget <= 0:
            scan.complete = False
            break
        entries = _list(f"{root}/{directory}")
        scan.directories[directory] = inode
        budget -= len(entries)
        if entries.keys() >= _BARE_REPOSITORY:
            _add_git(scan, root, directory)
        names = protected_names(name)
        above = f"{directory}/" if directory else ""
        for entry in entries.values():
            path = above + entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if closed and _is_masked(scan, path, closed, entry):
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
    return scan


def _list(directory: str) -> dict[str, os.DirEntry[str]]:
    with suppress(OSError), os.scandir(directory) as entries:
        return {entry.name: entry for entry in entries}
    return {}


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
    scan: Scan, path: str, closed: list[tuple[str, Callable[[str], bool]]], entry: os.DirEntry[str]
) -> bool:
    """Mask a closed path. A directory is masked as a whole if everything in it is closed."""
    is_directory = entry.is_dir(follow_symlinks=False)
    matching = [pattern for pattern, matches in closed if matches(path)]
    if is_directory:
        matching += [pattern for pattern, matches in closed if matches(f"{path}/\0")]
    # The tools that read follow no link, and the file itself has a path of its own.
    if not matching or entry.is_symlink():
        return False
    scan.masked[path] = is_directory
    if not any(pattern.startswith("*") for pattern in matching):
        above = posixpath.dirname(path)
        while above:
            scan.pinned.add(above)
            above = posixpath.dirname(above)
    return True


def _add_protected(scan: Scan, root: str, workspace: str, path: str, entry: os.DirEntry[str]) -> None:
    if entry.name.casefold() == GIT and entry.is_dir(follow_symlinks=False):
        scan.pinned.add(path)
        _add_git(scan, root, path)
        return
    _add(scan, root, path)
    if entry.is_symlink():
        scan.links.add(path)
    elif entry.name.casefold() == GIT:
        target = read_git_link(root, workspace, path)
        if target is not None and os.path.isdir(f"{root}/{target}"):
            _add_git(scan, root, target)


def _add(scan: Scan, root: str, path: str) -> None:
    with suppress(OSError):
        status = os.lstat(f"{root}/{path}")
        parent = os.stat(f"{root}/{posixpath.dirname(path)}")
        scan.protected[path] = (status.st_dev, status.st_ino)
        scan.parents[path] = (parent.st_dev, parent.st_ino)
        scan.changed_ns[path] = status.st_ctime_ns


def _add_git(scan: Scan, root: str, path: str, depth: int = 0) -> None:
    """Add the guarded parts of a git directory, and of those of its worktrees and submodules."""
    if path in scan.git:
        return
    scan.git.add(path)
    for name in GUARDED_IN_GIT:
        part = posixpath.join(path, name)
        _add(scan, root, part)
        if part in scan.protected and os.path.islink(f"{root}/{part}"):
            scan.links.add(part)
    _add_configured(scan, root, path)
    for name in _list(f"{root}/{path}/worktrees"):
        _add_git(scan, root, posixpath.join(path, "worktrees", name), depth)
    modules = deque([posixpath.join(path, "modules")] if depth < MAX_MODULE_DEPTH else [])
    while modules:
        above = modules.popleft()
        entries = _list(f"{root}/{above}")
        if "HEAD" in entries:
            _add_git(scan, root, above, depth + 1)
        else:
            modules.extend(
                posixpath.join(above, name)
                for name, entry in entries.items()
                if entry.is_dir(follow_symlinks=False) and above.count("/") < path.count("/") + 8
            )


def _add_configured(scan: Scan, root: str, path: str) -> None:
    """Add the files of the workspace that a git configuration names: hooks, included configuration."""
    text = os.fsdecode(_read(f"{root}/{path}/config"))
    for value in _CONFIGURED.findall(text):
        # Relative to the working tree, or to the file itself.
        for base in (posixpath.dirname(path), path):
            target = posixpath.normpath(posixpath.join(base, value.strip().strip('"')))
            if (
                not target.startswith(("..", "/", ".git/"))
                and target != "."
                and os.path.exists(f"{root}/{target}")
            ):
                _add(scan, root, target)
                if os.path.islink(f"{root}/{target}"):
                    scan.links.add(target)


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
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_LINK)) as file:
            return file.read(MAX_GIT_FILE_BYTES)
    except OSError:
        return b""
