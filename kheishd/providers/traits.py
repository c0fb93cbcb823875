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

# Fields that a request can do without, and the words that name them in a refusal.
_OPTIONAL = (
    ("stream_options", r"stream_options|include_usage"),
    ("include", r"encrypted.content|\binclude\b"),
    ("store", r"\bstore\b"),
    ("max_output_tokens", r"\bmax_output_tokens\b"),
)

OUTPUT_ITEMS: Final = "output items"
"""The name in ``Traits.omitted`` of a response's own items, which its server refused to read."""

# A refusal of items: their server changed its keys, or demands an item that it did not send.
_ITEMS_REFUSED = re.compile(
    r"encrypted.content|not persisted|required '?(reasoning|following)|required following item", re.IGNORECASE
)

# A refusal of a field, as opposed to one of its value.
_REJECTION = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|forbidden|extra "
    r"|invalid (param|field|arg)|no such (param|field)|instead|deprecated|not available|does not accept",
    re.IGNORECASE,
)

# A refusal of a field that sets the effort of reasoning.
_EFFORT = re.compile(r"reasoning|thinking|effort|chat_template", re.IGNORECASE)

# A refusal of the ids of calls, as by Vertex AI.
_UNKNOWN_ID = re.compile(r'unknown name "id" at .{0,80}function', re.IGNORECASE)


class Traits(Struct, frozen=True):
    """The traits of one route's server.

    ``auth_header`` replaces the header of the credential. ``token_limit`` is the learned name of the output
    limit, ``omitted`` the fields that the server rejects. ``has_more_room``: summaries and titles have a
    higher output limit, because the model reasons. ``needs_signatures``: Google's model rejects calls without
    a signature.
    """

    preset: Preset = NO_PRESET
    auth_header: str | None = None
    token_limit: TokenLimit | None = None
    omitted: frozenset[str] = frozenset()
    has_more_room: bool = False
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
        if failure.reason != "bad_request" or failure.status not in (400, 404, 422):
            return None
        sent, message = msgspec.json.decode(body), failure.message
        if "input" in sent and OUTPUT_ITEMS not in self.omitted and _ITEMS_REFUSED.search(message):
            # Items are also refused as not found, and a field with similar words as unknown.
            return self._omit_field(sent, message) or self._omit(OUTPUT_ITEMS)
        if failure.status == 404:
            return None
        if "contents" in sent:
            return self._adapt_to_google(sent, message)
        limit = next((name for name in _ALL_LIMITS if name in sent), "")
        effort = next((name for name in self.low_effort if name in sent), None)
        names_limit = re.search(rf"\b{limit}\b", message) is not None if limit else False
        is_rejection = _REJECTION.search(message) is not None
        if (adapted := self._omit_field(sent, message)) is not None:
            return adapted
        if is_rejection and "cache_control" in message and "cache_control" not in self.omitted:
            return self._omit("cache_control")
        if is_rejection and names_limit and self.token_limit is None and limit in _OTHER_LIMIT:
            return replace(self, token_limit=_OTHER_LIMIT[limit])
        if names_limit and self.has_more_room:
            return replace(self, has_more_room=False)
        if effort is not None and _EFFORT.search(message):
            return self._omit(effort)
        if failure.status == 422:
            # The usual refusal of an unknown field; if it names none, one of these is the likeliest.
            likeliest = next((name for name in ("stream_options", "include") if name in sent), None)
            return None if likeliest is None or likeliest in self.omitted else self._omit(likeliest)
        return None

    def _adapt_to_google(self, sent: dict[str, Any], message: str) -> Traits | None:
        """Return the traits with which to repeat a refused request of generateContent."""
        thinking = sent.get("generationConfig", {}).get("thinkingConfig", {})
        if "thought_signature" in message and not self.needs_signatures:
            return replace(self, needs_signatures=True)
        if _EFFORT.search(message) and thinking:
            name = "includeThoughts" if "includeThoughts" in thinking else "thinkingConfig"
            return self._omit(name) if name not in self.omitted else None
        if _UNKNOWN_ID.search(message) and "call_ids" not in self.omitted:
            return self._omit("call_ids")
        return None

    def _omit_field(self, sent: dict[str, Any], message: str) -> Traits | None:
        """Return the traits without an optional field that the server does not know."""
        if _REJECTION.search(message) is None:
            return None
        for name, words in _OPTIONAL:
            if name in sent and name not in self.omitted and re.search(words, message, re.IGNORECASE):
                return self._omit(name)
        return None

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
