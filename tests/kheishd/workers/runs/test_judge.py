"""The judge of calls: the current rules and grants, applied to the whole subject."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta
from trio.testing import MockClock

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.core.permissions.claims import Claim, destination
from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Arguments, Invocation, Outcome, SubHook, Tool, tool
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from kheishd.objects.people import approval, permission
from kheishd.objects.talk import session
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import APPROVALS, SESSIONS
from protocol.events.approval import ApprovalAnswered, ApprovalRequested
from protocol.events.call import CallsJudged, ToolReturned
from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_VERDICT_SUBJECT_BYTES
from protocol.objects.approval import Approval, ApprovalResolve, Preview, Remember, Resolution
from protocol.objects.permission import CallFacts, Grant, PermissionUpdate, Rule, Verdict
from protocol.objects.session import CapabilityScope, SessionUpdate
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
        self.facts: CallFacts | None = None
        self.hosts: list[Claim] = []
        self.connections: list[tuple[str, str]] = []

    def subject(self, use: Invocation) -> str:
        """Return the command."""
        return str(use.arguments["command"])

    def claims(self, use: Invocation) -> list[Claim]:
        """Return the hosts."""
        return self.hosts

    async def preview(self, use: Invocation) -> Preview | None:
        """Show the circumstances."""
        return None if self.facts is None else Preview(kind="command", text="", facts=self.facts)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Record the command, and the decisions about connections."""
        self.ran.append(self.subject(use))
        for claim in (*self.hosts, destination("evil.example", 443)):
            ruling = use.judge_claim(claim)
            self.connections.append((ruling.decision, ruling.why))
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


async def test_a_connector_s_request_asks_where_a_person_s_does_not(
    desk: Desk, models: Scripted, shell: FakeShell
) -> None:
    """The rule follows the origin of the run's input, and of the earlier runs of the session."""
    ask = Rule(tool="bash", decision="ask", origin="connector")
    await update_rules(desk, add=[Rule(tool="bash", decision="allow"), ask])
    models.answers = [calls("ls"), lambda request: says("done")] + [calls("rm x")] * 3
    assert (await desk.ask("go")).status == "completed"
    assert (await desk.ask("go", "mail", origin="connector")).status == "waiting_for_approval"
    models.answers = [lambda request: says("hello"), calls("rm x")]
    assert (await desk.ask("hi", "chat", origin="connector")).status == "completed"
    assert (await desk.ask("go", "chat")).status == "waiting_for_approval"
    assert shell.ran == ["ls"]


async def test_a_rule_that_changes_before_the_begin_applies(
    desk: Desk, models: Scripted, shell: FakeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deny that is committed while the evidence of an allowed call is read keeps the call from running."""
    await update_rules(desk, add=[Rule(tool="bash", decision="allow")])

    async def evidence(self: FakeShell, use: Invocation) -> dict[str, Any]:
        await update_rules(desk, add=[Rule(tool="bash", decision="deny", note="closed")])
        return {}

    monkeypatch.setattr(FakeShell, "evidence", evidence)
    (verdict,) = await verdicts_of(desk, models, "git log")
    assert (verdict.decision, verdict.note) == ("deny", "closed")
    assert shell.ran == []


async def test_a_scope_that_changes_before_the_begin_applies(
    desk: Desk, models: Scripted, shell: FakeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that is withdrawn while the evidence of its call is read does not run."""
    await update_rules(desk, add=[Rule(tool="bash", decision="allow")])

    async def evidence(self: FakeShell, use: Invocation) -> dict[str, Any]:
        session_id = use.context.session.session_id
        scope = CapabilityScope(tools=[])
        await desk.do(session.update, SessionUpdate(session_id=session_id, scope=scope))
        return {}

    monkeypatch.setattr(FakeShell, "evidence", evidence)
    (verdict,) = await verdicts_of(desk, models, "git log")
    assert (verdict.decision, verdict.why) == ("deny", "not valid")
    assert shell.ran == []


async def test_the_end_of_a_long_command_is_judged(desk: Desk, models: Scripted, shell: FakeShell) -> None:
    """The stored subject is truncated, but a command chained beyond it still needs an approval."""
    await update_rules(desk, add=[Rule(tool="bash", subject="git *", decision="allow")])
    (verdict,) = await verdicts_of(desk, models, "git log " + "x" * MAX_SUBJECT_BYTES + "; rm -rf /")
    assert (verdict.decision, verdict.why) == ("ask", "bash's default, for 'rm -rf /'")
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


async def approve_next(desk: Desk, models: Scripted, command: str, remember: Remember = "once") -> Approval:
    """Let the model call the shell, answer its only approval, and return that."""
    models.answers = [calls(command), lambda request: says("so be it")]
    sent = await desk.send("go")
    await desk.until(lambda: desk.run(sent.run_id).status == "waiting_for_approval")
    (open_call,) = desk.run(sent.run_id).calls
    with desk.state.read() as store:
        pending = store.need(APPROVALS, open_call.waits_for or "")
    resolution = Resolution(approval_id=pending.approval_id, decision="allow", remember=remember)
    await desk.do(approval.resolve, ApprovalResolve(resolutions=[resolution]))
    await desk.until(lambda: desk.ended(sent.run_id))
    return pending


async def test_a_grant_records_what_was_shown(desk: Desk, models: Scripted, shell: FakeShell) -> None:
    """The same command in another directory, or with another host, is asked about again."""
    shell.facts = CallFacts(workdir="/w", sandbox="bubblewrap")
    shell.hosts = [destination("pypi.org", 443)]
    pending = await approve_next(desk, models, "ls", "session")
    assert pending.facts == CallFacts(workdir="/w", sandbox="bubblewrap", network=["net:pypi.org:443"])
    (verdict,) = await verdicts_of(desk, models, "ls")
    assert verdict.decision == "allow"
    assert verdict.grant_id is not None
    shell.hosts = []
    await approve_next(desk, models, "ls")
    shell.hosts = [destination("pypi.org", 443)]
    shell.facts = CallFacts(workdir="/w/sub", sandbox="bubblewrap")
    await approve_next(desk, models, "ls")


async def test_a_running_call_is_judged_for_each_connection(
    desk: Desk, models: Scripted, shell: FakeShell
) -> None:
    """An approved host is open, another one is not, and a deny that came later closes both."""
    shell.hosts = [destination("pypi.org", 443)]
    pending = await approve_next(desk, models, "ls")
    assert pending.facts == CallFacts(network=["net:pypi.org:443"])
    asked = ("ask", "the network's default, for 'net:evil.example:443'")
    assert shell.connections == [("allow", "approved with the call"), asked]
    await update_rules(desk, add=[Rule(tool="bash", subject="net:evil.example", decision="deny")])
    shell.connections.clear()
    await approve_next(desk, models, "ls")
    assert [decision for decision, _ in shell.connections] == ["allow", "deny"]


class NamedThing(Arguments, frozen=True):
    """Arguments with a name, which is an identity, and a text, which is not."""

    name: Annotated[str, Meta(max_length=64, description="The name.")]
    note: Annotated[str, Meta(max_length=65_536, description="The note.")] = ""


class Registry(SubHook):
    """A sub-hook whose tool registers a name."""

    name = "registry"

    def __init__(self) -> None:
        self.names: list[str] = []

    @tool("register", description="Register a name.", kind="read", default="allow")
    async def register(self, call: Invocation, arguments: NamedThing) -> Outcome:
        """Register it."""
        self.names.append(arguments.name)
        return Outcome("registered")


async def test_an_identity_in_a_call_holds_no_secret(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call with a secret in a name is refused by the field, and nothing runs; in a text it is redacted."""
    registry, secret = Registry(), "sk-0123456789"
    models = Scripted(
        [
            lambda request: gives(ToolCall("c1", "register", {"name": f"a {secret}"})),
            lambda request: gives(ToolCall("c2", "register", {"name": "a [scrubbed]"})),
            lambda request: gives(ToolCall("c3", "register", {"name": "plain", "note": secret})),
            lambda request: says("done"),
        ]
    )
    async with open_desk(tmp_path, models, hooks=CompositeHook((registry,))) as desk, working(desk):
        scrubber = Scrubber([secret])
        desk.live.scrub(scrubber)
        desk.state.store.set_scrub(scrubber.scrub_journal_line)
        sent = await desk.ask()
        events = [event for _, event in desk.journal(sent.session_id)]
        texts = [event.text for event in events if isinstance(event, ToolReturned)]
        with desk.state.read() as store:
            journal = b"".join(line for _, line in store.entries(sent.session_id, 0))
    assert registry.names == ["plain"]
    assert (
        texts[0]
        == texts[1]
        == ("$.name contains a secret, which must not be in a name or an address. Nothing was run.")
    )
    assert texts[2] == "registered"
    assert secret.encode() not in journal
