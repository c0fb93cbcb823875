"""Validation of a call's arguments, after the coercions that lose nothing.

Models write ``3.0`` or ``"3"`` for an integer, ``"true"`` for a boolean, a list as the text of one, and
``null`` for an argument that they omit. Such values are coerced first, where the schema names the type so
clearly that the intent is beyond doubt. Then the arguments are validated once: by the tool's struct, or, for
a tool without one, by its JSON Schema through the library ``jsonschema-rs``.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from kheishd.core.validation_cost import find_cost_problem
from kheishd.kernel.hook import Tool, ToolError
from protocol.limits.call import MAX_TOOL_INPUT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import jsonschema_rs

MAX_PROBLEMS = 5
MAX_PROBLEM_CHARACTERS = 300

# Beyond it a float cannot represent every integer.
MAX_INTEGRAL_FLOAT = 2.0**53

_LIBRARY: Final = "jsonschema_rs"
_BOOLEANS: Final = {"true": True, "false": False}


# An expression of a stranger's schema that looks ahead may take hours; this many steps, over a long text,
# take 0.2 s. Expressions without that take time in proportion to the text in any case.
MAX_BACKTRACKS: Final = 1_000


class Validator:
    """Validator of arguments. A tool's JSON Schema is compiled at its first use."""

    def __init__(self) -> None:
        # By the tool's name, with the schema itself: another tool of that name may have another one.
        self._compiled: dict[str, tuple[Mapping[str, Any], jsonschema_rs.Validator]] = {}

    async def prepare(self) -> None:
        """Import the library in a thread, the first time: that takes some forty milliseconds."""
        if _LIBRARY not in sys.modules:
            await trio.to_thread.run_sync(__import__, _LIBRARY)

    def validate(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Return the arguments as the tool takes them: its struct, or a dict if it has none.

        Errors: ToolError, which names the invalid arguments and their problems.
        """
        size = len(msgspec.json.encode(arguments))
        if size > MAX_TOOL_INPUT_BYTES:
            raise ToolError(f"the arguments take more than {MAX_TOOL_INPUT_BYTES} bytes; send less at once")
        coerced = coerce(tool.schema, arguments)
        if tool.arguments is not None:
            try:
                return msgspec.convert(coerced, tool.arguments)
            except msgspec.ValidationError as error:
                message, _, path = str(error).partition(" - at `")
                path = path.removesuffix("`") or "$"
                problem = f"{path}: {message}"
                if "unknown field" in message:
                    schema: Mapping[str, Any] = tool.schema
                    for part in path.replace("[", ".[").split(".")[1:]:
                        inner = _mapping(schema.get("properties")).get(part)
                        schema = _mapping(schema.get("items") if part.startswith("[") else inner)
                    if fields := ", ".join(schema.get("properties", ())):
                        problem += f"; the fields are {fields}"
                raise _invalid(tool, [problem]) from None
        cost_problem = find_cost_problem(tool.schema, coerced, size)
        if cost_problem is not None:
            raise ToolError(f"the schema of {tool.name} cannot be used for these arguments: {cost_problem}")
        problems = list(self._find_problems(tool, coerced))
        if problems:
            raise _invalid(tool, problems)
        return coerced

    def _find_problems(self, tool: Tool, arguments: dict[str, Any]) -> Iterator[str]:
        schema, validator = self._compiled.get(tool.name, (None, None))
        if validator is None or schema is not tool.schema:
            try:
                validator = compile_schema(tool.schema)
            except ValueError as error:
                raise ToolError(
                    f"the schema of {tool.name} is not valid, so no call can be: {error}"
                ) from error
            self._compiled[tool.name] = (tool.schema, validator)
        yield from find_problems(validator, arguments)


def _invalid(tool: Tool, problems: list[str]) -> ToolError:
    listed = "; ".join(problem[:MAX_PROBLEM_CHARACTERS] for problem in problems)
    return ToolError(f"these arguments do not fit {tool.name}: {listed}")


def find_problems(validator: jsonschema_rs.Validator, value: Any) -> Iterator[str]:
    """Yield the first problems of a value, each with its path."""
    for error in islice(validator.iter_errors(value), MAX_PROBLEMS):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        yield f"${path}: {error.message}"


def compile_schema(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Return the validator of a stranger's schema. Errors: ValueError if it is no valid schema."""
    # Imported here: a daemon without such tools never pays for it.
    import jsonschema_rs

    try:
        # Offline: validating arguments must not send requests to an address that a schema refers to. Values
        # are masked, as they may be long; an error names their path.
        options = jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_BACKTRACKS)
        return jsonschema_rs.validator_for(dict(schema), mask="this", offline=True, pattern_options=options)
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0][:MAX_PROBLEM_CHARACTERS]) from error


def coerce(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with values of the wrong type replaced, where the intent is beyond doubt."""
    properties = _mapping(schema.get("properties"))
    required = schema.get("required", ())
    coerced: dict[str, Any] = {}
    for name, value in arguments.items():
        inner = _mapping(properties.get(name))
        if value is None and name not in required and not _may_be(inner, "null"):
            continue
        coerced[name] = _coerce_value(inner, value)
    return coerced


def _coerce_value(schema: Mapping[str, Any], value: Any) -> Any:
    match value:
        case dict() if "properties" in schema:
            return coerce(schema, value)
        case list() if isinstance(schema.get("items"), dict):
            return [_coerce_value(schema["items"], element) for element in value]
        case float() if _may_be(schema, "integer") and not _may_be(schema, "number"):
            return int(value) if value.is_integer() and abs(value) <= MAX_INTEGRAL_FLOAT else value
        case str():
            return _coerce_text(schema, value)
        case _:
            return value


def _coerce_text(schema: Mapping[str, Any], text: str) -> Any:
    """Return the value that a text represents, if the schema allows one other type and no text."""
    match schema.get("type"):
        case "integer":
            digits = text.removeprefix("-")
            is_number = len(digits) <= 18 and digits.isascii() and digits.isdecimal()
            # Only the canonical form: nobody knows what "03" means.
            return int(text) if is_number and str(int(text)) == text else text
        case "boolean":
            return _BOOLEANS.get(text, text)
        case "array" | "object" as kind:
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                return text
            expected = list if kind == "array" else dict
            return _coerce_value(schema, value) if isinstance(value, expected) else text
        case _:
            return text


def _may_be(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether a value may have a type: a schema that names none allows all."""
    allowed = schema.get("type", kind)
    return kind in allowed if isinstance(allowed, list) else kind == allowed


def _mapping(schema: Any) -> Mapping[str, Any]:
    """Return a schema as a mapping; ``true`` and ``false`` name no type."""
    return schema if isinstance(schema, dict) else {}
