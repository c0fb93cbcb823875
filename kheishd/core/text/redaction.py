"""What is written down of an exchange with a provider: no credential ever, and texts only if all is wanted.

A *veil* takes the texts out of a JSON value and leaves its structure: each becomes its length, and from
SHORT_CHARACTERS on a digest, by which one sees that it is the same text as elsewhere. The digest is made with
a key that is never written down, as the digest of a guessed text could else be compared. Of shorter texts
there is none: those of a stream are single words, and a text in which equal words look equal can be read.

Numbers, names of fields and what a protocol's own words are for (types, roles, models, ids, names of tools,
reasons to stop) stay, but not inside of what a tool is called with: there all is content.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from kheishd.config.credentials import is_credential

if TYPE_CHECKING:
    from collections.abc import Mapping

REDACTED: Final = "[redacted]"

# A sentence has more, a word of a stream has less.
SHORT_CHARACTERS: Final = 32

_USER: Final = re.compile(r"(?<=//)[^/?#]*@")
_PARAMETER: Final = re.compile(r"(?<=[?&;])([^=&;#]+)=([^&;#]*)")

# Headers that say how an exchange went and nothing of what it was about.
_PLAIN_HEADERS: Final = re.compile(
    r"host|accept|accept-encoding|content-(type|length|encoding)|transfer-encoding|connection|user-agent|server"
    r"|date|via|retry-after(-ms)?|(x-)?request-id|anthropic-(version|beta)|openai-(version|beta|processing-ms)"
    r"|(x|anthropic)-ratelimit-[a-z-]+"
)

_WORDS: Final = frozenset(
    "type kind role object model id call_id tool_call_id tool_use_id name finish_reason stop_reason status"
    " code reason service_tier system_fingerprint".split()
)
_WORD: Final = re.compile(r"[A-Za-z0-9_.:/@+-]{1,128}")
_FIELD: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}")
_CONTENT: Final = frozenset(("input", "arguments", "args", "metadata"))


def shown_url(url: str) -> str:
    """An URL without the credentials that may stand in one."""

    def shown(found: re.Match[str]) -> str:
        return f"{found[1]}={REDACTED if is_credential(found[1]) else found[2]}"

    return _PARAMETER.sub(shown, _USER.sub(f"{REDACTED}@", url))


def shown_headers(headers: Mapping[str, str], veil: Redactor | None = None) -> dict[str, str]:
    """Headers without credentials; behind a veil, without the values of those that may say anything."""
    shown: dict[str, str] = {}
    for name, value in headers.items():
        if is_credential(name, value):
            shown[name] = REDACTED
        elif veil is not None and not _PLAIN_HEADERS.fullmatch(name.lower()):
            shown[name] = veil.text(value)
        else:
            shown[name] = value
    return shown


class Redactor:
    """Takes texts out; equal ones look equal behind veils of one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def text(self, text: str) -> str:
        """What stands in the place of a text."""
        if len(text) < SHORT_CHARACTERS:
            return f"[{len(text)} characters]"
        digest = blake2b(text.encode(errors="surrogatepass"), key=self._key, digest_size=8).hexdigest()
        return f"[{len(text)} characters, {digest}]"

    def value(self, value: Any) -> Any:
        """A JSON value without its texts. Errors: RecursionError for one that nests deeper than any does."""
        return self._value(value, word=False, content=False)

    def _value(self, value: Any, *, word: bool, content: bool) -> Any:
        match value:
            case str():
                return value if word and _WORD.fullmatch(value) else self.text(value)
            case list():
                return [self._value(inner, word=word, content=content) for inner in value]
            case dict():
                return {self._name(name): self._field(name, value[name], content) for name in value}
            case _:
                return value

    def _field(self, name: str, value: Any, content: bool) -> Any:
        content = content or name in _CONTENT
        return self._value(value, word=name in _WORDS and not content, content=content)

    def _name(self, name: str) -> str:
        return name if _FIELD.fullmatch(name) else self.text(name)
