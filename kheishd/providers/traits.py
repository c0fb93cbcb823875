"""The traits of a route's server: its preset, and the fields that it turned out to reject.

Servers of the same protocol require different fields. A preset states the differences of a known server. The
others show in its refusals (see ``refusals``): a request that is refused for a field is sent again without
it, or under its other name. The form that the server accepts is remembered for the route until the daemon
reloads or ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from kheishd.config.presets import NO_PRESET, PRESETS, Preset, TokenLimit, adapt_preset

if TYPE_CHECKING:
    from protocol.objects.run import Pinned

# Factor for the output limit of a summary or a title, after a model used it up by reasoning.
MORE_ROOM = 4

OTHER_LIMIT: Final[dict[str, TokenLimit]] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
TOKEN_LIMITS = tuple(OTHER_LIMIT)
LIMIT_NAMES = (*TOKEN_LIMITS, "max_output_tokens")

OUTPUT_ITEMS: Final = "output items"
"""The name in ``Traits.omitted`` of a response's own items, which its server refused to read."""

# The items are refused in one conversation, and without them, so is the wish for further thoughts.
_OF_ONE_CONVERSATION: Final = frozenset((OUTPUT_ITEMS, "thinking"))


class Traits(Struct, frozen=True):
    """The traits of one route's server.

    ``auth_header`` replaces the header of the credential. ``token_limit`` is the learned name of the output
    limit, ``omitted`` the fields that the server rejects. ``has_more_room``: summaries and titles have a
    higher output limit, because the model reasons. ``bridges_results``: a user's message must not follow a
    result of a tool directly. ``reasoning_filler``: messages with calls must have ``reasoning_content``, and
    this is the text of one without thoughts. ``needs_signatures``: Google's model rejects calls without a
    signature. ``max_output`` is the learned maximum of the output limit.
    ``drops_thinking``: Anthropic's model rejects thoughts behind a changed prompt, and is asked to
    drop them.
    """

    preset: Preset = NO_PRESET
    auth_header: str | None = None
    token_limit: TokenLimit | None = None
    omitted: frozenset[str] = frozenset()
    has_more_room: bool = False
    bridges_results: bool = False
    reasoning_filler: str | None = None
    needs_signatures: bool = False
    max_output: int | None = None
    drops_thinking: bool = False

    def name_token_limit(self, options: dict[str, Any]) -> str:
        """Return the name of the output limit: the learned one, that of the options, the preset's."""
        named = next((name for name in TOKEN_LIMITS if name in options), self.preset.token_limit)
        return self.token_limit or named

    def adjust_limit(self, max_tokens: int | None) -> int | None:
        """Return an output limit, higher for a model that reasons, and not above the model's maximum."""
        if max_tokens is not None and self.has_more_room:
            max_tokens *= MORE_ROOM
        limits = [limit for limit in (max_tokens, self.max_output) if limit is not None]
        return min(limits, default=None)

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

    def omit(self, name: str) -> Traits:
        """Return the traits without a field that the server rejects."""
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
        """Remember traits that the server accepted, except those of one conversation only."""
        self._traits[_key(pinned)] = replace(traits, omitted=traits.omitted - _OF_ONE_CONVERSATION)


def _key(pinned: Pinned) -> tuple[str, str, str | None]:
    return pinned.route, pinned.model, pinned.base_url
