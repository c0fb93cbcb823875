"""Events about what models are shown: part of the journal's union, with the least there is to say."""

from typing import get_args

from protocol.context import CompactionFailed, CompactStrategy, CompactTrigger, ContextCompacted
from protocol.events import Envelope, decode_event, encode_line
from protocol.objects.run import RunError

ENVELOPE = Envelope(cursor=9, at_ms=1)


def test_every_strategy_and_trigger_is_read_back() -> None:
    """As what it was written as."""
    for strategy in get_args(CompactStrategy):
        for trigger in get_args(CompactTrigger):
            event = ContextCompacted(upto=3, strategy=strategy, trigger=trigger)
            assert decode_event(encode_line(ENVELOPE, event)) == event


def test_a_failure_says_why() -> None:
    """And what it was that failed."""
    failed = CompactionFailed(trigger="auto", error=RunError("empty", "the model said nothing"))
    assert decode_event(encode_line(ENVELOPE, failed)) == failed
