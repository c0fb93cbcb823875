"""The envelope of every event."""

import msgspec
import pytest

from protocol.journal.envelope import Envelope, Event


def test_an_envelope_says_only_what_there_is_to_say() -> None:
    """An envelope always has cursor and time, and the actor unless it is the daemon."""
    assert msgspec.json.encode(Envelope(cursor=1, at_ms=2)) == b'{"cursor":1,"at_ms":2}'
    by = Envelope(cursor=1, at_ms=2, actor="uid:0", cause=0)
    assert msgspec.json.decode(msgspec.json.encode(by)) == {
        "cursor": 1,
        "at_ms": 2,
        "actor": "uid:0",
        "cause": 0,
    }


def test_what_happened_does_not_change() -> None:
    """Envelopes and events are immutable."""

    class Landed(Event, frozen=True, tag="landed"):
        planet: str

    with pytest.raises(AttributeError):
        Landed(planet="x").planet = "y"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Envelope(cursor=1, at_ms=2).cursor = 3  # type: ignore[misc]
    assert msgspec.json.encode(Landed(planet="x")) == b'{"type":"landed","planet":"x"}'
