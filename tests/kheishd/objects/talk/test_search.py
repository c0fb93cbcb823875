"""``session.search`` over the socket, and its index."""

from pathlib import Path
from typing import Any

import pytest

from kheishd.objects.talk import search as room
from kheishd.objects.talk.search import index_step
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import MESSAGE_POSTINGS, SEARCH_TOTALS
from protocol.errors.conversation import SenderForbidden
from protocol.errors.definition import AgentForbidden
from protocol.errors.session import SessionNotFound
from protocol.events.run import InputReceived, MessageAppended
from protocol.events.session import SessionCreated
from protocol.limits.memory import MAX_SEARCHED_CHARACTERS
from protocol.limits.session import MAX_INPUT_BYTES
from protocol.transcript import Message, Text
from tests.support.histories import spoil_line
from tests.support.household import Household, refusal_of, require_session_not_found
from tests.support.stores import open_inline, update


async def search(house: Household, query: str, **params: Any) -> list[Any]:
    """Return the messages that fit a query."""
    result = await house.call("session.search", query=query, **params)
    assert result["unindexed_events"] == 0
    messages: list[Any] = result["messages"]
    return messages


async def test_session_search_ok(house: Household) -> None:
    """Messages of people and agents are found with their place, by agent, sender, session and time."""
    ann = await house.ask("Where do lentils grow?", sender="ann")
    bob = await house.ask("I hate lentils and soup.", sender="bob")
    critic = await house.ask("Lentils!", agent="critic", sender="ann")
    hits = await search(house, "LENTILS grow")
    assert {hit["session_id"] for hit in hits} == {sent["session_id"] for sent in (ann, bob, critic)}
    assert hits[0]["score"] >= hits[-1]["score"]
    (question, answer) = sorted(await search(house, "grow"), key=lambda hit: int(hit["cursor"]))
    assert (question["origin"], question["sender"], question["snippet"]) == (
        "person",
        "ann",
        "Where do lentils grow?",
    )
    assert (answer["author"], answer["run_id"]) == ("default", ann["run_id"])
    page = await house.call("session.history", session_id=ann["session_id"], after=str(answer["cursor"] - 1))
    assert page["messages"][0]["cursor"] == answer["cursor"]
    for params, senders in (
        ({"agent": "critic"}, {"ann"}),
        ({"sender": "bob"}, {"bob"}),
        ({"session_id": bob["session_id"]}, {"bob"}),
        ({"session_id": bob["session_id"], "agent": "critic"}, set()),
        ({"session_id": bob["session_id"], "sender": "ann"}, set()),
        ({"agent": "nobody"}, set()),
    ):
        assert {hit["sender"] for hit in await search(house, "lentils", **params)} == senders
    assert len(await search(house, "lentils", limit=1)) == 1
    at_ms = question["at_ms"]
    assert await search(house, "grow", until_ms=at_ms) == []
    assert len(await search(house, "grow", since_ms=at_ms, until_ms=at_ms + 3_600_000)) == 2
    assert await search(house, "grow", since_ms=at_ms + 3_600_000) == []


async def test_a_token_searches_what_it_covers(house: Household) -> None:
    """A limited caller finds nothing of other agents and senders, however many there are."""
    await house.ask("My secret: lentils.", sender="ann")
    await house.ask("lentils", agent="critic", sender="bob")
    for number in range(3):
        await house.ask(f"lentils {number}", sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    critic = await house.connect_limited(agents=["critic"])
    nobody = await house.connect_limited(agents=["critic"], senders=["ann"])
    for client, covered in ((ann, {("default", "ann")}), (critic, {("critic", "bob")}), (nobody, set())):
        result = await client.call("session.search", query="lentils")
        assert {(hit["agent"], hit["sender"]) for hit in result["messages"]} == covered


async def test_session_search_agent_forbidden(house: Household) -> None:
    """A token cannot name an agent that it does not cover."""
    critic = await house.connect_limited(agents=["critic"])
    assert isinstance(await refusal_of(critic, "session.search", query="x", agent="default"), AgentForbidden)


async def test_session_search_sender_forbidden(house: Household) -> None:
    """A token cannot name a sender that it does not cover."""
    ann = await house.connect_limited(senders=["ann"])
    assert isinstance(await refusal_of(ann, "session.search", query="x", sender="bob"), SenderForbidden)


async def test_session_search_session_not_found(house: Household) -> None:
    """An unknown session and one that the token does not cover are the same."""
    await require_session_not_found(house, "session.search", query="x")
    assert isinstance(await house.refusal_of("session.search", query="x", session_id="no"), SessionNotFound)


async def test_turns_pay_nothing(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is indexed before the first search, and later ones index only what is new, in small steps."""
    monkeypatch.setattr(room, "MAX_STEP_EVENTS", 3)
    await house.ask("one")
    with house.state.read() as store:
        assert store.count(MESSAGE_POSTINGS) == store.count(SEARCH_TOTALS) == 0
    assert len(await search(house, "one")) == 2
    await house.ask("two")
    assert len(await search(house, "two")) == 2
    result = await house.call("session.search", query="one", timeout_s=1e-9)
    assert result == {"messages": result["messages"], "unindexed_events": 0}
    await house.ask("three")
    result = await house.call("session.search", query="three", timeout_s=1e-9)
    assert result["messages"] == []
    assert result["unindexed_events"] > 0


def test_the_index_is_a_cache(store_dir: Path) -> None:
    """Steps are short; the largest messages fit; the doctor finds nothing; a search ignores lost events."""
    store = open_inline(store_dir)

    def write(tx: Transaction) -> None:
        writer = SessionWriter(tx, "ses_1", session=None)
        writer.append(SessionCreated(agent="default"))
        words = " ".join(f"w{number:x}" for number in range(MAX_INPUT_BYTES))
        writer.append(InputReceived(input_id="i", items=[Text(words[: MAX_INPUT_BYTES // 2])]))
        message = Message("assistant", [Text("ok then")])
        for _ in range(20):
            tx.append("ses_1", MessageAppended(item_id="m", message=message))
        writer.write()

    update(store, write)
    # A damaged line is left out.
    spoil_line(store, "ses_1", 2, lambda stored: stored.replace(b'"item_id"', b'"jtem_id"'))
    steps = [update(store, index_step) for _ in range(3)]
    # The longest message is a step of its own, then come sixteen short ones.
    assert steps[0] > steps[1] > steps[2] == 0
    with store.read() as snapshot:
        assert snapshot.need(SEARCH_TOTALS, "default").messages == 20
        assert snapshot.need(SEARCH_TOTALS, "*").indexed_cursor == snapshot.last_cursor
    store.close()


async def test_a_search_makes_few_excerpts(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the messages that are returned have excerpts, however many agents have others."""
    texts: list[str] = []

    def make_snippet(text: str, terms: list[str]) -> str:
        texts.append(text)
        return text

    monkeypatch.setattr(room, "make_snippet", make_snippet)
    for name in ("default", "critic"):
        await house.ask("lentils", agent=name)
    assert [hit["snippet"] for hit in await search(house, "lentils", limit=1)] == texts
    assert len(texts) == 1


def test_the_indexed_part_of_a_message(store_dir: Path) -> None:
    """Of a message, so many characters are indexed, also if few of them stand for many."""
    store = open_inline(store_dir)

    def write(tx: Transaction) -> None:
        writer = SessionWriter(tx, "ses_1", session=None)
        writer.append(SessionCreated(agent="default"))
        for text in ("aa " * 13_000, "\ufdfa " * 10_000):
            message = Message("assistant", [Text(text)])
            writer.append(MessageAppended(item_id="m", message=message))
        writer.write()

    update(store, write)
    assert [update(store, index_step) for _ in range(2)] == [1, 0]
    with store.read() as snapshot:
        assert snapshot.need(SEARCH_TOTALS, "default").terms < 2 * MAX_SEARCHED_CHARACTERS / 3
    store.close()


async def test_the_doctor_finds_an_index_of_nothing(house: Household) -> None:
    """A healthy index is no finding; a row of a message that does not exist is one."""
    await house.ask("one")
    await search(house, "one")
    assert examine_whole(house.state.read, deep=True).findings == []
    await house.state.update(lambda tx: tx.put(MESSAGE_POSTINGS, "default", "x", 10**9, value=b"0" * 11))
    (finding,) = examine_whole(house.state.read, deep=True).findings
    assert "message_postings" in finding.message
