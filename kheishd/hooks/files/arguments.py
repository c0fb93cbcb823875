"""What file tools are asked: the arguments as types, and the schemas made from them that models are shown."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_MATCHES, MAX_PATCH_HUNKS, MAX_PATTERN_BYTES

FilePath = Annotated[str, Meta(min_length=1, description="The file, relative to the workspace.")]
Base = Annotated[str, Meta(description="The directory to search, relative to the workspace.")]
Limit = Annotated[
    int, Meta(ge=1, description=f"How many to give at most; more than {MAX_MATCHES} are never given.")
]
Digest = Annotated[
    str,
    Meta(
        pattern="^[0-9a-fA-F]{64}$",
        description="The SHA-256 that the file must still have, as read_file gave it; or nothing is done.",
    ),
]
OldText = Annotated[
    str, Meta(min_length=1, description="The exact text to replace; enough of it to occur only once.")
]
NewText = Annotated[str, Meta(description="What takes its place.")]
Everywhere = Annotated[bool, Meta(description="Replace every occurrence, however many there are.")]

Asked = TypeVar("Asked", bound="Arguments")


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what tools are asked."""


class ReadFile(Arguments, frozen=True):
    """What ``read_file`` is asked."""

    path: FilePath
    start_line: Annotated[int, Meta(ge=1, description="The first line to read, from 1.")] = 1
    line_count: Annotated[int, Meta(ge=1, description="How many lines to read at most.")] | None = None
    include_base64: Annotated[bool, Meta(description="Also give the bytes, base64-encoded.")] = False


class WriteFile(Arguments, frozen=True):
    """What ``write_file`` is asked."""

    path: FilePath
    content: Annotated[str, Meta(description="The whole new content, as text.")] | None = None
    content_base64: Annotated[str, Meta(description="The whole new content, in base64.")] | None = None
    expected_sha256: Digest | None = None


class EditFile(Arguments, frozen=True):
    """What ``edit_file`` is asked, and each hunk of ``apply_patch``."""

    path: FilePath
    old_text: OldText
    new_text: NewText
    replace_all: Everywhere = False
    expected_sha256: Digest | None = None


class ApplyPatch(Arguments, frozen=True):
    """What ``apply_patch`` is asked."""

    hunks: Annotated[list[EditFile], Meta(min_length=1, max_length=MAX_PATCH_HUNKS)]


class ListFiles(Arguments, frozen=True):
    """What ``list_files`` is asked."""

    base: Base = "."
    limit: Limit = MAX_MATCHES


class Pattern(Arguments, frozen=True):
    """What ``glob_search`` and ``grep_search`` are asked."""

    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_BYTES)]
    base: Base = "."
    limit: Limit = MAX_MATCHES


def decoded(kind: type[Asked], arguments: Mapping[str, Any]) -> Asked:
    """The arguments of a call by their type. Errors: ToolError."""
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise ToolError(f"the arguments do not fit: {error}") from None


def schema_of(kind: type[Arguments]) -> dict[str, Any]:
    """The JSON Schema of a type, whole in itself: some model servers know no references."""
    _, components = msgspec.json.schema_components((kind,), ref_template="{name}")
    schema = _inlined(components[kind.__name__], components)
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def _inlined(schema: Any, components: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        named = _inlined(components[schema["$ref"]], components)
        return {name: value for name, value in named.items() if name not in ("title", "description")}
    match schema:
        case {"anyOf": [given, {"type": "null"}]}:
            # What may be left out need not be null, too: models are told one way of saying nothing.
            return _inlined(given, components)
        case _:
            return {name: _inlined(value, components) for name, value in schema.items()}
