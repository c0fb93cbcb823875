"""The official SDKs as oracles of request bodies.

Each request has a type in the SDK: an unknown field, a missing field and a wrong type are problems. The SDKs
of OpenAI and Anthropic describe requests as typed dictionaries, which ``find_problem`` walks through, because
pydantic ignores unknown fields of them and does not look into their lists. Google's SDK has models that
forbid unknown fields themselves.

Servers that are compatible with OpenAI accept more; ``EXTENSIONS`` lists it by server. The SDKs are imported
at first use, because that takes a second.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import GenericAlias, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

Fields = Mapping[str, Any]

ASSISTANT: Final = "chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam"
CALL: Final = "chat_completion_message_function_tool_call_param.ChatCompletionMessageFunctionToolCallParam"
FUNCTION: Final = "chat_completion_message_function_tool_call_param.Function"
BODY: Final = "completion_create_params.CompletionCreateParamsStreaming"

_REASONING_CONTENT: Final[Fields] = {"reasoning_content": str}
_REASONING: Final[Fields] = {"reasoning": str}
_THINKING: Final[Fields] = {"thinking": dict[str, str]}
_TEMPLATE: Final[Fields] = {"chat_template_kwargs": dict[str, bool]}
_SPECIFIC: Final[Fields] = {"provider_specific_fields": dict[str, Any]}

EXTENSIONS: Final[Mapping[str, Mapping[str, Fields]]] = {
    "deepseek": {ASSISTANT: _REASONING_CONTENT, BODY: _THINKING},
    "gemini": {CALL: {"extra_content": dict[str, dict[str, str]]}},
    "groq": {ASSISTANT: _REASONING},
    "litellm": {
        ASSISTANT: {**_REASONING_CONTENT, **_SPECIFIC, "thinking_blocks": list[dict[str, str]]},
        CALL: _SPECIFIC,
        FUNCTION: _SPECIFIC,
    },
    "llamacpp": {ASSISTANT: _REASONING_CONTENT, BODY: _TEMPLATE},
    "mistral": {ASSISTANT: {"content": str | list[dict[str, str | list[dict[str, str]]]] | None}},
    "moonshot": {ASSISTANT: _REASONING_CONTENT, BODY: _THINKING},
    "ollama": {ASSISTANT: _REASONING},
    "openrouter": {
        ASSISTANT: {"reasoning_details": list[dict[str, Any]]},
        BODY: {"reasoning": dict[str, str]},
    },
    "vllm": {ASSISTANT: _REASONING, BODY: _TEMPLATE},
    "zai": {ASSISTANT: _REASONING_CONTENT, BODY: _THINKING},
}
"""The fields that a server adds to OpenAI's types or extends, by the type; other servers have none."""

_BODIES: Final = {
    "openai": ("openai.types.chat.completion_create_params", "CompletionCreateParamsStreaming"),
    "responses": ("openai.types.responses.response_create_params", "ResponseCreateParamsStreaming"),
    "anthropic": ("anthropic.types.message_create_params", "MessageCreateParamsStreaming"),
}


def find_request_problem(driver: str, body: bytes, server: str = "") -> str | None:
    """Return why the SDK of a driver would not send this body, with the path of the fault; None if it would.

    ``server`` is the preset, whose extensions are accepted.
    """
    if driver == "google":
        return _find_google_problem(body)
    module, name = _BODIES[driver]
    extensions = EXTENSIONS.get(server, {})
    return find_problem(json.loads(body), getattr(import_module(module), name), extensions)


# Typed dictionaries.


def find_problem(
    value: Any, kind: Any, extensions: Mapping[str, Fields] | None = None, path: str = "$"
) -> str | None:
    """Return the problem of a JSON value that is not of a type, with its path; None without one."""
    origin = get_origin(kind) or kind
    if origin in (Annotated, Required, NotRequired):
        return find_problem(value, get_args(kind)[0], extensions, path)
    if origin in (Union, UnionType):
        return _find_problem_of_all(value, get_args(kind), extensions or {}, path)
    if _is_typed_dictionary(origin):
        return _find_field_problem(value, origin, extensions or {}, path)
    if origin is Literal:
        is_listed = any(value == option and type(value) is type(option) for option in get_args(kind))
        return None if is_listed else f"{path}: {value!r} is none of {get_args(kind)}"
    if not _is_instance(value, origin):
        return f"{path}: {value!r} is no {getattr(origin, '__name__', origin)}"
    elements: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        elements = value.items()
    elif isinstance(value, list):
        elements = enumerate(value)
    arguments = get_args(kind)
    if not arguments:
        return None
    problems = (
        find_problem(element, arguments[-1], extensions, f"{path}[{key!r}]") for key, element in elements
    )
    return next((problem for problem in problems if problem is not None), None)


_JSON_TYPES: Final[Mapping[Any, Any]] = {
    str: str,
    int: int,
    float: (int, float),
    bool: bool,
    NoneType: NoneType,
    dict: dict,
    Mapping: dict,
    list: list,
    Iterable: list,
    Sequence: list,
}


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type without fields. A class of answers or files accepts none."""
    if kind in (Any, object):
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, _JSON_TYPES.get(kind, ()))


def _find_problem_of_all(
    value: Any, kinds: Sequence[Any], extensions: Mapping[str, Fields], path: str
) -> str | None:
    """Return the problem with the type that fits best, of which the fault is the deepest."""
    problems = []
    for kind in kinds:
        problem = find_problem(value, kind, extensions, path)
        if problem is None:
            return None
        problems.append((_matches_tags(value, kind), len(problem.partition(": ")[0]), problem))
    return max(problems)[2]


def _is_typed_dictionary(kind: Any) -> bool:
    """Whether a type is a TypedDict, of either module: ``typing`` knows only its own."""
    return hasattr(kind, "__required_keys__")


@cache
def _hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _matches_tags(value: Any, kind: Any) -> bool:
    """Whether an object has the tags of a typed dictionary, such as its ``type`` and ``role``."""
    if not _is_typed_dictionary(kind) or not isinstance(value, dict):
        return False
    tags = ((name, _hints_of(kind).get(name)) for name in ("type", "role"))
    return all(tag is None or find_problem(value.get(name), tag) is None for name, tag in tags)


def _find_field_problem(value: Any, kind: Any, extensions: Mapping[str, Fields], path: str) -> str | None:
    if not isinstance(value, dict):
        return f"{path}: {value!r} is no {kind.__name__}"
    name = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    fields = _hints_of(kind) | dict(extensions.get(name, {}))
    missing = kind.__required_keys__ - value.keys()
    # Required[] behind a string annotation is not in the keys.
    missing |= {key for key, field in _hints_of(kind).items() if get_origin(field) is Required} - value.keys()
    if missing:
        return f"{path}: {kind.__name__} without {sorted(missing)}"
    if unknown := value.keys() - fields.keys():
        return f"{path}: {kind.__name__} with unknown {sorted(unknown)}"
    problems = (
        find_problem(element, fields[key], extensions, f"{path}.{key}") for key, element in value.items()
    )
    return next((problem for problem in problems if problem is not None), None)


# Google's models.

_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
"""The two alphabets of base64, of which the API accepts both."""


@cache
def _make_google_adapter() -> Any:
    """Return the validator of a body, which the SDK has only in parts."""
    pydantic, types = import_module("pydantic"), import_module("google.genai.types")
    fields: dict[str, Any] = {
        "contents": GenericAlias(list, types.Content),
        "systemInstruction": types.Content,
        "tools": GenericAlias(list, types.Tool),
        "toolConfig": types.ToolConfig,
        "generationConfig": types.GenerationConfig,
        "safetySettings": GenericAlias(list, types.SafetySetting),
        "cachedContent": str,
        "labels": dict[str, str],
    }
    defaults: Any = {name: (kind, ... if name == "contents" else None) for name, kind in fields.items()}
    config = pydantic.ConfigDict(extra="forbid")
    return pydantic.TypeAdapter(pydantic.create_model("GenerateContentBody", __config__=config, **defaults))


def _find_google_problem(body: bytes) -> str | None:
    validation_error = import_module("pydantic").ValidationError
    with warnings.catch_warnings():
        # An unknown value of an enumeration is only a warning.
        warnings.simplefilter("error")
        try:
            parsed = _make_google_adapter().validate_json(body, strict=True)
        except (validation_error, UserWarning) as error:
            return str(error)
    # The models accept the SDK's own names of fields, too, and write the API's.
    written = parsed.model_dump_json(by_alias=True, exclude_unset=True).encode()
    is_same = json.loads(written.translate(_URL_SAFE)) == json.loads(body.translate(_URL_SAFE))
    return None if is_same else f"the SDK sends {written.decode()}"
