"""Records of the event bus: index rows, and finding the listeners of a source."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core.event import listener_key, matches
from kheishd.records.event import (
    PUBLICATION_RECORDS,
    TRIGGER_RECORDS,
    find_listeners,
    find_patterns,
    has_listener,
    is_followed,
)
from kheishd.store.environment import Transaction
from kheishd.store.tables import BUS_LISTENERS
from protocol.events.event import EventDelivered, EventPublished
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerFired
from protocol.objects.wake import WakeTarget
from tests.support.records import index_rows
from tests.support.stores import open_inline, update

PUBLISHED = EventPublished(event_id="e", source="s", publisher="uid:0", matched=True)
CREATED = TriggerCreated(
    trigger_id="t",
    author="agent",
    owner_session="ses",
    source="s*",
    target=WakeTarget(session_id="ses", prompt="p"),
)


def test_open_events_are_listed() -> None:
    """An event without listeners is done at once, one with listeners after its last delivery."""
    assert index_rows(PUBLICATION_RECORDS, PUBLISHED) == {"bus_fanout": [(1,)]}
    assert index_rows(PUBLICATION_RECORDS, PUBLISHED, EventDelivered(event_id="e", done=True)) == {}
    unwanted = EventPublished(event_id="e", source="s", publisher="uid:0")
    assert index_rows(PUBLICATION_RECORDS, unwanted) == {}


def test_rows_of_triggers() -> None:
    """A paused trigger listens to nothing; one that holds events is due, one with a problem is listed."""
    listed = {"records_by_session": [("ses", "trigger", 1)]}
    assert index_rows(TRIGGER_RECORDS, CREATED) == {"bus_listeners": [("prefix", "s", "t")]} | listed
    of_file = replace(CREATED, author="file", owner_session=None)
    assert index_rows(TRIGGER_RECORDS, of_file)["triggers_of_file"] == [("t",)]
    pause = TriggerChanged(trigger_id="t", status="paused")
    assert index_rows(TRIGGER_RECORDS, CREATED, pause) == listed
    held = TriggerFired(
        trigger_id="t", event_id="e", event_cursor=7, outcome="held", due_at_ms=5, note="full"
    )
    rows = index_rows(TRIGGER_RECORDS, CREATED, held)
    assert (rows["triggers_due"], rows["triggers_troubled"]) == ([(5, "t")], [("t",)])


PATTERNS = st.lists(
    st.text("ab.", min_size=1, max_size=5) | st.text("ab.", max_size=4).map(lambda text: f"{text}*"),
    max_size=12,
)


def test_listeners_are_those_of_the_naive_definition(tmp_path: Path) -> None:
    """The index finds exactly the patterns that match, each listener once, and continues anywhere."""
    store = open_inline(tmp_path)

    @settings(max_examples=60, deadline=None)
    @given(patterns=PATTERNS, source=st.text("ab.", min_size=1, max_size=6), cut=st.integers(0, 12))
    def check_all(patterns: list[str], source: str, cut: int) -> None:
        expected = sorted(str(number) for number, pattern in enumerate(patterns) if matches(pattern, source))

        def check(tx: Transaction) -> None:
            for key, _ in list(tx.scan(BUS_LISTENERS)):
                tx.delete(BUS_LISTENERS, *key)
            for number, pattern in enumerate(patterns):
                tx.put(BUS_LISTENERS, *listener_key(pattern), str(number), value=b"")
            listeners = list(find_listeners(tx, source, []))
            assert sorted(key[2] for key in listeners) == expected
            assert has_listener(tx, source) == bool(expected)
            assert len(set(find_patterns(tx, source))) == len(list(find_patterns(tx, source)))
            if cut < len(listeners):
                assert list(find_listeners(tx, source, listeners[cut])) == listeners[cut + 1 :]
                # The listener at the position may be gone by then.
                tx.delete(BUS_LISTENERS, *listeners[cut])
                assert list(find_listeners(tx, source, listeners[cut])) == listeners[cut + 1 :]

        update(store, check)

    check_all()
    store.close()


def test_followers(tmp_path: Path) -> None:
    """A follower is found by its pattern until it leaves; two with one pattern are two."""
    store = open_inline(tmp_path)
    for pattern in ("a*", "a*", "b"):
        store.followers.add(pattern)
    store.followers.remove("a*")
    with store.read() as snapshot:
        assert [is_followed(snapshot, source) for source in ("ax", "b", "bx")] == [True, True, False]
    store.followers.remove("a*")
    with store.read() as snapshot:
        assert not is_followed(snapshot, "ax")
    store.close()
