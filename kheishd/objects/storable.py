"""Validation of values that callers send to be stored."""

from __future__ import annotations

import msgspec

from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.limits.rpc import MAX_NESTING
from protocol.rpc.wire import is_nested_too_deep


def require_storable(value: object, max_bytes: int, name: str, field: str) -> None:
    """Reject a value that a record cannot hold.

    Errors: InputTooLarge if it takes more than ``max_bytes`` as JSON; InvalidParams if it nests too
    deep, or holds an integer that JSON can express and MessagePack cannot.
    """
    try:
        encoded = msgspec.json.encode(value)
        msgspec.msgpack.encode(value)
    except OverflowError:
        raise InvalidParams(f"the {name} holds an integer of more than 64 bits", field=field) from None
    except RecursionError:
        raise InvalidParams(f"the {name} is nested deeper than {MAX_NESTING} levels", field=field) from None
    if len(encoded) > max_bytes:
        text = f"the {name} takes {len(encoded)} bytes as JSON; the limit is {max_bytes}"
        raise InputTooLarge(text, field=field)
    if is_nested_too_deep(encoded):
        raise InvalidParams(f"the {name} is nested deeper than {MAX_NESTING} levels", field=field)
