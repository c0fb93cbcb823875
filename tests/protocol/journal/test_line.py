"""Journal lines: every released format is read, and the present one is written canonically."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from protocol.events.run import InputReceived, RunStarted
from protocol.events.session import SessionUpdated
from protocol.journal.envelope import Envelope, Event
from protocol.journal.line import (
    EVENT_TYPES,
    TAG_VALUES,
    JournalEvent,
    Unknown,
    decode_envelope,
    decode_event,
    encode_line,
)
from protocol.journal.upgrade import TAGS
from protocol.rpc.catalogue import METHODS
from protocol.transcript import Text

CORPUS = Path(__file__).parents[1] / "corpus"
OLD = (CORPUS / "format-1.jsonl").read_bytes().splitlines()
LINES = (CORPUS / "format-2.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("line", LINES, ids=lambda line: json.loads(line)["type"])
def test_lines_are_read_and_written_as_they_were(line: bytes) -> None:
    """A line of the present format decodes as an event of its type and encodes to the same bytes."""
    envelope, event = decode_envelope(line), decode_event(line)
    assert not isinstance(event, Unknown)
    assert event.__struct_config__.tag == json.loads(line)["type"]
    assert encode_line(envelope, event) == line


@pytest.mark.parametrize(
    ("old", "line"),
    # Later lines of the present format have fields that format 1 did not have.
    [*zip(OLD, LINES[: len(OLD)], strict=True)],
    ids=lambda line: json.loads(line)["type"],
)
def test_old_lines_are_read(old: bytes, line: bytes) -> None:
    """A line of format 1 decodes as the same event as its line in the present format."""
    assert decode_event(old) == decode_event(line)
    assert decode_envelope(old) == decode_envelope(line)


def test_corpus_has_every_type() -> None:
    """The corpus of the present format has each type twice: with every field, and with the least."""
    types = [json.loads(line)["type"] for line in LINES]
    assert set(types) == EVENT_TYPES
    assert all(types.count(name) >= 2 for name in EVENT_TYPES)


def test_corpus_has_every_field() -> None:
    """Every field of every event occurs in the corpus."""
    seen: dict[str, set[str]] = {}
    for line in LINES:
        fields = json.loads(line)
        seen.setdefault(fields["type"], set()).update(fields)
    for variant in JournalEvent.__args__:
        missing = set(variant.__struct_encode_fields__) - seen[str(variant.__struct_config__.tag)]
        assert not missing, (variant, missing)


@pytest.mark.parametrize("line", LINES[::2], ids=lambda line: json.loads(line)["type"])
def test_fields_of_later_versions_are_passed_over(line: bytes) -> None:
    """An unknown field is ignored."""
    longer = line[:-1] + b',"added_later":{"a":[1]}}'
    assert decode_event(longer) == decode_event(line)
    assert decode_envelope(longer) == decode_envelope(line)


def test_unknown_type() -> None:
    """An event of an unknown type decodes as Unknown, never as an error."""
    line = b'{"cursor":9,"at_ms":1,"type":"planet_landed","planet":{"name":"x"}}'
    assert decode_event(line) == Unknown("planet_landed")
    assert decode_envelope(line).cursor == 9


@pytest.mark.parametrize(
    "line",
    [
        b'{"cursor":9,"at_ms":1,"type":"run_started"}',
        b'{"cursor":9,"at_ms":1,"type":"run_started","start":"one"}',
        b'{"cursor":9,"at_ms":1}',
        b'{"cursor":9,"at_ms":1,"type":5}',
        b"[]",
        b"",
        b"not json",
    ],
)
def test_damaged_line(line: bytes) -> None:
    """A known type with a wrong shape is an error."""
    with pytest.raises(msgspec.DecodeError):
        decode_event(line)


def test_damaged_envelope() -> None:
    """A line without cursor or time is an error."""
    with pytest.raises(msgspec.DecodeError):
        decode_envelope(b'{"type":"run_started","start":1}')


def test_a_line_is_flat() -> None:
    """The format comes first, then the fields of the envelope, the type of the event and its fields."""
    line = encode_line(Envelope(cursor=3, at_ms=5, run_id="r"), RunStarted(starts=1))
    assert line == (b'{"format":2,"cursor":3,"at_ms":5,"run_id":"r","type":"run_started","starts":1}')


def test_no_field_is_said_twice() -> None:
    """No event has a field of the envelope, because one line holds both."""
    envelope = set(Envelope.__struct_encode_fields__) | {"type"}
    for variant in JournalEvent.__args__:
        assert not envelope & set(variant.__struct_encode_fields__), variant


def test_events_are_named_in_the_past_tense() -> None:
    """Class and type of an event are the same name, in the past tense."""
    for variant in JournalEvent.__args__:
        tag = str(variant.__struct_config__.tag)
        assert tag.replace("_", "") == variant.__name__.lower()
        assert tag.rsplit("_", 1)[-1] in {"bound", "set", "unbound", "written"} or tag.endswith("ed"), tag
        assert variant.__doc__
        assert variant.__struct_config__.frozen


def test_events_of_the_union_are_all() -> None:
    """The union contains every declared event."""
    assert set(Event.__subclasses__()) == set(JournalEvent.__args__)


def test_empty_is_not_null() -> None:
    """An empty list and null stay different."""
    updated = SessionUpdated(changes={"scope": {"tools": []}, "route": None})
    line = encode_line(Envelope(cursor=1, at_ms=1), updated)
    assert decode_event(line) == updated
    assert json.loads(line)["changes"] == {"scope": {"tools": []}, "route": None}


@given(st.text(), st.one_of(st.none(), st.text(), st.integers()), st.text())
def test_any_text_survives(text: str, request_id: str | int | None, sender: str) -> None:
    """Any text is written on one line and read back unchanged."""
    event = InputReceived(input_id="i", items=[Text(text)], sender=sender)
    envelope = Envelope(cursor=1, at_ms=1, request_id=request_id)
    line = encode_line(envelope, event)
    assert b"\n" not in line
    assert (decode_envelope(line), decode_event(line)) == (envelope, event)


def find_literals(kind: Any) -> Iterator[str]:
    """Yield the texts of the literals in a type."""
    for argument in get_args(kind):
        if get_origin(kind) is Literal:
            yield str(argument)
        else:
            yield from find_literals(argument)


def test_the_values_of_tags_are_known() -> None:
    """Every value of a field that names a variant is known: redaction exempts these, and no others."""
    assert METHODS, "the catalogue imports every object"
    structs = Struct.__subclasses__()
    for struct in structs:
        structs += struct.__subclasses__()
    values: dict[str, set[str]] = {"type": set(TAGS)}
    for struct in structs:
        if not struct.__module__.startswith("protocol.") or struct is Event:
            continue
        config = struct.__struct_config__
        if isinstance(config.tag, str) and config.tag_field is not None:
            values.setdefault(config.tag_field, set()).add(config.tag)
        hints = get_type_hints(struct) if TAG_VALUES.keys() & set(struct.__struct_fields__) else {}
        for name, kind in hints.items():
            if name in TAG_VALUES:
                values.setdefault(name, set()).update(find_literals(kind))
    assert values == TAG_VALUES
