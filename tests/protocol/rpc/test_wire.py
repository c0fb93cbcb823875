"""JSON-RPC 2.0 messages: decoding, refusals and encoding."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from protocol.errors.refusal import REFUSALS, ErrorData, Refusal
from protocol.errors.rpc import InvalidParams, MethodNotFound, ParseError
from protocol.ids import ID_SHAPE, Id
from protocol.limits.rpc import MAX_BATCH_MESSAGES, MAX_ID_BYTES, MAX_NESTING
from protocol.rpc import wire
from protocol.rpc.method import Params
from protocol.rpc.wire import MAX_SOUGHT_BYTES, Batch, Malformed, Notification, Request, Response, decode


def malformed(data: bytes) -> Malformed:
    """Return the decoded value of ``data``, which must be malformed."""
    value = decode(data)
    assert isinstance(value, Malformed), value
    return value


# The specification's own examples (https://www.jsonrpc.org/specification, section 7), with a server
# of four methods. Errors are compared by code and id, as messages are a server's own.


def toy(method: str, params: Any) -> Any:
    """Call a method of the specification's examples."""
    match method, params:
        case "subtract", [minuend, subtrahend]:
            return minuend - subtrahend
        case "subtract", {"minuend": minuend, "subtrahend": subtrahend}:
            return minuend - subtrahend
        case "sum", list():
            return sum(params)
        case "get_data", _:
            return ["hello", 5]
        case _:
            raise MethodNotFound


def answer(value: wire.Decoded) -> bytes | None:
    """Return the toy server's answer."""
    match value:
        case Batch(items):
            answers = [each for item in items if (each := answer(item)) is not None]
            return wire.encode_batch(answers) if answers else None
        case Malformed(refusal, id_):
            return wire.encode_error(id_, refusal)
        case Request(id_, method, params):
            try:
                result = toy(method, json.loads(bytes(params) or b"null"))
            except Refusal as refusal:
                return wire.encode_error(id_, refusal)
            return wire.encode_result(id_, json.dumps(result).encode())
        case _:
            return None


EXAMPLES = [
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        {"result": 19, "id": 1},
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        {"result": -19, "id": 2},
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        {"result": 19, "id": 3},
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        {"result": 19, "id": 4},
    ),
    ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', {"error": -32601, "id": "1"}),
    (
        '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        {"error": -32700, "id": None},
    ),
    (
        '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        {"error": -32600, "id": None},
    ),
    (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"\n]',
        {"error": -32700, "id": None},
    ),
    ("[]", {"error": -32600, "id": None}),
    ("[1]", [{"error": -32600, "id": None}]),
    ("[1,2,3]", [{"error": -32600, "id": None}] * 3),
    (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
        ' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
        ' {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
        ' {"foo": "boo"},'
        ' {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
        ' {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
        [
            {"result": 7, "id": "1"},
            {"result": 19, "id": "2"},
            {"error": -32600, "id": None},
            {"error": -32601, "id": "5"},
            {"result": ["hello", 5], "id": "9"},
        ],
    ),
    (
        '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
        ' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
        None,
    ),
]


def plain(answered: Any) -> Any:
    """Return an answer without the parts that the specification leaves open."""
    if isinstance(answered, list):
        return [plain(each) for each in answered]
    assert answered.pop("jsonrpc") == "2.0"
    if "error" in answered:
        answered["error"] = answered["error"]["code"]
    return answered


@pytest.mark.parametrize(("sent", "expected"), EXAMPLES)
def test_specification_examples(sent: str, expected: Any) -> None:
    """Every example of the specification gives the specified result."""
    answered = answer(decode(sent.encode()))
    assert (None if answered is None else plain(json.loads(answered))) == expected


# Requests.


def test_request() -> None:
    """A request has the bytes of its id, its method and the bytes of its params."""
    request = decode(b'{"jsonrpc":"2.0","id":7,"method":"rpc.ping","params":{"a": 1}}')
    assert isinstance(request, Request)
    assert (request.id, request.method, bytes(request.params)) == (b"7", "rpc.ping", b'{"a": 1}')


def test_notification() -> None:
    """A message without id is a notification; params are optional."""
    notification = decode(b'{"jsonrpc":"2.0","method":"rpc.ping"}')
    assert isinstance(notification, Notification)
    assert (notification.method, bytes(notification.params)) == ("rpc.ping", b"")


@pytest.mark.parametrize(
    "id_",
    ["0", "1", "-0", "1.0", "1.50", "1e2", "1E+2", '"x"', '""', '"1"', '"\\u00e9"', '"é"', "null", "9" * 40],
)
def test_id_is_echoed_as_sent(id_: str) -> None:
    """An id is echoed byte for byte."""
    request = decode(b'{"jsonrpc":"2.0","method":"a","id": %b }' % id_.encode())
    assert isinstance(request, Request)
    assert request.id == id_.encode()
    assert wire.encode_result(request.id, b"{}") == b'{"jsonrpc":"2.0","id":%b,"result":{}}' % id_.encode()


@pytest.mark.parametrize("id_", [b"true", b"false", b"{}", b"[1]", b'"%b"' % (b"x" * MAX_ID_BYTES)])
def test_id_of_another_kind(id_: bytes) -> None:
    """An invalid id is refused and not echoed."""
    value = malformed(b'{"jsonrpc":"2.0","method":"a","id":%b}' % id_)
    assert (value.refusal.code, value.refusal.field, value.id) == (-32600, "$.id", b"null")
    assert malformed(b'{"jsonrpc":"2.0","method":5,"id":%b}' % id_).id == b"null"


@pytest.mark.parametrize(
    ("id_", "value"),
    [(b"1", 1), (b"1.0", 1), (b'"a"', "a"), (b"null", None), (b"1e999", "1e999"), (b"9" * 40, int("9" * 40))],
)
def test_decode_id(id_: bytes, value: wire.Id) -> None:
    """Ids that are equal as numbers compare equal."""
    assert wire.decode_id(id_) == value


def test_decode_id_of_many_digits() -> None:
    """A number with too many digits to convert does not raise."""
    assert wire.decode_id(b"9" * 5000) is not None


# What is no message.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"hello",
        b'{"jsonrpc":"2.0","method":"a","id":1} x',
        b'{"jsonrpc":"2.0","method":"a","id":01}',
        b'{"jsonrpc":"1.0",',
        b'{"jsonrpc":"2.0","method":"a","params":[1,]}',
        b'{"jsonrpc":"2.0","method":"a","params":{"x":NaN}}',
        b'{"jsonrpc":"2.0","method":"a","params":{"x":"\x01"}}',
        b'{"jsonrpc":"2.0","method":"\\ud800"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_not_json(data: bytes) -> None:
    """Invalid JSON is a parse error without id."""
    value = malformed(data)
    assert (value.refusal.code, value.id) == (-32700, b"null")


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","method":"a","id":"\xff"}',
        b'{"jsonrpc":"2.0","method":"a","params":{"text":"\xed\xa0\x80"}}',
        b'{"jsonrpc":"2.0","method":"a","ignored":"\xc3"}',
    ],
)
def test_not_utf8(data: bytes) -> None:
    """Bytes that are not UTF-8 are refused anywhere, also where nothing decodes them."""
    value = malformed(data)
    assert (value.refusal.code, value.id) == (-32700, b"null")
    assert "UTF-8" in value.refusal.message


@pytest.mark.parametrize(
    ("data", "id_"),
    [
        (b"1", b"null"),
        (b'"x"', b"null"),
        (b"null", b"null"),
        (b"{}", b"null"),
        (b'{"method":"a","id":3}', b"3"),
        (b'{"jsonrpc":"1.0","method":"a","id":3}', b"3"),
        (b'{"jsonrpc":2.0,"method":"a","id":3}', b"3"),
        (b'{"jsonrpc":"2.0","id":3}', b"3"),
        (b'{"jsonrpc":"2.0","id":3,"method":null}', b"3"),
        (b'{"jsonrpc":"2.0","id":3,"method":["a"]}', b"3"),
        (b'{"jsonrpc":"2.0","id":"\\u00e9","method":4}', b'"\\u00e9"'),
    ],
)
def test_not_a_request(data: bytes, id_: bytes) -> None:
    """JSON that is no request is an invalid request, answered with its id if it has one."""
    value = malformed(data)
    assert (value.refusal.code, value.id) == (-32600, id_)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_message_nested_too_deep(opening: bytes) -> None:
    """A hundred thousand levels are refused; values that are not stored may be fairly deep."""
    start = b'{"jsonrpc":"2.0","id":1,"method":"a","params":'
    for data in (start + opening * 100_000, start + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[" * 100_000):
        assert malformed(data).refusal.code == -32700
    assert isinstance(decode(start + b"[" * 300 + b"]" * 300 + b"}"), Request)


def nested(levels: int) -> bytes:
    """Return JSON nested this deep, in lists and objects, with brackets in a string that do not count."""
    pairs, odd = divmod(levels, 2)
    return b"[" * odd + b'{"[[\\"[[":[' * pairs + b"]}" * pairs + b"]" * odd


def test_nested_too_deep() -> None:
    """Nesting counts levels, not adjacent brackets or brackets in strings."""
    for levels in (0, 1, 2, MAX_NESTING - 1, MAX_NESTING):
        assert not wire.is_nested_too_deep(nested(levels))
    for levels in (MAX_NESTING + 1, MAX_NESTING + 2, 900):
        assert wire.is_nested_too_deep(nested(levels))
        json.loads(nested(levels))
    assert wire.is_nested_too_deep(nested(6), 5)
    assert not wire.is_nested_too_deep(nested(5), 5)
    assert not wire.is_nested_too_deep(b"[%b[]]" % (b"[{}]," * 10_000))


def deep(levels: int) -> list[Any]:
    """Return a list nested deeper than any decoder accepts."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": [1, -(2**63), 2**64 - 1, 1.5, None, True, "x"]}, None),
        ({"a": [[2**64]]}, "64 bits"),
        ({"a": -(2**63) - 1}, "64 bits"),
        (json.loads(nested(MAX_NESTING)), None),
        (json.loads(nested(MAX_NESTING + 1)), "deeper than 128 levels"),
        (deep(5_000), "deeper"),
    ],
)
def test_storage_problem(value: object, problem: str | None) -> None:
    """JSON values that a record cannot hold are reported before they are journaled."""
    found = wire.find_storage_problem(value)
    assert found is None if problem is None else problem in str(found)


# Batches.


def test_batch_holds_good_and_bad() -> None:
    """A batch is a list of messages and of errors in between."""
    batch = decode(b' \t[{"jsonrpc":"2.0","method":"a"}, 1, [2], {"jsonrpc":"2.0","method":"b","id":1}]')
    assert isinstance(batch, Batch)
    kinds = [type(item) for item in batch.items]
    assert kinds == [Notification, Malformed, Malformed, Request]


def test_batch_limit() -> None:
    """A batch of the maximum size is accepted; a larger one is refused, and the refusal names the limit."""
    one = b'{"jsonrpc":"2.0","method":"a"}'
    batch = decode(b"[%b]" % b",".join([one] * MAX_BATCH_MESSAGES))
    assert isinstance(batch, Batch)
    assert len(batch.items) == MAX_BATCH_MESSAGES
    value = malformed(b"[%b]" % b",".join([one] * (MAX_BATCH_MESSAGES + 1)))
    assert value.refusal.code == -32600
    assert str(MAX_BATCH_MESSAGES) in value.refusal.message


def test_batch_of_few_with_many_commas() -> None:
    """Commas inside messages do not count as messages."""
    one = b'{"jsonrpc":"2.0","method":"a","params":[%b0]}' % (b"0," * 2 * MAX_BATCH_MESSAGES)
    batch = decode(b"[%b,%b]" % (one, one))
    assert isinstance(batch, Batch)
    assert [type(item) for item in batch.items] == [Notification, Notification]


def test_encode_batch_needs_answers() -> None:
    """An empty batch is never sent."""
    with pytest.raises(AssertionError):
        wire.encode_batch([])


# Responses, as a client gets them.


def test_response() -> None:
    """A null result is a result."""
    response = decode(b'{"jsonrpc":"2.0","id":1,"result":null}')
    assert isinstance(response, Response)
    assert (response.id, bytes(response.result), response.error) == (b"1", b"null", None)


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","result":1}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":5}',
    ],
)
def test_response_out_of_shape(data: bytes) -> None:
    """A response has an id, and either a result or an error."""
    assert malformed(data).refusal.code == -32600


@pytest.mark.parametrize("kind", list(REFUSALS.values()))
def test_encoded_refusal(kind: type[Refusal]) -> None:
    """A refusal is sent with its number, message and data."""
    sent = kind(field="$.params.x", hint="y", retry_after_ms=5)
    response = decode(wire.encode_error(b"1", sent))
    assert isinstance(response, Response)
    assert response.error is not None
    assert (response.error.code, response.error.message) == (kind.code, sent.message)
    assert msgspec.json.decode(response.error.data, type=ErrorData) == sent.data()


# Encoding.


def test_encoded_messages_decode() -> None:
    """Encoded messages decode to the same values."""
    request = decode(b'{"jsonrpc":"2.0","id":"a","method":"rpc.ping","params":{}}')
    assert isinstance(request, Request)
    assert (request.id, request.method, bytes(request.params)) == (b'"a"', "rpc.ping", b"{}")
    notification = decode(wire.encode_notification("journal.event", b'{"cursor":1}'))
    assert isinstance(notification, Notification)
    assert (notification.method, bytes(notification.params)) == ("journal.event", b'{"cursor":1}')
    batch = decode(wire.encode_batch([wire.encode_result(b"1", b"2"), wire.encode_result(b"2", b"3")]))
    assert isinstance(batch, Batch)
    assert [type(item) for item in batch.items] == [Response, Response]


def test_error_without_id() -> None:
    """The id is null if it is unreadable."""
    answered = json.loads(wire.encode_error(None, ParseError()))
    assert answered["id"] is None
    assert answered["error"]["data"] == {"reason": "parse_error", "retryable": False}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_decode_is_total(data: bytes) -> None:
    """Any bytes decode to a value, and json agrees on invalid JSON."""
    value = decode(data)
    if isinstance(value, Malformed) and value.refusal.code == -32600:
        json.loads(data)


@given(st.text(), JSON, st.integers() | st.text(max_size=100))
def test_requests_survive(method: str, params: Any, id_: int | str) -> None:
    """Any method, params and id arrive unchanged."""
    sent = {"jsonrpc": "2.0", "method": method, "params": params, "id": id_}
    request = decode(json.dumps(sent, ensure_ascii=False).encode())
    assert isinstance(request, Request)
    assert (request.method, json.loads(bytes(request.params))) == (method, params)
    assert wire.decode_id(request.id) == id_


# Params.


class Inner(msgspec.Struct):
    """An object inside params."""

    size: int


class Example(Params, frozen=True, kw_only=True):
    """Params of a method."""

    sender: str
    items: list[Inner] = []
    extra: dict[str, Inner] = {}


class Optional(Params, frozen=True, kw_only=True):
    """Params of a method that needs none."""

    limit: int = 5


EXAMPLE = msgspec.json.Decoder(Example)
OPTIONAL = msgspec.json.Decoder(Optional)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        (b"{}", "$.params.sender"),
        (b'{"sender":5}', "$.params.sender"),
        (b'{"sender":"a","sneder":1}', "$.params.sneder"),
        (b'{"sender":"a","items":[{"size":1},{"size":"x"}]}', "$.params.items[1].size"),
        (b'{"sender":"a","items":[{}]}', "$.params.items[0].size"),
        (b'{"sender":"a","items":5}', "$.params.items"),
        (b'{"sender":"a","extra":{"k":{"size":null}}}', "$.params.extra[...].size"),
        (b'"sender"', "$.params"),
        (b"null", "$.params"),
        (b"[]", "$.params"),
        (b'["a"]', "$.params"),
        (b'[{"sender":"a"},1]', "$.params"),
        (b'[{"sender":5}]', "$.params.sender"),
    ],
)
def test_params_refused(params: bytes, field: str) -> None:
    """Params of a wrong shape are refused, and the refusal names the path."""
    with pytest.raises(InvalidParams) as caught:
        wire.decode_params(EXAMPLE, Raw(params))
    assert caught.value.field == field
    assert field in caught.value.message or "by name" in caught.value.message


def test_params_with_a_wrong_id() -> None:
    """The refusal of an invalid id describes ids in words."""
    with pytest.raises(InvalidParams) as caught:
        wire.decode_params(msgspec.json.Decoder(dict[str, Id]), Raw(b'{"run_id":"a b"}'))
    assert caught.value.message == f"Expected {ID_SHAPE} at $.params[...]"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """An object in params."""

    name: str = ""
    inner: list[dict[str, "Line"]] | None = None


class Nested(msgspec.Struct, forbid_unknown_fields=True):
    """Params with objects in them."""

    line: Annotated[Line, msgspec.Meta(description="x")] | None = None
    budget: int = 0
    rules: dict[str, Line] = {}
    colour: Literal["red", "green"] | None = None
    sizes: list[Annotated[Literal["s", "m"], msgspec.Meta(description="x")]] = []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"lines": []},
            "field `lines` at $.params.lines; did you mean `line`? the fields are line, budget, rules",
        ),
        ({"line": {"max": 1}}, "field `max` at $.params.line.max; the fields are name, inner"),
        (
            {"line": {"inner": [{"a": {"b": 1}}]}},
            "$.params.line.inner[0][...].b; the fields are name, inner",
        ),
        (
            {"rules": {"x": {"nam": 1}}},
            "at $.params.rules[...].nam; did you mean `name`? the fields are name, inner",
        ),
        ({"colour": "blue"}, "Invalid enum value 'blue' at $.params.colour; the values are red, green"),
        ({"sizes": ["s", "xl"]}, "Invalid enum value 'xl' at $.params.sizes[1]; the values are s, m"),
    ],
)
def test_an_unknown_field_or_value_is_answered_with_the_known_ones(params: Any, message: str) -> None:
    """At any depth: in an object, in an element of a list, in a value under any key."""
    with pytest.raises(InvalidParams) as caught:
        wire.decode_params(msgspec.json.Decoder(Nested), Raw(msgspec.json.encode(params)))
    assert message in caught.value.message


def test_params_by_name() -> None:
    """An object is accepted; so is an array of one object, because some clients wrap it."""
    expected = Example(sender="a")
    assert wire.decode_params(EXAMPLE, Raw(b'{"sender":"a"}')) == expected
    assert wire.decode_params(EXAMPLE, Raw(b'[{"sender":"a"}]')) == expected


def test_params_absent() -> None:
    """Params may be omitted if none are required."""
    assert wire.decode_params(OPTIONAL, Raw()) == Optional()
    with pytest.raises(InvalidParams):
        wire.decode_params(EXAMPLE, Raw())


def test_params_too_deep() -> None:
    """Params that are nested too deep are refused."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    with pytest.raises(InvalidParams):
        wire.decode_params(decoder, Raw(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"))


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"x":"\\ud800"}}', b"7"),
        (b'{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":"\xff"}}', b'"a"'),
        (b'{"jsonrpc":"2.0","id":"\\ud800","method":"m"}', b"null"),
        (b'{"jsonrpc":"2.0","id":[1],"method":"\\ud800"}', b"null"),
        (b'{"jsonrpc":"2.0","id":7,"method":"\\ud800"', b"null"),
        (b'{"id":7,"x":"\\ud800' + b"a" * MAX_SOUGHT_BYTES + b'"}', b"null"),
        (b'{"id":7,"x":"\\ud800",' + b'"x":[' * 5_000, b"null"),
    ],
)
def test_a_request_with_invalid_characters_is_answered_by_its_id(line: bytes, id_: bytes) -> None:
    """Half a surrogate pair or a byte that is no UTF-8 does not hide whose request it was."""
    decoded = decode(line)
    assert isinstance(decoded, Malformed)
    assert decoded.id == id_


def test_a_batch_with_invalid_characters_has_one_error() -> None:
    """Only the message that contains them is an error, with its id; a batch that is not JSON is one."""
    for text in (b"\\ud800", b"\xff"):
        line = b'[{"jsonrpc":"2.0","id":1,"method":"m"},{"jsonrpc":"2.0","id":2,"method":"' + text + b'"}]'
        batch = decode(line)
        assert isinstance(batch, Batch)
        good, bad = batch.items
        assert isinstance(good, Request)
        assert isinstance(bad, Malformed)
        assert (good.id, bad.id) == (b"1", b"2")
        assert isinstance(decode(line[:-1]), Malformed)
        assert isinstance(decode(b"[" + b"0," * MAX_BATCH_MESSAGES + b'"' + text + b'"]'), Malformed)
