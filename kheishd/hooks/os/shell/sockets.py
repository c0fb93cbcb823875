"""Unix sockets in directories that a sandboxed command can see: those of other processes are covered.

A network of its own does not keep a command from sockets that are files, such as the one of an ssh or a gpg
agent, of Docker or of a language server in the workspace. The kernel lists the sockets of a network by the
path under which each was bound. So sockets of commands in sandboxes are not in the list, and stay usable.

Not found are sockets that were renamed or linked since, those bound under a path that is relative to a
directory below the workspace, and those that appear while the command runs.

Source: proc(5), ``/proc/net/unix``.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.limits.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE: Final = Path("/proc/net/unix")
# A line has about a hundred bytes. A desktop has a thousand sockets, a busy server some ten thousand.
MAX_TABLE_BYTES: Final = 16 * MIB


def find_sockets(directories: Sequence[str], hidden: Sequence[str] = (), table: Path = TABLE) -> list[str]:
    """Return the resolved paths of the machine's Unix sockets inside some directories.

    A ``hidden`` directory may be inside one of these, or contain one: the innermost counts.
    """
    try:
        with table.open("rb") as file:
            lines = file.read(MAX_TABLE_BYTES).split(b"\n")
    except OSError:
        return []
    resolve = cache(os.path.realpath)
    # Most have no name. The inode before the name is padded with blanks.
    fields = (line.split(b" ", 6)[-1].lstrip().partition(b" ") for line in lines[1:])
    names = {os.fsdecode(name) for _, _, name in fields if name}
    sockets = set()
    for name in names:
        # A relative path, as of a server that was started in the workspace.
        parents = ("/",) if name.startswith("/") else () if name.startswith("@") else directories
        for bound in (os.path.join(parent, name) for parent in parents):
            directory, _, base = bound.rpartition("/")
            path = os.path.join(resolve(directory or "/"), base)
            around = [outer for outer in (*directories, *hidden) if path.startswith(f"{outer}/")]
            if around and max(around, key=len) not in hidden and _is_socket(path):
                sockets.add(path)
    return sorted(sockets)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False
