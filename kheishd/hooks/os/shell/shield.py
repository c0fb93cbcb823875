"""The shield of files that other programs execute or obey, against files that a command creates.

A mount makes an existing file read-only. A name that does not exist cannot be mounted without creating it in
the user's workspace, where it would be seen by everybody, be added by ``git add``, and break ``git init``. So
the workspace is scanned again after a command in the foreground, and each protected file that is new is put
aside: it is renamed to ``NAME.unapproved``, and the result says so. A new git directory, as of ``git clone``,
stays if its configuration has only harmless settings and its hooks are samples.

A file that existed before, in any version, is never renamed: a mount cannot be replaced from within the
sandbox, so people or their programs replaced it. It is reported only.

In directories that the command itself made, as by ``git worktree add``, such files stay, and are reported.
What commands made in this way is not mounted until another program changes it, so that a command can remove
its own clone. Each new version is checked and reported again.

While the command runs, such a file exists. After a command in the background, which may take hours while
people work in the same directory, new files are reported only.
"""

from __future__ import annotations

import os
import posixpath
import re
import secrets
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.core.permissions.protected import is_protected_pair
from kheishd.hooks.os.files.confinement import Root, read_begin
from kheishd.hooks.os.files.links import GIT
from kheishd.hooks.os.files.repositories import GUARDED_IN_GIT, is_git_directory
from kheishd.hooks.os.files.written import was_written
from kheishd.hooks.os.shell.repository import closes_repository
from kheishd.hooks.os.shell.scan import (
    CONTAINERS_IN_GIT,
    MAX_ENTRIES_AFTERWARDS,
    MAX_PROTECTED_MOUNTS,
    Identity,
    PathRules,
    Scan,
    resolve,
    scan_workspace,
    show_path,
)
from kheishd.kernel.hook import ToolError
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kheishd.hooks.os.shell.workdir import Workdir

SUFFIX: Final = ".unapproved"
SAMPLE: Final = ".sample"

PENDING_IN_GIT: Final = ("rebase-merge", "rebase-apply", "sequencer")
"""The states of unfinished operations of git, which may run commands when they are continued."""

# The usual limit of file systems for one name.
MAX_NAME_BYTES: Final = 255
RANDOM_BYTES: Final = 8

MAX_GIT_CONFIG_BYTES: Final = 64 * 1024
MAX_REPORTED: Final = 10

# A clone has some ten of them.
MAX_MADE: Final = 10_000

_made: Final[OrderedDict[str, Identity]] = OrderedDict()
"""The protected files that commands made, and that may stay, by their absolute paths."""

_GIT_SECTION: Final = re.compile(r'\[([A-Za-z0-9-]+)(?: "([^"\\\]]*)")?\]')
_GIT_SETTING: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(?:\s*=\s*(.*))?")
_HARMLESS: Final = frozenset(
    (
        *("core.repositoryformatversion", "core.filemode", "core.bare", "core.logallrefupdates"),
        *("core.ignorecase", "core.precomposeunicode", "core.symlinks", "core.autocrlf", "core.eol"),
        *("core.sparsecheckout", "core.sparsecheckoutcone", "index.sparse", "extensions.worktreeconfig"),
        *("extensions.objectformat", "extensions.refstorage", "extensions.partialclone"),
        *("remote.url", "remote.fetch", "remote.tagopt", "remote.mirror", "remote.promisor"),
        *("remote.partialclonefilter", "branch.remote", "branch.merge", "branch.rebase"),
        *("submodule.url", "submodule.active", "submodule.branch", "user.name", "user.email"),
        *("init.defaultbranch", "pull.rebase", "pull.ff", "push.default", "push.autosetupremote"),
        *("fetch.prune", "gc.auto", "advice.detachedhead"),
    )
)
"""The settings of a new repository that name no program, and no file with such settings."""


class NewFiles(Value, frozen=True):
    """Protected files that appeared in directories that existed before; and others to be inspected.

    These are in new directories, or existed before and changed, or are unfinished operations of git. ``made``
    are the files that commands made, and that may stay. ``deep`` are new directories whose paths are too long
    to be scanned. ``complete``: the command did not leave more entries than can be scanned. ``has_failed``:
    the scan did.
    """

    unapproved: list[str]
    elsewhere: list[str]
    made: dict[str, Identity]
    deep: list[str] = []
    complete: bool = True
    has_failed: bool = False


class Shield:
    """The protected files of a workspace at the begin of a command. Its methods read the file system.

    Errors: ToolError if rules close paths, and a part of the workspace cannot be searched for these.
    """

    def __init__(self, workdir: Workdir, rules: PathRules, skipped: Collection[str] = ()) -> None:
        self._workdir = workdir
        self._rules = rules
        self._skipped = skipped
        # The opened directory, whatever its name leads to by now.
        self._root = f"/proc/self/fd/{workdir.outer}"
        # The clock of files ticks a few times in a hundredth of a second.
        self._began_ns = time.time_ns() - 10_000_000
        self.scan = self._scan(rules)
        if self.scan.obstacle is not None:
            raise ToolError(
                "permission rules close paths to commands, and not all of these paths are known: "
                f"{self.scan.obstacle}. Use the tools for files, or ask the user to make it readable or "
                "smaller, or the operator for rules whose paths begin with the name of a directory"
            )
        if not any(map(closes_repository, rules.closed)):
            self.scan.repository = workdir.repository
        self.scan.made.update(
            path
            for path, identity in self.scan.protected.items()
            if _made.get(f"{workdir.workspace}/{path}") == identity
        )

    def _scan(self, rules: PathRules, known: Collection[str] = (), max_entries: int = 0) -> Scan:
        workspace = self._workdir.workspace
        return scan_workspace(
            self._root, workspace, rules, self._skipped, known=known, max_entries=max_entries
        )

    def find_new(self) -> NewFiles:
        """Return the protected files that appeared, and that are not part of a harmless new repository."""
        # A command could hide a file among as many entries as are scanned before.
        before, rules = self.scan, PathRules(self._rules.protected)
        scan = self._scan(rules, before.directories, MAX_ENTRIES_AFTERWARDS)
        known = set(before.protected.values()), set(before.directories.values())
        new = NewFiles([], [], {})
        for path, identity in sorted(scan.protected.items()):
            if path in scan.worktrees:
                # Its parts are judged, as they are where no agent has a worktree.
                continue
            # Where nothing was scanned before, only a file that changed meanwhile can be new.
            is_older = not before.complete and identity[-1] < self._began_ns
            is_known = is_older or before.protected.get(path) == identity
            # A command can change the way on which an unchanged ``.git`` leads.
            is_led_away = path in before.direct and path not in scan.direct
            if not is_led_away and (
                is_known or was_written(f"{self._workdir.workspace}/{path}", f"{self._root}/{path}")
            ):
                continue
            # The target of a new link is no new file, and the link itself is one.
            source = scan.targets.get(path)
            if source is not None and before.protected.get(source) != scan.protected.get(source):
                continue
            try:
                self._judge(path, scan, new, *known)
            except OSError:
                new.elsewhere.append(path)
        directories = sorted(scan.git)
        if before.repository is not None:
            # It is outside of the workspace, and its path is absolute.
            agent_id = posixpath.basename(self._workdir.workspace)
            directories.append(f"{before.repository}/{GIT}/worktrees/{agent_id}")
        states = [posixpath.join(git, name) for git in directories for name in PENDING_IN_GIT]
        new.elsewhere.extend(
            path for path in states if was_changed_since(posixpath.join(self._root, path), self._began_ns)
        )
        has_failed = before.has_failed or scan.has_failed
        complete = scan.complete or not before.complete or has_failed
        deep = sorted(scan.deep - before.deep)
        return replace(new, deep=deep, complete=complete, has_failed=has_failed)

    def _judge(
        self, path: str, scan: Scan, new: NewFiles, known: set[Identity], known_directories: set[int]
    ) -> None:
        """Add a protected path that is new or has changed, or its parts, to the lists. Errors: OSError."""
        before, identity = self.scan, scan.protected[path]
        directory, name = posixpath.split(path)
        is_made = path in before.made
        # Also a mounted file can be changed, by another name, if a command has linked it before. Only a link
        # cannot be mounted, so that a command can replace it.
        is_mounted = path in before.protected and path not in before.links and not is_made
        if is_mounted and before.parents[path][:-1] == scan.parents[path][:-1]:
            new.elsewhere.append(path)
            return
        is_moved = identity in known
        if directory in scan.git and name in GUARDED_IN_GIT:
            programs = [] if is_moved else self._find_programs(path, scan)
            # An older repository that was not scanned has the user's own settings.
            (new.unapproved if before.complete or directory in before.git else new.elsewhere).extend(programs)
            if not programs and (is_made or (before.complete and directory not in before.git)):
                new.made[path] = identity
            return
        if name.casefold() == GIT and not stat.S_ISDIR(identity[2]) and (is_made or not is_moved):
            if path not in scan.direct:
                # Git may find a directory there that was not scanned.
                is_older = not before.complete and directory not in before.directories
                (new.elsewhere if is_older else new.unapproved).append(path)
                return
            git = scan.direct[path]
            if path not in scan.links and git in scan.git and is_git_directory(f"{self._root}/{git}"):
                if is_made or (before.complete and directory not in before.directories):
                    new.made[path] = identity
                return
        if is_protected_pair(path):
            directory = posixpath.dirname(directory)
        is_in_git = directory in before.git and name not in CONTAINERS_IN_GIT
        if not is_made and (directory in before.directories or is_in_git):
            new.unapproved.append(path)
        elif is_made or scan.directories.get(directory) not in known_directories:
            new.elsewhere.append(path)
            if is_made or before.complete:
                new.made[path] = identity
        elif not is_moved:
            new.unapproved.append(path)

    def finish(self) -> list[str]:
        """Put new protected files aside; return sentences about them, and about the limits of the scan."""
        new = self.find_new()
        root = Root(self._workdir.workspace, self._workdir.outer)
        moved = [path for path in new.unapproved if put_aside(root, path)]
        sentences = []
        if moved:
            sentences.append(
                "other programs execute or obey these files, which nobody approved, so they were renamed to "
                f"NAME{SUFFIX}: {_list(moved)}. Create such files with write_file, which asks a person"
            )
        for path, identity in new.made.items():
            _made[f"{self._workdir.workspace}/{path}"] = identity
        while len(_made) > MAX_MADE:
            _made.popitem(last=False)
        remaining = [*(path for path in new.unapproved if path not in moved), *new.elsewhere]
        return [*sentences, *self.describe(replace(new, unapproved=[], elsewhere=remaining))]

    def describe(self, new: NewFiles) -> list[str]:
        """Return sentences about new files that stay, and about the limits of the scans."""
        paths = [*new.unapproved, *new.elsewhere]
        sentences = []
        if paths:
            text = "other programs execute or obey these new or changed files; inspect them first"
            sentences.append(f"{text}: {_list(paths)}")
        if not new.complete:
            sentences.append(
                "not all of the workspace could be searched for new files that other programs execute "
                f"or obey: it has more than {MAX_ENTRIES_AFTERWARDS} entries now, or a directory that cannot "
                "be read"
            )
        if new.deep:
            sentences.append(
                "these new directories are too deep to be searched for files that other programs execute or "
                f"obey: {_list(new.deep)}"
            )
        if unmounted := self.scan.unmounted:
            sentences.append(
                f"more than {MAX_PROTECTED_MOUNTS} files are executed or obeyed by other programs, too many "
                f"to make all of them read-only; the command could change {_list(unmounted)}"
            )
        if new.has_failed:
            sentences.append(
                "a part of the workspace could not be searched for files that other programs execute or "
                "obey: a file was not expected; the daemon's log has the error. Ask the user to inspect it"
            )
        return sentences

    def _find_programs(self, path: str, scan: Scan) -> list[str]:
        """Return the new parts of a git directory that name programs; none if they are harmless."""
        full = f"{self._root}/{path}"
        if path in scan.links:
            return [path]
        git, name = posixpath.split(path)
        match name:
            case "hooks" if os.path.isdir(full):
                workspace = self._workdir.workspace
                hooks = [f"{path}/{hook}" for hook in os.listdir(full) if not hook.endswith(SAMPLE)]
                return [
                    hook for hook in hooks if not was_written(f"{workspace}/{hook}", f"{self._root}/{hook}")
                ]
            case "commondir":
                # As ``git worktree add`` writes it: the repository's own directory, which is guarded, too.
                common, _, name = git.rpartition("/worktrees/")
                is_repository = common in scan.git and is_git_directory(f"{self._root}/{common}")
                is_worktree = is_repository and name != "" and "/" not in name
                return [] if is_worktree and _read(full).rstrip("\r\n") == "../.." else [path]
            case _:
                # The working tree of a submodule is in that of its repository.
                tree, module, _ = f"/{git}".partition("/.git/modules/")

                def may_be_tree(value: str) -> bool:
                    target = resolve(self._root, posixpath.join(git, value))
                    return bool(module) and target is not None and f"/{target}".startswith(f"{tree}/")

                return [] if is_harmless_git_config(_read(full), may_be_tree) else [path]


def was_changed_since(directory: str, time_ns: int) -> bool:
    """Whether a directory exists, and it or a file in it has changed since a time."""
    with suppress(OSError), os.scandir(directory) as entries:
        statuses = [os.lstat(directory), *(entry.stat(follow_symlinks=False) for entry in entries)]
        return any(status.st_ctime_ns >= time_ns for status in statuses)
    return False


def put_aside(root: Root, path: str) -> bool:
    """Rename a file, also in a directory that its owner may not change; return whether that worked."""
    with suppress(OSError, ToolError), root.parent(path) as (directory, name):
        place = f"/proc/self/fd/{directory}"
        mode = stat.S_IMODE(os.stat(place).st_mode)
        with suppress(OSError):
            os.chmod(place, mode | stat.S_IRWXU)
        try:
            os.rename(name, _free_name(directory, name), src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with suppress(OSError):
                os.chmod(place, mode)
        return True
    return False


def _list(paths: list[str]) -> str:
    return ", ".join(map(show_path, paths[:MAX_REPORTED])) + (", …" if len(paths) > MAX_REPORTED else "")


def is_harmless_git_config(text: str, may_be_tree: Callable[[str], bool] = lambda path: False) -> bool:
    """Whether a git configuration consists of settings that name no program; what is unusual is not.

    ``may_be_tree`` tells whether a path may be that of its working tree.
    """
    section = ""
    for line in map(str.strip, text.split("\n")):
        if not line or line[0] in "#;":
            continue
        if heading := _GIT_SECTION.fullmatch(line):
            section = heading[1].lower()
        elif (setting := _GIT_SETTING.fullmatch(line)) and not line.endswith("\\"):
            key, value = f"{section}.{setting[1].lower()}", setting[2] or ""
            # ``ext::COMMAND`` as an address runs a command.
            if "::" in value or not (key in _HARMLESS or (key == "core.worktree" and may_be_tree(value))):
                return False
        else:
            return False
    return True


def _read(path: str) -> str:
    """Return the text of a file; text that is harmless to nobody if it cannot be read, or is too long."""
    try:
        content = read_begin(path, MAX_GIT_CONFIG_BYTES + 1)
    except OSError:
        return "?"
    return content.decode(errors="replace") if len(content) <= MAX_GIT_CONFIG_BYTES else "?"


def _free_name(directory: int, name: str) -> str:
    """Return a name that no file has. It cannot be guessed, so a command cannot take all of them."""
    longest = MAX_NAME_BYTES - len(SUFFIX) - 1 - 2 * RANDOM_BYTES
    name = os.fsdecode(os.fsencode(name)[:longest])
    try:
        os.stat(name + SUFFIX, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return name + SUFFIX
    return f"{name}{SUFFIX}-{secrets.token_hex(RANDOM_BYTES)}"
