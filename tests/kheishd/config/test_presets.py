"""The table of presets."""

from typing import get_args

from kheishd.config.presets import NO_PRESET, PRESETS
from kheishd.config.sections.config import Config
from kheishd.config.sections.routes import RouteSection
from protocol.objects.route import PresetName


def test_every_name_has_its_row() -> None:
    """The names that clients and the configuration know are those of the table, in order."""
    assert get_args(PresetName) == tuple(PRESETS)


def test_every_preset_makes_a_valid_route() -> None:
    """Every preset with a URL is a complete route; Azure's requires the URL of the deployment."""
    for name, preset in PRESETS.items():
        base_url = preset.base_url or "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21"
        section = RouteSection(driver="openai", model="m", preset=name, base_url=base_url)  # type: ignore[arg-type]
        assert not list(Config(routes={"r": section}).find_problems(())), name
    assert [name for name, preset in PRESETS.items() if preset.base_url is None] == ["azure"]


def test_without_a_preset() -> None:
    """A route without a preset has no options and no server of its own."""
    assert (NO_PRESET.base_url, NO_PRESET.options, NO_PRESET.low_effort) == (None, {}, {})
