"""The table of presets."""

from typing import get_args

import pytest

from kheishd.config.presets import (
    NO_PRESET,
    PRESETS,
    RESPONSES_PRESETS,
    adapt_preset,
    find_base_url,
    find_default_driver,
)
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


def test_presets_for_the_responses_api() -> None:
    """For the Responses API, a preset keeps its URL, credential and output limit, and has its own effort."""
    assert set(RESPONSES_PRESETS) <= set(PRESETS)
    assert list(RESPONSES_PRESETS) == sorted(RESPONSES_PRESETS)
    azure, deepseek, fireworks = (PRESETS[name] for name in ("azure", "deepseek", "fireworks"))
    effort = {"reasoning": {"effort": "low"}}
    assert adapt_preset(azure, "responses").auth_header == "api-key"
    assert adapt_preset(deepseek, "responses").base_url == deepseek.base_url
    assert (adapt_preset(deepseek, "responses").options, adapt_preset(NO_PRESET, "responses").low_effort) == (
        {},
        effort,
    )
    assert adapt_preset(fireworks, "responses").options == {"max_tokens": 32_768}
    assert adapt_preset(deepseek, "openai") is deepseek


@pytest.mark.parametrize(
    ("preset", "base_url", "driver"),
    [
        (None, None, "responses"),
        (None, "https://api.openai.com/v1", "responses"),
        (None, "https://API.openai.com:443/v1/", "responses"),
        (None, "https://eu.api.openai.com/v1", "responses"),
        ("openai", None, "responses"),
        ("openai", "http://127.0.0.1:4000/v1", "responses"),
        ("ollama", None, "openai"),
        ("azure", "https://x.openai.azure.com/openai/v1", "openai"),
        (None, "http://127.0.0.1:8080/v1", None),
        (None, "https://api.openai.com.evil.test/v1", None),
        (None, "http://[", None),
    ],
)
def test_default_drivers(preset: str | None, base_url: str | None, driver: str | None) -> None:
    """OpenAI's own API has the Responses driver by default, other presets that of chat completions."""
    assert find_default_driver(preset, base_url) == driver


@pytest.mark.parametrize(
    ("driver", "preset", "base_url", "url"),
    [
        ("openai", "ollama", "http://gpu.test/v1", "http://gpu.test/v1"),
        ("openai", "ollama", None, "http://127.0.0.1:11434/v1"),
        ("responses", None, None, "https://api.openai.com/v1"),
        ("anthropic", None, None, "https://api.anthropic.com"),
        ("offline", None, None, None),
        ("openai", "a preset of a later version", None, "https://api.openai.com/v1"),
    ],
)
def test_base_urls(driver: str, preset: str | None, base_url: str | None, url: str | None) -> None:
    """A route's own URL comes first, then that of its preset, then that of its driver."""
    assert find_base_url(driver, preset, base_url) == url
