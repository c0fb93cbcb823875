"""Options of routes to Google: the configuration of an answer and of a summary, thinking, and tools."""

from typing import Any

import msgspec
import pytest

from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.driver import GONE
from kheishd.providers.google_options import (
    LOW_BUDGET_TOKENS,
    camelize,
    make_config,
    make_tools,
    take_object,
    think_little,
)
from kheishd.providers.traits import USUAL_TRAITS, Traits
from tests.support.model_calls import make_request

LOOK = Tool("look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}}, kind="read")
DECLARED = {"name": "look", "description": "Look.", "parametersJsonSchema": LOOK.model_json}


def summary(model: str = "gemini-3-pro") -> ModelRequest:
    """Return a request for a summary."""
    return msgspec.structs.replace(make_request(model=model), purpose="summary", max_answer_tokens=100)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"toolConfig": {"a_b": 1}, "x": 2}, {"aB": 1}),
        ({"tool_config": {"aB": 1}, "toolConfig": {"c": {"d_e": 3}}, "x": 2}, {"aB": 1, "c": {"d_e": 3}}),
        ({"toolConfig": 7, "x": 2}, {}),
        ({"x": 2}, {}),
    ],
)
def test_objects_of_the_options(options: dict[str, Any], taken: dict[str, Any]) -> None:
    """An object is taken out of the options under both of its names, with the names of JSON."""
    assert take_object(options, "toolConfig") == taken
    assert options == {"x": 2}
    assert camelize("max_output_tokens") == "maxOutputTokens"


def test_the_configuration_is_merged() -> None:
    """The route's configuration and kheish's limit of the answer both survive; the lower limit counts."""
    config = {"temperature": 0.5, "maxOutputTokens": 900, "thinking_config": {"thinking_budget": 64}}
    thinking = {"includeThoughts": True, "thinkingBudget": 64}
    expected = {"temperature": 0.5, "maxOutputTokens": 900, "thinkingConfig": thinking}
    request = make_request(model="gemini-2.5-pro")
    assert make_config(request, dict(config), USUAL_TRAITS) == expected
    limited = msgspec.structs.replace(request, max_answer_tokens=500)
    assert make_config(limited, dict(config), USUAL_TRAITS) == {**expected, "maxOutputTokens": 500}


@pytest.mark.parametrize("thinking", [{"thinkingBudget": 0}, {"includeThoughts": False}])
def test_thoughts_that_are_switched_off(thinking: dict[str, Any]) -> None:
    """Thoughts are included by default, unless the route says otherwise or the model does not think."""
    request = make_request(model="m")
    assert make_config(request, {}, USUAL_TRAITS) == {"thinkingConfig": {"includeThoughts": True}}
    assert make_config(request, {"thinkingConfig": thinking}, USUAL_TRAITS) == {"thinkingConfig": thinking}
    assert make_config(request, {}, Traits(omitted=frozenset(("includeThoughts",)))) == {}


@pytest.mark.parametrize(
    ("model", "thinking", "expected"),
    [
        ("gemini-3-pro", {}, {"thinkingLevel": "LOW"}),
        ("gemini-3-pro", {"thinkingLevel": "high", "includeThoughts": True}, {"thinkingLevel": "LOW"}),
        ("gemini-3-flash", {"thinkingLevel": "minimal"}, {"thinkingLevel": "MINIMAL"}),
        ("gemini-2.5-flash", {}, {"thinkingBudget": LOW_BUDGET_TOKENS}),
        ("gemini-2.5-pro", {"thinkingBudget": 8000}, {"thinkingBudget": LOW_BUDGET_TOKENS}),
        ("gemini-2.5-pro", {"thinkingBudget": -1}, {"thinkingBudget": LOW_BUDGET_TOKENS}),
        ("gemini-2.5-flash", {"thinkingBudget": 0}, {"thinkingBudget": 0}),
    ],
)
def test_summaries_think_little(model: str, thinking: dict[str, Any], expected: dict[str, Any]) -> None:
    """A summary thinks little, in the unit of its model, and without options that shape answers."""
    assert think_little(model, thinking) == expected
    config = {"temperature": 1, "thinkingConfig": thinking, "responseMimeType": "application/json"}
    assert make_config(summary(model), config, USUAL_TRAITS) == {
        "temperature": 1,
        "thinkingConfig": expected,
        "maxOutputTokens": 100,
    }


def test_summaries_of_models_that_do_not_think() -> None:
    """The effort is left out after a refusal, and a model that reasons gets more room."""
    omitted = Traits(omitted=frozenset(("thinkingConfig",)), has_more_room=True)
    assert make_config(summary(), {}, omitted) == {"maxOutputTokens": 400}


def test_tools() -> None:
    """Tools are one list of functions with JSON Schema; the options' functions join it, others follow."""
    options = {
        "tools": [
            {"googleSearch": {}, "function_declarations": [{"name": "look"}, {"name": "wait"}]},
            {"codeExecution": {}, "functionDeclarations": [5]},
            {"functionDeclarations": 5},
            "nonsense",
        ]
    }
    assert make_tools((LOOK,), (), options) == [
        {"functionDeclarations": [DECLARED, {"name": "wait"}]},
        {"googleSearch": {}},
        {"codeExecution": {}},
    ]
    assert options == {}
    assert make_tools((LOOK,), (), {}) == [{"functionDeclarations": [DECLARED]}]
    assert make_tools((), (), {}) == []


def test_tools_that_are_gone() -> None:
    """A function that only the transcript mentions is declared, last, unless the options declare it."""
    options = {"tools": [{"functionDeclarations": [{"name": "wait"}]}]}
    gone = {"name": "gone", "description": GONE}
    assert make_tools((LOOK,), ("look", "wait", "gone"), options) == [
        {"functionDeclarations": [DECLARED, {"name": "wait"}, gone]}
    ]
