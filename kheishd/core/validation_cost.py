"""The cost of validating a value by a JSON Schema, known before the validator is asked. Pure.

A schema of two kilobytes whose alternatives refer to each other takes hours: each level doubles the work.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Each byte of the value may be visited once, and this many visits are free. The worst schema known, nested
# alternatives that all fail, takes 0.1 s with them.
MAX_FREE_VISITS: Final = 2_048

# Keywords that validate the value itself: by one schema, by a list of them, or by a map of them.
_SAME_VALUE: Final = ("not", "if", "then", "else")
_SAME_VALUE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SAME_VALUE_MAPS: Final = ("dependentSchemas", "dependencies")

# Keywords that validate all members, or all elements.
_ALL_MEMBERS: Final = ("additionalProperties", "unevaluatedProperties")
_ALL_ELEMENTS: Final = ("items", "additionalItems", "unevaluatedItems", "contains")

# Keywords with parts: a map of them, or else one or a list of them. The parts of other keywords are data.
_MAPS: Final = (*_SAME_VALUE_MAPS, "properties", "patternProperties", "$defs", "definitions")
_PARTS: Final = (
    *(*_SAME_VALUE, *_SAME_VALUE_LISTS, *_ALL_MEMBERS, *_ALL_ELEMENTS),
    *("prefixItems", "propertyNames"),
)

# References that are resolved by more than their text, so that their targets are not known here.
_UNUSUAL: Final = ("$dynamicRef", "$recursiveRef")


def find_cost_problem(schema: Any, value: Any, size: int) -> str | None:
    """Return why a value of ``size`` bytes must not be validated: it would take too long. None if it may be.

    Follows every reference and alternative of the schema along the value, up to a limit.
    """
    room = MAX_FREE_VISITS + size
    pending = [(schema, value)]
    try:
        while pending:
            part, current = pending.pop()
            if isinstance(part, dict):
                children = [*islice(_find_parts(schema, part, current), room + 1)]
                room -= len(children)
                if room < 0:
                    return "its references and alternatives take too long to validate"
                pending += children
    except LookupError as error:
        return str(error.args[0])
    return None


def find_schema_problem(schema: Any) -> str | None:
    """Return why no value, however small, must be validated by some part of a schema; None if there is none.

    A schema that refers to itself is fine where each reference goes on to a member of the value. How much
    that takes depends on the value, and ``find_cost_problem`` says it.
    """
    counts: dict[int, int] = {}

    def count(part: Any) -> int:
        """Return the visits that validating any value by a part takes, up to the limit."""
        if not isinstance(part, dict):
            return 0
        if id(part) not in counts:
            # A part that leads back to itself meets this and is beyond the limit, too.
            counts[id(part)] = MAX_FREE_VISITS + 1
            visits = sum(1 + count(inner) for inner, _ in _find_parts(schema, part, None))
            counts[id(part)] = min(visits, MAX_FREE_VISITS + 1)
        return counts[id(part)]

    pending = [schema]
    try:
        while pending:
            part = pending.pop()
            if not isinstance(part, dict):
                continue
            if count(part) > MAX_FREE_VISITS:
                return "its references and alternatives take too long to validate"
            for name in _MAPS:
                pending += _map(part.get(name)).values()
            for name in _PARTS:
                pending += part[name] if isinstance(part.get(name), list) else [part.get(name)]
    except LookupError as error:
        return str(error.args[0])
    except RecursionError:
        return "its parts are nested too deeply"
    return None


def _find_parts(schema: Any, part: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the parts by which a part of a schema validates a value, each with what it validates.

    Errors: LookupError if a reference cannot be followed.
    """
    if "$id" in part and part is not schema:
        raise LookupError("it has a part with an '$id' of its own")
    if "$ref" in part:
        yield _resolve(schema, part["$ref"]), value
    if any(name in part for name in _UNUSUAL):
        raise LookupError("it has a dynamic reference")
    # The validator asks again which members an alternative has looked at.
    is_repeated = "unevaluatedProperties" in part or "unevaluatedItems" in part
    for _ in range(2 if is_repeated else 1):
        yield from ((part[name], value) for name in _SAME_VALUE if name in part)
        for name in _SAME_VALUE_LISTS:
            yield from ((inner, value) for inner in _list(part.get(name)))
        for name in _SAME_VALUE_MAPS:
            yield from ((inner, value) for inner in _map(part.get(name)).values())
    if isinstance(value, dict):
        properties = _map(part.get("properties"))
        yield from ((properties[name], member) for name, member in value.items() if name in properties)
        schemas = [*_map(part.get("patternProperties")).values()]
        schemas += [part[name] for name in _ALL_MEMBERS if name in part]
        yield from ((inner, member) for inner in schemas for member in value.values())
        yield from ((part["propertyNames"], name) for name in value if "propertyNames" in part)
    elif isinstance(value, list):
        schemas = [part[name] for name in _ALL_ELEMENTS if isinstance(part.get(name), dict)]
        yield from ((inner, element) for inner in schemas for element in value)
        for name in ("prefixItems", "items"):
            yield from zip(_list(part.get(name)), value, strict=False)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _resolve(schema: Any, reference: Any) -> Any:
    """Return the part of a schema that a reference names. Errors: LookupError."""
    problem = LookupError(f"it refers to {str(reference)[:200]!r}, and only places of its own are used")
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise problem
    current = schema
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(current, dict) and name in current:
            current = current[name]
        elif isinstance(current, list) and name.isdecimal() and int(name) < len(current):
            current = current[int(name)]
        else:
            raise problem
    return current
