"""The watch over the mounts of a sandbox, which protect and cover files while its command runs.

If another program renames, replaces or removes a file, the kernel removes the mounts on it, in all other
namespaces: so ``git config`` of a person unlocks the configuration of git for a command that runs. A mount
cannot be made again there, so the command is stopped. The kernel reports each change of mounts at once.

This file is part of the keeper's process, which imports little (see ``keeper``).
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from contextlib import suppress

from kheishd.hooks.os.shell.watch import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

# The number of arguments from an option of Bubblewrap to the path that it certainly mounts.
MOUNT_OPTIONS = {"--bind": 2, "--ro-bind": 2, "--bind-fd": 2, "--ro-bind-fd": 2, "--tmpfs": 1}

# Where Bubblewrap is privileged (setuid), it has a helper while it mounts, which looks like the command.
MAX_SETUP_SECONDS = 2.0

# The backslash first, since it is part of the others' replacement.
ESCAPED_BYTES = b"\\ \t\n"


class MountWatch:
    """The watch over the mounts that Bubblewrap makes by its argv; their changes are polled for."""

    def __init__(self, argv: Sequence[str], poll: select.poll) -> None:
        options = argv[: argv.index("--")] if "--" in argv else []
        # A server that starts again replaces its socket, and whose socket is new is in reach anyway.
        paths = {option for option in options if option.startswith("/")}
        self._known = {escape(path) for path in paths if not is_socket(path)}
        self._required = self._known & {escape(path) for path in find_mount_points(options)}
        self._poll = poll
        self._file: BinaryIO | None = None
        self._ids: set[int] = set()
        is_privileged = bool(options) and os.stat(options[0]).st_mode & stat.S_ISUID
        self._deadline = time.monotonic() + MAX_SETUP_SECONDS if is_privileged else 0.0

    def look(self, main: int) -> str | None:
        """Return ``mounts`` if a mount is gone; None otherwise. ``main`` is the process of Bubblewrap."""
        if not self._required:
            return None
        if self._file is not None:
            return None if self._ids <= read_mounts(self._file).keys() else "mounts"
        with suppress(OSError, ValueError):
            # The sandbox's first process is the parent of the command.
            first, _, *_ = tree(main)
            file = open(f"/proc/{first}/mountinfo", "rb")
            self._poll.register(file, 0)
            try:
                mounts = read_mounts(file)
                missing = Counter(map(os.path.basename, self._required - set(mounts.values())))
                moved = self._find_moved(mounts) if missing else {}
                if missing <= Counter(moved.values()):
                    self._ids = {number for number, path in mounts.items() if path in self._known}
                    self._ids |= {number for number, name in moved.items() if name in missing}
                    self._file = file
                    return None
            finally:
                if self._file is None:
                    self._poll.unregister(file)
                    file.close()
            return "mounts" if self._deadline < time.monotonic() else None
        return None

    def _find_moved(self, mounts: dict[int, bytes]) -> dict[int, bytes]:
        """Return the names of mounts at other paths: a command may rename a directory above a mount.

        The name of the mount itself cannot change.
        """
        return {
            number: os.path.basename(path)
            for number, path in mounts.items()
            if path not in self._known and not self._known.isdisjoint(directories_above(path))
        }

    def close(self) -> None:
        """Forget the mounts, after the end of the command."""
        if self._file is not None:
            self._file.close()


def find_mount_points(options: Sequence[str]) -> Iterator[str]:
    """Yield the paths that options mount, without those that lead through links."""
    for index, option in enumerate(options):
        if option in MOUNT_OPTIONS:
            path = options[index + MOUNT_OPTIONS[option]]
            if os.path.realpath(path) == path:
                yield path


def directories_above(path: bytes) -> Iterator[bytes]:
    """Yield the directories above an absolute path, without the root."""
    while len(path := os.path.dirname(path)) > 1:
        yield path


def is_socket(path: str) -> bool:
    """Whether a path is that of a socket."""
    with suppress(OSError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return False


def escape(path: str) -> bytes:
    """Return a path as the kernel's list of mounts has it."""
    escaped = os.fsencode(path)
    for byte in ESCAPED_BYTES:
        escaped = escaped.replace(b"%c" % byte, b"\\%03o" % byte)
    return escaped


def read_mounts(file: BinaryIO) -> dict[int, bytes]:
    """Return the paths of all mounts, by the mount's number; none if the list cannot be read.

    The kernel escapes no other white space than the separators, so a path may contain a carriage return.
    """
    try:
        file.seek(0)
        rows = [line.split(b" ") for line in file.read().split(b"\n") if line]
        return {int(row[0]): row[4] for row in rows}
    except (OSError, ValueError, IndexError):
        return {}
