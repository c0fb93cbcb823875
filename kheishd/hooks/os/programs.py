"""The programs and the code that the daemon itself executes, outside of every sandbox: their places.

``PATH`` does not count: it often begins with a virtual environment in the workspace, where an agent's command
could place a ``bwrap`` that the daemon would execute. Only directories of the system do, and of those only
files that the daemon's user, and thus a command without a sandbox, cannot replace.
"""

import os
import stat
import sys
from pathlib import Path
from typing import Final

DIRECTORIES: Final = (
    *("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"),
    *("/run/current-system/sw/bin", "/run/current-system/profile/bin"),
)
"""The directories of the distribution first, then those of the administrator, of NixOS, and of Guix."""

PACKAGES: Final = Path(__file__).parents[3]
INSTALLATION: Final = (
    *(sys.prefix, sys.base_prefix),
    *(str(PACKAGES / name) for name in ("kheishd", "kheishctl", "protocol", "kheish_protocol")),
    *DIRECTORIES,
)
"""Code and programs that the daemon executes: agents must not change them even in the workspace."""

# As many links as the kernel follows.
MAX_LINKS: Final = 40


def find_program(name: str) -> str | None:
    """Return the path of a program of the system; None if there is none that can be trusted."""
    paths = (f"{directory}/{name}" for directory in DIRECTORIES)
    return next((path for path in paths if os.access(path, os.X_OK) and is_trusted(path)), None)


def is_own_code(workspace: str, path: str) -> bool:
    """Whether the daemon executes a file of a workspace, because its installation is in the workspace."""
    places = map(os.path.realpath, INSTALLATION)
    inside = [place for place in places if place.startswith(f"{workspace}/")]
    return any(f"{workspace}/{path}".startswith(f"{place}/") for place in inside)


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
