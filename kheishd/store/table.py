"""Tables: ordered maps, and how their keys and values become bytes.

A key is its parts, one after another: a ``str`` is UTF-8, ended by a zero byte unless it is the last part; an
``int`` is 8 bytes, big-endian. So keys sort by their parts, numbers by size, and ids by the time they were
made. A value is MessagePack for a struct, UTF-8 for ``str``, itself for ``bytes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

V = TypeVar("V")
KeyPart = str | int
KeyLayout = tuple[type[str] | type[int], ...]
Key = tuple[Any, ...]
"""The parts of a key. Their types are in the declaration of the table."""

_msgpack = msgspec.msgpack.Encoder()


class Table(Generic[V]):
    """One ordered map from keys to values.

    ``pack`` and ``unpack`` convert keys, ``encode`` and ``decode`` values. All four are chosen here, once,
    because they run for every row.
    """

    __slots__ = ("decode", "encode", "key", "name", "pack", "unpack", "value")

    def __init__(self, name: str, key: KeyLayout, value: type[V]) -> None:
        self.name = name
        self.key = key
        self.value = value
        self.pack: Callable[[Key], bytes] = make_packer(key)
        self.unpack: Callable[[bytes], Key] = make_unpacker(key)
        encode: Any = _msgpack.encode
        decode: Any = None
        if value is bytes:
            encode = decode = bytes
        elif value is str:
            encode, decode = str.encode, bytes.decode
        self.encode: Callable[[V], bytes] = encode
        self.decode: Callable[[bytes], V] = decode or msgspec.msgpack.Decoder(value).decode

    def __repr__(self) -> str:
        return f"<table {self.name}>"

    def prefix(self, parts: Key) -> bytes:
        """Return the bytes with which every key that begins with ``parts`` begins."""
        if len(parts) == len(self.key):
            return self.pack(parts)
        return b"".join(map(_pack_part, parts))


def _pack_part(part: KeyPart) -> bytes:
    """Pack a part that is not the last. Errors: ValueError for a zero character, which would end it."""
    if not isinstance(part, str):
        return part.to_bytes(8, "big")
    if "\0" in part:
        raise ValueError("a key part may not contain a zero character")
    return part.encode() + b"\0"


def make_packer(layout: KeyLayout) -> Callable[[Key], bytes]:
    """Return the function that packs the keys of a layout: specialized for the layouts of hot tables."""

    def pack_text(key: Key) -> bytes:
        (text,) = key
        if not text:
            raise ValueError("a key may not be empty")
        packed: bytes = text.encode()
        return packed

    def pack_number(key: Key) -> bytes:
        (number,) = key
        packed: bytes = number.to_bytes(8, "big")
        return packed

    def pack_text_number(key: Key) -> bytes:
        text, number = key
        packed: bytes = _pack_part(text) + number.to_bytes(8, "big")
        return packed

    def pack_any(key: Key) -> bytes:
        if len(key) != len(layout):
            raise TypeError(f"a key of this table has {len(layout)} parts")
        *parts, last = key
        tail: bytes = last.encode() if isinstance(last, str) else last.to_bytes(8, "big")
        return b"".join(map(_pack_part, parts)) + tail

    hot = {(str,): pack_text, (int,): pack_number, (str, int): pack_text_number}
    return hot.get(layout, pack_any)


def make_unpacker(layout: KeyLayout) -> Callable[[bytes], Key]:
    """Return the function that unpacks the keys of a layout."""
    if layout == (str,):
        return lambda packed: (packed.decode(),)
    if layout == (int,):
        return lambda packed: (int.from_bytes(packed, "big"),)
    if layout == (str, int):
        return lambda packed: (packed[:-9].decode(), int.from_bytes(packed[-8:], "big"))

    def unpack_any(packed: bytes) -> Key:
        parts: list[KeyPart] = []
        start = 0
        for index, kind in enumerate(layout, 1):
            if kind is int:
                end = following = start + 8
                parts.append(int.from_bytes(packed[start:end], "big"))
            else:
                end = packed.index(0, start) if index < len(layout) else len(packed)
                following = end + 1
                parts.append(packed[start:end].decode())
            start = following
        return tuple(parts)

    return unpack_any
