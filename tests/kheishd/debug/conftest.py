"""A model server, and a model caller whose calls are captured."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.captured import CapturedModels, captured_models
from tests.support.model_server import ModelServer, running_model_server


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Run a model server in this process."""
    async with running_model_server() as server:
        yield server


@pytest.fixture
async def captured(tmp_path: Path, server: ModelServer) -> AsyncIterator[CapturedModels]:
    """Run a model caller in an empty home."""
    async with captured_models(tmp_path, server) as captured:
        yield captured
