"""Generate the OpenRPC 1.x document of the protocol from the method rows, for ``rpc.discover``.

Generators of clients name types by components, titles and methods. So a component's name is an identifier
and equals its title, no method's name makes the same type name, every enumeration states its type, and a
reference has no default, which generators take for a value of another type.

Extensions carry the properties that OpenRPC has no field for: ``x-kind``, ``x-scope`` and ``x-since`` on a
method, ``x-notifications``, ``x-errors`` (errors of any message) and ``x-conventions`` on the document.
"""

from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc
from operator import attrgetter
from typing import Any

import msgspec

from protocol.errors.daemon import DaemonDraining
from protocol.errors.refusal import ErrorData, Refusal
from protocol.errors.rpc import (
    AlreadyShown,
    IdempotencyConflict,
    InternalError,
    InvalidParams,
    InvalidRequest,
    MessageTooLarge,
    MethodNotFound,
    Overloaded,
    ParseError,
    RequestCancelled,
)
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeMissing
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.limits.rpc import MAX_BATCH_MESSAGES, MAX_LINE_BYTES
from protocol.objects.journal import NOTIFICATIONS
from protocol.rpc.method import AnyMethod, Mutation

OPENRPC = "1.2.6"
"""The newest version that the types of generated clients accept. Later ones add nothing that is used here."""

ANY_MESSAGE: tuple[type[Refusal], ...] = (
    ParseError,
    InvalidRequest,
    MethodNotFound,
    MessageTooLarge,
    InternalError,
)
"""The refusals that can answer any message, whatever its method."""

_REF = "#/components/schemas/"
_LINE = "JournalLine"
# The types of the values of enumerations.
_KINDS = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
# These fields are raw bytes in the structs, so their schemas are stated here.
_RAW_FIELDS = {
    ("JournalPage", "events"): {"type": "array", "items": {"$ref": _REF + _LINE}},
    ("EventNotification", "event"): {"$ref": _REF + _LINE},
}

Json = dict[str, Any]


def make_document(methods: Iterable[AnyMethod], version: str) -> Json:
    """Return the OpenRPC document of the methods. Equal rows always produce the same document.

    Shape: ``methods`` by name; every ``$ref`` points into ``components``.
    """
    rows = sorted(methods, key=lambda row: row.name)
    schemas, components = _make_schemas(rows)
    descriptions = [_describe_method(row, components, *schemas[row.name]) for row in rows]
    notifications = [_describe_notification(name, components) for name in sorted(NOTIFICATIONS)]
    refusals = {refusal for row in rows for refusal in list_errors(row)} | set(ANY_MESSAGE)
    content = {"methods": descriptions, "x-notifications": notifications}
    reachable = _find_reachable(content, components)
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": "kheish",
            "version": version,
            "description": "JSON-RPC 2.0 over a Unix socket (one message per line) or WebSocket (path /rpc).",
        },
        **content,
        "x-conventions": _CONVENTIONS,
        "x-errors": [_refer_to_error(refusal) for refusal in ANY_MESSAGE],
        "components": {
            "errors": {
                refusal.reason: _describe_error(refusal)
                for refusal in sorted(refusals, key=attrgetter("reason"))
            },
            "schemas": {name: components[name] for name in sorted(reachable | {ErrorData.__name__})},
        },
    }


def list_errors(row: AnyMethod) -> tuple[type[Refusal], ...]:
    """Return every refusal of a method: its row's own, and those of its kind and scope."""
    errors = [*row.errors, InvalidParams, RequestCancelled, Overloaded]
    if row.scope is not None:
        errors += [ScopeMissing]
    if row.kind == "mutation":
        errors += [IdempotencyConflict, StorageFull, DaemonDraining]
    if row.secret is not None:
        errors += [AlreadyShown]
    return tuple(dict.fromkeys(errors))


def _make_schemas(rows: list[AnyMethod]) -> tuple[dict[str, tuple[Json, Json]], Json]:
    """Return the schemas of each row's params and result, and the components that they refer to."""
    types = [kind for row in rows for kind in (row.params, row.result)]
    schemas, components = _make_components([*types, *NOTIFICATIONS.values(), ErrorData])
    for (struct, field), schema in _RAW_FIELDS.items():
        if struct in components:
            components[struct]["properties"][field] = schema
    components |= _make_event_components()
    # "session.list" and its result are both SessionList in most generators.
    methods = {"".join(word.title() for word in row.name.split(".")) for row in rows}
    names = {
        row.result.__name__: f"{row.result.__name__}Result" for row in rows if row.result.__name__ in methods
    }
    components = _rename(components, names)
    for node in _walk([schemas, components]):
        # References, and the values of a discriminator's mapping.
        for key, value in node.items():
            if isinstance(value, str) and value.startswith(_REF):
                node[key] = _REF + names.get(value.removeprefix(_REF), value.removeprefix(_REF))
    pairs = zip(schemas[: len(types) : 2], schemas[1 : len(types) : 2], strict=True)
    return dict(zip((row.name for row in rows), pairs, strict=True)), components


def _make_event_components() -> Json:
    """Return the components of a journal line, its envelope and its events.

    They are separate components, because an event and an object may share a name.
    """
    variants = JournalEvent.__args__
    names = {event.__name__: f"{event.__name__}Event" for event in variants}
    _, components = _make_components([Envelope, *variants])
    components = _rename(components, names)
    components[_LINE] = {
        "title": _LINE,
        "description": "One journal line: its format, the envelope's fields and the event's fields. "
        "Expect types that are not listed.",
        "properties": {"format": {"type": "integer"}},
        "allOf": [{"$ref": _REF + Envelope.__name__}],
        "anyOf": [
            *({"$ref": _REF + name} for name in names.values()),
            {"type": "object", "required": ["type"]},
        ],
    }
    return components


def _make_components(types: list[Any]) -> tuple[tuple[Json, ...], Json]:
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
    for schema in components.values():
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
    for node in _walk([schemas, components]):
        # A field of an object could be called "enum" or "default": its schema is an object.
        if isinstance(values := node.get("enum"), list):
            (node["type"],) = {_KINDS[type(value)] for value in values}
        if ("$ref" in node or "anyOf" in node) and isinstance(node.get("default"), dict):
            del node["default"]
    return schemas, components


def _rename(components: Json, names: Mapping[str, str]) -> Json:
    """Return components with new names and titles."""
    renamed = {names.get(name, name): schema for name, schema in components.items()}
    for name, schema in renamed.items():
        schema["title"] = name
    return renamed


def _walk(node: Any) -> Iterator[Json]:
    """Yield every object in a JSON value."""
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, (list, tuple)):
            pending += node
        elif isinstance(node, dict):
            yield node
            pending += node.values()


def _describe_method(row: AnyMethod, components: Json, params: Json, result: Json) -> Json:
    return {
        "name": row.name,
        "summary": row.summary,
        "paramStructure": "by-name",
        "params": _describe_params(params, components, last=Mutation.__struct_fields__),
        "result": {"name": "result", "schema": result},
        "errors": [_refer_to_error(refusal) for refusal in list_errors(row)],
        "x-kind": row.kind,
        "x-scope": row.scope,
        "x-since": row.since,
    }


def _describe_notification(name: str, components: Json) -> Json:
    struct = NOTIFICATIONS[name]
    schema = components[struct.__name__]
    return {
        "name": name,
        "summary": schema["description"],
        "paramStructure": "by-name",
        "params": _describe_params({"$ref": _REF + struct.__name__}, components),
    }


def _describe_params(params: Json, components: Json, last: tuple[str, ...] = ()) -> list[Json]:
    """Return a content descriptor for each field of a params object, required ones first, ``last`` last."""
    schema = components[params["$ref"].removeprefix(_REF)]
    required = schema["required"]
    names = sorted(schema["properties"], key=lambda name: (name not in required, name in last))
    return [
        {"name": name, "schema": schema["properties"][name], "required": name in required} for name in names
    ]


def _describe_error(refusal: type[Refusal]) -> Json:
    return {
        "code": refusal.code,
        "message": refusal().message,
        "data": {"reason": refusal.reason, "retryable": refusal.retryable},
    }


def _refer_to_error(refusal: type[Refusal]) -> Json:
    return {"$ref": f"#/components/errors/{refusal.reason}"}


def _find_reachable(content: Any, components: Json) -> set[str]:
    """Return the components that ``content`` refers to, directly or through others."""
    reachable: set[str] = set()
    pending = [content]
    while pending:
        for node in _walk(pending.pop()):
            name = str(node.get("$ref", "")).removeprefix(_REF)
            if name in components and name not in reachable:
                reachable.add(name)
                pending.append(components[name])
    return reachable


_CONVENTIONS = {
    "framing": f"On the Unix socket, one message or batch per line, at most {MAX_LINE_BYTES} bytes; a peer "
    f"that begins with 'Content-Length:' is answered in that framing. A batch has at most "
    f"{MAX_BATCH_MESSAGES} messages. Requests of one connection run concurrently; answers come in any order.",
    "errors": "error.data has the schema ErrorData; 'reason' is stable, 'message' is for people.",
    "idempotency_key": "Every mutation accepts it: the same key and params return the same result, executed "
    "once, for 7 days per caller and method; other params are refused as idempotency_conflict. The params "
    "that only control waiting ('wait', 'stream', 'timeout_s') are not compared. Refusals are not recorded.",
    "check": "Every mutation accepts it: a dry run, which is rolled back and returns the result that the "
    "mutation would have.",
    "lists": f"'limit' (default {DEFAULT_PAGE_ROWS}, maximum {MAX_PAGE_ROWS}) and 'after'; 'next' is null at "
    "the end. A page may have fewer rows, even none, and still have a 'next'.",
    "times": "Integers, Unix milliseconds, named '*_at_ms'; durations '*_ms' or '*_s'; sizes '*_bytes'.",
    "kinds": "'query' changes nothing; 'mutation' is one transaction; 'control' acts on the running daemon.",
    "journal": "Each line states its format as its first field; lines of older formats keep their names.",
    "compatibility": "Fields are only added, with defaults; an event of an unknown type is not an error.",
}
