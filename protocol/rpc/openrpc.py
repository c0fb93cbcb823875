"""The contract as an OpenRPC 1.x document, generated from the method rows. ``rpc.discover`` returns it.

Extensions carry what OpenRPC has no field for: ``x-kind``, ``x-scope`` and ``x-since`` on a method,
``x-notifications``, ``x-errors`` (errors of any message) and ``x-conventions`` on the document.
"""

from collections.abc import Iterable
from inspect import cleandoc
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

OPENRPC = "1.3.2"

ANY_MESSAGE: tuple[type[Refusal], ...] = (
    ParseError,
    InvalidRequest,
    MethodNotFound,
    MessageTooLarge,
    InternalError,
)
"""The refusals with which any message may be answered."""

_REF = "#/components/schemas/"
_LINE = "JournalLine"
# Journal lines are carried as raw bytes, which have no schema of their own.
_RAW_FIELDS = {
    ("JournalPage", "events"): {"type": "array", "items": {"$ref": _REF + _LINE}},
    ("EventNotification", "event"): {"$ref": _REF + _LINE},
}

Json = dict[str, Any]


def document(methods: Iterable[AnyMethod], version: str) -> Json:
    """Return the OpenRPC document of the methods; equal rows give an equal document.

    Shape: ``methods`` by name; every ``$ref`` points into ``components``.
    """
    rows = sorted(methods, key=lambda row: row.name)
    schemas, components = _schemas(rows)
    described = [_method(row, components, *schemas[row.name]) for row in rows]
    notifications = [_notification(name, components) for name in sorted(NOTIFICATIONS)]
    refusals = {refusal for row in rows for refusal in errors_of(row)} | set(ANY_MESSAGE)
    content = {"methods": described, "x-notifications": notifications}
    kept = _reachable(content, components)
    return {
        "openrpc": OPENRPC,
        "info": {
            "title": "kheish",
            "version": version,
            "description": "JSON-RPC 2.0 over a Unix socket (one message per line) or WebSocket (path /rpc).",
        },
        **content,
        "x-conventions": _CONVENTIONS,
        "x-errors": [_error_reference(refusal) for refusal in ANY_MESSAGE],
        "components": {
            "errors": {refusal.reason: _error(refusal) for refusal in sorted(refusals, key=_reason)},
            "schemas": {name: components[name] for name in sorted(kept | {ErrorData.__name__})},
        },
    }


def errors_of(row: AnyMethod) -> tuple[type[Refusal], ...]:
    """Return every refusal of a method: its row's own, and those of its kind and scope."""
    found = [*row.errors, InvalidParams, RequestCancelled, Overloaded]
    if row.scope is not None:
        found += [ScopeMissing]
    if row.kind == "mutation":
        found += [IdempotencyConflict, StorageFull, DaemonDraining]
    if row.secret is not None:
        found += [AlreadyShown]
    return tuple(dict.fromkeys(found))


def _schemas(rows: list[AnyMethod]) -> tuple[dict[str, tuple[Json, Json]], Json]:
    """Return each row's schemas of params and result, and the components they refer to."""
    types = [kind for row in rows for kind in (row.params, row.result)]
    found, components = _components([*types, *NOTIFICATIONS.values(), ErrorData])
    for (struct, field), schema in _RAW_FIELDS.items():
        if struct in components:
            components[struct]["properties"][field] = schema
    pairs = zip(found[: len(types) : 2], found[1 : len(types) : 2], strict=True)
    return dict(zip((row.name for row in rows), pairs, strict=True)), components | _events()


def _events() -> Json:
    """Return the components of a journal line, its envelope and its events.

    They are separate components, because an event and an object may share a name; an event's is
    ``event.<type>``.
    """
    variants = JournalEvent.__args__
    _, components = _components([Envelope, *variants])
    names = {event.__name__: f"event.{event.__struct_config__.tag}" for event in variants}
    components = {names.get(name, name): schema for name, schema in components.items()}
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


def _components(types: list[Any]) -> tuple[tuple[Json, ...], Json]:
    found, components = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
    for schema in components.values():
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
    return found, components


def _method(row: AnyMethod, components: Json, params: Json, result: Json) -> Json:
    return {
        "name": row.name,
        "summary": row.summary,
        "paramStructure": "by-name",
        "params": _descriptors(params, components, last=Mutation.__struct_fields__),
        "result": {"name": "result", "schema": result},
        "errors": [_error_reference(refusal) for refusal in errors_of(row)],
        "x-kind": row.kind,
        "x-scope": row.scope,
        "x-since": row.since,
    }


def _notification(name: str, components: Json) -> Json:
    struct = NOTIFICATIONS[name]
    schema = components[struct.__name__]
    return {
        "name": name,
        "summary": schema["description"],
        "paramStructure": "by-name",
        "params": _descriptors({"$ref": _REF + struct.__name__}, components),
    }


def _descriptors(params: Json, components: Json, last: tuple[str, ...] = ()) -> list[Json]:
    """Return a content descriptor for each field of a params object, required ones first, ``last`` last."""
    schema = components[params["$ref"].removeprefix(_REF)]
    required = schema["required"]
    names = sorted(schema["properties"], key=lambda name: (name not in required, name in last))
    return [
        {"name": name, "schema": schema["properties"][name], "required": name in required} for name in names
    ]


def _error(refusal: type[Refusal]) -> Json:
    return {
        "code": refusal.number,
        "message": refusal().message,
        "data": {"reason": refusal.reason, "retryable": refusal.retryable},
    }


def _error_reference(refusal: type[Refusal]) -> Json:
    return {"$ref": f"#/components/errors/{refusal.reason}"}


def _reason(refusal: type[Refusal]) -> str:
    return refusal.reason


def _reachable(content: Any, components: Json) -> set[str]:
    """Return the components that ``content`` refers to, directly or through others."""
    found: set[str] = set()
    open_ = [content]
    while open_:
        node = open_.pop()
        if isinstance(node, list):
            open_ += node
        elif isinstance(node, dict):
            open_ += node.values()
            name = str(node.get("$ref", "")).removeprefix(_REF)
            if name in components and name not in found:
                found.add(name)
                open_.append(components[name])
    return found


_CONVENTIONS = {
    "framing": f"On the Unix socket, one message or batch per line, at most {MAX_LINE_BYTES} bytes; a peer "
    f"that begins with 'Content-Length:' is answered in that framing. A batch has at most "
    f"{MAX_BATCH_MESSAGES} messages. Requests of one connection run concurrently; answers come in any order.",
    "errors": "error.data has the schema ErrorData; 'reason' is stable, 'message' is for people.",
    "idempotency_key": "Every mutation accepts it: the same key and params return the same result, executed "
    "once, for 7 days per caller and method; other params are refused as idempotency_conflict. The params of "
    "waiting ('wait', 'stream', 'timeout_s') are not compared. Refusals are not recorded.",
    "check": "Every mutation accepts it: the change is tried and rolled back, and the answer is the result "
    "that it would have.",
    "lists": f"'limit' ({DEFAULT_PAGE_ROWS}; at most {MAX_PAGE_ROWS}) and 'after'; 'next' is null at the "
    "end. A page may end early, even empty, with 'next'.",
    "times": "Integers, Unix milliseconds, named '*_at_ms'; durations '*_ms' or '*_s'; sizes '*_bytes'.",
    "kinds": "'query' changes nothing; 'mutation' is one transaction; 'control' acts on the running daemon.",
    "journal": "Each line states its format as its first field; lines of older formats keep their names.",
    "compatibility": "Fields are only added, with defaults; an event of an unknown type is not an error.",
}
