"""Every row of the table of methods is complete."""

import re

import msgspec
import pytest

from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFull
from protocol.rpc.catalogue import METHODS
from protocol.rpc.method import SCOPES, AnyMethod, Mutation, Page, Params
from tests.support.samples import refuse, sample, take

ROWS = list(METHODS.values())
PROMISED = """
rpc.ping rpc.discover rpc.cancel
daemon.status daemon.reload daemon.shutdown daemon.config daemon.backup daemon.doctor
conversation.send conversation.list conversation.get conversation.history conversation.cancel
conversation.reset
session.create session.get session.list session.update session.send session.history session.rename
session.interrupt session.end session.export session.import
run.list run.get run.wait run.cancel
journal.read journal.subscribe journal.unsubscribe
permission.why permission.list permission.update permission.audit
definition.list definition.get route.list route.get
token.create token.narrow token.list token.revoke
"""
"""The methods of version 0.1; a released name never goes away."""


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> AnyMethod:
    """Return each row in turn."""
    found: AnyMethod = request.param
    return found


def test_promised_methods_are_there() -> None:
    """The table contains every method that was ever released."""
    assert set(PROMISED.split()) <= set(METHODS)


def test_name(row: AnyMethod) -> None:
    """A method is named noun.verb, and the table has it under that name."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", row.name)
    assert METHODS[row.name] is row


def test_kind_and_params_agree(row: AnyMethod) -> None:
    """Params are strict; only those of mutations have a key and ``check``."""
    assert issubclass(row.params, Params)
    assert row.params.__struct_config__.forbid_unknown_fields
    assert row.params.__struct_config__.frozen
    assert (row.kind == "mutation") == issubclass(row.params, Mutation)


def test_params_and_result_are_described(row: AnyMethod) -> None:
    """Params, result and method have descriptions."""
    assert row.params.__doc__
    assert row.result.__doc__
    assert re.fullmatch(r"[A-Z].*\.", row.summary)
    assert len(row.summary) <= 120


def test_scope(row: AnyMethod) -> None:
    """A scope is one of the five; only methods of the protocol and narrowing need none."""
    assert row.scope is None or row.scope in SCOPES
    if row.scope is None:
        assert row.name.startswith("rpc.") or row.name == "token.narrow"
    if row.kind == "mutation":
        assert row.scope != "read"


def test_errors_are_declared_once(row: AnyMethod) -> None:
    """A row declares each refusal once, and every mutation declares a full disk."""
    assert len(set(row.errors)) == len(row.errors)
    assert all(issubclass(refusal, Refusal) for refusal in row.errors)
    if row.kind == "mutation":
        assert StorageFull in row.errors


def test_uncompared_and_secret_are_fields(row: AnyMethod) -> None:
    """Uncompared params and the secret field exist."""
    assert set(row.uncompared) <= set(row.params.__struct_fields__)
    if row.secret is not None:
        assert row.kind == "mutation"
        assert row.secret in row.result.__struct_fields__


def test_lists_are_alike(row: AnyMethod) -> None:
    """A list accepts a limit and ``after``, and returns rows under their plural, and ``next``."""
    if row.name.endswith(".list"):
        assert issubclass(row.params, Page)
        plural, following = row.result.__struct_fields__
        name = row.name.split(".")[0]
        # A mailbox lists its messages, a memory its notes, and MCP is a protocol.
        plurals = {"mailbox": "messages", "memory": "notes", "mcp": "servers"}
        assert plural == plurals.get(name, name + "s")
        assert following == "next"


@pytest.mark.parametrize("full", [False, True], ids=["least", "full"])
def test_params_decode(row: AnyMethod, full: bool) -> None:
    """Params with only required fields and with all fields are accepted; an unknown field is not."""
    params = sample(row.params, full=full)
    take(row.params, params)
    assert refuse(row.params, params | {"unknown_field": 1}) == "$.params.unknown_field"


def test_required_params_are_named(row: AnyMethod) -> None:
    """The refusal of a missing param names its path."""
    params = sample(row.params, full=False)
    for name in params:
        rest = {other: value for other, value in params.items() if other != name}
        assert refuse(row.params, rest) == f"$.params.{name}"


@pytest.mark.parametrize("full", [False, True], ids=["least", "full"])
def test_result_survives(row: AnyMethod, full: bool) -> None:
    """A result is unchanged after encoding and decoding."""
    decode = msgspec.json.Decoder(row.result).decode
    encoded = msgspec.json.encode(decode(msgspec.json.encode(sample(row.result, full=full))))
    assert msgspec.json.encode(decode(encoded)) == encoded
