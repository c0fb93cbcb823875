"""Presets: how servers of OpenAI's protocols differ. One row per server, with its documentation.

``contrib/generate`` writes the table in contrib/docs/models.md from these rows.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from msgspec import field
from msgspec.structs import replace

from protocol.structs import Value

TokenLimit = Literal["max_tokens", "max_completion_tokens"]


class Preset(Value, frozen=True, kw_only=True):
    """The differences of one server.

    ``base_url`` None: the route must name it. ``auth_header`` holds the credential: ``authorization`` as a
    bearer token, any other header as it is. ``token_limit`` is the field that limits an answer.
    ``stream_options``: the server accepts that field; the others send the usage without it. ``options`` are
    defaults below the route's own. ``low_effort`` are the fields with which a reasoning model thinks little:
    they apply to summaries and titles, whose tokens it would use up otherwise.

    A row is for chat completions; ``adapt_preset`` returns it for the Responses API.
    """

    base_url: str | None = None
    auth_header: str = "authorization"
    token_limit: TokenLimit = "max_tokens"
    stream_options: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    low_effort: Mapping[str, Any] = field(default_factory=dict)


_EFFORT: Final = {"reasoning_effort": "low"}
_REASONING_EFFORT: Final = {"reasoning": {"effort": "low"}}
_THINKING_OFF: Final = {"thinking": {"type": "disabled"}}
_TEMPLATE_WITHOUT_THINKING: Final = {"chat_template_kwargs": {"enable_thinking": False}}
_REASONING_BACK: Final = {"reasoning_content": True}

PRESETS: Final[Mapping[str, Preset]] = {
    # https://learn.microsoft.com/azure/ai-services/openai/reference
    "azure": Preset(auth_header="api-key", token_limit="max_completion_tokens", low_effort=_EFFORT),
    # https://api-docs.deepseek.com/guides/thinking_mode: thoughts go back with calls.
    "deepseek": Preset(
        base_url="https://api.deepseek.com", options=_REASONING_BACK, low_effort=_THINKING_OFF
    ),
    # https://docs.fireworks.ai/api-reference/post-chatcompletions: without a limit, 2,000 tokens apply; a
    # limit beyond the context is lowered.
    "fireworks": Preset(
        base_url="https://api.fireworks.ai/inference/v1",
        options={"max_tokens": 32_768},
        low_effort=_EFFORT,
    ),
    # https://ai.google.dev/gemini-api/docs/openai and .../thought-signatures
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        options={"thought_signatures": True},
        low_effort=_EFFORT,
    ),
    # https://console.groq.com/docs/api-reference and .../docs/reasoning
    "groq": Preset(
        base_url="https://api.groq.com/openai/v1",
        token_limit="max_completion_tokens",
        low_effort=_EFFORT,
    ),
    # https://docs.litellm.ai/docs/proxy/user_keys and .../docs/reasoning_content
    "litellm": Preset(base_url="http://127.0.0.1:4000/v1", low_effort=_EFFORT),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llamacpp": Preset(base_url="http://127.0.0.1:8080/v1", low_effort=_TEMPLATE_WITHOUT_THINKING),
    # https://lmstudio.ai/docs/developer/openai-compat
    "lmstudio": Preset(base_url="http://127.0.0.1:1234/v1"),
    # https://docs.mistral.ai/api and .../capabilities/reasoning: ``reasoning_effort`` asks for thoughts.
    "mistral": Preset(
        base_url="https://api.mistral.ai/v1", stream_options=False, options={"call_ids": "mistral"}
    ),
    # https://platform.kimi.ai/docs/api/chat: ``max_tokens`` is deprecated.
    "moonshot": Preset(
        base_url="https://api.moonshot.ai/v1",
        token_limit="max_completion_tokens",
        options=_REASONING_BACK,
        low_effort=_THINKING_OFF,
    ),
    # https://docs.ollama.com/api/openai-compatibility
    "ollama": Preset(base_url="http://127.0.0.1:11434/v1", low_effort=_EFFORT),
    # https://platform.openai.com/docs/api-reference/chat/create
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        token_limit="max_completion_tokens",
        low_effort=_EFFORT,
    ),
    # https://openrouter.ai/docs/api-reference/parameters and .../use-cases/reasoning-tokens
    "openrouter": Preset(base_url="https://openrouter.ai/api/v1", low_effort=_REASONING_EFFORT),
    # https://docs.together.ai/docs/inference/openai-compatibility
    "together": Preset(base_url="https://api.together.ai/v1", low_effort=_EFFORT),
    # https://docs.vllm.ai/en/stable/serving/openai_compatible_server/
    "vllm": Preset(base_url="http://127.0.0.1:8000/v1", low_effort=_TEMPLATE_WITHOUT_THINKING),
    # https://docs.x.ai/docs/api-reference and .../developers/model-capabilities/text/reasoning
    "xai": Preset(base_url="https://api.x.ai/v1", token_limit="max_completion_tokens", low_effort=_EFFORT),
    # https://docs.z.ai/api-reference/llm/chat-completion
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

BASE_URLS: Final[Mapping[str, str]] = {
    "anthropic": "https://api.anthropic.com",
    "google": "https://generativelanguage.googleapis.com/v1beta",
    "openai": "https://api.openai.com/v1",
    "responses": "https://api.openai.com/v1",
}
"""The URL of each driver's own provider, for routes without a ``base_url``."""

RESPONSES_PRESETS: Final = (
    "azure",  # https://learn.microsoft.com/azure/foundry/openai/how-to/responses
    "deepseek",  # https://api-docs.deepseek.com/guides/responses_api
    "fireworks",  # https://docs.fireworks.ai/guides/response-api
    "groq",  # https://console.groq.com/docs/responses-api
    "litellm",  # https://docs.litellm.ai/docs/response_api
    "llamacpp",  # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "lmstudio",  # https://lmstudio.ai/docs/developer/openai-compat/responses
    "ollama",  # https://docs.ollama.com/api/openai-compatibility
    "openai",  # https://developers.openai.com/api/reference/resources/responses
    "openrouter",  # https://openrouter.ai/docs/api-reference/responses/overview
    "together",  # https://docs.together.ai/docs/inference/responses
    "vllm",  # https://docs.vllm.ai/en/stable/serving/openai_compatible_server/
    "xai",  # https://docs.x.ai/developers/model-capabilities/text/generate-text
)
"""The presets whose servers also speak the Responses API, as documented."""


def adapt_preset(preset: Preset, driver: str) -> Preset:
    """Return a preset as it applies to a driver.

    The Responses API sets the effort of reasoning in one way; a server that does not know it says so. Of the
    options, only the output limit applies.
    """
    if driver != "responses":
        return preset
    limits = {name: value for name, value in preset.options.items() if name in get_args(TokenLimit)}
    return replace(preset, options=limits, low_effort=_REASONING_EFFORT)


def find_base_url(driver: str, preset: str | None, base_url: str | None) -> str | None:
    """Return the URL of a route's API: its own, that of the preset, the provider's; None if it has no API."""
    settings = PRESETS.get(preset, NO_PRESET) if preset is not None else NO_PRESET
    return base_url or settings.base_url or BASE_URLS.get(driver)


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
