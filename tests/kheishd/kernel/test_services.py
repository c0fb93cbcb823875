"""Services: one value with everything that workers and handlers share."""

from pathlib import Path

import pytest

from kheishd.kernel.live import Live
from tests.support.desk import open_desk
from tests.support.runtimes import make_runtime


async def test_a_reload_changes_the_runtime_and_no_service(tmp_path: Path) -> None:
    """The services stay the same objects while the runtimes they give change."""
    async with open_desk(tmp_path) as desk:
        services = desk.services
        assert (services.state, services.live) == (desk.state, desk.live)
        desk.holder.replace(make_runtime(2))
        assert services.runtimes.current().generation == 2
        with pytest.raises(AttributeError):
            services.live = Live()  # type: ignore[misc]
