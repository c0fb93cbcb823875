"""JSON-RPC 2.0: what a message is, and the bytes it becomes.

A message is decoded once here, with ``params``, ``result`` and ``data`` kept as the bytes they came in
(``Raw``); the method's row decodes those. An ``id`` is kept as its bytes and echoed as such, so ``1.0``,
``-0`` or forty digits come back exactly as they were sent.

Everything is a value: bytes that are no message decode as :class:`Malformed`, never as an exception.
The same functions serve both sides: a server gets requests and notifications, a client responses and
notifications.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from protocol.errors.refusal import REFUSALS, ErrorData, Refusal
from protocol.errors.rpc import InvalidParams, InvalidRequest, ParseError
from protocol.ids import ID_PATTERN, ID_SHAPE
from protocol.limits.rpc import MAX_BATCH_MESSAGES, MAX_ID_BYTES, MAX_NESTING

NULL = b"null"

Id = str | int | float | None
"""A request id as a value: what ``rpc.cancel`` compares. On the wire it stays as it was sent."""


class Request(Struct, frozen=True, gc=False):
    """A call that is answered. ``id`` is the id's own JSON; ``params`` is empty when there are none."""

    id: bytes
    method: str
    params: Raw


class Notification(Struct, frozen=True, gc=False):
    """A call that is never answered."""

    method: str
    params: Raw


class Error(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not carried out."""

    code: int
    message: str
    data: Raw = Raw()


class Response(Struct, frozen=True):
    """The answer to a request: ``result``, unless there is an ``error``."""

    id: bytes
    result: Raw
    error: Error | None = None


class Malformed(Struct, frozen=True):
    """Bytes that are no message: what to answer and, where it could be made out, to which id."""

    refusal: Refusal
    id: bytes = NULL


Message = Request | Notification | Response


class Batch(Struct, frozen=True):
    """Several messages sent as one array; their answers go back as one array, in any order."""

    items: list[Message | Malformed]


Value = Message | Malformed | Batch
"""What one line or one WebSocket message is."""


# Decoding.


class _Incoming(Struct, frozen=True, gc=False, kw_only=True):
    """Any message. ``jsonrpc`` is a required field, as a tag may be left out when decoding."""

    jsonrpc: Literal["2.0"]
    method: str | None = None
    id: Raw = Raw()
    params: Raw = Raw()
    result: Raw = Raw()
    error: Raw = Raw()


class _IdOnly(Struct, frozen=True):
    id: Raw = Raw()


# An array of many tiny items takes forty times its bytes as a list. This decodes the first ones,
# passes over the rest and so costs the same for a batch of any length.
_BatchItems = msgspec.defstruct(
    "_BatchItems",
    [(f"item_{number}", Raw, Raw()) for number in range(MAX_BATCH_MESSAGES + 1)],
    array_like=True,
)

_incoming = msgspec.json.Decoder(_Incoming)
_id_only = msgspec.json.Decoder(_IdOnly)
_items = msgspec.json.Decoder(list[Raw])
_items_guarded = msgspec.json.Decoder(_BatchItems)
_raw = msgspec.json.Decoder(Raw)
_error = msgspec.json.Decoder(Error)
_error_data = msgspec.json.Decoder(ErrorData)
_id: msgspec.json.Decoder[Id] = msgspec.json.Decoder(Id)

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS_ALIKE = bytes.maketrans(b"{}", b"[]")


def decode(data: bytes) -> Value:
    """The message or batch that ``data`` is.

    Shape:  one of :data:`Value`; ``Malformed`` for anything that is not JSON-RPC 2.0. Never raises.
    """
    if not data.isascii() and (problem := _not_utf8(data)):
        return Malformed(problem)
    try:
        return _message(_incoming.decode(data))
    except msgspec.ValidationError as error:
        return _odd(data, str(error))
    except RecursionError:
        return Malformed(_too_deep())
    except ValueError as error:
        return Malformed(ParseError(f"the message is not JSON: {error}"))


def _message(incoming: _Incoming) -> Message | Malformed:
    """The message that a decoded object is, or what it lacks."""
    id_ = bytes(incoming.id)
    if id_ and (id_[0] in b"{[tf" or len(id_) > MAX_ID_BYTES):
        text = f"an id is a string, a number or null, of {MAX_ID_BYTES} bytes at most"
        return Malformed(InvalidRequest(text, field="$.id"))
    if incoming.method is not None:
        if id_:
            return Request(id_, incoming.method, incoming.params)
        return Notification(incoming.method, incoming.params)
    return _response(id_, incoming)


def _response(id_: bytes, incoming: _Incoming) -> Response | Malformed:
    if not id_ or bool(incoming.result) == bool(incoming.error):
        text = "the object has no 'method', and neither is it a response"
        return Malformed(InvalidRequest(text, field="$.method"), id_ or NULL)
    if not incoming.error:
        return Response(id_, incoming.result)
    try:
        return Response(id_, Raw(), _error.decode(incoming.error))
    except ValueError as error:
        return Malformed(InvalidRequest(f"the response's error has not the right shape: {error}"), id_)


def _odd(data: bytes, complaint: str) -> Batch | Malformed:
    """What is valid JSON perhaps, but not one message: a batch, or an object that lacks something."""
    try:
        if data.lstrip(b" \t\r\n")[:1] == b"[":
            return _batch(data)
        _raw.decode(data)
        id_ = bytes(_id_only.decode(data).id)
    except msgspec.ValidationError:
        id_ = b""
    except RecursionError:
        return Malformed(_too_deep())
    except ValueError as error:
        return Malformed(ParseError(f"the message is not JSON: {error}"))
    if not id_ or id_[0] in b"{[tf" or len(id_) > MAX_ID_BYTES:
        id_ = NULL
    return Malformed(InvalidRequest(f"the message is not a JSON-RPC 2.0 request: {complaint}"), id_)


def _batch(data: bytes) -> Batch | Malformed:
    """Errors: msgspec.DecodeError if it is not JSON."""
    if data.count(b",") < MAX_BATCH_MESSAGES:
        items = _items.decode(data)
    else:
        items = [item for item in msgspec.structs.astuple(_items_guarded.decode(data)) if item]
    if not items:
        return Malformed(InvalidRequest("the batch is empty"))
    if len(items) > MAX_BATCH_MESSAGES:
        text = f"the batch has more than {MAX_BATCH_MESSAGES} messages; send it in parts"
        return Malformed(InvalidRequest(text))
    return Batch([_item(bytes(item)) for item in items])


def _item(data: bytes) -> Message | Malformed:
    """One message of a batch; a batch cannot hold another."""
    if data.startswith(b"["):
        return Malformed(InvalidRequest("a batch cannot hold another batch"))
    value = decode(data)
    assert not isinstance(value, Batch), "only an array is a batch"
    return value


def _not_utf8(data: bytes) -> ParseError | None:
    """What is wrong if ``data`` is not UTF-8. A message that only passes strings on never decodes them."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return ParseError(f"the message is not UTF-8: {error.reason} (byte {error.start})")
    return None


def _too_deep() -> ParseError:
    return ParseError("the message is nested deeper than can be read")


def nested_too_deep(data: bytes, levels: int = MAX_NESTING) -> bool:
    """Whether the arrays and objects of valid JSON nest deeper than so many levels.

    For values that are kept; a message as a whole is only passed over, and need not be this shallow.
    It takes up to 0.3 ms a KiB, so look at the size first.
    """
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    brackets = _STRINGS.sub(b"", data).translate(_BRACKETS_ALIKE, _NOT_BRACKETS)
    for _ in range(levels):
        # Each round takes away the innermost level.
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def cannot_keep(value: object, levels: int = MAX_NESTING) -> str | None:
    """Why a JSON value of somebody else's making cannot be kept in a record: a sentence's end; else None."""
    try:
        encoded = msgspec.json.encode(value)
        msgspec.msgpack.encode(value)
    except OverflowError:
        return "hold a whole number of more than 64 bits"
    except RecursionError:
        return f"are nested deeper than {levels} levels"
    return f"are nested deeper than {levels} levels" if nested_too_deep(encoded, levels) else None


def id_value(id_: bytes) -> Id:
    """The value of an id, for comparing: ``1.0`` and ``1`` are the same number."""
    try:
        return _id.decode(id_)
    except ValueError:
        # A number beyond what a float holds, or of more digits than Python converts.
        return id_.decode()


# Params.

P = TypeVar("P")

_MISSING = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`")
_PATH = re.compile(r" - at `\$([^`]*)`$")


def decode_params(decoder: msgspec.json.Decoder[P], params: Raw) -> P:
    """The params of a method, by its row's decoder.

    An array that holds one object is taken as that object (some clients wrap it); no params are ``{}``.

    Errors: InvalidParams, with the path from ``$.params`` in ``field``.
    """
    try:
        return decoder.decode(params or b"{}")
    except RecursionError:
        raise InvalidParams("the params are nested too deep", field="$.params") from None
    except ValueError as error:
        inner = _only_item(params)
        if inner is None:
            raise params_error(error) from None
        return decode_params(decoder, inner)


def _only_item(params: Raw) -> Raw | None:
    """The object that an array of one wraps; None if the params are no array.

    Errors: InvalidParams for any other array.
    """
    if memoryview(params)[:1].tobytes() != b"[":
        return None
    items = msgspec.structs.astuple(_items_guarded.decode(params))
    if items[1] or memoryview(items[0])[:1].tobytes() != b"{":
        raise InvalidParams("params are by name: send an object, not an array", field="$.params")
    item: Raw = items[0]
    return item


def params_error(error: ValueError) -> InvalidParams:
    """The refusal for what a decoder said about params, naming the path: ``$.params.sender``."""
    text = str(error)
    path = found[1] if (found := _PATH.search(text)) else ""
    text = _PATH.sub("", text).replace(f"`str` matching regex {ID_PATTERN!r}", ID_SHAPE)
    if found := _MISSING.search(text):
        path += f".{found[1]}"
    field = f"$.params{path}"
    return InvalidParams(f"{text} at {field}", field=field)


# Encoding. Bytes are put together around what is encoded already.

_encoder = msgspec.json.Encoder()


def encode_result(id_: bytes, result: bytes) -> bytes:
    """The response that carries ``result``."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_, result)


def encode_error(id_: bytes | None, refusal: Refusal) -> bytes:
    """The response that carries a refusal; ``None`` where the request's id could not be made out."""
    error = Error(code=refusal.number, message=refusal.message, data=Raw(_encoder.encode(refusal.data())))
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (NULL if id_ is None else id_, _encoder.encode(error))


def encode_notification(method: str, params: bytes) -> bytes:
    """A notification of ``params``, an encoded object."""
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (_encoder.encode(method), params)


def encode_request(id_: bytes, method: str, params: bytes) -> bytes:
    """A request of ``params``, an encoded object."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (id_, _encoder.encode(method), params)


def encode_batch(messages: list[bytes]) -> bytes:
    """Encoded messages as one batch. There must be one at least: nothing is answered with nothing."""
    assert messages, "an empty batch is not a message"
    return b"[%b]" % b",".join(messages)


def refusal_of(error: Error) -> Refusal:
    """The refusal that an error carries, as the class of its reason where this version knows it."""
    try:
        data = _error_data.decode(error.data)
    except ValueError:
        data = ErrorData(reason="", retryable=False)
    kind = REFUSALS.get(data.reason, Refusal)
    refusal = kind(error.message, field=data.field, hint=data.hint, retry_after_ms=data.retry_after_ms)
    if kind is Refusal:
        # A reason of a later version: what it says is kept, on the instance.
        unknown: Any = refusal
        unknown.number, unknown.reason, unknown.retryable = error.code, data.reason, data.retryable
    return refusal
