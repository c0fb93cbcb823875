"""Events on the bus: patterns, conditions on payloads, and the rights to publish."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core import event
from kheishd.records.event import PUBLICATION_RECORDS
from protocol.errors.event import EventSourceReserved
from protocol.events.event import EventDelivered, EventPublished
from tests.support.records import fold_record

SOURCES = st.text("ab:.", min_size=1, max_size=6)


@given(st.text("ab:.", max_size=4), SOURCES)
def test_patterns(beginning: str, source: str) -> None:
    """A pattern matches itself, and with a star every source that begins so."""
    assert event.matches(f"{beginning}*", source) == (source[: len(beginning)] == beginning)
    assert event.matches(source, source)
    assert event.matches(beginning or "c", source) == (beginning == source)


@pytest.mark.parametrize(
    ("conditions", "payload", "expected"),
    [
        ({}, None, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": "x"}, ["a"], False),
        ({"a": "x", "b": "y"}, {"a": "x"}, False),
    ],
)
def test_conditions(conditions: dict[str, Any], payload: Any, expected: bool) -> None:
    """A payload has every value, of the same type; only an object has fields."""
    assert event.passes(conditions, payload) == expected


@given(st.text("abd:one", min_size=1, max_size=12), st.text("abd:one", min_size=1, max_size=12), SOURCES)
def test_no_agent_publishes_as_another_one(name: str, other: str, topic: str) -> None:
    """Whatever the names and topics are, two agents never share a source, nor use that of a run's end."""
    try:
        source = event.agent_source(name, topic)
    except EventSourceReserved:
        return
    assert source != event.done_source(other)
    if name != other:
        for topics in (topic, topic.rpartition(":")[2]):
            try:
                assert source != event.agent_source(other, topics)
            except EventSourceReserved:
                pass


@pytest.mark.parametrize(
    ("source", "token_id", "allowed"),
    [
        ("ci.build", None, True),
        ("agent:default:done", None, False),
        ("token:tok_1:x", None, False),
        ("token:tok_1:x", "tok_1", True),
        ("token:tok_12:x", "tok_1", False),
        ("token:tok_1", "tok_1", False),
        ("ci.build", "tok_1", False),
        ("agent:default:x", "tok_1", False),
    ],
)
def test_reserved_sources(source: str, token_id: str | None, allowed: bool) -> None:
    """No client publishes as an agent; a limited token only as itself, and nobody else as it."""
    if allowed:
        event.require_publishable(source, token_id)
    else:
        with pytest.raises(EventSourceReserved) as caught:
            event.require_publishable(source, token_id)
        assert caught.value.field == "$.params.source"


def test_deliveries_are_counted() -> None:
    """The record adds the numbers of all steps, and forgets the position at the end."""
    published = EventPublished(event_id="e", source="s", publisher="uid:0", hops=2, matched=True)
    step = EventDelivered(event_id="e", position=["exact", "s", "t"], delivered=2, held=1)
    record = fold_record(PUBLICATION_RECORDS, published, step)
    assert (record.status, record.position, record.hops) == ("open", ["exact", "s", "t"], 2)
    last = EventDelivered(event_id="e", done=True, delivered=1, refused=3, stopped=4, note="n")
    record = fold_record(PUBLICATION_RECORDS, published, step, last)
    assert (record.status, record.position, record.note) == ("done", [], "n")
    assert (record.delivered, record.held, record.refused, record.stopped) == (3, 1, 3, 4)


@pytest.mark.parametrize(
    ("pattern", "conditions", "words"),
    [
        ("ci.build", {}, None),
        ("*", {}, None),
        ("agent:*", {}, None),
        ("agent:re*", {}, None),
        ("agent:reviewer:*", {}, None),
        ("agent:reviewer:do*", {}, None),
        ("agent:reviewer:done", {"status": "failed"}, None),
        ("agent:reviewer:news", {"colour": "red"}, None),
        ("agent:nobody:done", {}, "no agent 'nobody'"),
        ("agent:nobody:*", {}, "no agent's name fits"),
        ("agent:reviewer", {}, "did you mean 'agent:reviewer:*'?"),
        ("agent:reviewer:", {}, "did you mean 'agent:reviewer:*'?"),
        ("agent:reviewer:done", {"state": "failed"}, "no field 'state'"),
        ("agent:reviewer:done", {"status": "done"}, "no run ends as 'done'"),
    ],
)
def test_patterns_that_no_event_can_match(pattern: str, conditions: Any, words: str | None) -> None:
    """Sources of agents that do not exist, and fields that a run's end does not have, are named."""
    warning = event.find_dead_pattern(pattern, conditions, ("reviewer", "default"))
    assert (warning is None) == (words is None), warning
    assert (words or "") in (warning or "")
