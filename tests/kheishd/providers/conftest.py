"""Fixture with a separate model server for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.support.model_server import ModelServer, running_model_server


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Provide a model server in this process, and the requests it received."""
    async with running_model_server() as server:
        yield server
