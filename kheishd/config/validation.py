"""Strict validation of documents that people write: every unknown key and wrong value, named by its path.

``msgspec`` alone stops at the first problem and does not name the keys of free tables (``$.routes[...]``).
This module walks a document along the struct that describes it and collects all problems.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from kheishd.config.toml import KeyPath
from protocol.ids import explain_shape

# The type names of ``msgspec``, and those of people who write TOML or YAML.
_TYPE_NAMES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}


class Problem(Struct, frozen=True):
    """A problem of a document and its path."""

    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


def format_path(path: KeyPath) -> str:
    """Format a path as people write it: ``listen.shared.grants[0].uid``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def find_problems(shape: type[Struct], table: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield every problem that keeps ``table`` from being a ``shape``, in the order of the struct's fields.

    Shape:  empty exactly when ``msgspec.convert(table, shape)`` succeeds.
    """
    if not isinstance(table, dict):
        yield Problem(path, f"expected a table, got {_type_name(table)}")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    for key in table:
        if key not in fields:
            yield Problem((*path, key), _explain_unknown_key(key, fields, getattr(shape, "KEY_HINTS", {})))
    for key, field in fields.items():
        if key in table:
            yield from _find_value_problems(field.type, table[key], (*path, key))
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield Problem(path, f"the key '{key}' is missing")


def _find_value_problems(expected: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    """Yield the problems of one value: of structs inside it by their own paths, the rest by msgspec."""
    inner = _find_struct(expected)
    match value:
        case dict() if inner is not None and inner[0] is dict:
            for key, element in value.items():
                # The keys of a free table may have constraints, too.
                yield from _convert(inner[2], key, (*path, key))
                yield from find_problems(inner[1], element, (*path, key))
        case list() if inner is not None and inner[0] is list:
            elements = (find_problems(inner[1], element, (*path, i)) for i, element in enumerate(value))
            problems = list(chain.from_iterable(elements))
            # Constraints of the list itself, such as its maximum length, are checked by msgspec.
            yield from problems or _convert(expected, value, path)
        case _ if inner is not None and inner[0] is None and value is not None:
            yield from find_problems(inner[1], value, path)
        case _:
            yield from _convert(expected, value, path)


def _convert(expected: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    """Yield the problem that msgspec reports for a value, in plain words."""
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        message, _, position = str(error).partition(" - at `$")
        choices = _find_choices(expected)
        if choices and message.startswith("Invalid enum value "):
            value_text = message.removeprefix("Invalid enum value ")
            message = f"expected one of {', '.join(choices)}, got {value_text}"
        else:
            message = explain_shape(message)
            message = re.sub(r"`([a-z]+(?: \| [a-z]+)*)`", _translate_types, message)
            message = message[:1].lower() + message[1:]
        yield Problem(path, message + (f" (at {position[:-1]})" if position else ""))


def _translate_types(match: re.Match[str]) -> str:
    names = [name for name in match[1].split(" | ") if name != "null"] or ["null"]
    return " or ".join(_TYPE_NAMES.get(name, name) for name in names)


def _find_choices(expected: Any) -> tuple[str, ...]:
    """Return the literal words that a type allows at any depth; empty if it has none."""
    if get_origin(expected) is Literal:
        return tuple(map(str, get_args(expected)))
    return tuple(choice for inner in get_args(expected) for choice in _find_choices(inner))


def _find_struct(expected: Any) -> tuple[type | None, type[Struct], Any] | None:
    """Return the struct in a type: ``(None, S, None)`` for S or S | None, else its container, S, key type."""
    while get_origin(expected) is Annotated:
        expected = get_args(expected)[0]
    if get_origin(expected) in (Union, UnionType):
        arms = [arm for arm in get_args(expected) if arm is not type(None)]
        return _find_struct(arms[0]) if len(arms) == 1 else None
    if isinstance(expected, type) and issubclass(expected, Struct):
        return None, expected, None
    arguments = get_args(expected)
    container = get_origin(expected)
    if container not in (dict, list):
        return None
    inner = _find_struct(arguments[-1])
    return (container, inner[1], arguments[0]) if inner and inner[0] is None else None


def _explain_unknown_key(key: Any, known: Any, hints: Mapping[str, str]) -> str:
    if key in hints:
        return f"unknown key; {hints[key]}"
    # Imported here: only documents with a mistyped key pay for it.
    from difflib import get_close_matches

    words = sorted(str(key).split("_"))
    same_words = [name for name in known if sorted(name.split("_")) == words]
    matches = same_words or get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{matches[0]}'?" if matches else "known keys: " + ", ".join(known)
    return f"unknown key; {hint}"


def _type_name(value: Any) -> str:
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
