"""A daemon for the tests of the client; each test uses a sender of its own."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home

_numbers = count(1)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """Run one daemon for all tests."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


@pytest.fixture
def ctl(daemon: Daemon) -> Ctl:
    """Return a runner of commands for that daemon."""
    return Ctl(daemon.home)


@pytest.fixture
def sender() -> str:
    """Return a sender that no other test uses."""
    return f"sender-{next(_numbers)}"
