"""Identities in decoded values."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from kheishd.core.text.identities import find_identities, find_secret
from kheishd.core.text.scrub import Scrubber
from protocol.ids import IDENTITY, PLAIN_TEXT, Id
from protocol.objects.definition import DefinitionPut
from protocol.objects.mcp import McpServerPut
from protocol.objects.permission import PermissionUpdate
from protocol.objects.route import RoutePut
from protocol.objects.session import SessionCreate, SessionSend
from protocol.objects.trigger import TriggerCreate
from protocol.rpc.catalogue import METHODS

SECRET = "alexandra"


class Sample(Struct):
    """One field of each kind."""

    name: Id | None = None
    names: Annotated[list[str], Meta(extra=IDENTITY)] = []
    by_name: dict[Id, str] = {}
    short: Annotated[str, Meta(max_length=128)] = ""
    subject: Annotated[str, Meta(max_length=128, extra=PLAIN_TEXT)] = ""
    text: str = ""
    inner: "Sample | None" = None


def test_identities_follow_from_types() -> None:
    """Patterns, short limits and marks make an identity; free text is none."""
    value = Sample("a", ["b", "c"], {"d": "x"}, "e", "x", "x", Sample("f"))
    assert list(find_identities(Sample, value)) == [
        ("$.name", "a"),
        ("$.names[0]", "b"),
        ("$.names[1]", "c"),
        ("$.by_name", "d"),
        ("$.short", "e"),
        ("$.inner.name", "f"),
        ("$.inner.short", ""),
    ]


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (SessionSend, {"session_id": "s", "sender": SECRET, "content": "x"}, "$.sender"),
        (SessionCreate, {"agent": f"a {SECRET}"}, "$.agent"),
        (SessionCreate, {"scope": {"tools": [SECRET]}}, "$.scope.tools[0]"),
        (
            PermissionUpdate,
            {"session_id": "s", "remove": [{"tool": "shell", "subject": f"{SECRET}*"}]},
            "$.remove[0].subject",
        ),
        (
            RoutePut,
            {"route_id": "r", "settings": {"model": "m", "base_url": f"http://{SECRET}"}},
            "$.settings.base_url",
        ),
        (McpServerPut, {"server": "s", "settings": {"command": ["x", SECRET]}}, "$.settings.command[1]"),
        (DefinitionPut, {"name": SECRET, "text": "x"}, "$.name"),
        (TriggerCreate, {"source": f"{SECRET}*", "target": {"session_id": "s", "prompt": "x"}}, "$.source"),
    ],
)
def test_a_secret_in_an_identity(kind: Any, params: dict[str, Any], field: str) -> None:
    """Each name, rule and address of a request is one."""
    assert find_secret(kind, msgspec.convert(params, kind), Scrubber([SECRET]), "$") == field


def test_free_text_is_no_identity() -> None:
    """A secret in a text, a title or a key of a repeated request is redacted."""
    params = {"session_id": "s", "content": SECRET, "metadata": {"note": SECRET}, "idempotency_key": SECRET}
    assert find_secret(SessionSend, msgspec.convert(params, SessionSend), Scrubber([SECRET]), "$") is None


def test_senders_and_agents_are_identities() -> None:
    """No method takes a sender or an agent as free text."""
    names = ("sender", "agent", "senders", "agents", "name")
    for name, method in METHODS.items():
        for field in msgspec.structs.fields(method.params):
            if method.kind == "mutation" and field.encode_name in names:
                value = [SECRET] if field.encode_name.endswith("s") else SECRET
                assert list(find_identities(field.type, value)), f"{name}.{field.encode_name}"
