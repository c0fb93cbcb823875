"""Services: one value for everything that workers and handlers share."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from kheishd.kernel.live import Live
from tests.support.desk import open_desk


async def test_services_cannot_be_replaced(tmp_path: Path, clocked: Any) -> None:
    """A reload changes the current runtime; the services stay the same objects."""
    async with open_desk(tmp_path) as desk:
        services = desk.services
        assert services.runtimes.current() is desk.holder.current()
        with pytest.raises(FrozenInstanceError):
            services.live = Live()  # type: ignore[misc]
