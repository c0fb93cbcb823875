"""The umask of the daemon, and that for the files of users."""

import os

from kheishd.hooks.os.umask import DAEMON_UMASK, restrict_umask, user_umask


def test_the_starters_umask_is_remembered() -> None:
    """The daemon's own files are private; those that tools create are as their starter's."""
    previous = os.umask(0o026)
    try:
        restrict_umask()
        assert user_umask() == 0o026
        assert os.umask(previous) == DAEMON_UMASK
    finally:
        os.umask(previous)
