"""Fixtures of the tests of sessions, conversations and runs: daemons that are served inside the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.household import Household, household


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with a run worker; tokens work."""
    async with household(tmp_path, tcp=True) as house:
        yield house


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a run worker; tokens work."""
    async with household(tmp_path, work=False, tcp=True) as house:
        yield house


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """Provide a directory of workspaces: ``a``, ``a/b``, ``a/c``, ``ab`` and ``c``."""
    directory = tmp_path / "srv"
    for name in ("a/b", "a/c", "ab", "c"):
        (directory / name).mkdir(parents=True)
    return directory
