"""A scan of a workspace for the paths that the sandbox treats specially, before and after a command.

- *Protected* paths (``core.permissions.protected``) are mounted read-only: other programs execute or obey
  them. Of a git directory, only its configuration and its hooks are protected, so that git can commit.
- What a protected path leads to is protected, too: the target of a link with a protected name, or in a
  protected directory, and the files that a git configuration names. These are *targets*.
- *Closed* paths, which a permission rule keeps from the tools that read, are covered.

Directories are scanned level by level, so the upper levels come first, up to a number of entries. Links are
not followed. Below ``node_modules`` nothing is protected, unless a link elsewhere leads there: nobody works
there, and package managers must be able to replace it.

A command may take away its own right to list a directory, and give it back in the next command. So the
owner's rights to list and to enter a directory are restored before it is scanned.
"""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import pwd
import stat
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from kheishd.core.permissions.claims import matches_subject
from kheishd.core.permissions.protected import (
    PAIR_DIRECTORIES,
    PROTECTED_SUFFIXES,
    USER_PROGRAMS,
    protected_names,
)
from kheishd.hooks.os.files.links import DEPENDENCIES, GIT, find_links, find_second_names
from kheishd.hooks.os.files.repositories import (
    GUARDED_IN_GIT,
    find_common,
    has_git_parts,
    is_git_directory,
    read_git_link,
    read_settings,
    read_text,
    real_path,
)
from protocol import ids
from protocol.structs import Value
from protocol.text import reveal_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

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


# Directories with longer paths are not searched: the system allows 4096 bytes, of which a git directory and
# the names of its modules may need half.
MAX_PATH_BYTES: Final = 2000

# The characters of a path in a message.
MAX_SHOWN: Final = 1000

CONTAINERS_IN_GIT: Final = ("worktrees", "modules")
"""The directories in a git directory that contain others."""

_AGENT: Final = f"{ids.SESSION}_"
"""The begin of an agent's id, which names its worktree."""

OBEYED_SETTINGS: Final = frozenset(("hookspath", "path", "fsmonitor", "attributesfile"))
"""Settings whose value is a file or a directory that git executes, or obeys like its configuration."""

Identity = tuple[int, int, int, int]
"""The device, inode and kind of a file, and the time of its last change.

The time is a part, because a new file often gets the inode of one that was removed. Nobody can set it.
"""


def identity_of(status: os.stat_result) -> Identity:
    """Return the identity of a file with this status."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), status.st_ctime_ns


class PathRules(Value, frozen=True):
    """Patterns of paths: those that configuration protects, and those that rules close to tools that read."""

    protected: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


class Scan:
    """The special paths of a workspace, relative to it.

    ``protected`` are files and directories, with their identities; those in ``links`` are symbolic links,
    which cannot be mounted. Those in ``targets`` are protected only because another protected path leads to
    them. ``made`` are protected paths that commands made; they are checked afterwards instead of mounted.
    ``git`` are git directories with their working trees; ``direct`` are the files and links named ``.git``
    that lead to a directory with no further link on the way, and that directory. ``leads`` are what is still
    to be followed. ``masked`` are closed files and directories (True). ``pinned`` are directories that may
    not be renamed: a rule closes paths below them by their names. ``directories`` are those that were
    scanned, with their inodes; ``parents`` are the identities of the directories in which protected files
    are. ``deep`` are those whose paths are too long. ``complete``: all others were scanned. ``has_failed``:
    they were not, by a fault of this code. ``obstacle`` is why not all paths that rules close are known.
    ``worktrees`` are directories of git with records of agents' worktrees. They are mounted as a whole: the
    daemon removes such a record while commands run, and a mount in it would be lost. ``repository`` is the
    top of the repository to be mounted, if the workspace is the worktree of an agent.
    """

    def __init__(self) -> None:
        self.protected: dict[str, Identity] = {}
        self.links: set[str] = set()
        self.targets: dict[str, str] = {}
        self.made: set[str] = set()
        self.git: dict[str, set[str]] = {}
        self.leads: deque[Callable[[], None]] = deque()
        self.masked: dict[str, bool] = {}
        self.pinned: set[str] = set()
        self.directories: dict[str, int] = {}
        self.parents: dict[str, Identity] = {}
        self.direct: dict[str, str] = {}
        self.deep: set[str] = set()
        self.complete = True
        self.has_failed = False
        self.obstacle: str | None = None
        self.worktrees: set[str] = set()
        self.repository: str | None = None

    @property
    def mounts(self) -> dict[str, bool]:
        """The pinned and protected paths that the sandbox mounts, and whether each is writable.

        If there are too many, the upper levels are mounted. The others are checked after the command.
        """
        paths = [
            path
            for path in self.pinned | self.protected.keys() - self.links - self.made
            if not lies_in(path, self.masked) and not lies_in(posixpath.dirname(path), self.worktrees)
        ]
        # A git directory keeps its name for its parts that are mounted, and for what rules close in it.
        above = {posixpath.dirname(path) for path in paths}
        closed = [path for path in self.masked if lies_in(path, self.git)]
        paths = [
            path
            for path in paths
            if path not in self.git or path in above or any(lies_in(mask, (path,)) for mask in closed)
        ]

        def rank(path: str) -> tuple[bool, int, str]:
            # Rules rely on the names of pinned directories; a git directory only keeps its configuration.
            is_required = path in self.pinned and path not in self.git
            return not is_required, path.count("/") - (posixpath.dirname(path) in self.git), path

        paths.sort(key=rank)
        return {path: not lies_in(path, self.protected) for path in paths[:MAX_PROTECTED_MOUNTS]}

    @property
    def unmounted(self) -> list[str]:
        """The protected paths beyond the number of mounts."""
        if len(self.protected) + len(self.pinned) <= MAX_PROTECTED_MOUNTS:
            return []
        covered = {path for path, is_writable in self.mounts.items() if not is_writable} | self.masked.keys()
        paths = self.protected.keys() - self.links - self.made
        return sorted(path for path in paths if not lies_in(path, covered))

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
    root: str,
    workspace: str,
    rules: PathRules,
    skipped: Collection[str] = (),
    *,
    known: Collection[str] = (),
    max_entries: int = 0,
) -> Scan:
    """Scan a workspace whose directory is ``root``; ``workspace`` is its path.

    ``skipped`` are absolute paths that are not entered, and ``known`` are directories that come first: a
    command could hide a new file of theirs behind many new directories. A failure of this code leaves what
    is known so far: a file that nobody expected must neither keep later commands from running nor hide other
    files. Reads the file system.
    """
    scan = Scan()
    try:
        _fill(scan, root, workspace, rules, skipped, known, max_entries or MAX_ENTRIES)
        # Only now, all directories on the way can be entered. One path may lead to the next.
        configured: set[str] = set()
        while scan.leads or len(configured) < len(scan.git):
            while scan.leads:
                scan.leads.popleft()()
            for path in sorted(scan.git.keys() - configured):
                configured.add(path)
                _add_configured(scan, root, workspace, path, scan.git[path])
    except Exception:
        log.exception("a workspace cannot be scanned completely", extra={"workspace": workspace})
        scan.complete = False
        scan.obstacle = "the scan has failed" if rules.closed else None
        scan.has_failed = True
    return scan


def _fill(
    scan: Scan,
    root: str,
    workspace: str,
    rules: PathRules,
    skipped: Collection[str],
    known: Collection[str],
    max_entries: int,
) -> None:
    """Find the special paths of a workspace, level by level."""
    # A rule about all paths is one about the tool.
    closed = [(pattern, make_matcher(pattern)) for pattern in rules.closed if pattern.strip("*")]
    beginnings = [pattern.partition("*")[0] for pattern, _ in closed]
    scanned = 0
    ordinary: set[str] = set()
    queue = deque([("", "", 0, False)])
    later: deque[tuple[str, str, int, bool]] = deque()
    while queue or later:
        directory, name, inode, is_dependency = (queue or later).popleft()
        # A link may lead to a directory that is scanned anyway.
        if directory in ordinary:
            continue
        if not is_dependency:
            ordinary.add(directory)
        above = f"{directory}/" if directory else ""
        may_close = any(text.startswith(above) or above.startswith(text) for text in beginnings)
        limit = MAX_ENTRIES_WITH_RULES if may_close else max_entries
        try:
            if scanned >= limit:
                raise OSError(errno.EOVERFLOW, f"the workspace has more than {limit} entries")
            if len(os.fsencode(directory)) > MAX_PATH_BYTES:
                scan.deep.add(directory)
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            entries = _list(f"{root}/{directory}")
        except OSError as error:
            # A command could otherwise make all later scans incomplete by a single directory.
            scan.complete = scan.complete and directory in scan.deep
            if may_close and scan.obstacle is None:
                scan.obstacle = (
                    f"{show_path(directory) or 'the workspace'} cannot be searched: {error.strerror}"
                )
            continue
        scan.directories[directory] = inode
        scanned += len(entries)
        if has_git_parts(entries.__contains__):
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
                or (rules.protected and any(matches_subject(pattern, path) for pattern in rules.protected))
            )
            if is_protected and not is_dependency and not is_unused(f"{workspace}/{path}"):
                _add_protected(scan, root, workspace, path, entry)
            elif is_directory and f"{workspace}/{path}" not in skipped:
                inside = is_dependency or entry.name == DEPENDENCIES
                if closed or not inside:
                    row = (path, entry.name, entry.inode(), inside)
                    (queue if not known or path in known else later).append(row)
            elif not is_dependency and entry.is_symlink():
                if folded in PAIR_DIRECTORIES:
                    _add_link_to_pairs(scan, root, workspace, path, folded)
                queue.extend(find_dependency(root, path, entry))


def is_unused(path: str) -> bool:
    """Whether an absolute path is a directory of a user's programs that no ``PATH`` names."""
    if not path.casefold().endswith(f"/{USER_PROGRAMS}"):
        return False
    homes = (os.path.join(os.path.realpath(home), USER_PROGRAMS) for home in find_homes())
    return path not in (*os.environ.get("PATH", "").split(os.pathsep), *homes)


def find_homes() -> set[str]:
    """Return the home directories of the daemon's user."""
    homes = {os.path.expanduser("~")}
    # In a container a user may have a number and no name.
    with suppress(KeyError):
        homes.add(pwd.getpwuid(os.geteuid()).pw_dir)
    return homes


def find_dependency(root: str, path: str, entry: os.DirEntry[str]) -> Iterator[tuple[str, str, int, bool]]:
    """Yield the directory below ``node_modules`` to which a link from elsewhere leads: people work there."""
    with suppress(OSError):
        if entry.name != DEPENDENCIES and DEPENDENCIES in os.readlink(f"{root}/{path}"):
            target = resolve(root, path)
            if target is not None and entry.is_dir():
                yield target, posixpath.basename(target), entry.stat().st_ino, False


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
        target = posixpath.relpath(real_path(posixpath.join(root, path)), real_path(root))
        return None if target == ".." or target.startswith("../") else target
    return None


def _add_protected(scan: Scan, root: str, workspace: str, path: str, entry: os.DirEntry[str]) -> None:
    if entry.name.casefold() != GIT:
        _add(scan, root, workspace, path)
        return
    above = posixpath.dirname(path)
    if entry.is_dir(follow_symlinks=False):
        scan.pinned.add(path)
        _add_git(scan, root, workspace, path, above)
        return
    _add(scan, root, workspace, path)
    target, is_direct = _follow_git_link(root, workspace, path)
    if target is not None and is_direct:
        scan.direct[path] = target
    if target is not None and is_git_directory(f"{root}/{target}"):
        _add_git(scan, root, workspace, target, above)


def locate(workspace: str, path: str) -> str | None:
    """Return a path relative to the workspace, if it is inside; it may be absolute."""
    relative = posixpath.relpath(posixpath.join(workspace, path), workspace)
    if relative == ".." or relative.startswith("../"):
        return None
    return "" if relative == "." else relative


def _follow_git_link(root: str, workspace: str, path: str) -> tuple[str | None, bool]:
    """Return the directory to which a ``.git`` that is no directory leads, and whether it does so directly.

    Directly, if no further link is on the way: one as ``/proc/self`` leads each program elsewhere.
    """
    steps = []
    with suppress(OSError):
        steps.append(posixpath.join(posixpath.dirname(path), os.readlink(f"{root}/{path}")))
    if (link := read_git_link(path, partial(read_inside, root, workspace))) is not None:
        steps.append(link)
    is_direct = bool(steps)
    for step in steps:
        place = locate(workspace, step)
        is_direct = is_direct and place is not None and resolve(root, step) == (place or ".")
    return (_find_directory(root, steps[-1]) if steps else None), is_direct


def _find_directory(root: str, path: str) -> str | None:
    """Return the path without links of an existing directory, relative to the workspace, if it is inside."""
    real = resolve(root, path)
    if real is None or not os.path.isdir(f"{root}/{real}"):
        return None
    return "" if real == "." else real


def show_path(path: str) -> str:
    """Return a path for a message: on one line, and without characters that nobody sees."""
    return reveal_line(path if len(path) <= MAX_SHOWN else f"{path[:MAX_SHOWN]}…")


def read_inside(root: str, workspace: str, path: str) -> str:
    """Return the text of a file of the workspace; an empty one if it is elsewhere, or cannot be read."""
    return "" if locate(workspace, path) is None else read_text(posixpath.join(root, path))


def _add(scan: Scan, root: str, workspace: str, path: str, source: str | None = None) -> None:
    """Add a protected path, and the targets of its links; ``source`` leads to it, if it is a target."""
    if source is None:
        scan.targets.pop(path, None)
    if path in scan.protected:
        return
    with suppress(OSError):
        status = os.lstat(f"{root}/{path}")
        parent = os.stat(f"{root}/{posixpath.dirname(path)}")
        scan.protected[path] = identity_of(status)
        scan.parents[path] = identity_of(parent)
        if source is not None:
            scan.targets[path] = source
        if stat.S_ISLNK(status.st_mode):
            scan.links.add(path)
            scan.leads.append(partial(_add_target, scan, root, workspace, path, path))
        elif stat.S_ISDIR(status.st_mode):
            for link in find_links(f"{root}/{path}"):
                scan.leads.append(partial(_add_target, scan, root, workspace, f"{path}/{link}", path))


def _add_target(scan: Scan, root: str, workspace: str, path: str, source: str) -> None:
    """Add what a path leads to, for which another one is protected. What is above that cannot be."""
    real = resolve(root, path)
    if real in (None, ".") or lies_in(real, scan.protected) or f"{source}/".startswith(f"{real}/"):
        return
    if is_git_directory(f"{root}/{real}"):
        _add_git(scan, root, workspace, real)
    else:
        _add(scan, root, workspace, real, source)


def _add_link_to_pairs(scan: Scan, root: str, workspace: str, path: str, folded: str) -> None:
    """Add a link that stands for the directory of protected paths of two names, and these paths."""
    status = os.lstat(f"{root}/{path}")
    scan.protected[path] = identity_of(status)
    scan.parents[path] = identity_of(os.stat(f"{root}/{posixpath.dirname(path)}"))
    scan.links.add(path)
    for name in find_second_names(folded):
        scan.leads.append(partial(_add_target, scan, root, workspace, f"{path}/{name}", path))


def _add_git(
    scan: Scan,
    root: str,
    workspace: str,
    path: str,
    tree: str | None = None,
    depth: int = 0,
    source: str | None = None,
) -> None:
    """Add the guarded parts of a git directory, and of those of its worktrees and submodules.

    ``tree`` is a working tree of it; ``source`` leads to it, if it is a target. If there are too many git
    directories, or too deep ones, they are added as a whole.
    """
    trees = set() if tree is None else {tree}
    if path in scan.git:
        scan.git[path] |= trees
        return
    if len(scan.git) >= MAX_GIT_DIRECTORIES:
        _add(scan, root, workspace, path, source)
        return
    scan.git[path] = trees
    containers = []
    for name in CONTAINERS_IN_GIT:
        container = posixpath.join(path, name)
        if os.path.islink(f"{root}/{container}"):
            _add(scan, root, workspace, container, source)
        else:
            containers.append(name)
    for name in ("", *containers):
        # Whatever cannot be listed now is no longer hidden when a command restores its rights.
        with suppress(OSError):
            entries = _list(posixpath.join(root, path, name).rstrip("/"))
            if name == "worktrees" and len(entries) > MAX_GIT_DIRECTORIES:
                _add(scan, root, workspace, posixpath.join(path, name))
            elif name == "worktrees":
                if any(entry.startswith(_AGENT) for entry in entries):
                    scan.worktrees.add(posixpath.join(path, name))
                    _add(scan, root, workspace, posixpath.join(path, name))
                for entry in entries.values():
                    if entry.is_dir(follow_symlinks=False):
                        worktree = posixpath.join(path, name, entry.name)
                        _add_git(scan, root, workspace, worktree, None, depth)
    for name in GUARDED_IN_GIT:
        _add(scan, root, workspace, posixpath.join(path, name), source)
    link = posixpath.join(path, "commondir")
    if link in scan.protected:
        shared = find_common(path, partial(read_inside, root, workspace))
        common = _find_directory(root, shared)
        if common is not None:
            scan.leads.append(partial(_add_git, scan, root, workspace, common, tree, depth, link))
    modules = deque([posixpath.join(path, "modules")] if "modules" in containers else ())
    visited = 0
    while modules:
        above = modules.popleft()
        visited += 1
        try:
            entries = _list(f"{root}/{above}")
        except OSError:
            entries = {}
        if "HEAD" in entries:
            _add_git(scan, root, workspace, above, None, depth + 1)
            continue
        if entries and (
            depth >= MAX_MODULE_DEPTH or visited + len(modules) + len(entries) > MAX_GIT_DIRECTORIES
        ):
            _add(scan, root, workspace, above)
            continue
        modules.extend(
            posixpath.join(above, name)
            for name, entry in entries.items()
            if entry.is_dir(follow_symlinks=False) and above.count("/") < path.count("/") + 8
        )


def _add_configured(scan: Scan, root: str, workspace: str, path: str, trees: Collection[str]) -> None:
    """Add the files of the workspace that a git configuration names: hooks, included configuration."""
    source = posixpath.join(path, "config")
    for setting in read_settings(path or ".", trees, partial(read_inside, root, workspace)):
        if setting.name not in OBEYED_SETTINGS or not setting.value:
            continue
        for target in filter(None, map(partial(locate, workspace), setting.paths((setting.value,)))):
            real = resolve(root, target)
            if real in (None, ".") or f"{path}/".startswith(f"{real}/"):
                continue
            # What is below a link cannot be mounted.
            if resolve(root, posixpath.dirname(target)) == (posixpath.dirname(target) or "."):
                _add(scan, root, workspace, target, source)
            _add(scan, root, workspace, real, source)
            scan.pin(real)
