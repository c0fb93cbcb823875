"""The audit log of permissions: verdicts and answers, in pages, for limited callers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.store.environment import Transaction
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed
from protocol.events.call import CallsJudged
from protocol.journal.line import JournalEvent
from protocol.objects.permission import Verdict
from tests.support.household import Household, household, pages, refusal_of


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a run worker; tokens work."""
    async with household(tmp_path, work=False, tcp=True) as house:
        yield house


def append_verdicts(*call_ids: str) -> CallsJudged:
    """Return an event with verdicts on calls."""
    return CallsJudged(
        item_id="itm_1",
        verdicts=[
            Verdict(
                call_id=call_id, tool="bash", subject="ls", decision="ask", base="ask", why="bash's default"
            )
            for call_id in call_ids
        ],
    )


async def journal(house: Household, session_id: str, run_id: str, *events: JournalEvent) -> None:
    """Append events of a run, with an actor."""

    def append(tx: Transaction) -> None:
        for event in events:
            tx.append(session_id, event, session_id=session_id, run_id=run_id, actor="uid:7")

    await house.state.update(append)


async def history(house: Household, sender: str = "user", **params: Any) -> tuple[str, str]:
    """Append the verdicts, an answer and an expiry of a run. Returns the ids."""
    sent = await house.send(sender=sender, **params)
    await journal(
        house,
        sent["session_id"],
        sent["run_id"],
        append_verdicts(f"{sender}1", f"{sender}2", f"{sender}3"),
        ApprovalAnswered(
            approval_id="apr_1", call_id=f"{sender}1", decision="deny", note="no", justification="late"
        ),
        ApprovalLapsed(approval_id="apr_2", call_id=f"{sender}2", how="expired"),
        ApprovalLapsed(approval_id="apr_3", call_id=f"{sender}3", how="withdrawn"),
        append_verdicts(f"{sender}4"),
    )
    return sent["session_id"], sent["run_id"]


def calls(rows: list[Any]) -> list[str]:
    """Return the call ids of rows."""
    return [row["call_id"] for row in rows]


async def test_permission_audit_ok(idle: Household) -> None:
    """Verdicts and answers are listed newest first, with actor, decision, time and note."""
    session_id, run_id = await history(idle)
    page = await idle.call("permission.audit")
    assert page["next"] is None
    assert calls(page["audits"]) == ["user4", "user2", "user1", "user3", "user2", "user1"]
    newest, expired, denied, *_ = page["audits"]
    assert (newest["session_id"], newest["run_id"]) == (session_id, run_id)
    assert (newest["verdict"]["tool"], newest["verdict"]["subject"]) == ("bash", "ls")
    assert (denied["actor"], denied["decision"], denied["approval_id"]) == ("uid:7", "deny", "apr_1")
    assert (denied["note"], denied["justification"]) == ("no", "late")
    assert (expired["decision"], expired["note"]) == ("deny", "nobody answered in time")


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_permission_audit_ok_in_pages(idle: Household, order: str) -> None:
    """A page may end within an entry; the next one continues there without repetition."""
    for sender in ("a", "b"):
        await history(idle, sender)
    whole = calls(await pages(idle.client, "permission.audit", "audits", order=order, limit=50))
    assert len(whole) == 12
    for limit in (1, 2, 5):
        audits = await pages(idle.client, "permission.audit", "audits", order=order, limit=limit)
        assert calls(audits) == whole
    assert (whole[0], whole[-1]) == (("b4", "a1") if order == "newest" else ("a1", "b4"))


@pytest.mark.parametrize(
    "limits", [{"MAX_PAGE_EXAMINED_ROWS": 1}, {"MAX_PAGE_EXAMINED_BYTES": 1}, {"MAX_PAGE_BYTES": 1}]
)
async def test_an_audit_page_ends_when_enough_was_examined(
    idle: Household, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    """A page ends at each limit, even empty, and the next one continues."""
    await history(idle)
    for name, value in limits.items():
        monkeypatch.setattr(f"kheishd.objects.people.audit.{name}", value)
    for order, expected in (("newest", "421321"), ("oldest", "123124")):
        audits = await pages(idle.client, "permission.audit", "audits", order=order)
        assert "".join(call.removeprefix("user") for call in calls(audits)) == expected


async def test_permission_audit_ok_filtered(idle: Household) -> None:
    """The audit is filtered by session or run."""
    session_id, run_id = await history(idle, "a")
    await history(idle, "b")
    again = await idle.send(sender="a")
    await journal(idle, session_id, again["run_id"], append_verdicts("second"))
    assert calls((await idle.call("permission.audit", run_id=again["run_id"]))["audits"]) == ["second"]
    assert len((await idle.call("permission.audit", run_id=run_id))["audits"]) == 6
    assert len((await idle.call("permission.audit", session_id=session_id))["audits"]) == 7


async def test_permission_audit_ok_shows_a_limited_caller_its_own(idle: Household) -> None:
    """Rows that a token does not cover are left out."""
    for sender in ("ann", "bob"):
        await history(idle, sender)
    ann = await idle.connect_limited(senders=["ann"])
    audits = await pages(ann, "permission.audit", "audits", limit=2)
    assert len(audits) == 6
    assert all(call.startswith("ann") for call in calls(audits))


@pytest.mark.parametrize("token", ["x", "1.", ".1", "-1", "1" * 19, "1.1234", ""])
async def test_permission_audit_refuses_other_page_tokens(idle: Household, token: str) -> None:
    """Only the ``next`` of a page is a page token."""
    refusal = await idle.refusal_of("permission.audit", after=token)
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.after")


async def test_permission_audit_session_not_found(idle: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    session_id, _ = await history(idle, "bob")
    ann = await idle.connect_limited(senders=["ann"])
    for client, unreadable in ((idle.client, "ses_none"), (ann, session_id)):
        assert isinstance(
            await refusal_of(client, "permission.audit", session_id=unreadable), SessionNotFound
        )


async def test_permission_audit_run_not_found(idle: Household) -> None:
    """An unknown run and a run of another session are refused."""
    _, run_id = await history(idle, "bob")
    ann = await idle.connect_limited(senders=["ann"])
    another, _ = await history(idle, "ann")
    for client, place in (
        (idle.client, {"run_id": "run_none"}),
        (ann, {"run_id": run_id}),
        (idle.client, {"run_id": run_id, "session_id": another}),
    ):
        assert isinstance(await refusal_of(client, "permission.audit", **place), RunNotFound)
