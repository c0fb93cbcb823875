"""Known secrets are taken out of whatever is journaled or logged.

Only exact values can be found. Journal lines are scrubbed by structure: a secret is replaced inside
values, never in field names or tags, so that a scrubbed line is still a line of its type.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

REPLACEMENT: Final = "[scrubbed]"
# Values that name a variant of a union. A secret that is a substring of one must not make lines unreadable.
_TAGS: Final = frozenset(("type", "kind", "role"))


class Scrubber:
    """Replaces a fixed set of secrets; a new set is a new scrubber."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first: a secret that contains another is replaced whole.
        self.secrets: Final = sorted(set(secrets), key=lambda secret: (-len(secret), secret))
        self._needles: Final = [msgspec.json.encode(secret)[1:-1] for secret in self.secrets]

    def __bool__(self) -> bool:
        return bool(self.secrets)

    def with_more(self, secrets: Iterable[str]) -> "Scrubber":
        """A scrubber that knows these as well: what was a secret before a reload still is one."""
        return Scrubber([*self.secrets, *secrets])

    def text(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, REPLACEMENT)
        return text

    def line(self, line: bytes) -> bytes:
        """A JSON object without the secrets; the very same bytes where there are none in it."""
        if not any(needle in line for needle in self._needles):
            return line
        return msgspec.json.encode(self._fields(msgspec.json.decode(line), top=True))

    def _fields(self, table: dict[str, Any], *, top: bool) -> dict[str, Any]:
        return {
            (key if top else self.text(key)): value if key in _TAGS else self._value(value)
            for key, value in table.items()
        }

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._value(element) for element in value]
            case dict():
                return self._fields(value, top=False)
            case _:
                return value
