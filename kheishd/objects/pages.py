"""One page of a list: rows until the limit, a mebibyte, or as many examined as one answer may cost."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from protocol.errors.rpc import InvalidParams
from protocol.ids import ID_PATTERN
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED, MAX_PAGE_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kheishd.kernel.call import Call

V = TypeVar("V")

# 19 digits are less than the 64 bits of a key.
_CURSOR = re.compile(r"[0-9]{1,19}")

# What begins a veiled mark, as no id does, and how much tells it from one that was made up.
VEIL = "+"
SALT_BYTES = 8

# How often a page looks at the clock.
_ROWS_A_LOOK = 16


def cursor_after(after: str | None) -> int | None:
    """The cursor after which a page begins. Errors: InvalidParams for what no page gave."""
    return None if after is None else int(_checked(_CURSOR, after))


def id_after(after: str | None) -> str | None:
    """The id after which a page begins. Errors: InvalidParams for what no page gave."""
    return None if after is None else _checked(re.compile(ID_PATTERN), after)


def _checked(pattern: re.Pattern[str], after: str) -> str:
    if pattern.fullmatch(after) is None:
        raise not_a_mark()
    return after


def not_a_mark() -> InvalidParams:
    """The refusal of an ``after`` that no page gave."""
    return InvalidParams("'after' must be the 'next' of the page before", field="$.params.after")


def last_part(key: tuple[Any, ...]) -> str:
    """The last part of a key, as text: what names a row where the parts before it are fixed."""
    return str(key[-1])


class PageTokens:
    """Where pages of ids begin, as one caller is told it.

    A page ends where enough was examined, and that may be a row that the caller's token does not cover: its
    id, which its owner may have chosen, is none of the caller's business. So who is limited gets it veiled,
    by a key that only the daemon has.
    """

    def __init__(self, call: Call) -> None:
        self._key = b"" if call.caller.unlimited else call.state.store.identity.encode()

    def of(self, key: tuple[Any, ...]) -> str:
        """The mark of a row, by the last part of its key."""
        text = last_part(key)
        if not self._key:
            return text
        salt = self._salt(text.encode())
        return VEIL + urlsafe_b64encode(salt + self._veil(salt, text.encode())).decode().rstrip("=")

    def after(self, mark: str | None) -> str | None:
        """The id that a mark is of. Errors: InvalidParams for what no page gave."""
        if mark is None or not self._key or not mark.startswith(VEIL):
            return id_after(mark)
        try:
            veiled = urlsafe_b64decode(mark[len(VEIL) :] + "==")
            text = self._veil(veiled[:SALT_BYTES], veiled[SALT_BYTES:])
            if self._salt(text) == veiled[:SALT_BYTES]:
                return id_after(text.decode())
        except ValueError:
            pass
        raise not_a_mark()

    def _salt(self, text: bytes) -> bytes:
        return blake2b(text, key=self._key, digest_size=SALT_BYTES).digest()

    def _veil(self, salt: bytes, text: bytes) -> bytes:
        stream = shake_256(self._key + salt).digest(len(text))
        return bytes(one ^ other for one, other in zip(text, stream, strict=True))


def page_of(
    found: Iterable[tuple[tuple[Any, ...], V | None]],
    limit: int,
    wanted: Callable[[V], bool],
    mark: Callable[[tuple[Any, ...]], str] = last_part,
) -> tuple[list[V], str | None]:
    """The wanted rows of a scan and where the next page starts, or None at the end.

    Shape:  at most ``limit`` rows; fewer, even none, with a ``next``, when a mebibyte, 5,000 examined
            rows or 30 ms of work are reached first. ``next`` is what ``mark`` makes of the last key
            examined.
    Source: the order of the scan.
    """
    chosen: list[V] = []
    size = 0
    # The time of this thread: what others take meanwhile makes no page shorter.
    until = time.thread_time() + MAX_PAGE_MS / 1000
    for examined, (key, value) in enumerate(found, 1):
        if value is not None and wanted(value):
            chosen.append(value)
            size += len(msgspec.json.encode(value))
        if len(chosen) >= limit or size >= MAX_PAGE_BYTES or examined >= MAX_PAGE_EXAMINED:
            return chosen, mark(key)
        if examined % _ROWS_A_LOOK == 0 and time.thread_time() > until:
            return chosen, mark(key)
    return chosen, None
