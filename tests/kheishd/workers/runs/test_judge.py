"""Calls are judged by what holds when they are judged: rules, grants, and the whole of their subject."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Invocation, Outcome, SubHook, Tool
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from kheishd.objects.people import permission
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from protocol.events.approval import ApprovalAnswered, ApprovalRequested
from protocol.events.call import CallsJudged
from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_VERDICT_SUBJECT_BYTES
from protocol.objects.permission import Grant, PermissionUpdate, Rule, Verdict
from protocol.transcript import ToolCall
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working
from tests.support.histories import approval_requested
from tests.support.machine import answer_approvals
from tests.support.runtimes import make_runtime

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}


class Shell(SubHook):
    """A shell that does nothing; ``ran`` are the commands it was given."""

    name = "shell"
    tools = (Tool("bash", "Run a command.", SCHEMA, "execute", default="ask"),)

    def __init__(self) -> None:
        self.ran: list[str] = []

    def subject(self, use: Invocation) -> str:
        """The command."""
        return str(use.arguments["command"])

    async def dispatch(self, use: Invocation) -> Outcome:
        """Note it."""
        self.ran.append(self.subject(use))
        return Outcome("done")


def calls(*commands: str) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """An answer that calls the shell, once for each command."""
    items = [
        ToolCall(f"call_{number}", "bash", {"command": command}) for number, command in enumerate(commands)
    ]
    return lambda request: gives(*items, stop_reason="tool_calls")


@pytest.fixture
def shell() -> Shell:
    """The one part of each test."""
    return Shell()


@pytest.fixture
def models() -> Scripted:
    """The one model, which does as told."""
    return Scripted()


@pytest.fixture
async def desk(
    tmp_path: Path, shell: Shell, models: Scripted, autojump_clock: MockClock
) -> AsyncIterator[Desk]:
    """A desk with a shell, whose worker is at work."""
    async with open_desk(tmp_path, models, hooks=CompositeHook((shell,))) as desk, working(desk):
        yield desk


async def judged(desk: Desk, models: Scripted, *commands: str) -> list[Verdict]:
    """The verdicts on calls of the shell in one message."""
    models.parts = [calls(*commands), lambda request: says("so be it")]
    sent = await desk.ask("go")
    found = [event for _, event in desk.journal(sent.session_id) if isinstance(event, CallsJudged)]
    return found[-1].verdicts


async def update(desk: Desk, **params: Any) -> None:
    """Change the rules of the daemon."""
    await desk.do(permission.update, PermissionUpdate(**params))


async def test_a_rule_that_is_made_while_a_run_is_under_way_counts(
    desk: Desk, models: Scripted, shell: Shell
) -> None:
    """The next call is judged by it; so is one that is written into the configuration."""
    await update(desk, add=[Rule(tool="bash", subject="git *", decision="allow")])
    (verdict,) = await judged(desk, models, "git status")
    assert (verdict.decision, verdict.subject, verdict.why) == (
        "allow",
        "git status",
        "daemon rule bash 'git *' allow",
    )
    denied = PermissionsSection(rules=[Rule(tool="bash", decision="deny", note="closed")])

    def reload(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        present = desk.holder.current()
        desk.holder.replace(make_runtime(2, models=present.models, hooks=present.hooks, permissions=denied))
        return calls("git log")(request)

    models.parts = [reload, lambda request: says("so be it")]
    sent = await desk.ask("go")
    last = [event for _, event in desk.journal(sent.session_id) if isinstance(event, CallsJudged)][-1]
    assert (last.verdicts[0].decision, last.verdicts[0].note) == ("deny", "closed")
    assert shell.ran == ["git status"]


async def test_the_end_of_a_long_command_is_judged_too(desk: Desk, models: Scripted, shell: Shell) -> None:
    """What is kept of it is cut, and says so; what is chained to it beyond that is asked about."""
    await update(desk, add=[Rule(tool="bash", subject="git *", decision="allow")])
    (verdict,) = await judged(desk, models, "git log " + "x" * MAX_SUBJECT_BYTES + "; rm -rf /")
    assert (verdict.decision, verdict.why) == ("ask", "bash's default")
    assert len(verdict.subject.encode()) <= MAX_VERDICT_SUBJECT_BYTES
    assert verdict.subject.endswith("x…")
    assert shell.ran == []


async def test_a_counted_grant_is_used_once_for_each_call_of_a_batch(
    desk: Desk, models: Scripted, shell: Shell
) -> None:
    """Though none of the verdicts is kept before all are made; what it allowed runs once it is gone."""
    sent = await desk.ask("hello")
    grant = Grant(grant_id="grt_1", tool="bash", subject="ls", granted_by="uid:0", remaining_uses=2)
    answer = ApprovalAnswered(
        approval_id="apr_1", call_id="call_1", decision="allow", remember="session", grant=grant
    )

    def remember(tx: Transaction) -> None:
        fold = SessionWriter(tx, sent.session_id, session=tx.get(SESSIONS, sent.session_id))
        fold.append(approval_requested("apr_1", "call_1"), run_id=sent.run_id)
        fold.append(answer, run_id=sent.run_id)
        fold.write()

    await desk.state.update(remember)
    verdicts = await judged(desk, models, "ls", "ls", "ls")
    assert [verdict.decision for verdict in verdicts] == ["allow", "allow", "ask"]
    assert [verdict.grant_id for verdict in verdicts] == ["grt_1", "grt_1", None]
    assert desk.session(sent.session_id).grants == []
    asked = [e for _, e in desk.journal(sent.session_id) if isinstance(e, ApprovalRequested)]
    assert [(each.call_id, each.subject) for each in asked[1:]] == [("call_2", "ls")]
    (run_id,) = desk.session(sent.session_id).open_runs
    await desk.order(run_id, lambda run: answer_approvals(run, "deny"))
    await desk.until(lambda: desk.ended(run_id))
    assert shell.ran == ["ls", "ls"]
