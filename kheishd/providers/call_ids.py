"""Call ids in requests: each provider gets its own ids back, and ids in its own form for all other calls.

kheish's own ids (``ToolCall.call_id``) are distinct in a transcript and have at most 40 bytes. The provider's
id of a call is stored beside it. A mapping depends only on the transcript and the origin, so an id keeps its
form from one request to the next, and providers can cache the prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.transcript import Message

IdForm = Callable[[str, int], str]
"""A function that returns an id in a provider's form; each attempt number gives another id."""

MAX_OPENAI_ID_CHARACTERS: Final = 40
MISTRAL_ID_CHARACTERS: Final = 9

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_INVALID_FOR_ANTHROPIC: Final = re.compile(r"[^A-Za-z0-9_-]")
_OF_MISTRAL: Final = re.compile(rf"[A-Za-z0-9]{{{MISTRAL_ID_CHARACTERS}}}")


class CallIdMap:
    """The ids of the calls of one request, by kheish's own ids. No two calls have the same id."""

    def __init__(self, messages: Sequence[Message], origin: str, form: IdForm) -> None:
        self._form = form
        self._ids: dict[str, str] = {}
        calls = [item for message in messages for item in message.items if isinstance(item, ToolCall)]
        used: set[str] = set()
        # The provider's own ids come first: they must not change.
        for call in calls:
            data = call.provider_data
            own = data.call_id if data is not None and data.origin == origin else None
            if own and own not in used and call.call_id not in self._ids:
                self._ids[call.call_id] = own
                used.add(own)
        # The attempts at ids that have the same form, which many ids may have.
        attempts: Counter[str] = Counter()
        for call in calls:
            first = form(call.call_id, 0)
            while call.call_id not in self._ids:
                mapped = form(call.call_id, attempts[first])
                attempts[first] += 1
                if mapped not in used:
                    self._ids[call.call_id] = mapped
                    used.add(mapped)

    def __getitem__(self, call_id: str) -> str:
        """Return the id of a call in this request; that of an unknown call has the right form, too."""
        return self._ids.get(call_id) or self._form(call_id, 0)


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
