"""What must be said and given: schemas that contracts may have, values that fit them, work to be done. Pure.

A contract's schema is JSON Schema in a small subset, in which it is always clear what fits: every keyword is
checked when the contract is made, never passed over. Values are read from text, as models and people write
them: space around it and one code fence are taken away, and a property that may be absent may also be null.
What is then kept is the value in one way of writing: no space, keys sorted, nothing that is absent.

Values are checked by ``jsonschema-rs``, which knows what each keyword means; it is imported where it is used,
as few runs are bound by a contract.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from protocol.contract import Requirement
from protocol.rpc.wire import storage_problem_of

TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANYWHERE: Final = frozenset(("type", "description"))
_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items",)),
}
_AT_ROOT: Final = frozenset(("$schema", "title"))

MAX_PROBLEMS = 5
MAX_PROBLEM_CHARACTERS = 300

_FENCE: Final = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_sorted: Final = msgspec.json.Encoder(order="sorted")


def canonical(value: Any) -> str:
    """A JSON value in the one way it is kept: minified, keys sorted."""
    return _sorted.encode(value).decode()


# Schemas.


def schema_problems(schema: Any) -> list[str]:
    """Everything for which a schema cannot be a contract's, each with its path; empty if it can be."""
    return list(_problems(schema, "$", root=True))


def _problems(schema: Any, path: str, *, root: bool = False) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{path}: expected a schema, which is an object"
        return
    kind = schema.get("type")
    known = _ANYWHERE | _OF_TYPE.get(str(kind), frozenset()) | (_AT_ROOT if root else frozenset())
    for keyword in sorted(schema.keys() - known):
        about = f"'{kind}'" if kind in TYPES else "schemas"
        yield f"{path}.{keyword}: not a keyword that contracts have for {about}"
    if kind not in TYPES:
        yield f"{path}.type: expected one of {', '.join(TYPES)}"
    for name in ("description", "$schema", "title"):
        if not isinstance(schema.get(name, ""), str):
            yield f"{path}.{name}: expected a string"
    if kind == "object":
        yield from _object_problems(schema, path)
    if kind == "array" and "items" in schema:
        yield from _problems(schema["items"], f"{path}.items")


def _object_problems(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"{path}.additionalProperties: must be false"
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield f"{path}.properties: expected an object"
        return
    for name, inner in properties.items():
        yield from _problems(inner, f"{path}.properties{_step(name)}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{path}.required: expected an array of names"
        return
    for name in required:
        if name not in properties:
            yield f"{path}.required: '{name}' is not declared in properties"


# Values.


@dataclass(frozen=True, slots=True)
class Fits:
    """A value that fits its schema, and the one way it is written."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class Violates:
    """Why a text does not fit: a sentence with the paths of what is wrong."""

    problem: str


def read(schema: Mapping[str, Any], text: str) -> Fits | Violates:
    """The value that a text is, against a schema without problems."""
    try:
        value = msgspec.json.decode(unfenced(text))
    except (msgspec.DecodeError, RecursionError) as error:
        return Violates(f"this is not one JSON value: {str(error) or 'it is nested too deep'}")
    problem = storage_problem_of(value)
    if problem is not None:
        return Violates(f"values that {problem} cannot be kept")
    return checked(schema, value)


def checked(schema: Mapping[str, Any], value: Any) -> Fits | Violates:
    """A value against a schema without problems; what may be absent and is null is left out."""
    import jsonschema_rs

    value = _without_nulls(schema, value)
    problems = []
    for error in jsonschema_rs.validator_for(dict(schema)).iter_errors(value):
        path = "$" + "".join(_step(part) for part in error.instance_path)
        problems.append(f"{path}: {error.message}"[:MAX_PROBLEM_CHARACTERS])
        if len(problems) == MAX_PROBLEMS:
            break
    return Violates("; ".join(problems)) if problems else Fits(canonical(value), value)


def unfenced(text: str) -> str:
    """A text without the space around it, and without one code fence that it stands in."""
    text = text.strip()
    found = _FENCE.fullmatch(text)
    return found[1].strip() if found is not None else text


def _step(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _without_nulls(schema: Mapping[str, Any], value: Any) -> Any:
    match value:
        case dict():
            properties, required = schema.get("properties", {}), schema.get("required", ())
            return {
                name: _without_nulls(properties.get(name, {}), inner)
                for name, inner in value.items()
                if inner is not None or name in required or _null_is_meant(properties.get(name))
            }
        case list():
            return [_without_nulls(schema.get("items", {}), inner) for inner in value]
        case _:
            return value


def _null_is_meant(schema: Mapping[str, Any] | None) -> bool:
    """Whether a null is not the absence of a property: it is what its schema wants, or nobody knows it."""
    return schema is None or schema.get("type") == "null"


@dataclass(frozen=True, slots=True)
class Checked:
    """What an answer was checked against, and why it does not fit; None: it does, or nobody looked yet."""

    schema: str
    problem: str | None = None


# What is told to models.


def instruction(schema: str) -> str:
    """What a run that must give JSON is told from the beginning."""
    return (
        "Your last answer must be one JSON value that fits this JSON Schema, and nothing else: no words "
        f"around it, no code fence.\n{schema}"
    )


def repair(problem: str, schema: str) -> str:
    """What is said about an answer that does not fit."""
    return f"Your answer does not fit what was agreed: {problem}\n\n{instruction(schema)}"


GO_ON: Final = (
    "Your answer was cut at its length limit. Go on exactly where it ends; repeat nothing and add no remark."
)


def reminder(todo: Sequence[str]) -> str:
    """What is said when something is still to be done."""
    return f"You are not done: you were to {' and to '.join(todo)}. Do it now, then answer."


# Requirements.


def satisfied(requirement: Requirement, written: Iterable[str]) -> str | None:
    """Return the first path that a call has written and that the requirement names; None if there is none."""
    return next((path for path in written if _meant(requirement.path, path)), None)


def _meant(wanted: str | None, path: str) -> bool:
    if wanted is None:
        return True
    wanted = wanted.removeprefix("./")
    return path.removeprefix("./") == wanted or path.endswith(f"/{wanted}")


def missing(requirements: Sequence[Requirement], met: Sequence[int]) -> list[str]:
    """What is still to be done, in words."""
    return [
        f"write the file '{each.path}'" if each.path is not None else "write a file"
        for number, each in enumerate(requirements)
        if number not in met
    ]
