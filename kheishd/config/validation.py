"""Strict reading of what people write: every unknown key and every wrong value, named by its path.

``msgspec`` alone stops at the first problem and does not name the keys of free tables
(``$.routes[...]``). This walks a document beside the struct that describes it and collects all of them.
"""

import re
from collections.abc import Iterator
from itertools import chain
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from kheishd.config.toml import KeyPath

# What ``msgspec`` calls the types, and what people who write TOML or YAML call them.
_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}


class Problem(Struct, frozen=True):
    """One thing wrong with a document: where, and what about it."""

    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


def dotted(path: KeyPath) -> str:
    """A path as people write it: ``listen.shared.grants[0].uid``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def problems(shape: type[Struct], table: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """Everything in ``table`` that ``shape`` does not allow, in the order of the struct's fields.

    Shape:  empty exactly when ``msgspec.convert(table, shape)`` succeeds.
    """
    if not isinstance(table, dict):
        yield Problem(path, f"expected a table, got {_kind(table)}")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    for key in table:
        if key not in fields:
            yield Problem((*path, key), _unknown(key, fields))
    for key, field in fields.items():
        if key in table:
            yield from _value_problems(field.type, table[key], (*path, key))
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield Problem(path, f"the key '{key}' is missing")


def _value_problems(expected: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    """The problems of one value: of structs inside it each by its own path, else as msgspec says."""
    inner = _struct_in(expected)
    match value:
        case dict() if inner is not None and inner[0] is dict:
            for key, element in value.items():
                yield from _key_problems(inner[2], key, (*path, key))
                yield from problems(inner[1], element, (*path, key))
        case list() if inner is not None and inner[0] is list:
            each = (problems(inner[1], element, (*path, number)) for number, element in enumerate(value))
            found = list(chain.from_iterable(each))
            # What is said of the list itself, such as its greatest length, is for msgspec to judge.
            yield from found or _leaf_problems(expected, value, path)
        case _ if inner is not None and inner[0] is None and value is not None:
            yield from problems(inner[1], value, path)
        case _:
            yield from _leaf_problems(expected, value, path)


def _leaf_problems(expected: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        within = f" (at {where[:-1]})" if where else ""
        yield Problem(path, _plain(what, _choices(expected)) + within)


def _plain(said: str, choices: tuple[str, ...]) -> str:
    """What ``msgspec`` says is wrong, with the choices there are and types as people call them."""
    if choices and said.startswith("Invalid enum value "):
        return f"expected one of {', '.join(choices)}, got {said.removeprefix('Invalid enum value ')}"
    plain = re.sub(r"`([a-z]+(?: \| [a-z]+)*)`", _type_names, said)
    return plain[:1].lower() + plain[1:]


def _type_names(found: re.Match[str]) -> str:
    names = [name for name in found[1].split(" | ") if name != "null"] or ["null"]
    return " or ".join(_TYPES.get(name, name) for name in names)


def _choices(expected: Any) -> tuple[str, ...]:
    """The words that a type allows, wherever in it they stand; none if it is not about words."""
    if get_origin(expected) is Literal:
        return tuple(map(str, get_args(expected)))
    return tuple(choice for inner in get_args(expected) for choice in _choices(inner))


def _key_problems(expected: Any, key: Any, path: KeyPath) -> Iterator[Problem]:
    """Keys of a free table may have a shape too."""
    yield from _leaf_problems(expected, key, path)


def _struct_in(expected: Any) -> tuple[type | None, type[Struct], Any] | None:
    """Where a type holds a struct: ``(None, S, None)`` for S or S | None, else its container, S, key type."""
    while get_origin(expected) is Annotated:
        expected = get_args(expected)[0]
    if get_origin(expected) in (Union, UnionType):
        chosen = [arm for arm in get_args(expected) if arm is not type(None)]
        return _struct_in(chosen[0]) if len(chosen) == 1 else None
    if isinstance(expected, type) and issubclass(expected, Struct):
        return None, expected, None
    arguments = get_args(expected)
    container = get_origin(expected)
    if container not in (dict, list):
        return None
    inner = _struct_in(arguments[-1])
    return (container, inner[1], arguments[0]) if inner and inner[0] is None else None


def _unknown(key: Any, known: Any) -> str:
    # Imported here: only who mistypes pays for it.
    from difflib import get_close_matches

    near = get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "known here: " + ", ".join(known)
    return f"unknown key; {hint}"


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case None:
            return "nothing"
        case _:
            return f"a {type(value).__name__}"
