"""Records of conversations: the newest binding wins, whichever stream holds it."""

from kheishd.records.doctor import examine_whole
from kheishd.records.repair import repair
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.records import Binding
from kheishd.store.tables import CONVERSATIONS, SESSIONS
from kheishd.store.writer import Store
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.session import SessionCreated, SessionEnded
from protocol.journal.line import JournalEvent
from tests.support.stores import NOW_MS, update

ADDRESS = ("default", "ann")
BOUND = ConversationBound(agent="default", sender="ann")
UNBOUND = ConversationUnbound(agent="default", sender="ann")


def write(store: Store, session_id: str, *events: JournalEvent) -> None:
    """Append events to a session; create it if there is none."""

    def change(tx: Transaction) -> None:
        session = tx.get(SESSIONS, session_id)
        writer = SessionWriter(tx, session_id, session=session)
        if session is None:
            writer.append(SessionCreated(agent="default", sender="ann"))
        writer.append_all(list(events))
        writer.write()

    update(store, change)


def bound_to(store: Store) -> str | None:
    """Return the session that the conversation is bound to."""
    with store.read() as snapshot:
        binding = snapshot.get(CONVERSATIONS, *ADDRESS)
    return binding.session_id if binding is not None else None


def findings(store: Store) -> list[str]:
    """Return the doctor's findings."""
    return [finding.message for finding in examine_whole(store.read, deep=True).findings]


def test_the_newest_binding_wins(store: Store) -> None:
    """An ended session loses its conversation to a later one; unbinding the later one leaves none."""
    # The later session's stream comes first in the order of names.
    write(store, "s2", BOUND, SessionEnded())
    assert bound_to(store) == "s2"
    write(store, "s1", BOUND)
    assert (bound_to(store), findings(store)) == ("s1", [])
    write(store, "s1", UNBOUND)
    assert (bound_to(store), findings(store)) == (None, [])


def test_an_older_session_cannot_unbind_it(store: Store) -> None:
    """Unbinding an earlier session leaves the current binding."""
    write(store, "s1", BOUND, SessionEnded())
    write(store, "s2", BOUND)
    write(store, "s1", UNBOUND)
    assert (bound_to(store), findings(store)) == ("s2", [])


def test_a_binding_says_since_when(store: Store) -> None:
    """A binding holds its time, and its cursor, by which bindings of several streams are ordered."""
    write(store, "s1", BOUND)
    with store.read() as snapshot:
        assert snapshot.get(CONVERSATIONS, *ADDRESS) == Binding(
            session_id="s1", bound_at_ms=NOW_MS, bound_cursor=2
        )


def test_a_wrong_binding_is_found_and_mended(store: Store) -> None:
    """The doctor finds a lost, an outdated and a forgotten binding, and a repair mends them."""
    write(store, "s1", BOUND, SessionEnded())
    with store.read() as snapshot:
        older = snapshot.need(CONVERSATIONS, *ADDRESS)
    write(store, "s2", BOUND)
    for damage in (
        lambda tx: tx.delete(CONVERSATIONS, *ADDRESS),
        lambda tx: tx.put(CONVERSATIONS, *ADDRESS, value=older),
    ):
        update(store, damage)
        assert findings(store) == ["conversations default ann differs from the journal"]
        assert repair(store, NOW_MS)[1].findings == []
        assert bound_to(store) == "s2"
    with store.read() as snapshot:
        newer = snapshot.need(CONVERSATIONS, *ADDRESS)
    write(store, "s2", UNBOUND)
    update(store, lambda tx: tx.put(CONVERSATIONS, *ADDRESS, value=newer))
    assert findings(store) == ["conversations default ann has no reason in the journal"]
    repair(store, NOW_MS)
    assert (bound_to(store), findings(store)) == (None, [])
