"""A call's arguments against its tool's JSON Schema, with the coercions that lose nothing.

The schema is checked by a library, ``jsonschema-rs``: it knows the whole of JSON Schema and takes
microseconds. Models write ``3.0`` or ``"3"`` where a whole number is wanted, ``"true"`` for a truth value, a
list as the text of one, and ``null`` for what they leave out; these are mended first, where the schema says
plainly what type a value has, as there is no doubt then about what was meant.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from kheishd.kernel.hook import Tool, ToolError
from protocol.limits.call import MAX_TOOL_INPUT_BYTES

if TYPE_CHECKING:
    import jsonschema_rs

MAX_PROBLEMS = 5
MAX_PROBLEM_CHARACTERS = 300

# Beyond it a float no longer tells one whole number from the next.
MAX_WHOLE_FLOAT = 2.0**53

_LIBRARY: Final = "jsonschema_rs"
_TRUTH: Final = {"true": True, "false": False}


class Checker:
    """Checks arguments; a schema is compiled at its first use."""

    def __init__(self) -> None:
        # By the tool's name: the schema itself, for a tool may be offered with another one elsewhere.
        self._validators: dict[str, tuple[Mapping[str, Any], jsonschema_rs.Validator]] = {}

    async def ready(self) -> None:
        """Import the library in a thread, the first time: it takes some forty milliseconds."""
        if _LIBRARY not in sys.modules:
            await trio.to_thread.run_sync(__import__, _LIBRARY)

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the tool wants them.

        Errors: ToolError, naming what is wrong with which of them.
        """
        if len(msgspec.json.encode(arguments)) > MAX_TOOL_INPUT_BYTES:
            raise ToolError(f"the arguments take more than {MAX_TOOL_INPUT_BYTES} bytes; send less at once")
        mended = coerced(tool.schema, arguments)
        problems = list(self._problems(tool, mended))
        if problems:
            raise ToolError(f"these arguments do not fit {tool.name}: {'; '.join(problems)}")
        return mended

    def _problems(self, tool: Tool, arguments: dict[str, Any]) -> Iterator[str]:
        found = self._validator(tool).iter_errors(arguments)
        for _, error in zip(range(MAX_PROBLEMS), found, strict=False):
            parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
            yield f"${''.join(parts)}: {error.message}"[:MAX_PROBLEM_CHARACTERS]

    def _validator(self, tool: Tool) -> jsonschema_rs.Validator:
        schema, validator = self._validators.get(tool.name, (None, None))
        if validator is None or schema is not tool.schema:
            validator = _compiled(tool)
            self._validators[tool.name] = (tool.schema, validator)
        return validator


def _compiled(tool: Tool) -> jsonschema_rs.Validator:
    # Imported here: a daemon without tools in use never pays for it.
    import jsonschema_rs

    try:
        # Offline, a schema stands by itself: checking arguments sends no request anywhere. What was written
        # is not repeated, as it may be long; its place is named.
        return jsonschema_rs.validator_for(dict(tool.schema), mask="this", offline=True)
    except ValueError as error:
        message = str(error).splitlines()[0][:MAX_PROBLEM_CHARACTERS]
        raise ToolError(f"the schema of {tool.name} is not valid, so no call can be: {message}") from error


def coerced(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what is meant beyond doubt in place of what was written."""
    properties = _mapping(schema.get("properties"))
    required = schema.get("required", ())
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        inner = _mapping(properties.get(name))
        if value is None and name not in required and not _may_be(inner, "null"):
            continue
        kept[name] = _value(inner, value)
    return kept


def _value(schema: Mapping[str, Any], value: Any) -> Any:
    match value:
        case dict() if "properties" in schema:
            return coerced(schema, value)
        case list() if isinstance(schema.get("items"), Mapping):
            return [_value(schema["items"], element) for element in value]
        case float() if _may_be(schema, "integer") and not _may_be(schema, "number"):
            return int(value) if value.is_integer() and abs(value) <= MAX_WHOLE_FLOAT else value
        case str():
            return _read(schema, value)
        case _:
            return value


def _read(schema: Mapping[str, Any], text: str) -> Any:
    """What a text says, where the schema wants something else and nothing but that."""
    match schema.get("type"):
        case "integer":
            return _whole(text)
        case "boolean":
            return _TRUTH.get(text, text)
        case "array" | "object" as kind:
            try:
                said = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                return text
            return _value(schema, said) if isinstance(said, list if kind == "array" else dict) else text
        case _:
            return text


def _whole(text: str) -> int | str:
    """The whole number that a text is, written as it would be written; else the text."""
    digits = text.removeprefix("-")
    if len(digits) <= 18 and digits.isascii() and digits.isdecimal() and str(int(text)) == text:
        return int(text)
    return text


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether a value may be of a type, as far as the schema says which it has: where it does not, it may."""
    allowed = schema.get("type", kind)
    return kind in allowed if isinstance(allowed, list) else kind == allowed


def _mapping(schema: Any) -> Mapping[str, Any]:
    """A schema, where a plain true or false says nothing about types."""
    return schema if isinstance(schema, Mapping) else {}
