"""Lenient decoding of JSON, for data that the strict decoder rejects.

Servers send numbers as strings, ids as numbers, halves of characters, and nonsense beside the answer. None of
this may cost the answer. Objects of the wrong kind in the answer itself are still errors. The strict decoder
comes first, so that only irregular data takes this slower path.
"""

from __future__ import annotations

import json
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Raw, Struct

from kheishd.core.text.surrogates import join_surrogates

T = TypeVar("T")


class SideInformation(Struct):
    """An object beside the answer, such as its usage: an unusable one counts as missing."""


class LenientDecoder:
    """A decoder of one type: strict at first, then lenient."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind
        self._strict = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> Any:
        """Return the decoded object. Errors: ValueError."""
        if not data.isascii():
            # The strict decoder does not validate the texts of fields that it skips.
            data.decode()
        try:
            return self._strict.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return convert(load_json(data), self._kind)


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def load_json(data: bytes | str, *, accept_nan: bool = True) -> Any:
    """Return decoded JSON, in which texts may hold halves of surrogate pairs.

    NaN and infinite numbers are no JSON, but some servers send them: they become null.

    Errors: ValueError.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=(lambda name: None) if accept_nan else _reject_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def clean_json(value: Any) -> Any:
    """Return a JSON value without halves of surrogate pairs. Errors: ValueError."""
    try:
        return _clean(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _clean(value: Any) -> Any:
    match value:
        case str():
            return join_surrogates(value)
        case list():
            return [_clean(element) for element in value]
        case dict():
            return {join_surrogates(name): _clean(element) for name, element in value.items()}
        case _:
            return value


def convert(value: Any, kind: Any) -> Any:
    """Return a JSON value as this type. Errors: ValueError."""
    if kind is Any:
        return clean_json(value)
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    for option in kinds:
        converted = _convert_to(value, option)
        if converted is not None:
            return converted
    is_beside_answer = any(
        option is float or (isinstance(option, type) and issubclass(option, SideInformation))
        for option in kinds
    )
    if NoneType in kinds and is_beside_answer:
        return None
    raise ValueError(f"{type(value).__name__} in the place of {kind}")


def _convert_to(value: Any, kind: Any) -> Any:
    """Return a value as one type; None if it cannot be one."""
    origin = get_origin(kind) or kind
    if origin is str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if isinstance(value, str) else str(value) if is_number else None
    if origin is Raw:
        return Raw(msgspec.json.encode(clean_json(value)))
    if origin in (int, float):
        return _to_number(value, origin)
    if origin is list and isinstance(value, list):
        (element_kind,) = get_args(kind)
        return [convert(element, element_kind) for element in value if element is not None]
    if not isinstance(value, dict):
        return None
    if origin is dict:
        return clean_json(value)
    if isinstance(origin, type) and issubclass(origin, Struct):
        try:
            # A null counts as missing.
            fields = {
                field: convert(value[name], kind)
                for field, names, kind in _field_kinds(origin)
                if (name := next((name for name in names if value.get(name) is not None), None)) is not None
            }
        except ValueError:
            if issubclass(origin, SideInformation):
                return None
            raise
        return origin(**fields)
    return None


def _to_number(value: Any, kind: type[int] | type[float]) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        return number if kind is float else int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None


@cache
def _field_kinds(kind: type[Struct]) -> list[tuple[str, tuple[str, ...], Any]]:
    """Return the fields of a struct, each with its names in JSON and its type.

    A field that is renamed may also have its own name, as in JSON of protocol buffers.
    """
    hints = get_type_hints(kind)
    names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    return [(field, (encoded, field), hints[field]) for field, encoded in names]
