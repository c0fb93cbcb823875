"""Mail as transactions: limits of a delivery, the end of a run, and the notice to the parent."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.run.commands import Fail, RequestCancel, Start
from kheishd.kernel.call import Caller
from kheishd.objects.agents import mail
from kheishd.objects.agents.mailbox import post_mail
from kheishd.objects.talk.session import create, end
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import (
    MAIL,
    MAIL_BY_STATE,
    MAILBOXES,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_TO_CONCLUDE,
    SESSIONS,
)
from protocol.events.run import InputReceived, MessageAppended
from protocol.limits.mailbox import (
    MAX_MAIL_ERROR_BYTES,
    MAX_MAIL_INPUT_BYTES,
    MAX_MAIL_OF_RUN,
    MAX_MAIL_PAYLOAD_BYTES,
    MAX_NOTICE_OUTPUT_BYTES,
)
from protocol.objects.mailbox import MailboxPost
from protocol.objects.run import RunError
from protocol.objects.session import SessionCreate, SessionEnd
from protocol.text import json_length
from protocol.transcript import Message, Text, text_of
from tests.support.desk import Desk, open_desk, writer_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a desk without workers, with the session ``p`` and its child ``c``; leave its store healthy."""
    async with open_desk(tmp_path) as desk:
        await desk.do(create, SessionCreate(session_id="p"))
        await desk.do(create, SessionCreate(session_id="c", parent_session_id="p"))
        yield desk
        assert examine_whole(desk.state.read, deep=True).findings == []


async def post(desk: Desk, message_id: str, payload: Any = None, sender: str = "p", to: str = "c") -> None:
    """Post a message, by default of the parent to the child."""
    params = MailboxPost(from_agent=sender, to_agent=to, subject="s", payload=payload, message_id=message_id)
    await desk.do(post_mail, params)


async def deliver(desk: Desk, session_id: str = "c") -> str | None:
    """Deliver a session's mail; return the id of the run that was accepted for it."""
    run_id = desk.state.new_id("run")
    change = partial(mail.deliver, runtime=desk.holder.current(), session_id=session_id)
    await desk.state.update(lambda tx: change(tx, run_id=run_id, input_id=desk.state.new_id("inp")))
    with desk.state.read() as store:
        accepted = [value for _, value in store.scan(RUNS_BY_SESSION, session_id)]
    return run_id if run_id in accepted else None


async def conclude(desk: Desk) -> None:
    """Conclude all runs that have ended."""
    with desk.state.read() as store:
        run_ids = [run_id for _, run_id in store.scan(RUNS_TO_CONCLUDE)]
    for run_id in run_ids:
        await desk.state.update(partial(mail.conclude, run_id=run_id))


def ids_in(desk: Desk, session_id: str, state: str) -> list[str]:
    """Return the ids of the messages of a session in a state."""
    with desk.state.read() as store:
        keys = [key for _, key in store.scan(MAIL_BY_STATE, session_id, state)]
        return [store.need(MAIL, key).message_id for key in keys]


def input_of(desk: Desk, session_id: str) -> str:
    """Return the text of the newest input of a session."""
    inputs = [event for _, event in desk.journal(session_id) if isinstance(event, InputReceived)]
    return text_of(inputs[-1].items)


async def test_a_run_takes_a_number_of_messages(desk: Desk) -> None:
    """One run delivers at most so many messages, the oldest; the next run takes the rest."""
    for number in range(MAX_MAIL_OF_RUN + 2):
        await post(desk, f"m{number}")
    run_id = await deliver(desk)
    assert run_id is not None
    assert desk.run(run_id).mail == MAX_MAIL_OF_RUN
    assert ids_in(desk, "c", "pending") == [f"m{MAX_MAIL_OF_RUN}", f"m{MAX_MAIL_OF_RUN + 1}"]
    # While a run delivers some, no other one does.
    assert await deliver(desk) is None


async def test_a_run_takes_a_number_of_bytes(desk: Desk) -> None:
    """The largest messages fit one run each or several, and its transaction stays within its limit."""
    payload = '"' * (MAX_MAIL_PAYLOAD_BYTES // 2 - 1)
    for number in range(5):
        await post(desk, f"m{number}", payload)
    assert await deliver(desk) is not None
    assert json_length(input_of(desk, "c")) < MAX_MAIL_INPUT_BYTES + 1024
    assert ids_in(desk, "c", "delivering") == ["m0"]
    assert len(ids_in(desk, "c", "pending")) == 4


async def test_a_message_keeps_the_origin_of_the_token_that_posted_it(desk: Desk) -> None:
    """A client whose token fixes an origin cannot hide it behind a message between two agents."""
    params = MailboxPost(from_agent="p", to_agent="c", subject="s", payload="do it", message_id="m1")
    bridge = Caller("token:t", frozenset(("converse",)), origin="connector")
    await desk.do(post_mail, params, caller=bridge)
    run_id = await deliver(desk)
    assert run_id is not None
    with desk.state.read() as store:
        assert store.need(RUNS, run_id).origins == ["mailbox", "connector"]


async def test_a_cancelled_delivery_is_repeated(desk: Desk) -> None:
    """A run that was cancelled has not read its mail, which keeps its place; three times end it."""
    await post(desk, "m1")
    await post(desk, "m2")
    for attempt in range(1, 4):
        assert ids_in(desk, "c", "pending") == ["m1", "m2"]
        run_id = await deliver(desk)
        assert run_id is not None
        await desk.command(run_id, lambda run: RequestCancel("cancelled", "no"))
        await conclude(desk)
        with desk.state.read() as store:
            row = store.need(MAIL, "c/m1")
        assert (row.delivery_attempts, row.last_error) == (attempt, "the run was cancelled")
    assert ids_in(desk, "c", "dead_letter") == ["m1", "m2"]
    with desk.state.read() as store:
        assert store.need(MAILBOXES, "c").dead_letters == 2
    # Each of the three runs is reported to the parent, in order.
    assert [name.partition(":")[0] for name in ids_in(desk, "p", "pending")] == ["notice"] * 3


async def test_a_delivery_that_fails_after_the_end(desk: Desk) -> None:
    """The mail of a run that did not complete is given up if its session has ended since."""
    await post(desk, "m1")
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: RequestCancel("cancelled", ""))
    await desk.do(end, SessionEnd(session_id="c"))
    await conclude(desk)
    assert ids_in(desk, "c", "dead_letter") == ["m1"]


async def test_mail_of_others_is_not_reported(desk: Desk) -> None:
    """Only runs that the parent caused are reported to it."""
    await desk.do(create, SessionCreate(session_id="other"))
    await post(desk, "m1", sender="other")
    run_id = await deliver(desk)
    assert run_id is not None
    assert not desk.run(run_id).reports


async def test_a_report_to_a_closed_parent_is_dropped(desk: Desk) -> None:
    """A parent that has ended gets no notice, and the run is concluded all the same."""
    await post(desk, "m1")
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: RequestCancel("cancelled", ""))
    await desk.do(end, SessionEnd(session_id="p"))
    await conclude(desk)
    assert ids_in(desk, "p", "pending") == []
    assert desk.kinds("c")[-1] == "run_concluded"
    assert desk.count(RUNS_TO_CONCLUDE) == 0


async def test_a_notice_has_the_beginning_of_a_long_output(desk: Desk) -> None:
    """The notice of a run tells that its output is longer, and where all of it is."""
    await post(desk, "m1")
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: Start())

    def answer(tx: Any) -> None:
        writer = writer_of(tx, run_id)
        writer.append(MessageAppended(item_id="itm_1", message=Message("assistant", [Text("é" * 9_000)])))
        writer.write()

    await desk.state.update(answer)
    with desk.state.read() as store:
        notice = mail.notice_of(store, desk.run(run_id), store.need(SESSIONS, "c"))
    assert notice["output_truncated"]
    assert notice["output_bytes"] == 18_000
    assert len(notice["output"].encode()) <= MAX_NOTICE_OUTPUT_BYTES
    assert notice["output_cursor"] == desk.run(run_id).output_cursor


async def test_notices_come_beyond_the_limit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full mailbox takes the notices of its children: they are never lost."""
    monkeypatch.setattr(mail, "MAX_PENDING_MAIL", 1)
    await post(desk, "m0", sender="c", to="p")
    await post(desk, "m1")
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: RequestCancel("cancelled", ""))
    await conclude(desk)
    assert ids_in(desk, "p", "pending") == ["m0", f"notice:{run_id}"]


async def end_run(desk: Desk, message_id: str = "m1") -> str:
    """Post a message of the parent to the child, and cancel the run that reads it; return the run."""
    await post(desk, message_id)
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: RequestCancel("cancelled", ""))
    return run_id


async def take_report(desk: Desk, run_id: str, waiter: str) -> int:
    """Take the report of a run as the result of a wait; return the number of events for the waiter."""

    def take(tx: Any) -> int:
        writer = SessionWriter(tx, waiter, session=tx.get(SESSIONS, waiter))
        events = mail.take_report(tx, tx.need(RUNS, run_id), waiter)
        writer.append_all(events)
        writer.write()
        return len(events)

    return await desk.state.update(take)


async def test_a_wait_takes_the_report(desk: Desk) -> None:
    """A parent that has waited for the outcome gets no notice, whether it was posted already or not."""
    run_id = await end_run(desk)
    assert await take_report(desk, run_id, "p") == 0
    assert desk.kinds("c")[-1] == "run_concluded"
    assert ids_in(desk, "p", "pending") == []
    # The worker may have read the run before.
    await desk.state.update(partial(mail.conclude, run_id=run_id))
    assert desk.kinds("c").count("run_concluded") == 1
    posted = await end_run(desk, "m2")
    await conclude(desk)
    assert ids_in(desk, "p", "pending") == [f"notice:{posted}"]
    assert await take_report(desk, posted, "p") == 1
    assert ids_in(desk, "p", "done") == [f"notice:{posted}"]
    assert await take_report(desk, posted, "p") == 0


async def test_only_the_parent_takes_the_report(desk: Desk) -> None:
    """The wait of another agent, or of a run that has not ended, leaves the notice to the parent."""
    await desk.do(create, SessionCreate(session_id="other"))
    run_id = await end_run(desk)
    assert await take_report(desk, run_id, "other") == 0
    await conclude(desk)
    assert ids_in(desk, "p", "pending") == [f"notice:{run_id}"]
    open_run = await deliver(desk)
    assert open_run is not None
    assert await take_report(desk, open_run, "p") == 0
    assert desk.run(open_run).reports


async def test_a_notice_has_the_error_of_a_failed_run(desk: Desk) -> None:
    """The notice of a run that failed says why, in a bounded text, and is no answer."""
    await post(desk, "m1")
    run_id = await deliver(desk)
    assert run_id is not None
    await desk.command(run_id, lambda run: Fail(RunError("overloaded", "no " * 3_000)))
    await conclude(desk)
    with desk.state.read() as store:
        payload = mail.payload_of(store, store.need(MAIL, f"p/notice:{run_id}"))
    assert (payload["outcome"], payload["error"]["reason"]) == ("failed", "overloaded")
    assert len(payload["error"]["message"]) <= MAX_MAIL_ERROR_BYTES
    assert "output" not in payload
