"""Refusals: what each rule changes, once."""

from typing import Any

import msgspec
import pytest

from kheishd.config.presets import PRESETS
from kheishd.kernel.runtime import ModelFailure
from kheishd.providers import refusals
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, Traits
from tests.support.model_behaviors import UNBOUND

LIMIT = {"max_tokens": 5}
STREAMED = {"stream_options": {"include_usage": True}}


def adapt(traits: Traits, message: str, body: dict[str, Any], status: int = 400) -> Traits | None:
    """Return the traits after a refusal of a request."""
    failure = ModelFailure("bad_request", message, retryable=False, status=status)
    return refusals.adapt(traits, failure, msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("message", "body", "expected"),
    [
        ("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", LIMIT, {
            "token_limit": "max_completion_tokens"
        }),
        ('[{"loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted"}]', {
            "max_completion_tokens": 5
        }, {"token_limit": "max_tokens"}),
        ("max_tokens is too large: 9000. This model supports at most 4096 completion tokens.", LIMIT, None),
        ("max_tokens: 25000 > 8192, which is the maximum allowed number of output tokens for claude-3", {
            "max_tokens": 25_000
        }, {"max_output": 8_192}),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", {
            "max_tokens": 9_000
        }, {"max_output": 8_192}),
        ("Range of max_tokens should be [1, 8192]", {"max_tokens": 9_000}, {"max_output": 8_192}),
        ("max_tokens is too large: 9000. This model supports at most 4096 completion tokens, whereas you", {
            "max_tokens": 9_000
        }, {"max_output": 4_096}),
        ("`max_completion_tokens` must be less than or equal to `32768`, the maximum value for", {
            "max_completion_tokens": 40_000
        }, {"max_output": 32_768}),
        ("Extra inputs are not permitted, field: 'stream_options'", STREAMED, {
            "omitted": frozenset({"stream_options"})
        }),
        ("stream_options is not supported", LIMIT, None),
        ("the model does not exist", {**LIMIT, **STREAMED}, None),
    ],
)  # fmt: skip
def test_refusals(message: str, body: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """A refusal of a field that was sent, or of a limit above the model's, changes the traits."""
    changed = adapt(USUAL_TRAITS, message, body)
    assert changed == (None if expected is None else msgspec.structs.replace(USUAL_TRAITS, **expected))


@pytest.mark.parametrize("reason", ["bad_request", "server_error"])
def test_a_refusal_without_a_status(reason: str) -> None:
    """An error inside a stream has no status, and often no name: its message decides."""
    body = msgspec.json.encode(LIMIT)
    for message, changes in (("Unsupported parameter: 'max_tokens'", True), ("something broke", False)):
        failure = ModelFailure(reason, message, retryable=True)
        assert (refusals.adapt(USUAL_TRAITS, failure, body) is not None) is changes
    assert adapt(USUAL_TRAITS, "Unsupported parameter: 'max_tokens'", LIMIT, status=404) is None


@pytest.mark.parametrize(
    "message",
    [
        "Missing `reasoning_content` field in the assistant message at message index 2.",
        "The reasoning_content in the thinking mode must be passed back to the API.",
        "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
    ],
)
def test_reasoning_that_is_required(message: str) -> None:
    """A server that misses ``reasoning_content`` gets it empty, then blank, and is not asked forever."""
    fillers = []
    traits = USUAL_TRAITS
    while (changed := adapt(traits, message, {})) is not None:
        traits = changed
        fillers.append(traits.reasoning_filler)
    assert fillers == ["", " "]
    changed = adapt(USUAL_TRAITS, message, {"messages": [{"reasoning_content": ""}]})
    assert changed == msgspec.structs.replace(USUAL_TRAITS, reasoning_filler=" ")


def test_thoughts_that_are_not_valid() -> None:
    """Anthropic drops invalid thoughts if it offers to; else none is sent, and at last none is asked for."""
    bound = f"messages.1.content.0: {UNBOUND}"
    changed = adapt(USUAL_TRAITS, bound, {})
    assert changed == msgspec.structs.replace(USUAL_TRAITS, drops_thinking=True)
    assert adapt(changed, bound, {}) == changed.omit(OUTPUT_ITEMS)
    for message in (
        "messages.3.content.0: Invalid `signature` in `thinking` block",
        "messages.3.content.0: Invalid `data` in `redacted_thinking` block",
        "messages.3.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message "
        "cannot be modified. These blocks must remain as they were in the original response.",
    ):
        changed = adapt(USUAL_TRAITS, message, {})
        assert changed == USUAL_TRAITS.omit(OUTPUT_ITEMS)
        assert adapt(changed, message, {}) is None
    missing = (
        "messages.3.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When "
        "`thinking` is enabled, a final `assistant` message must start with a thinking block."
    )
    assert adapt(USUAL_TRAITS, missing, {}) == USUAL_TRAITS.omit("thinking")


def test_an_order_of_roles_that_is_required() -> None:
    """A server that rejects a user's message after a result teaches that, once."""
    message = "Unexpected role 'user' after role 'tool'"
    changed = adapt(USUAL_TRAITS, message, {})
    assert changed == msgspec.structs.replace(USUAL_TRAITS, bridges_results=True)
    assert adapt(changed, message, {}) is None


ITEMS = {"input": [{}], "include": ["reasoning.encrypted_content"], "store": False, "max_output_tokens": 5}


@pytest.mark.parametrize(
    ("message", "status", "omitted"),
    [
        ("Encrypted content is not supported with this model.", 400, "include"),
        ("Unknown parameter: 'include'.", 400, "include"),
        ("Unprocessable Entity", 422, "include"),
        ("Unrecognized request argument supplied: store", 400, "store"),
        ("Unknown parameter: 'store'.", 400, "store"),
        ("An unexpected error of the key store.", 400, None),
        ("Unsupported parameter: max_output_tokens", 400, "max_output_tokens"),
        ("The encrypted content gAAA could not be verified.", 400, OUTPUT_ITEMS),
        (
            "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
            404,
            OUTPUT_ITEMS,
        ),
        (
            "Item 'rs_1' of type 'reasoning' was provided without its required following item.",
            400,
            OUTPUT_ITEMS,
        ),
        ("Item 'fc_1' was provided without its required 'reasoning' item: 'rs_1'.", 400, OUTPUT_ITEMS),
        ("The model does not exist", 404, None),
        ("max_output_tokens must be at least 16", 400, None),
    ],
)
def test_refusals_of_responses(message: str, status: int, omitted: str | None) -> None:
    """A server of the Responses API may refuse fields, and items that it made itself."""
    changed = adapt(USUAL_TRAITS, message, ITEMS, status)
    assert (changed is not None and changed.omitted) == (omitted is not None and {omitted})
    if changed is not None and omitted is not None:
        sent = {name: value for name, value in ITEMS.items() if name != omitted}
        again = adapt(changed, message, sent, status)
        assert again is None or again.omitted == {omitted, OUTPUT_ITEMS}


def test_only_refusals_of_the_request_teach() -> None:
    """Failures with another status or reason change nothing."""
    message = "Unsupported parameter: 'max_tokens'"
    assert adapt(USUAL_TRAITS, message, LIMIT, status=500) is None
    failure = ModelFailure("context_too_long", message, retryable=False, status=400)
    assert refusals.adapt(USUAL_TRAITS, failure, msgspec.json.encode(LIMIT)) is None


def test_each_change_happens_once() -> None:
    """A server that refuses both names of the limit is not asked forever."""
    changed = adapt(USUAL_TRAITS, "unsupported: max_tokens", LIMIT)
    assert changed is not None
    assert adapt(changed, "unsupported: max_completion_tokens", {"max_completion_tokens": 5}) is None


def test_a_rejected_effort_is_left_out() -> None:
    """The effort of a preset is left out for a model that does not reason."""
    traits = Traits(PRESETS["ollama"])
    changed = adapt(traits, '"llama3" does not support thinking', {"reasoning_effort": "low"})
    assert changed is not None
    assert (traits.low_effort, changed.low_effort) == ({"reasoning_effort": "low"}, {})


def test_a_limit_beyond_the_model_is_lowered_again() -> None:
    """More room than the model has is given up."""
    traits = Traits(has_more_room=True)
    changed = adapt(traits, "max_tokens is too large", LIMIT)
    assert changed is not None
    assert (traits.adjust_limit(100), changed.adjust_limit(100)) == (400, 100)


THOUGHTS = {"contents": [], "generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
EFFORT = {"contents": [], "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}
UNKNOWN_ID = "Invalid JSON payload received. Unknown name \"id\" at 'contents[1].parts[0].function_call'"


@pytest.mark.parametrize(
    ("message", "body", "expected"),
    [
        ("Thinking is not enabled for models/gemini-2.0-flash", THOUGHTS, {
            "omitted": frozenset({"includeThoughts"})
        }),
        ("Thinking level is not supported for this model.", EFFORT, {
            "omitted": frozenset({"thinkingConfig"})
        }),
        ("thinking_config is not supported.", {"contents": []}, None),
        ("Function call is missing a thought_signature in functionCall parts.", THOUGHTS, {
            "needs_signatures": True
        }),
        ("Corrupted thought signature.", THOUGHTS, {
            "omitted": frozenset({"thoughtSignature"}), "needs_signatures": True
        }),
        ("Unable to submit request because Thought signature is not valid..", {"contents": []}, {
            "omitted": frozenset({"thoughtSignature"}), "needs_signatures": True
        }),
        (UNKNOWN_ID, {"contents": []}, {"omitted": frozenset({"call_ids"})}),
        ("Please ensure that the number of function response parts is equal", THOUGHTS, None),
    ],
)  # fmt: skip
def test_refusals_of_google(message: str, body: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Google's refusals teach that a model does not think, needs signatures, or knows no ids; each once."""
    changed = adapt(USUAL_TRAITS, message, body)
    assert changed == (None if expected is None else msgspec.structs.replace(USUAL_TRAITS, **expected))
    assert changed is None or adapt(changed, message, body) is None


EVERYTHING = (
    "Unsupported parameter: stream_options include 'store' max_tokens cache_control max_output_tokens "
    "instead, reasoning effort missing reasoning_content role 'user' after role 'tool', encrypted content, "
    "not persisted, "
    'thought_signature is invalid, prefix_mismatch_behavior, unknown name "id" at function, '
    "less than or equal to {}"
)


@pytest.mark.parametrize("body", [{"messages": []}, {"input": []}, {"contents": []}])
@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_that_refuses_everything_is_not_asked_forever(body: dict[str, Any], status: int) -> None:
    """Whatever a server refuses, and however often it lowers its maximum, the refusals come to an end."""
    traits = Traits(PRESETS["openrouter"])
    body |= {"stream_options": {}, "include": [], "store": False, "cache_control": {}, "reasoning": {}}
    body |= {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    sent, count = 100_000, 0
    while (
        changed := adapt(traits, EVERYTHING.format(sent - 1), {**body, "max_tokens": sent}, status)
    ) is not None:
        traits, count = changed, count + 1
        sent = traits.max_output or sent
        assert count < 40
