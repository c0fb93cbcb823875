"""Decode and encode JSON-RPC 2.0 messages.

A message is decoded once here; ``params``, ``result`` and ``data`` stay encoded (``Raw``), and the method's
row decodes them. An ``id`` is kept as its bytes and echoed unchanged, so ``1.0``, ``-0`` or forty digits come
back exactly as sent.

Invalid bytes decode as :class:`Malformed`; decoding never raises. The same functions
serve both sides: a server receives requests and notifications, a client responses and notifications.
"""

from __future__ import annotations

import re
from contextlib import suppress
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams, InvalidRequest, ParseError
from protocol.ids import explain_shape
from protocol.limits.rpc import MAX_BATCH_MESSAGES, MAX_ID_BYTES, MAX_NESTING
from protocol.limits.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NULL = b"null"

Id = str | int | float | None
"""The value of a request id, as ``rpc.cancel`` compares it. On the wire it keeps its bytes."""


class Request(Struct, frozen=True, gc=False):
    """A call that gets a response. ``id`` is the encoded id; ``params`` is empty if there are none."""

    id: bytes
    method: str
    params: Raw


class Notification(Struct, frozen=True, gc=False):
    """A call that gets no response."""

    method: str
    params: Raw


class Error(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The error of a failed request."""

    code: int
    message: str
    data: Raw = Raw()


class Response(Struct, frozen=True):
    """The response to a request: ``result``, unless there is an ``error``."""

    id: bytes
    result: Raw
    error: Error | None = None


class Malformed(Struct, frozen=True):
    """An invalid message: the refusal to answer with, and the request's id if it is readable."""

    refusal: Refusal
    id: bytes = NULL


Message = Request | Notification | Response


class Batch(Struct, frozen=True):
    """Several messages in one array. Their responses are sent as one array, in any order."""

    items: list[Message | Malformed]


Decoded = Message | Malformed | Batch
"""The decoded content of one frame: a line, a body or a WebSocket message."""


# Decoding.


class _RawMessage(Struct, frozen=True, gc=False, kw_only=True):
    """Any message. ``jsonrpc`` is a required field, because a tag may be omitted when decoding."""

    jsonrpc: Literal["2.0"]
    method: str | None = None
    id: Raw = Raw()
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


class _IdOnly(Struct, frozen=True):
    id: Raw = Raw()


# A list of many tiny items takes forty times their bytes of memory. This struct decodes the first items and
# skips the rest, which bounds the memory for a batch of any length.
_BatchItems = msgspec.defstruct(
    "_BatchItems",
    [(f"item_{number}", Raw, Raw()) for number in range(MAX_BATCH_MESSAGES + 1)],
    array_like=True,
)

_incoming = msgspec.json.Decoder(_RawMessage)
_id_only = msgspec.json.Decoder(_IdOnly)
_items = msgspec.json.Decoder(list[Raw])
_items_guarded = msgspec.json.Decoder(_BatchItems)
_raw = msgspec.json.Decoder(Raw)
_error = msgspec.json.Decoder(Error)
_id: msgspec.json.Decoder[Id] = msgspec.json.Decoder(Id)

_REPLACEMENT = "\ufffd".encode()

MAX_SOUGHT_BYTES = 64 * KIB
"""The longest message with invalid characters whose id is sought."""

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS_ALIKE = bytes.maketrans(b"{}", b"[]")


def decode(data: bytes) -> Decoded:
    """Return the message or batch that ``data`` encodes.

    Shape:  one of :data:`Decoded`; ``Malformed`` for anything that is not JSON-RPC 2.0. Never raises.
    """
    if not data.isascii() and (problem := _check_utf8(data)):
        return _locate_problem(data, problem)
    try:
        return _make_message(_incoming.decode(data))
    except msgspec.ValidationError as error:
        return _decode_other(data, str(error))
    except RecursionError:
        return Malformed(_make_depth_error())
    except ValueError as error:
        return _locate_problem(data, ParseError(f"the message is not JSON: {error}"))


def _locate_problem(data: bytes, problem: ParseError) -> Batch | Malformed:
    """Return the error of invalid characters, with the id; in a batch, of the messages that contain them."""
    if len(data) <= MAX_SOUGHT_BYTES and data.lstrip(b" \t\r\n")[:1] == b"[":
        with suppress(ValueError, RecursionError):
            # Few messages are broken, and no start waits for the import.
            import json

            # The standard library accepts them, and writes them so that they are found in their message.
            items = json.loads(data.decode(errors="surrogateescape"))
            if len(items) <= MAX_BATCH_MESSAGES:
                return Batch([_decode_item(json.dumps(item).encode()) for item in items])
    return Malformed(problem, _find_id(data))


def _find_id(data: bytes) -> bytes:
    """Return the id of an object with invalid characters in it, such as half a surrogate pair; else ``null``.

    The standard library accepts them. It is slow, so the id of a long message is not sought.
    """
    if len(data) > MAX_SOUGHT_BYTES:
        return NULL
    import json

    try:
        id_ = msgspec.json.encode(json.loads(data.decode(errors="replace")).get("id"))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return NULL
    is_id = id_[0] not in b"{[tf" and len(id_) <= MAX_ID_BYTES and _REPLACEMENT not in id_
    return id_ if is_id else NULL


def _make_message(incoming: _RawMessage) -> Message | Malformed:
    """Return the message of a decoded object, or the error in it."""
    id_ = bytes(incoming.id)
    if id_ and (id_[0] in b"{[tf" or len(id_) > MAX_ID_BYTES):
        text = f"an id is a string, a number or null, of {MAX_ID_BYTES} bytes at most"
        return Malformed(InvalidRequest(text, field="$.id"))
    if incoming.method is not None:
        if id_:
            return Request(id_, incoming.method, incoming.params)
        return Notification(incoming.method, incoming.params)
    return _make_response(id_, incoming)


def _make_response(id_: bytes, incoming: _RawMessage) -> Response | Malformed:
    if not id_ or bool(incoming.result) == bool(incoming.error):
        text = "the object is neither a request nor a response"
        return Malformed(InvalidRequest(text, field="$.method"), id_ or NULL)
    if not incoming.error:
        return Response(id_, incoming.result)
    try:
        return Response(id_, Raw(), _error.decode(incoming.error))
    except ValueError as error:
        return Malformed(InvalidRequest(f"the response's error is invalid: {error}"), id_)


def _decode_other(data: bytes, problem: str) -> Batch | Malformed:
    """Decode JSON that is not one valid message: a batch, or an invalid object."""
    try:
        if data.lstrip(b" \t\r\n")[:1] == b"[":
            return _decode_batch(data)
        _raw.decode(data)
        id_ = bytes(_id_only.decode(data).id)
    except msgspec.ValidationError:
        id_ = b""
    except RecursionError:
        return Malformed(_make_depth_error())
    except ValueError as error:
        return _locate_problem(data, ParseError(f"the message is not JSON: {error}"))
    if not id_ or id_[0] in b"{[tf" or len(id_) > MAX_ID_BYTES:
        id_ = NULL
    return Malformed(InvalidRequest(f"the message is not a JSON-RPC 2.0 request: {problem}"), id_)


def _decode_batch(data: bytes) -> Batch | Malformed:
    """Return the messages of a batch. Errors: msgspec.DecodeError if it is not JSON."""
    if data.count(b",") < MAX_BATCH_MESSAGES:
        items = _items.decode(data)
    else:
        items = [item for item in msgspec.structs.astuple(_items_guarded.decode(data)) if item]
    if not items:
        return Malformed(InvalidRequest("the batch is empty"))
    if len(items) > MAX_BATCH_MESSAGES:
        text = f"the batch has more than {MAX_BATCH_MESSAGES} messages; send it in parts"
        return Malformed(InvalidRequest(text))
    return Batch([_decode_item(bytes(item)) for item in items])


def _decode_item(data: bytes) -> Message | Malformed:
    """Return one message of a batch; a batch cannot contain another."""
    if data.startswith(b"["):
        return Malformed(InvalidRequest("a batch cannot contain another batch"))
    value = decode(data)
    assert not isinstance(value, Batch), "only an array is a batch"
    return value


def _check_utf8(data: bytes) -> ParseError | None:
    """Return the error if ``data`` is not UTF-8: strings that stay encoded are not checked elsewhere."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return ParseError(f"the message is not UTF-8: {error.reason} (byte {error.start})")
    return None


def _make_depth_error() -> ParseError:
    return ParseError("the message is nested too deeply")


def is_nested_too_deep(data: bytes, levels: int = MAX_NESTING) -> bool:
    """Whether the arrays and objects of valid JSON are nested deeper than ``levels``.

    For values that are stored; a message as a whole is not limited this way. It takes up to 0.3 ms per KiB,
    so check the size first.
    """
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    brackets = _STRINGS.sub(b"", data).translate(_BRACKETS_ALIKE, _NOT_BRACKETS)
    for _ in range(levels):
        # Each round removes the innermost level.
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def find_storage_problem(value: object, levels: int = MAX_NESTING) -> str | None:
    """Return the reason why a JSON value cannot be stored, as the end of a sentence; None if it can."""
    try:
        encoded = msgspec.json.encode(value)
        msgspec.msgpack.encode(value)
    except OverflowError:
        return "hold a whole number of more than 64 bits"
    except RecursionError:
        return f"are nested deeper than {levels} levels"
    return f"are nested deeper than {levels} levels" if is_nested_too_deep(encoded, levels) else None


def decode_id(id_: bytes) -> Id:
    """Return the value of an id for comparison: ``1.0`` and ``1`` are the same number."""
    try:
        return _id.decode(id_)
    except ValueError:
        # The number overflows a float, or has more digits than Python converts.
        return id_.decode()


# Params.

P = TypeVar("P")

_MISSING = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`")
_STEP = re.compile(r"\.([^.\[]+)|(\[)[^\]]*\]")
_PATH = re.compile(r" - at `\$([^`]*)`$")


def decode_params(decoder: msgspec.json.Decoder[P], params: Raw) -> P:
    """Return the params of a method, decoded by its row's decoder.

    An array with one object is decoded as that object (some clients wrap it); absent params are ``{}``.

    Errors: InvalidParams, with the path from ``$.params`` in ``field``.
    """
    try:
        return decoder.decode(params or b"{}")
    except RecursionError:
        raise InvalidParams("the params are nested too deeply", field="$.params") from None
    except ValueError as error:
        inner = _unwrap_params(params)
        if inner is None:
            refusal = make_params_error(error)
            path = _STEP.findall((refusal.field or "").removeprefix("$.params"))
            steps = [name or bracket for name, bracket in path]
            hint = ""
            if "unknown field" in refusal.message:
                from difflib import get_close_matches

                kinds = _find_types(decoder.type, steps[:-1])
                names = [name for kind in kinds for name in getattr(kind, "__struct_encode_fields__", ())]
                near = get_close_matches(steps[-1], names, 1)
                question = f"did you mean `{near[0]}`? " if near else ""
                hint = f"; {question}the fields are {', '.join(dict.fromkeys(names))}" if names else ""
            elif refusal.message.startswith("Invalid enum value"):
                kinds = _find_types(decoder.type, steps)
                values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
                hint = f"; the values are {', '.join(map(str, values))}" if values else ""
            raise InvalidParams(refusal.message + hint, field=refusal.field) from None
        return decode_params(decoder, inner)


def _find_types(kind: Any, steps: Sequence[str]) -> Iterator[Any]:
    """Yield the types that a type has at a path: of steps into fields, and ``[`` into elements."""
    if get_origin(kind) is Annotated or isinstance(kind, UnionType) or get_origin(kind) is Union:
        # The other arguments of these are no types with fields or values.
        for part in get_args(kind):
            yield from _find_types(part, steps)
    elif not steps:
        yield kind
    elif isinstance(kind, type) and issubclass(kind, Struct):
        inner = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        if steps[0] in inner:
            yield from _find_types(inner[steps[0]], steps[1:])
    elif steps[0] == "[" and get_args(kind):
        # An element of a list, or a value of an object with any keys.
        yield from _find_types(get_args(kind)[-1], steps[1:])


def _unwrap_params(params: Raw) -> Raw | None:
    """Return the only object in an array; None if the params are not an array.

    Errors: InvalidParams for any other array.
    """
    if memoryview(params)[:1].tobytes() != b"[":
        return None
    items = msgspec.structs.astuple(_items_guarded.decode(params))
    if items[1] or memoryview(items[0])[:1].tobytes() != b"{":
        raise InvalidParams("params are by name: send an object, not an array", field="$.params")
    item: Raw = items[0]
    return item


def make_params_error(error: ValueError) -> InvalidParams:
    """Return the refusal for a decoder's error about params; its field is a path: ``$.params.sender``."""
    text = str(error)
    path = match[1] if (match := _PATH.search(text)) else ""
    text = explain_shape(_PATH.sub("", text))
    if match := _MISSING.search(text):
        path += f".{match[1]}"
    field = f"$.params{path}"
    return InvalidParams(f"{text} at {field}", field=field)


# Encoding. Messages are assembled around encoded parts.

_encoder = msgspec.json.Encoder()


def encode_result(id_: bytes, result: bytes) -> bytes:
    """Encode the response with a result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_, result)


def encode_error(id_: bytes | None, refusal: Refusal, scrub: Callable[[bytes], bytes] | None = None) -> bytes:
    """Encode the response with a refusal, scrubbed. ``id_`` is None if the request's id is unreadable."""
    data = Raw(_encoder.encode(refusal.data()))
    error = _encoder.encode(Error(code=refusal.code, message=refusal.message, data=data))
    if scrub is not None:
        error = scrub(error)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (NULL if id_ is None else id_, error)


def encode_notification(method: str, params: bytes) -> bytes:
    """Encode a notification; ``params`` is an encoded object."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encoder.encode(method), params)


def encode_batch(messages: list[bytes]) -> bytes:
    """Join encoded messages into a batch. There must be at least one."""
    assert messages, "an empty batch is not a message"
    return b"[%b]" % b",".join(messages)
