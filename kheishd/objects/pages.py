"""Pages of lists: page tokens, and the end of a page."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from protocol.errors.rpc import InvalidParams
from protocol.ids import ID_PATTERN
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_ROWS, MAX_PAGE_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kheishd.kernel.call import Call

V = TypeVar("V")

# 19 digits are less than the 64 bits of a key.
_CURSOR = re.compile(r"[0-9]{1,19}")
_ID = re.compile(ID_PATTERN)

# The first character of an encrypted token, which begins no id, and the length of its authentication tag.
ENCRYPTED = "+"
TAG_BYTES = 8

# How many rows a page examines between two looks at the clock.
_ROWS_PER_CLOCK = 16


def cursor_after(token: str | None) -> int | None:
    """Return the cursor of a page token. Errors: InvalidParams for any other text."""
    return None if token is None else int(_require_match(_CURSOR, token))


def id_after(token: str | None) -> str | None:
    """Return the id of a page token. Errors: InvalidParams for any other text."""
    return None if token is None else _require_match(_ID, token)


def _require_match(pattern: re.Pattern[str], token: str) -> str:
    if pattern.fullmatch(token) is None:
        raise not_a_token()
    return token


def not_a_token() -> InvalidParams:
    """Return the refusal of an ``after`` that is no page token."""
    return InvalidParams("'after' must be the 'next' of the previous page", field="$.params.after")


def last_part(key: tuple[Any, ...]) -> str:
    """Return the last part of a key as text. It names a row where the parts before it are fixed."""
    return str(key[-1])


class PageTokens:
    """Page tokens of ids, encrypted for restricted callers so that a raw id leaks nothing.

    A page ends after a number of examined rows, perhaps at one that the caller's token does not cover. The
    owner of that row may have chosen its id. The key never leaves the daemon.
    """

    def __init__(self, call: Call) -> None:
        self._key = b"" if call.caller.is_unrestricted else call.state.store.identity.encode()

    def token_of(self, key: tuple[Any, ...]) -> str:
        """Return the token of a row, by the last part of its key."""
        text = last_part(key)
        if not self._key:
            return text
        tag = self._tag(text.encode())
        return ENCRYPTED + urlsafe_b64encode(tag + self._crypt(tag, text.encode())).decode().rstrip("=")

    def id_of(self, token: str | None) -> str | None:
        """Return the id of a token. Errors: InvalidParams for any other text."""
        if token is None or not self._key or not token.startswith(ENCRYPTED):
            return id_after(token)
        try:
            encrypted = urlsafe_b64decode(token[len(ENCRYPTED) :] + "==")
            tag = encrypted[:TAG_BYTES]
            text = self._crypt(tag, encrypted[TAG_BYTES:])
            if self._tag(text) == tag:
                return id_after(text.decode())
        except ValueError:
            pass
        raise not_a_token()

    def _tag(self, text: bytes) -> bytes:
        return blake2b(text, key=self._key, digest_size=TAG_BYTES).digest()

    def _crypt(self, tag: bytes, text: bytes) -> bytes:
        """Encrypt or decrypt, which are the same: XOR with a stream made of the key and the tag."""
        stream = shake_256(self._key + tag).digest(len(text))
        return bytes(byte ^ mask for byte, mask in zip(text, stream, strict=True))


def page_of(
    rows: Iterable[tuple[tuple[Any, ...], V | None]],
    limit: int,
    accept: Callable[[V], bool],
    token_of: Callable[[tuple[Any, ...]], str] = last_part,
) -> tuple[list[V], str | None]:
    """Return the accepted rows of a scan and the token of the next page, None at the end.

    Shape:  at most ``limit`` rows; fewer, even none, with a token, when a mebibyte, 5,000 examined rows
            or 30 ms of work are reached first. The token is made of the last key examined.
    Source: the order of the scan.
    """
    page: list[V] = []
    size = 0
    # The CPU time of this thread: work of other threads shortens no page.
    deadline = time.thread_time() + MAX_PAGE_MS / 1000
    for examined, (key, value) in enumerate(rows, 1):
        if value is not None and accept(value):
            page.append(value)
            size += len(msgspec.json.encode(value))
        if len(page) >= limit or size >= MAX_PAGE_BYTES or examined >= MAX_PAGE_EXAMINED_ROWS:
            return page, token_of(key)
        if examined % _ROWS_PER_CLOCK == 0 and time.thread_time() > deadline:
            return page, token_of(key)
    return page, None
