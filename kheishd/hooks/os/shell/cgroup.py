"""The control groups (cgroup v2) of commands, where the service manager has delegated a part of the tree.

Under systemd, ``Delegate=yes`` hands the unit's own group to the daemon, and marks it with an extended
attribute. Only there are groups made: elsewhere the tree belongs to somebody else, even if it can be written
to. A group with processes of its own cannot limit groups below it, so the daemon moves into a group beside
those of the commands::

    kheishd.service           the delegated group
    ├── daemon                the daemon and the keepers
    └── commands
        └── MARK              one command with all its processes
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger("kheishd.sandbox")

DAEMON: Final = "daemon"
COMMANDS: Final = "commands"

CONTROLLERS: Final = ("memory", "pids")

_MARKS: Final = ("user.delegate", "trusted.delegate")


class CommandGroups:
    """The directory in which each command gets a group; there is none until one was prepared."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    def name(self, mark: str) -> str:
        """Return the group of the command with this mark; empty if there are no groups.

        The keeper then watches the processes (see ``watch``).
        """
        return "" if self._directory is None else str(self._directory / mark)

    def kill(self, mark: str) -> None:
        """Kill all processes in the group of a command whose keeper was killed, and remove the group."""
        if self._directory is None:
            return
        group = self._directory / mark
        with suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        with suppress(OSError):
            group.rmdir()

    def prepare(self, proc: Path = Path("/proc/self")) -> None:
        """Use the delegated group, if there is one. Call this once, before the first command."""
        own = find_own_group(proc)
        # The manager, or an earlier daemon, may have put it into a group below the delegated one.
        candidates = () if own is None else (own, own.parent)
        delegated = next((group for group in candidates if is_delegated(group)), None)
        if delegated is None:
            return
        try:
            if set(CONTROLLERS) <= set((delegated / "cgroup.controllers").read_text().split()):
                self._directory = divide_group(delegated)
                log.info("commands have control groups", extra={"group": str(self._directory)})
        except OSError as error:
            log.warning(
                "the delegated control group cannot be used; the limits of commands are watched instead",
                extra={"group": str(delegated), "problem": error.strerror},
            )


GROUPS: Final = CommandGroups()


def divide_group(delegated: Path) -> Path:
    """Divide a group into the daemon's and those of commands; return the directory of these.

    Errors: OSError.
    """
    commands = delegated / COMMANDS
    (delegated / DAEMON).mkdir(exist_ok=True)
    commands.mkdir(exist_ok=True)
    for pid in (delegated / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (delegated / DAEMON / "cgroup.procs").write_text(pid)
    enabled = " ".join(f"+{name}" for name in CONTROLLERS)
    for group in (delegated, commands):
        (group / "cgroup.subtree_control").write_text(enabled)
    # Those of commands whose keeper was killed; one with processes cannot be removed.
    for group in commands.iterdir():
        with suppress(OSError):
            group.rmdir()
    return commands


def find_own_group(proc: Path) -> Path | None:
    """Return the directory of this process's group in the unified tree; None without such a tree."""
    try:
        # Names may contain any byte, and characters at which text would be split.
        lines, mounts = (
            os.fsdecode((proc / name).read_bytes()).split("\n") for name in ("cgroup", "mountinfo")
        )
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::/")), None)
    for line in mounts:
        # ID PARENT DEVICE ROOT MOUNT_POINT OPTIONS … - TYPE SOURCE OPTIONS
        fields, _, kind = line.partition(" - ")
        if path is not None and kind.split()[:1] == ["cgroup2"]:
            _, _, _, root, mounted, *_ = fields.split(" ")
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return Path(mounted) / os.path.relpath(path, root)
    return None


def is_delegated(group: Path) -> bool:
    """Whether the service manager has delegated a group to this process."""
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(group, mark) == b"1":
                return True
    return False
