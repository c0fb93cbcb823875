"""The options of a route in a request to Google: ``generationConfig`` and ``tools``, with kheish's fields.

Sources: https://ai.google.dev/gemini-api/docs/thinking, https://ai.google.dev/gemini-api/docs/function-calling.
Objects and their fields may have the names of protocol buffers (``generation_config``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from kheishd.providers.driver import GONE, find_gone_tools, lower_limit, merge_tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelRequest
    from kheishd.providers.traits import Traits

# Fields of generationConfig that do not apply to a summary or a title.
_OF_ANSWERS: Final = frozenset(
    (
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "responseModalities",
        "stopSequences",
        "candidateCount",
    )
)

LOW_BUDGET_TOKENS: Final = 512
"""The lowest budget that every model before Gemini 3 accepts."""

_BEFORE_LEVELS: Final = re.compile(r"gemini-[12]\b")


def camelize(name: str) -> str:
    """Return the name of a field in JSON: ``maxOutputTokens`` for ``max_output_tokens``."""
    return re.sub("_([a-z])", lambda match: match[1].upper(), name)


def take_object(options: dict[str, Any], name: str) -> dict[str, Any]:
    """Remove an object from the options, and return it with the names of JSON."""
    merged: dict[str, Any] = {}
    for key in [key for key in options if camelize(key) == name]:
        value = options.pop(key)
        merged |= (
            {camelize(field): inner for field, inner in value.items()} if isinstance(value, dict) else {}
        )
    return merged


def make_config(request: ModelRequest, config: dict[str, Any], traits: Traits) -> dict[str, Any]:
    """Return the route's configuration, with kheish's limit of the answer, and with thoughts.

    Thoughts are included by default. A summary or a title has none, and the model thinks little.
    """
    thinking = take_object(config, "thinkingConfig")
    if request.purpose != "answer":
        config = {name: value for name, value in config.items() if name not in _OF_ANSWERS}
        thinking = {} if "thinkingConfig" in traits.omitted else think_little(request.pinned.model, thinking)
    elif "includeThoughts" not in traits.omitted and thinking.get("thinkingBudget") != 0:
        thinking = {"includeThoughts": True, **thinking}
    limit = lower_limit(config.get("maxOutputTokens"), traits.adjust_limit(request.max_answer_tokens))
    return {
        **config,
        **({"thinkingConfig": thinking} if thinking else {}),
        **({} if limit is None else {"maxOutputTokens": limit}),
    }


def think_little(model: str, thinking: dict[str, Any]) -> dict[str, Any]:
    """Return the lowest thinking that is sure to be accepted, in the unit of the route, else of the model.

    Models before Gemini 3 have budgets, later ones levels; not all of these know the level ``MINIMAL``.
    """
    budget, level = thinking.get("thinkingBudget"), thinking.get("thinkingLevel")
    if isinstance(budget, int):
        return {"thinkingBudget": min(budget, LOW_BUDGET_TOKENS) if budget >= 0 else LOW_BUDGET_TOKENS}
    if level is None and _BEFORE_LEVELS.search(model):
        return {"thinkingBudget": LOW_BUDGET_TOKENS}
    return {"thinkingLevel": "MINIMAL" if str(level).upper() == "MINIMAL" else "LOW"}


def make_tools(
    offered: Sequence[Tool], called: Iterable[str], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return kheish's tools and the options' functions as one list of functions, then Google's own tools.

    The functions that only the transcript mentions are declared, too, because Google rejects the result of an
    undeclared one. The tools are removed from the options. ``called`` are the names of all tools that were.
    """
    functions: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for tool in options.pop("tools", None) or ():
        other = {camelize(name): value for name, value in tool.items()} if isinstance(tool, dict) else {}
        own = other.pop("functionDeclarations", ())
        functions += (
            [function for function in own if isinstance(function, dict)] if isinstance(own, list) else []
        )
        others += [other] if other else []
    declared: list[dict[str, Any]] = [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.model_json}
        for tool in offered
    ]
    declared = merge_tools(declared, {"tools": functions})
    names = {function.get("name") for function in declared}
    declared += [
        {"name": name, "description": GONE} for name in find_gone_tools(offered, called) if name not in names
    ]
    return [*([{"functionDeclarations": declared}] if declared else []), *others]
