"""Refused requests: rules by which a refusal changes the traits of a server, so that it accepts the next one.

A rule reads the refusal and returns changed traits, or None if it does not apply. The first rule that changes
anything counts. A change is made once: traits that a refusal does not change any more make it final.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from kheishd.providers.traits import LIMIT_NAMES, OTHER_LIMIT, OUTPUT_ITEMS, Traits

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelFailure

# The reasons of a refusal. Inside a stream, an error may have no name and no status. Only items of earlier
# responses are refused as not found.
_REASONS: Final[dict[int | None, tuple[str, ...]]] = {
    400: ("bad_request",),
    404: ("bad_request",),
    422: ("bad_request",),
    None: ("bad_request", "server_error"),
}

# A refusal of a field, as opposed to one of its value.
_REJECTION: Final = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|forbidden|extra "
    r"|invalid (param|field|arg)|no such (param|field)|instead|deprecated|not available|does not accept",
    re.IGNORECASE,
)

# Fields that may be left out, and the words that name them in a refusal.
_OMISSIBLE: Final = {
    "stream_options": "stream_options|include_usage",
    "cache_control": "cache_control",
    "include": r"[Ee]ncrypted.content|\binclude\b",
    # Without it, OpenAI stores the answer, so that a word such as "the data store" must not count.
    "store": r"['\"`]store['\"`]|: store\b|\bstore (param|field|arg)|(param\w*|field|arg\w*):? store\b",
    "max_output_tokens": r"\bmax_output_tokens\b",
}

_EFFORT: Final = re.compile(r"reasoning|thinking|effort|chat_template", re.IGNORECASE)
_ORDER_OF_ROLES: Final = re.compile(r"role '?user'? after role '?tool", re.IGNORECASE)
_MISSING_REASONING: Final = re.compile(
    r"(missing|required|must|expected|need).{0,80}reasoning_content|reasoning_content.{0,80}(missing|required|must)",
    re.IGNORECASE,
)
_ITEMS: Final = re.compile(
    r"encrypted.content|not persisted|without its required '?(reasoning|following)", re.IGNORECASE
)
# The model's maximum in a refusal of an output limit: of Anthropic; DeepSeek and Qwen; OpenAI; Groq.
_MAX_OUTPUT: Final = re.compile(
    r"> (\d+), which is the maximum|range of max_tokens \D{1,20}\[\d+, ?(\d+)\]"
    r"|supports at most (\d+) \w*\s?tokens|less than or equal to `?(\d+)",
    re.IGNORECASE,
)
_INVALID_SIGNATURE: Final = re.compile(
    r"(corrupted|invalid) thought.?signature|thought.?signature is (corrupted|invalid|not valid)",
    re.IGNORECASE,
)
_INVALID_THOUGHT: Final = re.compile(
    r"invalid .?(signature|data).? in .?(redacted_)?thinking|thinking.? blocks .{0,60}cannot be modified",
    re.IGNORECASE,
)
_MISSING_THOUGHT: Final = re.compile(r"expected .?thinking.? or .?redacted_thinking", re.IGNORECASE)
_UNKNOWN_ID: Final = re.compile(r'unknown name "id" at .{0,80}function', re.IGNORECASE)

# An empty text, which Kimi's coding models take for a missing one, and then a blank.
REASONING_FILLERS: Final = ("", " ")


class RefusedRequest:
    """A refused request. ``is_rejection``: for a field, as opposed to its value."""

    def __init__(self, failure: ModelFailure, body: bytes) -> None:
        self.message = failure.message
        self.status = failure.status
        self.body = body
        self.sent: dict[str, Any] = msgspec.json.decode(body)
        self.is_rejection = _REJECTION.search(failure.message) is not None

    def names(self, words: str | re.Pattern[str]) -> bool:
        """Whether the message has these words."""
        return re.search(words, self.message) is not None


Rule = Callable[[Traits, RefusedRequest], Traits | None]


def adapt(traits: Traits, failure: ModelFailure, body: bytes) -> Traits | None:
    """Return the traits with which to repeat a refused request; None if the refusal is final."""
    if failure.reason not in _REASONS.get(failure.status, ()):
        return None
    refusal = RefusedRequest(failure, body)
    rules = GOOGLE_RULES if "contents" in refusal.sent else RULES
    if failure.status == 404:
        rules = (omit_items,)
    changes = (rule(traits, refusal) for rule in rules)
    return next((changed for changed in changes if changed is not None and changed != traits), None)


# Chat completions, the Responses API and the messages API.


def omit_field(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Leave out a field that the server does not know."""
    for name, words in _OMISSIBLE.items():
        is_sent = f'"{name}"'.encode() in refusal.body and name not in traits.omitted
        if refusal.is_rejection and is_sent and refusal.names(words):
            return traits.omit(name)
    return None


def omit_items(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Send no items of earlier responses: the server changed its keys, or demands one that it never sent."""
    return traits.omit(OUTPUT_ITEMS) if "input" in refusal.sent and refusal.names(_ITEMS) else None


def lower_limit(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Send an output limit that the model allows: the refusal of a higher one names it."""
    limit = next((name for name in LIMIT_NAMES if name in refusal.sent), None)
    match = _MAX_OUTPUT.search(refusal.message)
    if limit is None or match is None or not refusal.names(rf"\b{limit}\b"):
        return None
    maximum, sent = int(next(filter(None, match.groups()))), refusal.sent[limit]
    if traits.max_output is not None:
        # A server whose maximum is one lower each time would be asked thousands of times.
        maximum = min(maximum, traits.max_output // 2)
    return replace(traits, max_output=maximum) if isinstance(sent, int) and 0 < maximum < sent else None


def change_limit(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Send the output limit under its other name, or lower it to the model's own again."""
    limit = next((name for name in LIMIT_NAMES if name in refusal.sent), None)
    if limit is None or not refusal.names(rf"\b{limit}\b"):
        return None
    if refusal.is_rejection and traits.token_limit is None and limit in OTHER_LIMIT:
        return replace(traits, token_limit=OTHER_LIMIT[limit])
    return replace(traits, has_more_room=False)


def omit_effort(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Leave out the effort of summaries and titles for a model that does not reason."""
    effort = next((name for name in traits.low_effort if name in refusal.sent), None)
    return traits.omit(effort) if effort is not None and refusal.names(_EFFORT) else None


def bridge_results(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Let the assistant speak between a result and the user's message, as Mistral's models want it."""
    return replace(traits, bridges_results=True) if refusal.names(_ORDER_OF_ROLES) else None


def fill_reasoning(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Add the thoughts that DeepSeek, Kimi and others miss in messages with calls."""
    if not refusal.names(_MISSING_REASONING):
        return None
    # The empty filler was refused, whether it was learned or is the route's.
    is_refused = traits.reasoning_filler is not None or b'"reasoning_content":""' in refusal.body
    return replace(traits, reasoning_filler=REASONING_FILLERS[is_refused])


def drop_thinking(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Let Anthropic drop the thoughts that are not valid any more; send none if that does not help."""
    if refusal.names("prefix_mismatch_behavior") and not traits.drops_thinking:
        return replace(traits, drops_thinking=True)
    return traits.omit(OUTPUT_ITEMS) if refusal.names(_INVALID_THOUGHT) else None


def disable_thinking(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Ask for no thoughts if an unfinished turn must begin with one, but has none that is valid."""
    return traits.omit("thinking") if refusal.names(_MISSING_THOUGHT) else None


def omit_likeliest_field(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Leave out the likeliest field, if the usual refusal of an unknown one names none."""
    likeliest = {"stream_options", "include"} & refusal.sent.keys()
    return traits.omit(likeliest.pop()) if refusal.status == 422 and likeliest else None


# Google's generateContent.


def drop_signatures(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Send placeholders instead of the model's own signatures, as after a change of the account."""
    if not refusal.names(_INVALID_SIGNATURE):
        return None
    return replace(traits.omit("thoughtSignature"), needs_signatures=True)


def require_signatures(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Sign every message with calls."""
    is_missing = "thought_signature" in refusal.message.lower()
    return replace(traits, needs_signatures=True) if is_missing else None


def omit_thinking(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Leave out the wish for thoughts, or the configuration of thinking."""
    thinking = refusal.sent.get("generationConfig", {}).get("thinkingConfig", {})
    if not thinking or not refusal.names(_EFFORT):
        return None
    return traits.omit("includeThoughts" if "includeThoughts" in thinking else "thinkingConfig")


def omit_call_ids(traits: Traits, refusal: RefusedRequest) -> Traits | None:
    """Send no ids of calls, which earlier versions of Vertex AI do not know."""
    return traits.omit("call_ids") if refusal.names(_UNKNOWN_ID) else None


RULES: Final[tuple[Rule, ...]] = (
    omit_field,
    omit_items,
    lower_limit,
    change_limit,
    omit_effort,
    bridge_results,
    fill_reasoning,
    drop_thinking,
    disable_thinking,
    omit_likeliest_field,
)
GOOGLE_RULES: Final[tuple[Rule, ...]] = (drop_signatures, require_signatures, omit_thinking, omit_call_ids)
