"""Whether the users with a grant can reach the shared socket: the directories of its path, and its own mode.

Only certain obstacles are reported. A directory with an access control list, or a group whose members are
unknown, may let a user in.
"""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from kheishd.server.authentication import SocketGrant

REMEDY = "choose a path in a directory that they can enter, such as /run/kheish/shared.sock"


def find_obstacle(
    path: Path, mode: int, socket_gid: int, grants: Iterable[SocketGrant]
) -> tuple[str, str] | None:
    """Return the key of ``[listen.shared]`` that keeps a granted user out, and the reason; None if none does.

    Errors: OSError if a directory of the path cannot be examined.
    """
    directories = [(parent, parent.stat()) for parent in path.resolve().parents]
    for grant in grants:
        if grant.uid in (0, os.geteuid()) or (grant.uid is None and grant.gid == os.getegid()):
            continue
        name, groups = _describe(grant)
        for directory, status in directories:
            may_pass = (
                status.st_mode & stat.S_IXOTH
                or (status.st_mode & stat.S_IXGRP and (groups is None or status.st_gid in groups))
                or (grant.uid == status.st_uid and status.st_mode & stat.S_IXUSR)
                or _has_access_list(directory)
            )
            if not may_pass:
                permissions = f"{stat.S_IMODE(status.st_mode):04o}"
                return "path", f"{name} cannot enter {directory} (mode {permissions}); {REMEDY}"
        is_member = groups is None or socket_gid in groups
        if not (mode & stat.S_IWOTH or (mode & stat.S_IWGRP and is_member)):
            return "mode", (
                f"{name} cannot open a socket of the group {socket_gid} with mode {mode:04o}; "
                "set group to a group of theirs, or mode = '0666': the grants decide in any case"
            )
    return None


def _describe(grant: SocketGrant) -> tuple[str, frozenset[int] | None]:
    """Return the name of a grant's user or group, and the groups of that user; None if they are unknown."""
    if grant.uid is None:
        # A process of the group may have any other group besides.
        return f"the group with gid {grant.gid}", None
    try:
        entry = pwd.getpwuid(grant.uid)
    except KeyError:
        return f"the user with uid {grant.uid}", None
    return f"the user {entry.pw_name}", frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _has_access_list(directory: Path) -> bool:
    try:
        return bool(os.getxattr(directory, "system.posix_acl_access"))
    except OSError:
        return False
