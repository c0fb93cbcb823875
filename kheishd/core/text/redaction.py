"""Redaction of captured exchanges with a provider: credentials always, texts unless all content is wanted.

A :class:`Redactor` removes the texts of a JSON value and keeps its structure. Each text is replaced by its
length and, from ``MIN_DIGEST_CHARACTERS`` on, a digest that shows where the same text occurs again. It
is keyed, and the key is never stored; else the digest of a guessed text could be compared. Shorter texts have
no digest: in a stream they are single words, and a text whose equal words look equal can be read.

Numbers, field names and a protocol's own vocabulary (types, roles, models, ids, tool names, stop reasons)
stay, except within the arguments of tools, where everything is content.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from kheishd.config.credentials import is_credential
from protocol.lazy import lazy_pattern

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

REDACTED: Final = "[redacted]"

# A sentence is longer, a word of a stream is shorter.
MIN_DIGEST_CHARACTERS: Final = 32

_USER: Final = lazy_pattern(r"(?<=//)[^/?#]*@")
_PARAMETER: Final = lazy_pattern(r"(?<=[?&;])([^=&;#]+)=([^&;#]*)")

# Headers about the exchange itself, not about its content.
_PLAIN_HEADERS: Final = lazy_pattern(
    r"host|accept|accept-encoding|content-(type|length|encoding)|transfer-encoding|connection|user-agent|server"
    r"|date|via|retry-after(-ms)?|(x-)?request-id|anthropic-(version|beta)|openai-(version|beta|processing-ms)"
    r"|(x|anthropic)-ratelimit-[a-z-]+"
)

_VOCABULARY_FIELDS: Final = frozenset(
    "type kind role object model id call_id tool_call_id tool_use_id name finish_reason stop_reason status"
    " code reason service_tier system_fingerprint finishReason blockReason modelVersion responseId mode"
    " thinkingLevel".split()
)
_WORD: Final = lazy_pattern(r"[A-Za-z0-9_.:/@+-]{1,128}")
_FIELD_NAME: Final = lazy_pattern(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}")
_CONTENT_FIELDS: Final = frozenset(("input", "arguments", "args", "metadata"))


def redact_url(url: str) -> str:
    """Redact the credentials in a URL."""

    def redact_parameter(match: re.Match[str]) -> str:
        return f"{match[1]}={REDACTED if is_credential(match[1]) else match[2]}"

    return _PARAMETER.sub(redact_parameter, _USER.sub(f"{REDACTED}@", url))


def redact_headers(headers: Mapping[str, str], redactor: Redactor | None = None) -> dict[str, str]:
    """Redact the credentials in headers; with a redactor, also all values that may hold content."""
    redacted: dict[str, str] = {}
    for name, value in headers.items():
        if is_credential(name, value):
            redacted[name] = REDACTED
        elif redactor is not None and not _PLAIN_HEADERS.fullmatch(name.lower()):
            redacted[name] = redactor.redact_text(value)
        else:
            redacted[name] = value
    return redacted


class Redactor:
    """A remover of texts; equal texts look equal under the same key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def redact_text(self, text: str) -> str:
        """Return the replacement of a text."""
        if len(text) < MIN_DIGEST_CHARACTERS:
            return f"[{len(text)} characters]"
        digest = blake2b(text.encode(errors="surrogatepass"), key=self._key, digest_size=8).hexdigest()
        return f"[{len(text)} characters, {digest}]"

    def redact_value(self, value: Any) -> Any:
        """Redact the texts in a JSON value. Errors: RecursionError if it is nested too deep."""
        return self._redact(value, is_vocabulary=False, is_content=False)

    def _redact(self, value: Any, *, is_vocabulary: bool, is_content: bool) -> Any:
        match value:
            case str():
                return value if is_vocabulary and _WORD.fullmatch(value) else self.redact_text(value)
            case list():
                return [
                    self._redact(element, is_vocabulary=is_vocabulary, is_content=is_content)
                    for element in value
                ]
            case dict():
                redacted: dict[str, Any] = {}
                for name, inner in value.items():
                    key = name if _FIELD_NAME.fullmatch(name) else self.redact_text(name)
                    content = is_content or name in _CONTENT_FIELDS
                    vocabulary = name in _VOCABULARY_FIELDS and not content
                    redacted[key] = self._redact(inner, is_vocabulary=vocabulary, is_content=content)
                return redacted
            case _:
                return value
