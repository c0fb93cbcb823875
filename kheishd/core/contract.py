"""Output contracts and requirements: valid schemas, matching values, and prompts about them. Pure.

A contract's schema is a small subset of JSON Schema without ambiguities: every keyword is checked when the
contract is made, and none is ignored. Values are read from text as models and people write it: surrounding
space and one code fence are removed, and an optional property may also be null. The stored form of a value is
canonical: without space, with sorted keys, without absent properties.

``jsonschema-rs`` checks values. It is imported where it is used, because few runs have a contract.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from kheishd.core.validation_cost import find_cost_problem
from protocol.contract import Requirement
from protocol.lazy import lazy_pattern
from protocol.rpc.wire import find_storage_problem
from protocol.structs import Value

TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_KEYWORDS: Final = frozenset(("type", "description"))
_KEYWORDS_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items",)),
}
_KEYWORDS_OF_ROOT: Final = frozenset(("$schema", "title"))

MAX_PROBLEMS = 5
MAX_PROBLEM_CHARACTERS = 300

_FENCE: Final = lazy_pattern(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_canonical_encoder: Final = msgspec.json.Encoder(order="sorted")


def encode_canonical(value: Any) -> str:
    """Encode a JSON value in its canonical form: minified, keys sorted."""
    return _canonical_encoder.encode(value).decode()


# Schemas.


def find_schema_problems(schema: Any, path: str = "$") -> Iterator[str]:
    """Yield every problem that keeps a schema from being a contract's, each with its path."""
    if not isinstance(schema, dict):
        yield f"{path}: expected a schema, which is an object"
        return
    kind = schema.get("type")
    keywords = _KEYWORDS | _KEYWORDS_OF_TYPE.get(str(kind), frozenset())
    if path == "$":
        keywords |= _KEYWORDS_OF_ROOT
    for keyword in sorted(schema.keys() - keywords):
        subject = f"'{kind}'" if kind in TYPES else "schemas"
        yield f"{path}.{keyword}: not a keyword that contracts support for {subject}"
    if kind not in TYPES:
        yield f"{path}.type: expected one of {', '.join(TYPES)}"
    for name in ("description", "$schema", "title"):
        if not isinstance(schema.get(name, ""), str):
            yield f"{path}.{name}: expected a string"
    if kind == "object":
        yield from _find_object_problems(schema, path)
    if kind == "array" and "items" in schema:
        yield from find_schema_problems(schema["items"], f"{path}.items")


def _find_object_problems(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"{path}.additionalProperties: must be false"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield f"{path}.properties: expected an object"
        return
    for name, inner in properties.items():
        yield from find_schema_problems(inner, f"{path}.properties{_format_step(name)}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{path}.required: expected an array of names"
        return
    for name in required:
        if name not in properties:
            yield f"{path}.required: '{name}' is not declared in properties"


# Values.


class ContractMatch(Value, frozen=True):
    """A value that matches its schema, and its canonical form."""

    text: str
    value: Any


class ContractViolation(Value, frozen=True):
    """A sentence about the violations of a schema, with their paths."""

    problem: str


def parse_value(schema: Mapping[str, Any], text: str) -> ContractMatch | ContractViolation:
    """Read a value from text and check it against a valid schema."""
    try:
        value = msgspec.json.decode(remove_fence(text))
    except (msgspec.DecodeError, RecursionError) as error:
        return ContractViolation(f"this is not one JSON value: {str(error) or 'it is nested too deep'}")
    problem = find_storage_problem(value)
    if problem is not None:
        return ContractViolation(f"values that {problem} cannot be stored")
    return check_value(schema, value)


def check_value(schema: Mapping[str, Any], value: Any) -> ContractMatch | ContractViolation:
    """Check a value against a valid schema; optional properties that are null are dropped."""
    import jsonschema_rs

    value = _drop_nulls(schema, value)
    problem = find_cost_problem(schema, value, len(msgspec.json.encode(value)))
    if problem is not None:
        return ContractViolation(f"the schema cannot be used for this value: {problem}")
    problems = []
    for error in jsonschema_rs.validator_for(dict(schema)).iter_errors(value):
        path = "$" + "".join(_format_step(part) for part in error.instance_path)
        problems.append(f"{path}: {error.message}"[:MAX_PROBLEM_CHARACTERS])
        if len(problems) == MAX_PROBLEMS:
            break
    return (
        ContractViolation("; ".join(problems)) if problems else ContractMatch(encode_canonical(value), value)
    )


def remove_fence(text: str) -> str:
    """Remove surrounding space and one surrounding code fence."""
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    return fenced[1].strip() if fenced is not None else text


def _format_step(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _drop_nulls(schema: Mapping[str, Any], value: Any) -> Any:
    match value:
        case dict():
            properties, required = schema.get("properties", {}), schema.get("required", ())
            return {
                name: _drop_nulls(properties.get(name, {}), inner)
                for name, inner in value.items()
                # A null of an unknown property, or of the type null, is a value and not an absence.
                if inner is not None
                or name in required
                or properties.get(name, {"type": "null"}).get("type") == "null"
            }
        case list():
            return [_drop_nulls(schema.get("items", {}), inner) for inner in value]
        case _:
            return value


class AnswerCheck(Value, frozen=True):
    """The schema of an answer and its violation; None if the answer matches or is not checked yet."""

    schema: str
    problem: str | None = None


# Prompts.


def format_instruction(schema: str) -> str:
    """Format the instruction for a run with an output contract."""
    return (
        "Your last answer must be one JSON value that matches this JSON Schema, and nothing else: no words "
        f"around it, no code fence.\n{schema}"
    )


def format_repair(problem: str, schema: str) -> str:
    """Format the request to correct an answer that violates the contract."""
    return f"Your answer does not match the required schema: {problem}\n\n{format_instruction(schema)}"


CONTINUE: Final = (
    "Your answer was cut off at its length limit. Continue exactly where it ends; repeat nothing and add no "
    "remark."
)


RESUME: Final = "The provider paused your turn. Continue it; repeat nothing and add no remark."


def format_reminder(missing: Sequence[str]) -> str:
    """Format the reminder of unmet requirements."""
    return f"You are not done: you had to {' and to '.join(missing)}. Do it now, then answer."


# Requirements.


def find_match(requirement: Requirement, written: Iterable[str]) -> str | None:
    """Return the first written path that meets a requirement; None if there is none."""
    if requirement.path is None:
        return next(iter(written), None)
    required = requirement.path.removeprefix("./")
    for path in written:
        if path.removeprefix("./") == required or path.endswith(f"/{required}"):
            return path
    return None


def find_missing(requirements: Sequence[Requirement], met: Sequence[int]) -> list[str]:
    """Return the unmet requirements, in words."""
    return [
        f"write the file '{requirement.path}'" if requirement.path is not None else "write a file"
        for index, requirement in enumerate(requirements)
        if index not in met
    ]
