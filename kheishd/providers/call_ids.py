"""Call ids in requests: each provider gets its own ids back, and ids in its own form for all other calls.

kheish's own ids (``ToolCall.call_id``) are distinct in a transcript and have at most 40 bytes. The provider's
id of a call is stored beside it. A mapping depends only on the transcript and the origin, so an id keeps its
form from one request to the next, and providers can cache the prompt. Only a provider's id that is the one
made for an earlier call changes that: then the mapping is made anew, from all calls.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.transcript import ToolCall

IdForm = Callable[[str, int], str]
"""A function that returns an id in a provider's form; each attempt number gives another id."""

MAX_OPENAI_ID_CHARACTERS: Final = 40
MISTRAL_ID_CHARACTERS: Final = 9

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_INVALID_FOR_ANTHROPIC: Final = re.compile(r"[^A-Za-z0-9_-]")
_OF_MISTRAL: Final = re.compile(rf"[A-Za-z0-9]{{{MISTRAL_ID_CHARACTERS}}}")


class CallIdMap:
    """The ids of the calls of one conversation, by kheish's own ids. No two calls have the same id."""

    def __init__(self, origin: str, form: IdForm) -> None:
        self._origin = origin
        self._form = form
        self._ids: dict[str, str] = {}
        self._used: set[str] = set()
        # The ids that are not the provider's; the calls that have one of these, or were asked for too early.
        self._made: set[str] = set()
        self._settled: set[str] = set()
        # The attempts at ids that have the same form, which many ids may have.
        self._attempts: Counter[str] = Counter()

    def add(self, calls: Sequence[ToolCall]) -> bool:
        """Add the calls of further messages; return false, and stop, if they change the id of another one."""
        # The provider's own ids come first: they must not change.
        for call in calls:
            data = call.provider_data
            own = data.call_id if data is not None and data.origin == self._origin else None
            if (own and own in self._made) or call.call_id in self._settled:
                return False
            if own and own not in self._used and call.call_id not in self._ids:
                self._ids[call.call_id] = own
                self._used.add(own)
        for call in calls:
            first = self._form(call.call_id, 0)
            while call.call_id not in self._ids:
                mapped = self._form(call.call_id, self._attempts[first])
                self._attempts[first] += 1
                if mapped not in self._used:
                    self._ids[call.call_id] = mapped
                    self._used.add(mapped)
                    self._made.add(mapped)
                    self._settled.add(call.call_id)
        return True

    def __getitem__(self, call_id: str) -> str:
        """Return the id of a call in this request; that of an unknown call has the right form, too."""
        mapped = self._ids.get(call_id)
        if mapped is None:
            self._settled.add(call_id)
            mapped = self._form(call_id, 0)
        return mapped


def form_for_openai(call_id: str, attempt: int) -> str:
    """Return an id of at most 40 characters: kheish's own id, if possible."""
    if len(call_id) > MAX_OPENAI_ID_CHARACTERS:
        return f"call_{_digest(call_id, attempt)[:24]}"
    return _number(call_id, attempt)


def form_for_anthropic(call_id: str, attempt: int) -> str:
    """Return an id of the characters that Anthropic accepts."""
    return _number(_INVALID_FOR_ANTHROPIC.sub("_", call_id) or "call", attempt)


def form_for_mistral(call_id: str, attempt: int) -> str:
    """Return an id of nine letters and digits."""
    if not attempt and _OF_MISTRAL.fullmatch(call_id):
        return call_id
    number = int(_digest(call_id, attempt), 16)
    characters = []
    for _ in range(MISTRAL_ID_CHARACTERS):
        number, index = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[index])
    return "".join(characters)


def _number(call_id: str, attempt: int) -> str:
    if not attempt:
        return call_id
    suffix = f"-{attempt + 1}"
    return call_id[: MAX_OPENAI_ID_CHARACTERS - len(suffix)] + suffix


def _digest(call_id: str, attempt: int) -> str:
    return hashlib.sha256(f"{attempt} {call_id}".encode()).hexdigest()
