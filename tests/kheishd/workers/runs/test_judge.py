"""The judge of calls: the current rules and grants, applied to the whole subject."""

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


class FakeShell(SubHook):
    """A sub-hook with a shell that runs nothing; ``ran`` are the commands it was given."""

    name = "shell"
    tools = (Tool("bash", "Run a command.", SCHEMA, "execute", default="ask"),)

    def __init__(self) -> None:
        self.ran: list[str] = []

    def subject(self, use: Invocation) -> str:
        """Return the command."""
        return str(use.arguments["command"])

    async def dispatch(self, use: Invocation) -> Outcome:
        """Record the command."""
        self.ran.append(self.subject(use))
        return Outcome("done")


def calls(*commands: str) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Answer with one call of the shell for each command."""
    items = [
        ToolCall(f"call_{number}", "bash", {"command": command}) for number, command in enumerate(commands)
    ]
    return lambda request: gives(*items, stop_reason="tool_calls")


@pytest.fixture
def shell() -> FakeShell:
    """Provide the sub-hook."""
    return FakeShell()


@pytest.fixture
def models() -> Scripted:
    """Provide the scripted models."""
    return Scripted()


@pytest.fixture
async def desk(
    tmp_path: Path, shell: FakeShell, models: Scripted, autojump_clock: MockClock
) -> AsyncIterator[Desk]:
    """Provide a desk with the shell and a worker."""
    async with open_desk(tmp_path, models, hooks=CompositeHook((shell,))) as desk, working(desk):
        yield desk


async def verdicts_of(desk: Desk, models: Scripted, *commands: str) -> list[Verdict]:
    """Return the verdicts on calls of the shell in one message."""
    models.answers = [calls(*commands), lambda request: says("so be it")]
    sent = await desk.ask("go")
    batches = [event for _, event in desk.journal(sent.session_id) if isinstance(event, CallsJudged)]
    return batches[-1].verdicts


async def update_rules(desk: Desk, **params: Any) -> None:
    """Change the rules of the daemon."""
    await desk.do(permission.update, PermissionUpdate(**params))


async def test_a_new_rule_applies_to_an_active_run(desk: Desk, models: Scripted, shell: FakeShell) -> None:
    """The next call is judged by it, be it made by a client or in the configuration."""
    await update_rules(desk, add=[Rule(tool="bash", subject="git *", decision="allow")])
    (verdict,) = await verdicts_of(desk, models, "git status")
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

    models.answers = [reload, lambda request: says("so be it")]
    sent = await desk.ask("go")
    last = [event for _, event in desk.journal(sent.session_id) if isinstance(event, CallsJudged)][-1]
    assert (last.verdicts[0].decision, last.verdicts[0].note) == ("deny", "closed")
    assert shell.ran == ["git status"]


async def test_the_end_of_a_long_command_is_judged(desk: Desk, models: Scripted, shell: FakeShell) -> None:
    """The stored subject is truncated, but a command chained beyond it still needs an approval."""
    await update_rules(desk, add=[Rule(tool="bash", subject="git *", decision="allow")])
    (verdict,) = await verdicts_of(desk, models, "git log " + "x" * MAX_SUBJECT_BYTES + "; rm -rf /")
    assert (verdict.decision, verdict.why) == ("ask", "bash's default")
    assert len(verdict.subject.encode()) <= MAX_VERDICT_SUBJECT_BYTES
    assert verdict.subject.endswith("x…")
    assert shell.ran == []


async def test_a_counted_grant_is_used_once_per_call_of_a_batch(
    desk: Desk, models: Scripted, shell: FakeShell
) -> None:
    """Each verdict of a batch counts, although they are committed together."""
    sent = await desk.ask("hello")
    grant = Grant(grant_id="grt_1", tool="bash", subject="ls", granted_by="uid:0", remaining_uses=2)
    answer = ApprovalAnswered(
        approval_id="apr_1", call_id="call_1", decision="allow", remember="session", grant=grant
    )

    def remember(tx: Transaction) -> None:
        writer = SessionWriter(tx, sent.session_id, session=tx.get(SESSIONS, sent.session_id))
        writer.append(approval_requested("apr_1", "call_1"), run_id=sent.run_id)
        writer.append(answer, run_id=sent.run_id)
        writer.write()

    await desk.state.update(remember)
    verdicts = await verdicts_of(desk, models, "ls", "ls", "ls")
    assert [verdict.decision for verdict in verdicts] == ["allow", "allow", "ask"]
    assert [verdict.grant_id for verdict in verdicts] == ["grt_1", "grt_1", None]
    assert desk.session(sent.session_id).grants == []
    approvals = [e for _, e in desk.journal(sent.session_id) if isinstance(e, ApprovalRequested)]
    assert [(approval.call_id, approval.subject) for approval in approvals[1:]] == [("call_2", "ls")]
    (run_id,) = desk.session(sent.session_id).open_runs
    await desk.command(run_id, lambda run: answer_approvals(run, "deny"))
    await desk.until(lambda: desk.ended(run_id))
    assert shell.ran == ["ls", "ls"]
