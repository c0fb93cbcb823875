"""The programs that the daemon itself executes, outside of every sandbox: their places.

``PATH`` does not count: it often begins with a virtual environment in the workspace, where an agent's command
could place a ``bwrap`` that the daemon would execute. Only directories of the system do, and of those only
files that the daemon's user, and thus a command without a sandbox, cannot replace.
"""

import os
import stat
from typing import Final

DIRECTORIES: Final = (
    *("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"),
    *("/run/current-system/sw/bin", "/run/current-system/profile/bin"),
)
"""The directories of the distribution first, then those of the administrator, of NixOS, and of Guix."""

# As many links as the kernel follows.
MAX_LINKS: Final = 40


def find_program(name: str) -> str | None:
    """Return the path of a program of the system; None if there is none that can be trusted."""
    paths = (f"{directory}/{name}" for directory in DIRECTORIES)
    return next((path for path in paths if os.access(path, os.X_OK) and is_trusted(path)), None)


def is_trusted(path: str) -> bool:
    """Whether the daemon's user can change neither a file nor a directory or a link on the way to it.

    Root can change everything; for root, nobody else may.
    """
    current, links = "/", 0
    names = path.split("/")[::-1]
    try:
        while names:
            name = names.pop()
            current = os.path.normpath(os.path.join(current, name))
            status = os.lstat(current)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = os.readlink(current)
                current = "/" if target.startswith("/") else os.path.dirname(current)
                names += target.split("/")[::-1]
            elif _may_be_changed(current, status):
                return False
            if links > MAX_LINKS:
                return False
    except OSError:
        return False
    return stat.S_ISREG(os.lstat(current).st_mode)


def _may_be_changed(path: str, status: os.stat_result) -> bool:
    if os.geteuid() != 0:
        return status.st_uid == os.geteuid() or os.access(path, os.W_OK)
    # In a directory with the sticky bit, others replace only their own files.
    is_open = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return status.st_uid != 0 or bool(is_open)
