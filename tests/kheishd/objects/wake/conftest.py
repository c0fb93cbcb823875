"""Fixtures of the tests of schedules, events and triggers: daemons that are served inside the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.household import Household, household


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with workers; tokens work."""
    async with household(tmp_path, tcp=True) as house:
        yield house


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without workers; tokens work."""
    async with household(tmp_path, work=False, tcp=True) as house:
        yield house
