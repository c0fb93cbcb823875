"""The umask for the files of users: that of the process that started the daemon. The daemon's own is 077."""

import os
from typing import Final

DAEMON_UMASK: Final = 0o077

_starter = [DAEMON_UMASK]


def restrict_umask() -> None:
    """Set the daemon's own umask, once, at its start; remember the previous one for the files of users."""
    _starter[0] = os.umask(DAEMON_UMASK)


def user_umask() -> int:
    """Return the umask for files and directories that tools create."""
    return _starter[0]
