"""Decoders and patterns that are built at their first use, so that no start waits for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, AnyStr, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class LazyDecoder(Generic[T]):
    """A JSON decoder. Building one takes as long as decoding hundreds of values.

    ``decode`` replaces itself at its first call, and costs nothing more from then on.
    """

    decode: Callable[[bytes | memoryview | str], T]

    def __init__(self, kind: Any) -> None:
        def decode(encoded: bytes | memoryview | str) -> T:
            # Imported here, because the client uses patterns, but no decoder.
            from msgspec.json import Decoder

            self.decode = Decoder(kind).decode
            return self.decode(encoded)

        self.decode = decode


class _LazyPattern:
    def __init__(self, pattern: Any, flags: int) -> None:
        self._source = pattern, flags

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the compiled pattern, and keep it as an attribute of this object."""
        value = getattr(re.compile(*self._source), name)
        setattr(self, name, value)
        return value


def lazy_pattern(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return a regular expression that is compiled when one of its methods is first used."""
    return cast("re.Pattern[AnyStr]", _LazyPattern(pattern, flags))
