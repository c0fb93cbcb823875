"""Presets: how servers of OpenAI's protocols differ. One row per server, from its documentation.

``contrib/generate`` writes the table in contrib/docs/models.md from these rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

TokenLimit = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The differences of one server.

    ``base_url`` None: the route must name it. ``auth_header`` holds the credential: ``authorization`` as a
    bearer token, any other header as it is. ``token_limit`` is the field that limits an answer.
    ``stream_options``: the server accepts that field; the others send the usage without it. ``options`` are
    defaults below the route's own. ``low_effort`` are the fields with which a reasoning model thinks little:
    they apply to summaries and titles, whose tokens it would use up otherwise. ``responses``: the server
    speaks the Responses API, too. There, ``token_limit``, ``stream_options``, ``options`` and ``low_effort``
    do not apply: see ``adapt_preset``.
    """

    base_url: str | None = None
    auth_header: str = "authorization"
    token_limit: TokenLimit = "max_tokens"
    stream_options: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    low_effort: Mapping[str, Any] = field(default_factory=dict)
    responses: bool = False


_EFFORT: Final = {"reasoning_effort": "low"}
_REASONING_EFFORT: Final = {"reasoning": {"effort": "low"}}
_THINKING_OFF: Final = {"thinking": {"type": "disabled"}}
_TEMPLATE_WITHOUT_THINKING: Final = {"chat_template_kwargs": {"enable_thinking": False}}
_REASONING_BACK: Final = {"reasoning_content": True}

PRESETS: Final[Mapping[str, Preset]] = {
    "azure": Preset(
        auth_header="api-key", token_limit="max_completion_tokens", low_effort=_EFFORT, responses=True
    ),
    "deepseek": Preset(
        base_url="https://api.deepseek.com", options=_REASONING_BACK, low_effort=_THINKING_OFF, responses=True
    ),
    "fireworks": Preset(base_url="https://api.fireworks.ai/inference/v1", responses=True),
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        options={"thought_signatures": True},
        low_effort=_EFFORT,
    ),
    "groq": Preset(
        base_url="https://api.groq.com/openai/v1",
        token_limit="max_completion_tokens",
        low_effort=_EFFORT,
        responses=True,
    ),
    "litellm": Preset(base_url="http://127.0.0.1:4000/v1", low_effort=_EFFORT, responses=True),
    "llamacpp": Preset(
        base_url="http://127.0.0.1:8080/v1", low_effort=_TEMPLATE_WITHOUT_THINKING, responses=True
    ),
    "lmstudio": Preset(base_url="http://127.0.0.1:1234/v1", responses=True),
    "mistral": Preset(
        base_url="https://api.mistral.ai/v1", stream_options=False, options={"call_ids": "mistral"}
    ),
    "moonshot": Preset(base_url="https://api.moonshot.ai/v1", options=_REASONING_BACK),
    "ollama": Preset(base_url="http://127.0.0.1:11434/v1", low_effort=_EFFORT, responses=True),
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        token_limit="max_completion_tokens",
        low_effort=_EFFORT,
        responses=True,
    ),
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1", low_effort=_REASONING_EFFORT, responses=True
    ),
    "together": Preset(base_url="https://api.together.xyz/v1", responses=True),
    "vllm": Preset(
        base_url="http://127.0.0.1:8000/v1", low_effort=_TEMPLATE_WITHOUT_THINKING, responses=True
    ),
    "xai": Preset(base_url="https://api.x.ai/v1", token_limit="max_completion_tokens", responses=True),
    "zai": Preset(
        base_url="https://api.z.ai/api/paas/v4",
        stream_options=False,
        options=_REASONING_BACK,
        low_effort=_THINKING_OFF,
    ),
}
"""All presets, by name."""

NO_PRESET: Final = Preset()
"""The values of a route without a preset."""


def adapt_preset(preset: Preset, driver: str) -> Preset:
    """Return a preset as it applies to a driver.

    The Responses API sets the effort of reasoning in one way; a server that does not know it says so.
    """
    if driver != "responses":
        return preset
    return replace(preset, options={}, low_effort=_REASONING_EFFORT)


def find_default_driver(preset: str | None, base_url: str | None) -> Literal["openai", "responses"] | None:
    """Return the driver of a route that names none; None if it must name one.

    OpenAI's current models accept tools only through the Responses API. Other servers with a preset speak
    chat completions.
    """
    if preset is not None:
        return "responses" if preset == "openai" else "openai"
    try:
        host = urlsplit(base_url or "https://api.openai.com").hostname or ""
    except ValueError:
        host = ""
    # Some regions have hosts of their own, such as eu.api.openai.com.
    return "responses" if host == "api.openai.com" or host.endswith(".api.openai.com") else None
