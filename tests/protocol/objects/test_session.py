"""Sessions: null is everything, empty is nothing, absent is unchanged."""

import msgspec
import pytest
from msgspec import UNSET

from protocol.limits.names import MAX_TITLE_BYTES
from protocol.objects.session import (
    CapabilityScope,
    Session,
    SessionCreate,
    SessionListParams,
    SessionProperties,
    SessionRename,
    SessionSend,
    SessionSettings,
    SessionUpdate,
)
from protocol.objects.transfer import SessionImport
from protocol.rpc.method import Mutation
from tests.support.samples import refuse, sample, take


def test_absent_null_and_empty_differ() -> None:
    """An update leaves absent fields unchanged, unsets null ones and stores empty ones."""
    update = take(SessionUpdate, {"session_id": "s", "route": None, "scope": {"tools": [], "skills": None}})
    assert update.route is None
    assert update.model is UNSET
    assert update.scope == CapabilityScope(tools=[], skills=None)
    assert update.metadata is UNSET


def test_settings_are_properties() -> None:
    """A param of ``session.create`` or ``session.update`` sets the property of the same name.

    The title is no setting: ``session.rename`` changes it.
    """
    settings = set(SessionSettings.__struct_fields__) - set(Mutation.__struct_fields__)
    assert settings == set(SessionProperties.__struct_fields__) - {"title"}


def test_scope_round_trip_keeps_empty_lists() -> None:
    """A scope that allows nothing still allows nothing after encoding."""
    scope = CapabilityScope(tools=[])
    assert msgspec.json.decode(msgspec.json.encode(scope), type=CapabilityScope) == scope
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(scope), type=CapabilityScope) == scope
    assert msgspec.to_builtins(scope) == {"tools": []}


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (SessionCreate, {"session_id": "a b"}, "$.params.session_id"),
        (SessionCreate, {"title": "x" * (MAX_TITLE_BYTES + 1)}, "$.params.title"),
        (SessionCreate, {"permission_mode": "yolo"}, "$.params.permission_mode"),
        (SessionCreate, {"scope": {"tool": []}}, "$.params.scope.tool"),
        (SessionCreate, {"scope": {"tools": "all"}}, "$.params.scope.tools"),
        (SessionUpdate, {}, "$.params.session_id"),
        (SessionUpdate, {"session_id": "s", "metadata": None}, "$.params.metadata"),
        (SessionRename, {"session_id": "s"}, "$.params.title"),
        (SessionSend, {"content": "x"}, "$.params.session_id"),
        (SessionImport, {"lines": []}, "$.params.lines"),
        (SessionImport, {"lines": ["x"] * 1001}, "$.params.lines"),
        (SessionListParams, {"order": "random"}, "$.params.order"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_title_can_be_taken_away() -> None:
    """A null title removes the title; the field is required."""
    assert take(SessionRename, {"session_id": "s", "title": None}).title is None


@pytest.mark.parametrize("full", [False, True])
def test_record_survives_the_store(full: bool) -> None:
    """A session is the same after MessagePack, in which it is kept, and JSON, in which it is shown."""
    session = msgspec.convert(sample(Session, full=full), Session)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(session), type=Session) == session
    assert msgspec.json.decode(msgspec.json.encode(session), type=Session) == session


def test_record_of_a_later_version_is_read() -> None:
    """An unknown field is ignored."""
    data = sample(Session, full=True) | {"added_later": [1]}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(data), type=Session).session_id == "x"
