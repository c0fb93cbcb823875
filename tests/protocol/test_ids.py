"""Identifiers sort by the time they were made, and look as they are said to."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import ids
from protocol.ids import Cursor, Id, explain_shape, make_id
from protocol.objects.event import EventPattern, EventSource
from protocol.objects.hook import HookName
from protocol.objects.mcp import ServerName
from protocol.objects.permission import Pattern
from protocol.objects.secret import SlotId

MOMENTS = st.integers(0, 2**48 - 1)
CHANCE = st.binary(min_size=10, max_size=10)


@given(MOMENTS, MOMENTS, CHANCE, CHANCE)
def test_ids_sort_by_time(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    """Of two ids, the one made in the earlier millisecond sorts first, as text and as bytes."""
    first, second = make_id(ids.RUN, one_ms, one), make_id(ids.RUN, other_ms, other)
    if one_ms != other_ms:
        assert (first < second) == (one_ms < other_ms)
        assert (first.encode() < second.encode()) == (one_ms < other_ms)
    assert (first == second) == ((one_ms, one) == (other_ms, other))


@given(MOMENTS, CHANCE)
def test_ids_have_the_shape_that_is_promised(at_ms: int, chance: bytes) -> None:
    """A prefix and 26 characters, which an ``Id`` takes."""
    made = make_id(ids.SESSION, at_ms, chance)
    assert re.fullmatch(r"ses_[0-9A-V]{26}", made)
    assert msgspec.convert(made, Id) == made


def test_prefixes_differ() -> None:
    """Each kind of thing has a prefix of its own."""
    prefixes = [ids.SESSION, ids.RUN, ids.INPUT, ids.ITEM, ids.TOKEN, ids.SUBSCRIPTION]
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize("chance", [b"", b"123456789", b"12345678901"])
def test_randomness_has_ten_bytes(chance: bytes) -> None:
    """Less would collide, more would not fit."""
    with pytest.raises(ValueError, match="10 bytes"):
        make_id(ids.RUN, 0, chance)


def test_time_beyond_the_id() -> None:
    """A time that six bytes do not hold (the year 10889) is an error, not a wrong order."""
    with pytest.raises(OverflowError):
        make_id(ids.RUN, 2**48, b"0123456789")


@pytest.mark.parametrize("chosen", ["a", "A-1._:z", "x" * 128])
def test_chosen_id(chosen: str) -> None:
    """A caller may choose an id of plain characters."""
    assert msgspec.convert(chosen, Id) == chosen


@pytest.mark.parametrize("chosen", ["", "x" * 129, "a b", "a/b", "é", "a\n", "a\x00"])
def test_chosen_id_refused(chosen: str) -> None:
    """Anything that a path, a key or a terminal could trip over is refused."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(chosen, Id)


def test_cursor_is_not_negative() -> None:
    """Cursors count from 1; 0 is before the first."""
    assert msgspec.convert(0, Cursor) == 0
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(-1, Cursor)


@pytest.mark.parametrize("shape", [Id, EventSource, EventPattern, ServerName, Pattern, SlotId, HookName])
def test_shapes_have_words(shape: object) -> None:
    """An error about a constrained string names its shape in words, and no pattern."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert("\n", shape)
    text = explain_shape(str(caught.value))
    assert text.startswith("Expected ")
    assert "regex" not in text
