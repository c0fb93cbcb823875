"""The traits of a route's server: its preset, and the fields that it turned out to reject.

Servers of the same protocol require different fields. A preset states the differences of a known server. The
others show in its refusals: a request that is refused for a field is sent again without it, or under its
other name. The form that the server accepts is remembered for the route until the daemon reloads or ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kheishd.config.presets import NO_PRESET, PRESETS, Preset, TokenLimit, adapt_preset

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelFailure
    from protocol.objects.run import Pinned

# Factor for the output limit of a summary or a title, after a model used it up by reasoning.
MORE_ROOM = 4

_OTHER_LIMIT: dict[str, TokenLimit] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
TOKEN_LIMITS = tuple(_OTHER_LIMIT)
_ALL_LIMITS = (*TOKEN_LIMITS, "max_output_tokens")

OUTPUT_ITEMS: Final = "output items"
"""The name in ``Traits.omitted`` of a response's own items, which its server refused to read."""

# A refusal of items: their server changed its keys, or demands an item that it did not send.
_ITEMS_REFUSED = re.compile(
    r"encrypted.content|not persisted|without its required '?(reasoning|following)", re.IGNORECASE
)

# A refusal of a field, as opposed to one of its value.
_REJECTION = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|forbidden|extra "
    r"|invalid (param|field|arg)|no such (param|field)|instead|deprecated|not available|does not accept",
    re.IGNORECASE,
)

# Fields that may be left out, and the words that name them in a refusal.
_OMISSIBLE = {
    "stream_options": "stream_options|include_usage",
    "cache_control": "cache_control",
    "include": r"[Ee]ncrypted.content|\binclude\b",
    # Without it, OpenAI stores the answer, so that a word such as "the data store" must not count.
    "store": r"['\"`]store['\"`]|: store\b|\bstore (param|field|arg)|(param\w*|field|arg\w*):? store\b",
    "max_output_tokens": r"\bmax_output_tokens\b",
}

# A refusal of a field that sets the effort of reasoning.
_EFFORT = re.compile(r"reasoning|thinking|effort|chat_template", re.IGNORECASE)

# Mistral's models want an answer of the assistant between a result and the user's next message.
_ORDER_OF_ROLES = re.compile(r"role '?user'? after role '?tool", re.IGNORECASE)

# A message with calls lacks the thoughts that led to them, as DeepSeek, Kimi and others report it.
_MISSING_REASONING = re.compile(
    r"(missing|required|must|expected|need).{0,80}reasoning_content|reasoning_content.{0,80}(missing|required|must)",
    re.IGNORECASE,
)

# An empty text, which Kimi's coding models take for a missing one, and then a blank.
REASONING_FILLERS = ("", " ")

# The reasons of a refusal. Inside a stream, an error may have no name and no status.
_REASONS_OF_REFUSAL: dict[int | None, tuple[str, ...]] = {
    400: ("bad_request",),
    422: ("bad_request",),
    404: ("bad_request",),
    None: ("bad_request", "server_error"),
}

# A refusal of the model's own signatures, as after a change of the account.
_INVALID_SIGNATURE = re.compile(
    r"(corrupted|invalid) thought.?signature|thought.?signature is (corrupted|invalid|not valid)",
    re.IGNORECASE,
)

# A refusal of the ids of calls, as by earlier versions of Vertex AI.
_UNKNOWN_ID = re.compile(r'unknown name "id" at .{0,80}function', re.IGNORECASE)


class Traits(Struct, frozen=True):
    """The traits of one route's server.

    ``auth_header`` replaces the header of the credential. ``token_limit`` is the learned name of the output
    limit, ``omitted`` the fields that the server rejects. ``has_more_room``: summaries and titles have a
    higher output limit, because the model reasons. ``bridges_results``: a user's message must not follow a
    result of a tool directly. ``reasoning_filler``: messages with calls must have ``reasoning_content``, and
    this is the text of one without thoughts. ``needs_signatures``: Google's model rejects calls without a
    signature.
    """

    preset: Preset = NO_PRESET
    auth_header: str | None = None
    token_limit: TokenLimit | None = None
    omitted: frozenset[str] = frozenset()
    has_more_room: bool = False
    bridges_results: bool = False
    reasoning_filler: str | None = None
    needs_signatures: bool = False

    def name_token_limit(self, options: dict[str, Any]) -> str:
        """Return the name of the output limit: the learned one, that of the options, the preset's."""
        named = next((name for name in TOKEN_LIMITS if name in options), self.preset.token_limit)
        return self.token_limit or named

    def raise_limit(self, max_tokens: int | None) -> int | None:
        """Return the output limit of a summary or a title, higher for a model that reasons."""
        return max_tokens * MORE_ROOM if max_tokens is not None and self.has_more_room else max_tokens

    def make_auth_headers(self, secret: str | None, default: str) -> dict[str, str]:
        """Return the header of a credential: a bearer token in ``authorization``, else the bare value."""
        if secret is None:
            return {}
        name = (self.auth_header or default).lower()
        return {name: f"Bearer {secret}" if name == "authorization" else secret}

    @property
    def low_effort(self) -> dict[str, Any]:
        """The fields with which the model reasons little, unless the server rejects them."""
        fields = self.preset.low_effort
        return {name: value for name, value in fields.items() if name not in self.omitted}

    def adapt(self, failure: ModelFailure, body: bytes) -> Traits | None:
        """Return the traits with which to repeat a refused request; None if the refusal is final."""
        if failure.reason not in _REASONS_OF_REFUSAL.get(failure.status, ()):
            return None
        sent, message = msgspec.json.decode(body), failure.message
        if failure.status == 404:
            # Only items of a response are refused as not found.
            return self._omit_items(sent, message)
        if "contents" in sent:
            return self._adapt_to_google(sent, message)
        is_rejection = _REJECTION.search(message) is not None
        for name, words in _OMISSIBLE.items():
            is_sent = f'"{name}"'.encode() in body and name not in self.omitted
            if is_rejection and is_sent and re.search(words, message):
                return self._omit(name)
        if (adapted := self._omit_items(sent, message)) is not None:
            return adapted
        limit = next((name for name in _ALL_LIMITS if name in sent), None)
        if limit is not None and re.search(rf"\b{limit}\b", message):
            if is_rejection and self.token_limit is None and limit in _OTHER_LIMIT:
                return replace(self, token_limit=_OTHER_LIMIT[limit])
            if self.has_more_room:
                return replace(self, has_more_room=False)
        effort = next((name for name in self.low_effort if name in sent), None)
        if effort is not None and _EFFORT.search(message):
            return self._omit(effort)
        if _ORDER_OF_ROLES.search(message) and not self.bridges_results:
            return replace(self, bridges_results=True)
        if _MISSING_REASONING.search(message) and self.reasoning_filler != REASONING_FILLERS[-1]:
            # The empty filler was refused, whether it was learned or is the route's.
            is_refused = self.reasoning_filler == "" or b'"reasoning_content":""' in body
            return replace(self, reasoning_filler=REASONING_FILLERS[is_refused])
        if failure.status == 422 and (likeliest := {"stream_options", "include"} & sent.keys()):
            # The usual refusal of an unknown field; if it names none, this field is the likeliest.
            return self._omit(likeliest.pop())
        return None

    def _adapt_to_google(self, sent: dict[str, Any], message: str) -> Traits | None:
        """Return the traits with which to repeat a refused request of generateContent."""
        thinking = sent.get("generationConfig", {}).get("thinkingConfig", {})
        if _INVALID_SIGNATURE.search(message) and "thoughtSignature" not in self.omitted:
            return replace(self._omit("thoughtSignature"), needs_signatures=True)
        if "thought_signature" in message.lower() and not self.needs_signatures:
            return replace(self, needs_signatures=True)
        if _EFFORT.search(message) and thinking:
            name = "includeThoughts" if "includeThoughts" in thinking else "thinkingConfig"
            return self._omit(name) if name not in self.omitted else None
        if _UNKNOWN_ID.search(message) and "call_ids" not in self.omitted:
            return self._omit("call_ids")
        return None

    def _omit_items(self, sent: dict[str, Any], message: str) -> Traits | None:
        """Return the traits without the items of earlier responses, if the server refused to read these."""
        is_refused = "input" in sent and _ITEMS_REFUSED.search(message) is not None
        return self._omit(OUTPUT_ITEMS) if is_refused and OUTPUT_ITEMS not in self.omitted else None

    def _omit(self, name: str) -> Traits:
        return replace(self, omitted=self.omitted | {name})


USUAL_TRAITS: Final = Traits()
"""The traits of a server about which nothing is known."""


class LearnedTraits:
    """The traits of all routes, as far as they were learned."""

    def __init__(self) -> None:
        self._traits: dict[tuple[str, str, str | None], Traits] = {}

    def find(self, pinned: Pinned) -> Traits:
        """Return the current traits of a pinned route."""
        learned = self._traits.get(_key(pinned))
        if learned is not None:
            return learned
        # Without a URL, the driver's own provider is called.
        is_openai = pinned.driver in ("openai", "responses") and pinned.base_url is None
        name = pinned.preset or ("openai" if is_openai else "")
        preset = adapt_preset(PRESETS.get(name, NO_PRESET), pinned.driver)
        return Traits(preset, pinned.auth_header or (preset.auth_header if name else None))

    def remember(self, pinned: Pinned, traits: Traits) -> None:
        """Remember traits that the server accepted. Refused items are those of one conversation only."""
        self._traits[_key(pinned)] = replace(traits, omitted=traits.omitted - {OUTPUT_ITEMS})


def _key(pinned: Pinned) -> tuple[str, str, str | None]:
    return pinned.route, pinned.model, pinned.base_url
