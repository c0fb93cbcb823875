"""A call's arguments against its tool's JSON Schema, with the coercions that lose nothing.

The schema is checked by a library, ``jsonschema-rs``: it knows the whole of JSON Schema and takes
microseconds. Models write ``3.0`` or ``"3"`` where a whole number is wanted, and ``null`` for what they
leave out; these are mended first, as there is no doubt about what they mean.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.kernel.hook import Tool, ToolError
from protocol.limits import TOOL_INPUT_BYTES_MAX

if TYPE_CHECKING:
    import jsonschema_rs

PROBLEMS_MAX = 5
PROBLEM_CHARACTERS_MAX = 300


class Checker:
    """Checks arguments; a schema is compiled at its first use."""

    def __init__(self) -> None:
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the tool wants them.

        Errors: ToolError, naming what is wrong with which of them.
        """
        if len(msgspec.json.encode(arguments)) > TOOL_INPUT_BYTES_MAX:
            raise ToolError(f"the arguments take more than {TOOL_INPUT_BYTES_MAX} bytes; send less at once")
        mended = coerced(tool.schema, arguments)
        problems = self._problems(tool, mended)
        if problems:
            raise ToolError(f"these arguments do not fit {tool.name}: {'; '.join(problems)}")
        return mended

    def _problems(self, tool: Tool, arguments: dict[str, Any]) -> list[str]:
        found = []
        for error in self._validator(tool).iter_errors(arguments):
            parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
            path = "".join(parts)
            found.append(f"${path}: {error.message}"[:PROBLEM_CHARACTERS_MAX])
            if len(found) == PROBLEMS_MAX:
                break
        return found

    def _validator(self, tool: Tool) -> "jsonschema_rs.Validator":
        validator = self._validators.get(tool.name)
        if validator is None:
            # Imported here: a daemon without tools in use never pays for it.
            import jsonschema_rs

            validator = jsonschema_rs.validator_for(dict(tool.schema), retriever=_no_retrieving)
            self._validators[tool.name] = validator
        return validator


def _no_retrieving(uri: str) -> dict[str, Any]:
    """A schema stands by itself: checking arguments sends no request anywhere."""
    raise ValueError(f"a tool's schema refers to {uri}; it must hold what it refers to itself")


def coerced(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what is meant beyond doubt in place of what was written."""
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        inner = properties.get(name, {})
        if value is None and name not in required and not _allows(inner, "null"):
            continue
        kept[name] = _value(inner, value)
    return kept


def _value(schema: Mapping[str, Any], value: Any) -> Any:
    match value:
        case dict() if "properties" in schema:
            return coerced(schema, value)
        case list() if isinstance(schema.get("items"), dict):
            return [_value(schema["items"], element) for element in value]
        case float() if _allows(schema, "integer") and not _allows(schema, "number"):
            return int(value) if value.is_integer() else value
        case str() if schema.get("type") == "integer":
            return _whole(value)
        case _:
            return value


def _whole(text: str) -> int | str:
    """The whole number that a text is, written as it would be written; else the text."""
    digits = text.removeprefix("-")
    if len(digits) <= 18 and digits.isascii() and digits.isdecimal() and str(int(text)) == text:
        return int(text)
    return text


def _allows(schema: Mapping[str, Any], kind: str) -> bool:
    allowed = schema.get("type")
    return kind in allowed if isinstance(allowed, list) else kind == allowed
