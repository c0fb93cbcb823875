"""The files of the system that only root may read, which commands of a daemon that runs as root must not see.

They are searched for each command, since modes change. Listing the directories takes most of the time of a
search, so the names in a directory are remembered for as long as its inode and the time of its last change
are the same: the kernel changes that with each name, and nobody can set it. The modes are always read.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final

from kheishd.hooks.os.shell.scan import Identity, identity_of
from protocol.structs import Value

SETTLED_NS: Final = 2_000_000_000
"""A directory that changed less long ago may change again without a visible change of its time."""

# A name takes about a hundred bytes.
MAX_REMEMBERED: Final = 20_000


class Names(Value, frozen=True):
    """The paths in a directory, without links, and the identity that it had then."""

    identity: Identity
    paths: tuple[str, ...]


class PrivateFiles:
    """The files below a directory that only root may read. Its method reads the file system."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._remembered: dict[str, Names] = {}

    def find(self) -> list[str]:
        """Return the paths of the files, and of directories as a whole, if only root may read these."""
        remembered: dict[str, Names] = {}
        private, count = [], 0
        paths = [os.path.realpath(self._directory)]
        while paths:
            path = paths.pop()
            now_ns = time.time_ns()
            try:
                status = os.lstat(path)
                if not status.st_mode & stat.S_IROTH:
                    private.append(path)
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    continue
                names = self._remembered.get(path)
                if names is None or names.identity != identity_of(status):
                    names = Names(identity_of(status), list_paths(path))
            except OSError:
                # It is gone, or nobody can read it.
                continue
            paths += names.paths
            count += len(names.paths)
            if status.st_ctime_ns < now_ns - SETTLED_NS and count <= MAX_REMEMBERED:
                remembered[path] = names
        self._remembered = remembered
        return private


def list_paths(directory: str) -> tuple[str, ...]:
    """Return the paths in a directory that are no links. Errors: OSError."""
    with os.scandir(directory) as entries:
        return tuple(entry.path for entry in entries if not entry.is_symlink())


PRIVATE_FILES: Final = PrivateFiles("/etc")
