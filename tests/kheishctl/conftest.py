"""A daemon for the tests of its client; each test talks as a sender of its own."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home

_numbers = count(1)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """One daemon for all tests that only talk with it."""
    with short_home() as home, Daemon(home) as daemon:
        yield daemon


@pytest.fixture
def ctl(daemon: Daemon) -> Ctl:
    """Commands for that daemon."""
    return Ctl(daemon.home)


@pytest.fixture
def sender() -> str:
    """A sender that nobody else is."""
    return f"sender-{next(_numbers)}"
