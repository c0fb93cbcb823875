"""Messages of a session, as people read them."""

from collections.abc import Iterable
from functools import partial

import pytest
from msgspec.structs import replace

from kheishd.core.context.transcript import Transcript
from kheishd.core.run.record import RunRecord
from kheishd.objects.talk.history import read_history
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS
from kheishd.store.writer import Store
from protocol.errors.rpc import InvalidParams
from protocol.events.call import ToolReturned
from protocol.events.run import (
    InputReceived,
    MessageAppended,
    ModelAsked,
    RunAccepted,
    RunEnded,
    RunStarted,
    Steered,
)
from protocol.events.session import SessionCreated, TranscriptImported
from protocol.journal.line import JournalEvent, decode_envelope, decode_event
from protocol.objects.run import Pinned
from protocol.objects.session import HistoryMessage, Order, Session, SessionHistoryParams
from protocol.transcript import (
    InputItem,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
    VisibleCall,
    VisibleMessage,
    VisibleThinking,
    text_of,
)
from tests.support.household import (
    Household,
    pages,
    require_conversation_not_found,
    require_limited,
    require_sender_invalid,
    require_session_not_found,
)
from tests.support.stores import NOW_MS, update

SESSION = Session(session_id="ses", agent="default", status="open", created_at_ms=0, updated_at_ms=0)

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
def filled(store: Store) -> Store:
    """Fill a store with the events of two sessions."""

    def tell(tx: Transaction) -> None:
        for event in EVENTS:
            tx.append("other", event, session_id="other")
            tx.append("ses", event, session_id="ses", run_id="run_1")

    update(store, tell)
    return store


def test_history_messages(filled: Store) -> None:
    """A message has its cursor, time, run, item, sender, stop reason and usage; other events are left out."""
    with filled.read() as snapshot:
        page = read_history(snapshot, SESSION, SessionHistoryParams(session_id="ses"))
    imported, received, called, failed, returned, answered, steered = page.messages
    assert page.next is None
    assert (imported.message.role, imported.cursor, imported.at_ms) == ("user", 4, NOW_MS)
    assert (received.sender, received.run_id, received.item_id) == ("ann", "run_1", None)
    assert (called.stop_reason, called.item_id) == ("tool_calls", "itm_1")
    assert (steered.message.role, steered.sender, text_of(steered.message.items)) == ("user", "bob", "hurry")
    assert failed.message == VisibleMessage("tool", [ToolResult("c", "t", "unseen", True)])
    assert returned.message.role == "tool"
    assert (answered.message.agent, answered.usage, answered.cursor) == ("critic", Usage(3, 2), 18)


def test_history_shows_no_provider_data(store: Store) -> None:
    """Data that a provider attached, and signatures, are stored but not shown."""
    data = ProviderData("openai api.test gpt", "c", {"reasoning_details": ["opaque"]})
    items: list[Item] = [Thinking("hm", "opaque"), ToolCall("c", "t", {}, provider_data=data)]
    event = MessageAppended(item_id="itm", message=Message("assistant", items, provider_data=data))
    update(store, lambda tx: tx.append("ses", event, session_id="ses"))
    with store.read() as snapshot:
        page = read_history(snapshot, SESSION, SessionHistoryParams(session_id="ses"))
    (shown,) = page.messages
    assert shown.message == VisibleMessage("assistant", [VisibleThinking("hm"), VisibleCall("c", "t", {})])


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_join_in_both_directions(filled: Store, order: Order, limit: int) -> None:
    """Each message is on one page, from either end."""
    messages: list[str] = []
    token = None
    while True:
        with filled.read() as snapshot:
            page = read_history(
                snapshot,
                SESSION,
                SessionHistoryParams(session_id="ses", after=token, limit=limit, order=order),
            )
        messages += [text_of(message.message.items) for message in page.messages]
        token = page.next
        if token is None:
            break
    expected = ["imported", "asked", "", "", "", "answered", "hurry"]
    assert messages == (expected if order == "oldest" else expected[::-1])


def test_a_page_begins_only_where_one_ended(filled: Store) -> None:
    """Only the ``next`` of a page is a page token."""
    with filled.read() as snapshot, pytest.raises(InvalidParams):
        read_history(snapshot, SESSION, SessionHistoryParams(session_id="ses", after="x"))


async def test_conversation_history_ok(house: Household) -> None:
    """The messages of an address are read from either end, in pages."""
    for text in ("one", "two"):
        await house.ask(text)
    texts = ["one", "You said: one", "two", "You said: two"]
    for order, expected in (("oldest", texts), ("newest", texts[::-1])):
        for limit in (1, 3, 50):
            rows = await pages(house.client, "conversation.history", "messages", order=order, limit=limit)
            assert [row["message"]["items"][0]["text"] for row in rows] == expected


async def test_conversation_history_conversation_not_found(idle: Household) -> None:
    """An address without a conversation is refused."""
    await require_conversation_not_found(idle, "conversation.history")


async def test_conversation_history_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    await require_limited(idle, "conversation.history")


async def test_conversation_history_sender_forbidden(idle: Household) -> None:
    """The caller's token does not cover the sender."""
    await require_limited(idle, "conversation.history")


async def test_conversation_history_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    await require_sender_invalid(idle, "conversation.history")


async def test_session_history_ok(house: Household) -> None:
    """Every message has its run, its sender and its cost."""
    sent = await house.ask("one", sender="ann")
    page = await house.call("session.history", session_id=sent["session_id"])
    question, answer = page["messages"]
    assert (question["sender"], question["run_id"]) == ("ann", sent["run_id"])
    assert (answer["stop_reason"], answer["usage"]["input_tokens"]) == ("end", 1)
    assert page["next"] is None


async def test_session_history_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.history")


# The order in which the model reads.


def text(value: str) -> list[InputItem]:
    """Return an input of one text."""
    return [Text(value)]


def accept(number: int) -> list[tuple[str, JournalEvent]]:
    """Return the events that accept a run with an input."""
    run_id = f"run_{number}"
    received = InputReceived(input_id=f"inp_{number}", items=text(f"question {number}"))
    pinned = Pinned(route="r", driver="d", model="m")
    return [(run_id, received), (run_id, RunAccepted(f"inp_{number}", "default", pinned))]


def answer(run: int, *items: Item) -> tuple[str, JournalEvent]:
    """Return the event of an answer."""
    message = Message("assistant", list(items) or [Text(f"answer {run}")])
    return (f"run_{run}", MessageAppended(item_id="itm", message=message))


def returned(run: int, call_id: str) -> tuple[str, JournalEvent]:
    """Return the event of a call's result."""
    return (f"run_{run}", ToolReturned(call_id=call_id, tool="t", how="returned", text=f"result {call_id}"))


CALLS = (ToolCall("a", "t", {}), ToolCall("b", "t", {}), ToolCall("c", "t", {}))

BUSY: tuple[tuple[str, JournalEvent], ...] = (
    *accept(1),
    ("run_1", RunStarted(starts=1)),
    ("run_1", ModelAsked("itm", 1, 1)),
    *accept(2),
    answer(1, Text("I call"), *CALLS),
    returned(1, "c"),
    ("run_1", Steered(steer_id="str_1", items=text("hurry"))),
    *accept(3),
    returned(1, "a"),
    # The daemon was restarted meanwhile.
    ("run_1", RunStarted(starts=2)),
    returned(1, "b"),
    ("run_1", ModelAsked("itm", 2, 1)),
    ("run_3", RunEnded("cancelled")),
    *accept(4),
    ("run_1", Steered(steer_id="str_2", items=text("stop"))),
    ("run_1", RunEnded("cancelled")),
    ("run_2", RunStarted(starts=1)),
    ("run_2", ModelAsked("itm", 1, 1)),
    answer(2),
    ("run_2", RunEnded("completed")),
)


def read_all(store: Store, record: Session, order: Order, limit: int) -> list[HistoryMessage]:
    """Return all pages of a history, joined."""
    messages: list[HistoryMessage] = []
    token = None
    while True:
        with store.read() as snapshot:
            params = SessionHistoryParams(session_id="ses", after=token, limit=limit, order=order)
            page = read_history(snapshot, record, params)
        assert len(page.messages) <= limit
        messages += page.messages
        token = page.next
        if token is None:
            return messages


def text_of_all(messages: Iterable[Message | VisibleMessage]) -> list[str]:
    """Return the texts and results of messages, in order; each result counts as one."""
    return [
        item.text for message in messages for item in message.items if isinstance(item, Text | ToolResult)
    ]


def tell_event(tx: Transaction, run_id: str, event: JournalEvent) -> None:
    """Append an event of a run."""
    tx.append("ses", event, session_id="ses", run_id=run_id)


@pytest.mark.parametrize("events", range(2, len(BUSY) + 1))
def test_the_order_is_that_of_the_models_transcript(store: Store, events: int) -> None:
    """At any time the history is what the model has read, in its order, and then what it has not."""
    transcript = Transcript()
    for run_id, event in BUSY[:events]:
        update(store, partial(tell_event, run_id=run_id, event=event))
        with store.read() as snapshot:
            (_, line), *_ = snapshot.entries("ses", reverse=True)
            transcript.fold(decode_envelope(line), decode_event(line))
    read = text_of_all(transcript.messages)
    history = read_all(store, SESSION, "oldest", 50)
    shown = text_of_all(message.message for message in history)
    # Results of calls of which others are running follow the transcript, and so do steers.
    assert shown[: len(read)] == read
    for limit in (1, 2, 3):
        assert read_all(store, SESSION, "oldest", limit) == history
        assert read_all(store, SESSION, "newest", limit) == history[::-1]


def test_queued_and_cancelled_inputs_are_unread(store: Store) -> None:
    """Inputs of queued runs come last; an input whose run was cancelled in the queue says so."""

    def tell(tx: Transaction) -> None:
        cursors: dict[str, int] = {}
        for run_id, event in BUSY[:-4]:
            tx.append("ses", event, session_id="ses", run_id=run_id)
            if isinstance(event, RunAccepted):
                cursors[run_id] = tx.last_cursor
        for number in (1, 2, 3, 4):
            run = RunRecord(
                run_id=f"run_{number}",
                session_id="ses",
                agent="default",
                input_id=f"inp_{number}",
                status="queued",
                accepted_cursor=cursors[f"run_{number}"],
                updated_cursor=tx.last_cursor,
                accepted_at_ms=0,
                updated_at_ms=0,
                starts=int(number == 1),
            )
            tx.put(RUNS, f"run_{number}", value=run)

    update(store, tell)
    record = replace(SESSION, open_runs=["run_2", "run_4"])
    history = read_all(store, record, "oldest", 2)
    unread = [text_of(message.message.items) for message in history if message.unread]
    assert unread == ["question 3", "question 2", "question 4"]
    assert [text_of(message.message.items) for message in history[-2:]] == ["question 2", "question 4"]
    assert read_all(store, record, "newest", 1) == history[::-1]
