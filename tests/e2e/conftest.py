"""The real daemon as a subprocess in a temporary home, used over its socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, short_home


@pytest.fixture
def home() -> Iterator[Path]:
    """Provide a home with a short path, because a socket path has at most 107 bytes."""
    with short_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """Provide a daemon that the tests of one file share; each test uses its own names."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    """Provide a running daemon; no process remains after the test."""
    with Daemon(home) as daemon:
        yield daemon
