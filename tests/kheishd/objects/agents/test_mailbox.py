"""Mailboxes over the socket: post, list, show and remove messages."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kheishd.objects.agents import mail
from kheishd.store.tables import AGENTS
from kheishd.workers.agents import begin_close
from protocol.errors.agent import AgentAlreadyClosed, NoSuchAgent
from protocol.errors.mailbox import MailboxFull, MailConflict, MailNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.errors.token import ScopeMissing
from protocol.limits.mailbox import MAX_MAIL_PAYLOAD_BYTES
from protocol.transcript import text_of
from tests.support.families import root, spawn
from tests.support.household import Household, household, refusal_of


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with two sessions, ``a`` and ``b``, whose mail no worker delivers; tokens work."""
    async with household(tmp_path, work=False, tcp=True) as house:
        for session_id in ("a", "b"):
            await house.call("session.create", session_id=session_id)
        yield house


async def post(house: Household, message_id: str | None = "m1", **params: Any) -> Any:
    """Post a message of ``a`` to ``b``."""
    defaults = {"from": "a", "to": "b", "subject": "s", "payload": {"type": "t"}, "message_id": message_id}
    return await house.call("mailbox.post", **(defaults | params))


async def refuse_post(house: Household, **params: Any) -> Any:
    """Return the refusal of a message of ``a`` to ``b``, which changes nothing."""
    head = house.head()
    defaults = {"from": "a", "to": "b", "subject": "s", "payload": {"type": "t"}, "message_id": "m1"}
    refusal = await house.refusal_of("mailbox.post", **(defaults | params))
    assert house.head() == head
    return refusal


# mailbox.post


async def test_mailbox_post_ok(house: Household) -> None:
    """A message is accepted, and shown with its whole envelope."""
    assert await post(house) == {"accepted": True, "message_id": "m1", "duplicate": False}
    (shown,) = (await house.call("mailbox.list", agent="b"))["messages"]
    assert shown | {"created_at_ms": 0, "updated_at_ms": 0} == {
        "schema_version": 1,
        "id": "m1",
        "state": "pending",
        "created_at_ms": 0,
        "updated_at_ms": 0,
        "delivery_attempts": 0,
        "from": "a",
        "to": "b",
        "subject": "s",
        "type": "t",
        "payload": {"type": "t"},
    }
    generated = await post(house, None)
    assert generated["message_id"].startswith("msg_")


async def test_mailbox_post_ok_again_is_a_duplicate(house: Household) -> None:
    """The same message is accepted once, even if the recipient was closed meanwhile."""
    await post(house)
    await house.call("session.end", session_id="b")
    assert await post(house) == {"accepted": True, "message_id": "m1", "duplicate": True}


async def test_mailbox_post_ok_for_each_recipient(house: Household) -> None:
    """An id belongs to one mailbox: another one may have a message of the same id."""
    await post(house)
    assert not (await post(house, to="a"))["duplicate"]


async def test_mailbox_post_ok_with_check_changes_nothing(house: Household) -> None:
    """A dry run says what would happen."""
    assert (await post(house, check=True))["accepted"]
    assert (await house.call("mailbox.list", agent="b"))["messages"] == []


async def test_mailbox_post_ok_shows_the_origin_of_the_token(house: Household) -> None:
    """A message has the origin that its client's token fixes."""
    bridge = await house.connect_limited(origin="connector", scopes=["converse", "read"])
    params = {"from": "a", "to": "b", "subject": "s", "payload": "x", "message_id": "m1"}
    await bridge.call("mailbox.post", **params)
    assert (await house.call("mailbox.get", agent="b", message_id="m1"))["origin"] == "connector"


async def test_mailbox_post_no_such_agent(house: Household) -> None:
    """Both agents must exist, and the caller's token must cover both."""
    for field in ("from", "to"):
        refusal = await refuse_post(house, **{field: "nobody"})
        assert isinstance(refusal, NoSuchAgent)
        assert refusal.field == f"$.params.{field}"
    await house.call("session.create", session_id="c", agent="critic")
    client = await house.connect_limited(scopes=["converse"], agents=["critic"])
    params = {"from": "c", "to": "b", "subject": "s", "payload": 1}
    with pytest.raises(NoSuchAgent):
        await client.call("mailbox.post", **params)


async def test_mailbox_post_agent_already_closed(house: Household) -> None:
    """A closed agent reads no mail."""
    await house.call("session.end", session_id="b")
    assert isinstance(await refuse_post(house), AgentAlreadyClosed)


async def test_mailbox_post_mail_conflict(house: Household) -> None:
    """An id that another message has is refused, whatever differs."""
    await post(house)
    for change in ({"subject": "other"}, {"payload": None}, {"from": "b"}):
        assert isinstance(await refuse_post(house, **change), MailConflict)


async def test_mailbox_post_mailbox_full(house: Household, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mailbox that grows faster than it is read refuses more, and says how many are pending."""
    monkeypatch.setattr(mail, "MAX_PENDING_MAIL", 2)
    for number in range(2):
        await post(house, f"m{number}")
    refusal = await refuse_post(house, message_id="m9")
    assert isinstance(refusal, MailboxFull)
    assert "2 pending messages" in refusal.message
    await house.call("mailbox.ack", agent="b", message_id="m0")
    await post(house, "m9")


async def test_mailbox_post_input_too_large(house: Household) -> None:
    """A payload beyond the limit, or one that cannot be stored, is refused by name."""
    refusal = await refuse_post(house, payload="x" * MAX_MAIL_PAYLOAD_BYTES)
    assert isinstance(refusal, InputTooLarge)
    assert refusal.field == "$.params.payload"
    # The ids of notices and questions are not taken before the daemon posts them.
    reserved = {"message_id": "notice:run_1"}
    for change in ({"payload": 2**70}, {"ttl_ms": 0}, {"subject": ""}, {"message_id": "a/b"}, reserved):
        assert isinstance(await refuse_post(house, **change), InvalidParams)


# mailbox.list, mailbox.dead_letters, mailbox.get


async def test_mailbox_list_ok(house: Household) -> None:
    """The messages of an agent are listed by state, oldest first, page by page; reading takes none out."""
    for number in range(5):
        await post(house, f"m{number}")
    await house.call("mailbox.ack", agent="b", message_id="m2")

    async def list_ids(**params: Any) -> tuple[list[str], str | None]:
        page = await house.call("mailbox.list", agent="b", **params)
        return [message["id"] for message in page["messages"]], page["next"]

    assert await list_ids() == (["m0", "m1", "m3", "m4"], None)
    assert await list_ids(state="done") == (["m2"], None)
    assert await list_ids(state="dead_letter") == ([], None)
    ids, following = await list_ids(state="any", limit=3)
    assert ids == ["m0", "m1", "m2"]
    assert (await list_ids(state="any", after=following))[0] == ["m3", "m4"]


async def test_mailbox_list_no_such_agent(house: Household) -> None:
    """An unknown agent is refused."""
    assert isinstance(await house.refusal_of("mailbox.list", agent="nobody"), NoSuchAgent)


async def test_mailbox_dead_letters_ok(house: Household) -> None:
    """Messages that were given up are listed with the reason."""
    await post(house, ttl_ms=1)
    await house.state.update(lambda tx: mail.expire(tx, "b/m1"))
    page = await house.call("mailbox.dead_letters", agent="b")
    assert [(row["id"], row["state"], row["outcome"]) for row in page["messages"]] in (
        [("m1", "dead_letter", "expired")],
        # The clock may not have moved yet.
        [],
    )


async def test_mailbox_dead_letters_no_such_agent(house: Household) -> None:
    """An unknown agent is refused."""
    assert isinstance(await house.refusal_of("mailbox.dead_letters", agent="nobody"), NoSuchAgent)


async def test_mailbox_get_ok(house: Household) -> None:
    """A message is shown by its id, also when it is done."""
    await post(house)
    await house.call("mailbox.ack", agent="b", message_id="m1")
    shown = await house.call("mailbox.get", agent="b", message_id="m1")
    assert (shown["state"], shown["outcome"], shown["payload"]) == ("done", "removed", {"type": "t"})


async def test_mailbox_get_no_such_agent(house: Household) -> None:
    """An unknown agent is refused."""
    refusal = await house.refusal_of("mailbox.get", agent="nobody", message_id="m1")
    assert isinstance(refusal, NoSuchAgent)


async def test_mailbox_get_mail_not_found(house: Household) -> None:
    """A message of another mailbox is unknown here."""
    await post(house)
    assert isinstance(await house.refusal_of("mailbox.get", agent="a", message_id="m1"), MailNotFound)


# mailbox.ack


async def test_mailbox_ack_ok(house: Household) -> None:
    """A pending message is removed once; the answer says whether it was."""
    await post(house)
    removed = await house.call("mailbox.ack", agent="b", message_id="m1")
    assert removed == {"message_id": "m1", "acknowledged": True}
    assert not (await house.call("mailbox.ack", agent="b", message_id="m1"))["acknowledged"]
    assert (await house.call("mailbox.list", agent="b"))["messages"] == []


async def test_mailbox_ack_no_such_agent(house: Household) -> None:
    """An unknown agent is refused."""
    refusal = await house.refusal_of("mailbox.ack", agent="nobody", message_id="m1")
    assert isinstance(refusal, NoSuchAgent)


async def test_mailbox_ack_mail_not_found(house: Household) -> None:
    """An unknown message is refused."""
    assert isinstance(await house.refusal_of("mailbox.ack", agent="b", message_id="m1"), MailNotFound)


# Agents


async def test_agents_are_named_by_path_and_nickname(tmp_path: Path) -> None:
    """Mail names agents by id, path or nickname, and the model reads the sender's path."""
    async with household(tmp_path) as house:
        parent = await root(house, session_id="boss")
        child = await spawn(house, parent, "scout", nickname="Ann Lee")
        await post(house, "m1", **{"from": "boss", "to": "ann lee"})
        await until_mail(house, "boss/scout", "done", 1)
        texts = [text_of(request.messages[-1].items) for request in house.models.requests]
        assert any('<message number="1" id="m1" from="boss" subject="s" type="t">' in text for text in texts)
        # The spawn and the message caused two runs, so the parent is told twice, in order.
        notices = await until_mail(house, "boss", "done", 2)
        assert [notice["from"] for notice in notices] == [child["agent_id"]] * 2
        runs = (await house.call("run.list", session_id=child["agent_id"], order="oldest"))["runs"]
        assert [notice["payload"]["run_id"] for notice in notices] == [run["run_id"] for run in runs]
        payload = notices[0]["payload"]
        assert (payload["type"], payload["path"], payload["nickname"]) == (
            "agent_settled",
            "boss/scout",
            "Ann Lee",
        )
        assert (payload["outcome"], payload["output"]) == ("completed", "You said: look")


async def test_a_closing_agent_takes_no_mail(tmp_path: Path) -> None:
    """An agent that is to be closed refuses mail at once, though its run still stops."""
    async with household(tmp_path, work=False) as house:
        parent = await root(house)
        child = await spawn(house, parent)
        await house.state.update(
            lambda tx: begin_close(tx, tx.need(AGENTS, child["agent_id"]), note="enough")
        )
        refusal = await refuse_post(house, **{"from": parent, "to": child["agent_id"]})
        assert isinstance(refusal, AgentAlreadyClosed)


async def test_a_report_of_the_daemon_is_removed_by_the_operator_only(tmp_path: Path) -> None:
    """A connector that may converse removes messages of clients, but no child's report to its parent."""
    async with household(tmp_path, work=False, tcp=True) as house:
        parent = await root(house)
        other = await root(house)
        for message_id in ("notice:run_1", "m"):
            message: dict[str, Any] = {"message_id": message_id, "sender": other, "recipient": parent}
            posting = partial(mail.post, **message, subject="s", payload=None)
            await house.state.update(posting)
        connector = await house.connect_limited(scopes=["read", "converse"])
        await connector.call("mailbox.ack", agent=parent, message_id="m")
        refusal = await refusal_of(connector, "mailbox.ack", agent=parent, message_id="notice:run_1")
        assert isinstance(refusal, ScopeMissing)
        assert (await house.call("mailbox.ack", agent=parent, message_id="notice:run_1"))["acknowledged"]


async def until_mail(house: Household, agent: str, state: str, number: int) -> Any:
    """Wait until an agent has so many messages in a state; return them."""
    while True:
        bell = house.state.bell("journal")
        messages = (await house.call("mailbox.list", agent=agent, state=state))["messages"]
        if len(messages) == number:
            return messages
        await bell.wait()
