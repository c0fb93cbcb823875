"""A session's messages as people read them."""

import pytest

from kheishd.objects.talk.history import history_of
from kheishd.store.environment import Transaction
from kheishd.store.writer import Store
from protocol.errors.rpc import InvalidParams
from protocol.events.call import ToolReturned
from protocol.events.run import InputReceived, MessageAppended, RunStarted, Steered
from protocol.events.session import SessionCreated, TranscriptImported
from protocol.journal.line import JournalEvent
from protocol.objects.session import Order
from protocol.transcript import Message, Text, ToolCall, ToolResult, Usage, text_of
from tests.support.stores import NOW_MS, update

EVENTS: tuple[JournalEvent, ...] = (
    SessionCreated(agent="default"),
    TranscriptImported(message=Message("user", [Text("imported")]), source_cursor=7),
    InputReceived(input_id="inp_1", items=[Text("asked")], sender="ann"),
    RunStarted(starts=1),
    MessageAppended(
        item_id="itm_1", message=Message("assistant", [ToolCall("c", "t", {})]), stop_reason="tool_calls"
    ),
    Steered(steer_id="str_1", items=[Text("hurry")], sender="bob"),
    ToolReturned(call_id="c", tool="t", how="failed", text="unseen", is_error=True),
    MessageAppended(item_id="itm_2", message=Message("tool", [ToolResult("c", "t", "seen")])),
    MessageAppended(
        item_id="itm_3", message=Message("assistant", [Text("answered")], agent="critic"), usage=Usage(3, 2)
    ),
)


@pytest.fixture
def told(store: Store) -> Store:
    """A store with a session in it, among others."""

    def tell(tx: Transaction) -> None:
        for event in EVENTS:
            tx.append("other", event, session_id="other")
            tx.append("ses", event, session_id="ses", run_id="run_1")

    update(store, tell)
    return store


def test_every_message_says_where_it_stands_and_what_it_cost(told: Store) -> None:
    """Cursor, time, run, item, sender, reason to stop, usage; only messages, and only of this session."""
    with told.read() as snapshot:
        page = history_of(snapshot, "ses", None, 50, "oldest")
    imported, asked, called, steered, failed, returned, answered = page.messages
    assert page.next is None
    assert (imported.message.role, imported.cursor, imported.at_ms) == ("user", 4, NOW_MS)
    assert (asked.sender, asked.run_id, asked.item_id) == ("ann", "run_1", None)
    assert (called.stop_reason, called.item_id) == ("tool_calls", "itm_1")
    assert (steered.message.role, steered.sender, text_of(steered.message.items)) == ("user", "bob", "hurry")
    assert failed.message == Message("tool", [ToolResult("c", "t", "unseen", True)])
    assert returned.message.role == "tool"
    assert (answered.message.agent, answered.usage, answered.cursor) == ("critic", Usage(3, 2), 18)


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_join_in_both_directions(told: Store, order: Order, limit: int) -> None:
    """Each message once, from either end."""
    found: list[str] = []
    after = None
    while True:
        with told.read() as snapshot:
            page = history_of(snapshot, "ses", after, limit, order)
        found += [text_of(message.message.items) for message in page.messages]
        after = page.next
        if after is None:
            break
    expected = ["imported", "asked", "", "hurry", "", "", "answered"]
    assert found == (expected if order == "oldest" else expected[::-1])


def test_a_page_begins_only_where_one_ended(told: Store) -> None:
    """Anything else is refused by its path."""
    with told.read() as snapshot, pytest.raises(InvalidParams):
        history_of(snapshot, "ses", "x", 50, "oldest")
