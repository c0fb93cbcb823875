"""Sample values of any protocol type, and helpers to decode valid and invalid params."""

from typing import Any, TypeVar

import msgspec
import pytest
from msgspec import Raw, inspect

from protocol.errors.rpc import InvalidParams
from protocol.rpc.wire import decode_params

T = TypeVar("T")


def sample(kind: Any, *, full: bool) -> Any:
    """Return a value of a type as plain JSON: with every field if ``full``, else only required ones."""
    return _sample(inspect.type_info(kind), full)


def _sample(info: inspect.Type, full: bool) -> Any:
    match info:
        case inspect.StructType():
            return _struct(info, full)
        case inspect.UnionType(types):
            return _sample([kind for kind in types if not isinstance(kind, inspect.NoneType)][-1], full)
        case inspect.Metadata(type=inner):
            return _sample(inner, full)
        case inspect.ListType(item_type=item, min_length=minimum):
            return [_sample(item, full)] if full or minimum else []
        case inspect.DictType(value_type=value):
            free = isinstance(value, inspect.AnyType)
            return {"key": [1, None, "x"] if free else _sample(value, full)} if full else {}
        case inspect.LiteralType(values):
            return values[0]
        case inspect.IntType(ge=minimum):
            return minimum or 1
        case inspect.FloatType():
            return 1.5
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return "x"
        case inspect.AnyType() | inspect.RawType():
            return {"any": 1}
        case _:
            raise AssertionError(f"no sample of {info}")


def _struct(info: inspect.StructType, full: bool) -> dict[str, Any]:
    fields = {field.encode_name: _sample(field.type, full) for field in info.fields if full or field.required}
    return ({info.tag_field: info.tag} if info.tag_field else {}) | fields


def take(kind: type[T], params: dict[str, Any]) -> T:
    """Return params as their struct."""
    return decode_params(msgspec.json.Decoder(kind), Raw(msgspec.json.encode(params)))


def refuse(kind: type[Any], params: dict[str, Any]) -> str | None:
    """Return the path at which invalid params are refused."""
    with pytest.raises(InvalidParams) as caught:
        take(kind, params)
    return caught.value.field
