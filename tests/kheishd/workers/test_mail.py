"""The mail worker: delivers over failures and restarts, exactly once, and asks nothing again and again."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.objects.agents.mail import deliver
from kheishd.objects.agents.mailbox import post_mail
from kheishd.objects.talk.session import create, end
from kheishd.store.tables import MAIL, MAILBOXES_DUE, RUNS_BY_SESSION, RUNS_READY, RUNS_TO_CONCLUDE
from kheishd.workers.expiry import ExpiryWorker
from kheishd.workers.mail import MailWorker
from protocol.objects.mailbox import MailboxPost
from protocol.objects.session import SessionCreate, SessionEnd
from protocol.transcript import text_of
from tests.support.desk import Desk, Gate, Scripted, fails, open_desk, says, working
from tests.support.runtimes import make_runtime


@asynccontextmanager
async def delivering(desk: Desk) -> AsyncIterator[None]:
    """Run the mail worker and the run worker."""
    async with working(desk), trio.open_nursery() as nursery:
        await nursery.start(MailWorker(desk.services).serve)
        yield
        nursery.cancel_scope.cancel()


async def open_pair(desk: Desk) -> None:
    """Create the session ``p`` and its child ``c``."""
    await desk.do(create, SessionCreate(session_id="p"))
    await desk.do(create, SessionCreate(session_id="c", parent_session_id="p"))


async def post(desk: Desk, message_id: str, sender: str = "p", to: str = "c", **params: Any) -> None:
    """Post a message, by default of the parent to the child."""
    message = {"type": "message", "message": f"about {message_id}"}
    defaults: dict[str, Any] = {"subject": "s", "payload": message, "message_id": message_id}
    await desk.do(post_mail, MailboxPost(from_agent=sender, to_agent=to, **(defaults | params)))


def states(desk: Desk) -> dict[str, str]:
    """Return the state of each message, by its key."""
    with desk.state.read() as store:
        return {key: mail.state for (key,), mail in store.scan(MAIL)}


def runs(desk: Desk, session_id: str) -> list[str]:
    """Return the runs of a session, in order."""
    with desk.state.read() as store:
        return [run_id for _, run_id in store.scan(RUNS_BY_SESSION, session_id)]


async def settle(desk: Desk) -> None:
    """Wait until no mailbox is due and no run is to be concluded."""
    await desk.until(lambda: not desk.count(MAILBOXES_DUE) and not desk.count(RUNS_TO_CONCLUDE))
    await wait_all_tasks_blocked()


async def test_one_run_takes_all_pending_mail(tmp_path: Path, autojump_clock: Any) -> None:
    """Messages that are pending together are read by one run, as data, in their order, and done with it."""
    async with open_desk(tmp_path) as desk:
        await open_pair(desk)
        for number in range(3):
            await post(desk, f"m{number}")
        async with delivering(desk):
            await desk.until(lambda: states(desk)["c/m0"] == "done")
        (run_id,) = runs(desk, "c")
        run = desk.run(run_id)
        assert (run.kind, run.status) == ("mailbox", "completed")
        text = text_of(desk.models.requests[0].messages[-1].items)
        assert text.startswith('<data origin="mailbox">\nThe daemon delivers mail')
        positions = [text.index(f"about m{number}") for number in range(3)]
        assert positions == sorted(positions)
        assert desk.kinds("c").count("mail_delivered") == 1
        assert desk.kinds("c").count("mail_acknowledged") == 1


async def test_mail_waits_for_the_run_in_flight(tmp_path: Path, autojump_clock: Any) -> None:
    """Mail that arrives during a run is delivered after it; more mail joins the next run."""
    gate = Gate()
    async with open_desk(tmp_path, Scripted([gate, lambda request: says("ok")])) as desk:
        await desk.do(create, SessionCreate(session_id="other"))
        async with delivering(desk):
            sent = await desk.send()
            await gate.reached.wait()
            for number in range(2):
                await post(desk, f"m{number}", "other", sent.session_id)
            await wait_all_tasks_blocked()
            assert len(runs(desk, sent.session_id)) == 1
            gate.opened.set()
            await desk.until(lambda: set(states(desk).values()) == {"done"})
        assert len(runs(desk, sent.session_id)) == 2


async def test_failed_deliveries_end_as_dead_letters(tmp_path: Path, autojump_clock: Any) -> None:
    """A message is tried in three runs; then it is a dead letter with the failure."""
    models = Scripted([lambda request: fails("invalid_request", retryable=False)])
    async with open_desk(tmp_path, models) as desk:
        await desk.do(create, SessionCreate(session_id="a"))
        await desk.do(create, SessionCreate(session_id="b"))
        await post(desk, "m", "a", "b")
        async with delivering(desk):
            await desk.until(lambda: states(desk)["b/m"] == "dead_letter")
        assert len(runs(desk, "b")) == 3
        with desk.state.read() as store:
            mail = store.need(MAIL, "b/m")
        assert (mail.delivery_attempts, mail.outcome) == (3, "attempts")
        assert mail.last_error == "the provider said invalid_request"


async def test_a_closed_mailbox_is_emptied(tmp_path: Path, autojump_clock: Any) -> None:
    """The pending messages of a session that ends become dead letters, however many there are."""
    async with open_desk(tmp_path) as desk:
        await desk.do(create, SessionCreate(session_id="a"))
        await desk.do(create, SessionCreate(session_id="b"))
        for number in range(70):
            await post(desk, f"m{number}", "a", "b")
        await desk.do(end, SessionEnd(session_id="b"))
        async with delivering(desk):
            await settle(desk)
        assert set(states(desk).values()) == {"dead_letter"}
        assert runs(desk, "b") == []


async def test_expired_mail_is_not_delivered(tmp_path: Path, mock_clock: MockClock) -> None:
    """A message whose time is over when it would be delivered becomes a dead letter."""
    async with open_desk(tmp_path) as desk:
        await desk.do(create, SessionCreate(session_id="a"))
        await desk.do(create, SessionCreate(session_id="b"))
        await post(desk, "old", "a", "b", ttl_ms=1)
        await post(desk, "new", "a", "b")
        mock_clock.jump(1)
        async with delivering(desk):
            await desk.until(lambda: states(desk) == {"b/old": "dead_letter", "b/new": "done"})


async def test_mail_waits_for_a_missing_agent(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Mail whose run cannot be accepted stays pending, is logged once, and is delivered after a reload."""
    async with open_desk(tmp_path) as desk:
        await desk.do(create, SessionCreate(session_id="a"))
        await desk.do(create, SessionCreate(session_id="b"))
        definitions = desk.holder.current().definitions
        desk.holder.replace(make_runtime(2, models=desk.models, definitions={}))
        async with delivering(desk):
            with caplog.at_level(logging.WARNING, "kheishd.mail"):
                await post(desk, "m", "a", "b")
                await wait_all_tasks_blocked()
                await desk.rename("b", times=3)
                await wait_all_tasks_blocked()
            assert len(caplog.records) == 1
            assert states(desk)["b/m"] == "pending"
            desk.holder.replace(make_runtime(3, models=desk.models, definitions=definitions))
            await desk.rename("b", times=1)
            await desk.until(lambda: states(desk)["b/m"] == "done")


async def test_a_child_reports_each_run_once(tmp_path: Path, autojump_clock: Any) -> None:
    """The run that a parent's message causes is reported to the parent's mailbox, and read there."""
    async with open_desk(tmp_path, Scripted([lambda request: says("it is done")])) as desk:
        await open_pair(desk)
        await post(desk, "m")
        async with delivering(desk):
            await desk.until(lambda: sorted(states(desk).values()) == ["done", "done"])
            await settle(desk)
        (child_run,) = runs(desk, "c")
        assert list(states(desk)) == ["c/m", f"p/notice:{child_run}"]
        (parent_run,) = runs(desk, "p")
        notice = text_of(desk.models.requests[-1].messages[-1].items)
        assert '"outcome":"completed"' in notice
        assert "it is done" in notice
        assert 'type="agent_settled"' in notice
        assert not desk.run(parent_run).reports
        assert desk.kinds("c").count("run_concluded") == 1


async def test_ends_are_reported_together(tmp_path: Path, autojump_clock: Any) -> None:
    """The reports of runs that have ended meanwhile are one commit, in the order of their ends."""
    async with open_desk(tmp_path) as desk:
        await desk.do(create, SessionCreate(session_id="p"))
        async with working(desk):
            for name in "dce":
                await desk.do(create, SessionCreate(session_id=name, parent_session_id="p"))
                await post(desk, "m", to=name)
                plan: dict[str, Any] = {
                    "session_id": name,
                    "run_id": f"run_{name}",
                    "input_id": f"inp_{name}",
                }
                await desk.state.update(partial(deliver, runtime=desk.holder.current(), **plan))
                await desk.until(lambda: desk.count(RUNS_READY) == 0)
        before = len(desk.groups)
        async with delivering(desk):
            await desk.until(lambda: len(desk.groups) > before)
            assert desk.kinds("p").count("mail_posted") == 3
            await settle(desk)
        text = text_of(desk.models.requests[-1].messages[-1].items)
        positions = [text.index(f"run_{name}") for name in "dce"]
        assert positions == sorted(positions)


async def test_a_restart_neither_loses_nor_repeats(tmp_path: Path, autojump_clock: Any) -> None:
    """From a copy of the store after any commit, the mail and its notice are delivered once."""
    async with open_desk(tmp_path / "home") as desk:
        await open_pair(desk)
        deliver, copies = desk.state.deliver, 0

        def copy_and_deliver(group: Any) -> None:
            nonlocal copies
            copies += 1
            desk.copy_store(tmp_path / f"copy{copies}")
            deliver(group)

        await post(desk, "m")
        desk.state.deliver = copy_and_deliver  # type: ignore[method-assign]
        async with delivering(desk):
            await desk.until(lambda: sorted(states(desk).values()) == ["done", "done"])
    assert copies > 8
    for number in range(1, copies + 1):
        async with open_desk(tmp_path / f"copy{number}") as desk, delivering(desk):
            await desk.until(lambda: sorted(states(desk).values()) == ["done", "done"])
            await settle(desk)
            assert (len(runs(desk, "c")), len(runs(desk, "p"))) == (1, 1)
            assert desk.kinds("p").count("mail_posted") == 1
            assert desk.kinds("c").count("mail_acknowledged") == 1


async def test_a_record_that_cannot_be_read_is_skipped(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged mailbox is logged once, and the mail of others is delivered."""
    async with open_desk(tmp_path) as desk:
        for session_id in ("a", "b", "c"):
            await desk.do(create, SessionCreate(session_id=session_id))
        await post(desk, "m", "a", "b")
        await desk.delete_session("b")
        await post(desk, "m", "a", "c")
        async with delivering(desk):
            with caplog.at_level(logging.ERROR, "kheishd.mail"):
                await desk.until(lambda: states(desk)["c/m"] == "done")
                await post(desk, "m2", "a", "c")
                await desk.until(lambda: states(desk)["c/m2"] == "done")
        assert [record.args for record in caplog.records] == [("b",)]


async def test_an_overdue_message_expires(tmp_path: Path, mock_clock: MockClock) -> None:
    """While a run keeps a message waiting, its time may pass: then it is a dead letter."""
    gate = Gate()
    async with open_desk(tmp_path, Scripted([gate])) as desk, delivering(desk):
        await desk.do(create, SessionCreate(session_id="other"))
        sent = await desk.send()
        await gate.reached.wait()
        await post(desk, "m", "other", sent.session_id, ttl_ms=60_000)
        async with trio.open_nursery() as nursery:
            await nursery.start(ExpiryWorker(desk.services).serve)
            await wait_all_tasks_blocked()
            assert states(desk) == {f"{sent.session_id}/m": "pending"}
            mock_clock.jump(30)
            await wait_all_tasks_blocked()
            mock_clock.jump(30)
            await desk.until(lambda: states(desk) == {f"{sent.session_id}/m": "dead_letter"})
            nursery.cancel_scope.cancel()
        gate.opened.set()
        await desk.until(lambda: desk.ended(sent.run_id))
