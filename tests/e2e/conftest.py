"""The real daemon, as a subprocess in a temporary home, driven over its socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, short_home


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for a daemon, gone afterwards. Short, because a socket's path may have 107 bytes."""
    with short_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """A daemon for the tests of one file that leave it running, whatever others said to it before."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    """A daemon that is ready. Whatever a test does to it, no process is left behind."""
    with Daemon(home) as daemon:
        yield daemon
