"""JSON Schemas of tools: generated from types, and translated into the subset that every provider accepts.

Model providers accept different parts of JSON Schema, and one schema that a provider rejects makes it refuse
every request of the agent. So each schema is translated before it is sent, whether the daemon wrote it or an
MCP server did. A translated schema

- contains no reference: definitions are copied to where they are used;
- gives every property a ``type``, or an ``anyOf`` whose branches have one, and never both in one place;
- has no keyword but those of ``KEYWORDS``: no length, pattern or format, because model servers that constrain
  sampling by a grammar reject long repetitions and most expressions;
- lists its keywords in one order, so that equal schemas are equal bytes in a provider's prompt cache.

A translated schema may allow more than its source. That is safe: arguments are validated against the source.
Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from protocol.lazy import lazy_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Schema = dict[str, Any]

KEYWORDS: Final = (
    *("type", "description", "enum", "minimum", "maximum", "properties", "required", "additionalProperties"),
    *("items", "anyOf"),
)
"""The keywords of translated schemas, in their order."""

# A hostile server's schema may contain itself, or double in size with each reference.
MAX_DEPTH: Final = 12
MAX_SUBSCHEMAS: Final = 2_000

# A provider refuses the whole request if one property has another name.
_PROPERTY: Final = lazy_pattern(r"[A-Za-z0-9_.-]{1,64}")

_TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")
_TYPE_OF: Final[Mapping[type, str]] = {bool: "boolean", int: "integer", float: "number", str: "string"}

_SIMPLE: Final[list[Schema]] = [{"type": name} for name in ("string", "number", "boolean", "object")]
_LIST: Final[Schema] = {"type": "array", "items": {"anyOf": _SIMPLE}}
_ANY: Final[list[Schema]] = [*_SIMPLE, {"type": "array", "items": {"anyOf": [*_SIMPLE, _LIST]}}]


def schema_of(struct: type[Struct]) -> Schema:
    """Return the JSON Schema of a struct without references, and without null for optional fields.

    A field that may be absent need not be null, too: models are told one way to omit it.
    """
    _, components = msgspec.json.schema_components((struct,), ref_template="{name}")
    schema = _inline(components[struct.__name__], components)
    assert isinstance(schema, dict)
    return _without_title(schema)


def _inline(schema: Any, components: Mapping[str, Any]) -> Any:
    match schema:
        case list():
            return [_inline(item, components) for item in schema]
        case {"$ref": name, **siblings}:
            return {**_without_title(_inline(components[name], components)), **siblings}
        case {"anyOf": [branch, {"type": "null"}], **siblings}:
            inner = _inline(branch, components)
            siblings.pop("default", None)
            return {**siblings, **inner}
        case dict():
            return {name: _inline(value, components) for name, value in schema.items()}
        case _:
            return schema


def _without_title(schema: Mapping[str, Any]) -> Schema:
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def portable(schema: Mapping[str, Any]) -> Schema:
    """Return the schema of a tool's arguments in the subset that every provider accepts.

    Any JSON value is accepted as a schema: parts that cannot be translated become "any value".
    """
    translation = _Translation(schema)
    root = translation.translate(schema, 0)
    if "anyOf" in root:
        root = _merge_objects(root["anyOf"])
    if root.get("type") != "object":
        root = {"type": "object"}
    # Some providers require the list of properties, even an empty one.
    return _sort_keywords({"properties": {}, **root})


class _Translation:
    """The translation of one document. ``count`` bounds the work for hostile schemas."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._count = 0

    def translate(self, schema: Any, depth: int) -> Schema:
        """Translate a subschema."""
        self._count += 1
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self._count > MAX_SUBSCHEMAS:
            return {"anyOf": _ANY}
        schema = self._merge_all(self._resolve(schema), depth)
        translated = self._choose(schema, depth)
        description = _describe(schema)
        if description:
            translated = {**translated, "description": description}
        return _sort_keywords(translated)

    def _choose(self, schema: Schema, depth: int) -> Schema:
        """Translate by the first keyword that determines the type."""
        choices = schema.get("enum")
        if "const" in schema or isinstance(choices, list):
            return _translate_enum(choices if isinstance(choices, list) else [schema["const"]])
        kinds = _types_of(schema)
        branches = schema.get("anyOf") or schema.get("oneOf")
        # Branches beside properties only say which of them belong together.
        if isinstance(branches, list) and branches and "properties" not in schema:
            inherited = {"type": schema["type"]} if "type" in schema else {}
            return _any_of(
                self.translate({**inherited, **branch} if isinstance(branch, dict) else branch, depth + 1)
                for branch in branches
            )
        if not kinds:
            return {"anyOf": _ANY}
        return _any_of(self._translate_type(kind, schema, depth) for kind in kinds)

    def _translate_type(self, kind: str, schema: Schema, depth: int) -> Schema:
        match kind:
            case "object":
                return self._translate_object(schema, depth)
            case "array":
                items = schema.get("items", schema.get("prefixItems", [True]))
                if isinstance(items, list):
                    items = {"anyOf": items}
                return {"type": kind, "items": self.translate(items, depth + 1)}
            case "integer" | "number":
                bounds = {
                    name: schema[name] for name in ("minimum", "maximum") if _is_number(schema.get(name))
                }
                return {"type": kind, **bounds}
            case _:
                return {"type": kind}

    def _translate_object(self, schema: Schema, depth: int) -> Schema:
        declared = schema.get("properties")
        properties = declared if isinstance(declared, dict) else {}
        required = _names(schema.get("required"))
        translated = {
            name: _without_null(self.translate(inner, depth + 1), name in required)
            for name, inner in properties.items()
            if _PROPERTY.fullmatch(name) and inner is not False
        }
        result: Schema = {"type": "object"}
        if translated or declared == {}:
            result["properties"] = translated
        if mandatory := [name for name in translated if name in required]:
            result["required"] = mandatory
        additional = schema.get("additionalProperties")
        if additional is False:
            result["additionalProperties"] = False
        elif isinstance(additional, dict) and additional:
            result["additionalProperties"] = self.translate(additional, depth + 1)
        return result

    def _resolve(self, schema: Schema) -> Schema:
        """Replace a reference into the document by its target; other references allow any value."""
        for _ in range(MAX_DEPTH):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            siblings = {name: value for name, value in schema.items() if name != "$ref"}
            target: Any = self._document if reference.startswith("#") else None
            for part in reference.split("/")[1:]:
                name = part.replace("~1", "/").replace("~0", "~")
                target = target.get(name) if isinstance(target, dict) else None
            schema = {**(target if isinstance(target, dict) else {}), **siblings}
        return {}

    def _merge_all(self, schema: Schema, depth: int) -> Schema:
        """Merge the schemas of an ``allOf`` into one, as far as they are objects."""
        parts = schema.get("allOf")
        if not isinstance(parts, list) or depth > MAX_DEPTH:
            return schema
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        for part in parts:
            self._count += 1
            if not isinstance(part, dict) or self._count > MAX_SUBSCHEMAS:
                continue
            inner = self._merge_all(self._resolve(part), depth + 1)
            properties = {**_mapping(inner.get("properties")), **_mapping(merged.get("properties"))}
            required = [*_names(inner.get("required")), *_names(merged.get("required"))]
            merged = {**inner, **merged}
            if properties:
                merged["properties"] = properties
            if required:
                merged["required"] = required
        return merged


def _translate_enum(values: list[Any]) -> Schema:
    """Translate a list of constants: one ``enum`` for each of their types."""
    by_type: dict[str, list[Any]] = {}
    for value in values:
        kind = "null" if value is None else _TYPE_OF.get(type(value))
        if kind is None:
            # A structured constant has no equivalent.
            return {"anyOf": _ANY}
        by_type.setdefault(kind, []).append(value)
    return _any_of(
        # Some model servers accept an enum of strings only; a model knows true, false and null.
        {"type": kind, "enum": choices} if kind not in ("null", "boolean") else {"type": kind}
        for kind, choices in by_type.items()
    )


def _types_of(schema: Schema) -> list[str]:
    """Return the types that a schema names, or the one that its keywords imply."""
    named = schema.get("type")
    kinds = [kind for kind in (named if isinstance(named, list) else [named]) if kind in _TYPES]
    if kinds:
        return kinds
    if "properties" in schema or "additionalProperties" in schema:
        return ["object"]
    return ["array"] if "items" in schema or "prefixItems" in schema else []


def _any_of(schemas: Iterator[Schema]) -> Schema:
    """Join alternatives: nested ones are flattened, enums of a type are merged, a single one stands alone."""
    branches: list[Schema] = []
    enums: dict[str, Schema] = {}
    for schema in schemas:
        for branch in schema.get("anyOf") or [schema]:
            kind = branch["type"]
            if branch.keys() == {"type", "enum"} and kind in enums:
                choices = enums[kind]["enum"]
                choices += [choice for choice in branch["enum"] if choice not in choices]
            elif branch.keys() == {"type", "enum"}:
                enums[kind] = {"type": kind, "enum": [*branch["enum"]]}
                branches.append(enums[kind])
            elif branch not in branches:
                branches.append(branch)
    return branches[0] if len(branches) == 1 else {"anyOf": branches} if branches else {"anyOf": _ANY}


def _without_null(schema: Schema, required: bool) -> Schema:
    """Remove null from an optional property: the model omits it instead."""
    branches = schema.get("anyOf")
    if required or branches is None:
        return schema
    rest = [branch for branch in branches if branch["type"] != "null"]
    if len(rest) == len(branches) or not rest:
        return schema
    siblings = {name: value for name, value in schema.items() if name != "anyOf"}
    return _sort_keywords({**(rest[0] if len(rest) == 1 else {"anyOf": rest}), **siblings})


def _merge_objects(branches: list[Schema]) -> Schema:
    """Merge alternatives at the root, where every provider requires one object."""
    objects = [branch for branch in branches if branch.get("type") == "object"]
    merged: Schema = {"type": "object", "properties": {}}
    for branch in objects:
        merged["properties"] = {**branch.get("properties", {}), **merged["properties"]}
    required = [
        name for name in merged["properties"] if all(name in branch.get("required", ()) for branch in objects)
    ]
    return {**merged, "required": required} if required else merged


def _describe(schema: Schema) -> str:
    """Return the description, with the default value, for which there is no keyword everywhere."""
    text = schema.get("description")
    description = text if isinstance(text, str) else ""
    default = schema.get("default")
    if default in (None, "", False, [], {}) or not isinstance(default, bool | int | float | str):
        return description
    return f"{description} Default: {msgspec.json.encode(default).decode()}.".lstrip()


def _sort_keywords(schema: Schema) -> Schema:
    return {name: schema[name] for name in KEYWORDS if name in schema}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
