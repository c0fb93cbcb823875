"""The laws of agents, with steps in any order over a real store: the handlers, and the steps of the workers.

A child never has a right that its root lacks; the tree stays a tree; no step of a restart loses or repeats
anything. The doctor examines the store at the end of each history.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import (
    DataObject,
    SearchStrategy,
    booleans,
    builds,
    data,
    lists,
    none,
    one_of,
    sampled_from,
)
from trio.testing import MockClock

from kheishd.config.sections.agents import AgentsSection
from kheishd.core.definition import built_in
from kheishd.core.run.commands import (
    AcceptAnswer,
    BeginModelCall,
    EndEarly,
    FailModelCall,
    RequestCancel,
    Start,
)
from kheishd.core.scope import Restriction
from kheishd.core.workspace import Workspaces, is_within
from kheishd.hooks.agents.delegation import Delegation
from kheishd.hooks.agents.mail import MailTools
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.call import Call, Mutate
from kheishd.kernel.holder import RuntimeHolder
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from kheishd.kernel.state import State
from kheishd.objects.agents import mail
from kheishd.objects.agents.agent import close, spawn_agent
from kheishd.objects.agents.mailbox import post_mail
from kheishd.objects.agents.persona import bind_persona, create_persona, unbind_persona, update
from kheishd.objects.agents.skill import activate, deactivate
from kheishd.objects.agents.tree import path_of, root_id_of, tree_of
from kheishd.objects.talk import fork, session
from kheishd.objects.talk.bounds import ancestors, bounds_of
from kheishd.objects.talk.send import send_to_session
from kheishd.objects.talk.workspace import workspace_of
from kheishd.records.agent import hash_key
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.commit import Group
from kheishd.store.environment import Snapshot, Transaction
from kheishd.store.tables import (
    AGENTS,
    AGENTS_BY_NICKNAME,
    AGENTS_BY_PATH,
    AGENTS_CLOSING,
    AGENTS_LIVE,
    AGENTS_SETTLED,
    MAIL,
    MAILBOXES_DUE,
    RUNS,
    RUNS_TO_CONCLUDE,
    SESSIONS,
    SPAWN_RECEIPTS,
)
from kheishd.workers.agents import AgentWorker
from kheishd.workers.mail import MailWorker
from protocol.budget import Account, Budget
from protocol.errors.refusal import Refusal
from protocol.events.call import ToolReturned
from protocol.events.mailbox import MailAcknowledged
from protocol.events.run import RunConcluded
from protocol.objects.agent import AgentClose, SpawnParams
from protocol.objects.mailbox import MailboxPost
from protocol.objects.permission import MODES
from protocol.objects.persona import PersonaBind, PersonaCreate, PersonaUnbind, PersonaUpdate
from protocol.objects.session import (
    CapabilityScope,
    CredentialScope,
    Session,
    SessionCreate,
    SessionEnd,
    SessionFork,
    SessionSend,
    SessionUpdate,
)
from protocol.objects.skill import SkillActivate, SkillDeactivate
from protocol.text import fold_text
from protocol.transcript import Text, ToolCall, ToolResult, Usage, text_of
from tests.support.desk import EPOCH_MS, OPERATOR, Desk, Scripted, gives, open_desk, says, working
from tests.support.household import ROUTES, Ready, agent
from tests.support.machine import ERROR
from tests.support.runtimes import change_runtime, make_runtime
from tests.support.services import make_services
from tests.support.skills import make_skills, write_skill
from tests.support.stores import open_inline

if TYPE_CHECKING:
    from kheishd.store.table import Table

NAMES = {
    "tools": ("bash", "read_file", "spawn_agent", "mcp__a__x", "mcp__*"),
    "skills": ("narrow", "wide"),
    "mcp": ("a", "b"),
    "mcp_tools": ("mcp__a__x", "mcp__b__y"),
    "members": ("default", "worker"),
    "credentials": ("c:K", "m"),
    "routes": ("offline", "local"),
    "connectors": ("c",),
    "connector_credentials": ("c:K",),
    "mcp_credentials": ("m",),
}
"""The names in the lists of scopes."""

ITEMS: tuple[tuple[Any, str], ...] = (
    *(
        ("tool", name)
        for name in ("bash", "read_file", "write_file", "spawn_agent", "mcp__a__x", "mcp__b__y")
    ),
    *(("skill", name) for name in NAMES["skills"]),
    *(("member", name) for name in NAMES["members"]),
    *(("mcp_server", name) for name in NAMES["mcp"]),
    *(("route", name) for name in NAMES["routes"]),
    *(("connector", "c"), ("connector_credential", "c:K"), ("mcp_credential", "m")),
)
"""Everything that an agent may have a right to use."""

WORKERS = (
    "tools: [bash, read_file]",
    "tools: [bash, spawn_agent, write_file]\npermission_mode: bypassPermissions",
    "members: []\npermission_mode: plan\nskills: [wide]",
    "",
)
"""What the file of the definition ``worker`` says before and after reloads."""

PROFILE_NAMES = (None, None, "default", "plan", "verification", "coordinator")
LIMITS = AgentsSection(max_depth=5, max_children=5, max_spawns_per_minute=1_000)


def some_names(field: str) -> SearchStrategy[list[str] | None]:
    """Return lists of the names of a field; often null, which is everything."""
    return one_of(none(), none(), lists(sampled_from(NAMES[field]), unique=True))


SCOPES = builds(
    CapabilityScope,
    **{name: some_names(name) for name in ("tools", "skills", "mcp", "mcp_tools", "members", "credentials")},
)
CREDENTIALS = builds(
    CredentialScope,
    **{
        name: some_names(name)
        for name in ("routes", "connectors", "connector_credentials", "mcp_credentials")
    },
)


def rights_in(restriction: Restriction) -> set[tuple[str, str]]:
    """Return the items that a restriction leaves."""
    return {(kind, name) for kind, name in ITEMS if restriction.find_problem(kind, name) is None}


class Forest(RuleBasedStateMachine):
    """Trees of agents. Each rule is one request of a client, or one transaction of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.home = Path(self.directory.name).resolve()
        for path in ("work/a/b", "work/c", "kheish/skills"):
            (self.home / path).mkdir(parents=True)
        write_skill(
            self.home / "kheish/skills", "narrow", "---\ndescription: x\nallowed-tools: Read\n---\nDo it.\n"
        )
        write_skill(self.home / "kheish/skills", "wide")
        models = Ready()
        models.problems = {}
        skills = make_skills(self.home / "kheish")
        runtime = make_runtime(
            models=models,
            routes=ROUTES,
            agents=LIMITS,
            load_skills=lambda: skills,
            workspaces=Workspaces(str(self.home / "work"), str(self.home / "kheish")),
        )
        self.holder = RuntimeHolder(runtime, lambda old: None)
        self.requests = 0
        self.now_ms = EPOCH_MS
        self.sessions: list[str] = []
        # The rights in each session's own scopes, and the messages, when they were last seen.
        self.own_rights: dict[str, set[tuple[str, str]]] = {}
        self.open_store()
        self.load(0)

    def open_store(self) -> None:
        """Open the store, as a daemon does that starts."""
        self.store = open_inline(self.home / "kheish" / "state")
        self.state = State(self.store, lambda: self.now_ms)
        self.services = make_services(self.state, self.holder)

    def load(self, version: int) -> None:
        """Load a version of the definitions."""
        definitions = {"default": built_in(), "worker": agent("worker", WORKERS[version])}
        runtime = self.holder.current()
        self.holder.replace(
            change_runtime(runtime, generation=runtime.generation + 1, definitions=definitions)
        )

    def teardown(self) -> None:
        """Examine the store, and remove it."""
        assert examine_whole(self.store.read, deep=True).findings == []
        self.store.close()
        self.directory.cleanup()

    def commit(self, change: Callable[[Transaction], Any]) -> Any:
        """Run one transaction."""
        self.now_ms += 1
        return self.store.submit(change, self.now_ms).unwrap()

    def request(self, handler: Mutate, params: Any) -> Any:
        """Let a client that may do everything send a request; return None if it is refused."""
        absent: Any = None
        call = Call(OPERATOR, self.services, self.holder.current(), absent, absent, 1, self.now_ms)
        with suppress(Refusal):
            plan = params if handler.prepare is None else handler.prepare(call, params)
            return self.commit(lambda tx: handler.apply(tx, call, plan))

    def choose(self, draw: DataObject) -> str:
        """Choose a session; the newest ones are in the deepest places."""
        return str(draw.draw(sampled_from(self.sessions)))

    def add(self, session_id: str | None) -> None:
        """Remember a new session."""
        if session_id is not None and session_id not in self.sessions:
            self.sessions.append(session_id)

    # Requests.

    @initialize(
        scope=SCOPES,
        credentials=CREDENTIALS,
        mode=sampled_from(MODES),
        persona_scope=SCOPES,
        budget=sampled_from((None, Budget(max_tokens=40))),
    )
    def first(
        self,
        scope: CapabilityScope,
        credentials: CredentialScope,
        mode: Any,
        persona_scope: CapabilityScope,
        budget: Budget | None,
    ) -> None:
        """Create a root with some rights and perhaps a persona, and agents below it."""
        persona = PersonaCreate(display_name="P", soul="Be kind.", persona_id="p", scope=persona_scope)
        is_bound = self.request(create_persona, persona) is not None and persona_scope.tools is not None
        created = SessionCreate(
            session_id="root",
            scope=scope,
            credential_scope=credentials,
            permission_mode=mode,
            workspace=str(self.home / "work"),
            persona_id="p" if is_bound else None,
            budget=budget,
        )
        assert self.request(session.create, created) is not None
        self.add("root")
        for parent_index in (0, 0, 1, 3):
            # A root without the route has no children.
            self.grow(self.sessions[min(parent_index, len(self.sessions) - 1)])

    def grow(self, parent_id: str, **params: Any) -> None:
        """Spawn an agent, twice by the same request."""
        self.requests += 1
        request = {"name": "Scout", "prompt": "look", "spawn_request_id": f"q{self.requests}"} | params
        spawned = self.request(spawn_agent, SpawnParams(parent=parent_id, **request))
        if spawned is not None:
            again = self.request(spawn_agent, SpawnParams(parent=parent_id, **request))
            assert again.agent_id == spawned.agent_id
            self.add(spawned.agent_id)

    @rule(
        draw=data(),
        scope=one_of(none(), SCOPES),
        credential_scope=one_of(none(), CREDENTIALS),
        permission_mode=sampled_from((None, *MODES)),
        agent=sampled_from((None, "worker")),
        profile=sampled_from(PROFILE_NAMES),
        allowed_tools=some_names("tools"),
        workspace=sampled_from((None, None, "a", "b", "c", "..", "/")),
        retention=sampled_from(("retain", "close_on_settle")),
        budget=sampled_from((None, Budget(max_tokens=3), Budget(max_tokens=20))),
    )
    def spawn(self, draw: DataObject, **params: Any) -> None:
        """Spawn an agent with any rights; those beyond the parent's are refused."""
        self.grow(self.choose(draw), **params)

    @rule(draw=data(), retention=sampled_from(("retain", "close_on_settle")))
    def spawn_plainly(self, draw: DataObject, retention: str) -> None:
        """Spawn an agent with its parent's rights."""
        self.grow(self.choose(draw), retention=retention)

    @rule(draw=data(), scope=SCOPES, definition=sampled_from((None, "default", "worker")))
    def branch(self, draw: DataObject, scope: CapabilityScope, definition: str | None) -> None:
        """Fork a session; or create one below it, which is not an agent that was spawned."""
        self.requests += 1
        parent_id = self.choose(draw)
        if draw.draw(booleans()):
            params = SessionCreate(
                session_id=f"s{self.requests}",
                parent_session_id=parent_id,
                scope=scope,
                agent=definition or "default",
            )
            branch = self.request(session.create, params)
        else:
            branch = self.request(fork.fork, SessionFork(session_id=parent_id, agent=definition))
        self.add(getattr(branch, "session_id", None))

    @rule(draw=data(), scope=SCOPES, credentials=CREDENTIALS, mode=sampled_from(MODES))
    def change(
        self, draw: DataObject, scope: CapabilityScope, credentials: CredentialScope, mode: Any
    ) -> None:
        """Change the scopes of a session, its mode, or its directory."""
        session_id = self.choose(draw)
        path = self.home / "work" / draw.draw(sampled_from(("", "a", "a/b", "c", "..")))
        for changes in draw.draw(
            sampled_from(
                (
                    ({"scope": scope}, {"credential_scope": credentials}),
                    ({"permission_mode": mode}, {"workspace": str(path)}),
                )
            )
        ):
            self.request(session.update, SessionUpdate(session_id=session_id, **changes))

    @rule(draw=data(), scope=SCOPES, is_bound=sampled_from((True, True, False)))
    def change_persona(self, draw: DataObject, scope: CapabilityScope, is_bound: bool) -> None:
        """Change the persona, and bind it to a session or remove it from there."""
        session_id = self.choose(draw)
        self.request(update, PersonaUpdate(persona_id="p", scope=scope, default_skills=["wide"]))
        if is_bound:
            self.request(bind_persona, PersonaBind(session_id=session_id, persona_id="p"))
        else:
            self.request(unbind_persona, PersonaUnbind(session_id=session_id))

    @rule(draw=data(), name=sampled_from(NAMES["skills"]), is_on=sampled_from((True, True, False)))
    def change_skills(self, draw: DataObject, name: str, is_on: bool) -> None:
        """Activate a skill in a session, or end it."""
        session_id = self.choose(draw)
        if is_on:
            self.request(activate, SkillActivate(session_id=session_id, name=name))
        else:
            self.request(deactivate, SkillDeactivate(session_id=session_id, name=name))

    @rule(version=sampled_from(range(len(WORKERS))))
    def reload(self, version: int) -> None:
        """Load another version of the definitions."""
        self.load(version)

    @rule(draw=data())
    def talk(self, draw: DataObject) -> None:
        """Post a message from one agent to another, twice; or send one to a session."""
        self.requests += 1
        recipient, sender = self.choose(draw), self.choose(draw)
        if draw.draw(booleans()):
            self.request(send_to_session, SessionSend(session_id=recipient, content="go on"))
            return
        params = MailboxPost(
            from_agent=sender, to_agent=recipient, subject="s", payload=1, message_id=f"m{self.requests}"
        )
        posted = self.request(post_mail, params)
        assert posted is None or self.request(post_mail, params).duplicate

    @rule(draw=data(), is_close=sampled_from((True, True, False)))
    def end(self, draw: DataObject, is_close: bool) -> None:
        """Close an agent, or end a session."""
        session_id = self.choose(draw)
        if is_close:
            self.request(close, AgentClose(agent=session_id))
        else:
            self.request(session.end, SessionEnd(session_id=session_id))

    # Workers.

    @rule(outcome=sampled_from(("done", "failed", "cancelled")), steps=sampled_from((1, 1, 2, 30)))
    def work(self, outcome: str, steps: int) -> None:
        """Let the workers take some steps, in turn."""
        for _ in range(steps):
            self.work_on_runs(outcome)
            self.close_agents()
            self.settle_mail()

    def work_on_runs(self, outcome: str) -> None:
        """Take one step of each open run: start it and call the model, or end the call."""
        with self.store.read() as snapshot:
            busy = [key[0] for key, record in snapshot.scan(SESSIONS) if record.open_runs]
        for session_id in busy:
            self.commit(partial(self.take_step, session_id=session_id, outcome=outcome))

    def take_step(self, tx: Transaction, session_id: str, outcome: str) -> None:
        """Take one step of the first open run of a session."""
        record = tx.need(SESSIONS, session_id)
        writer = SessionWriter(tx, session_id, session=record, run=tx.need(RUNS, record.open_runs[0]))
        if writer.run.status == "queued":
            writer.carry_out(Start())
            writer.carry_out(BeginModelCall("itm_1"))
        elif writer.run.cancel is not None:
            writer.carry_out(EndEarly([]))
        elif outcome == "failed":
            writer.carry_out(FailModelCall(ERROR, None, Usage(1, 0)))
        elif outcome == "done":
            writer.carry_out(AcceptAnswer([Text("seen")], Usage(1, 1), "end", None))
        else:
            writer.carry_out(RequestCancel("cancelled", "no"))
        writer.write()

    def close_agents(self) -> None:
        """Take the next step of the agents' worker."""
        step = AgentWorker(self.services)._find_step()
        if step is not None:
            agent_id, change = step
            self.commit(lambda tx: change(tx, tx.need(AGENTS, agent_id)))

    def settle_mail(self) -> None:
        """Conclude the first run that has ended, and deliver the mail of the first mailbox that has some."""
        if (run_id := self.first_of(RUNS_TO_CONCLUDE)) is not None:
            self.commit(partial(mail.conclude, run_id=run_id))
        if (session_id := self.first_of(MAILBOXES_DUE)) is not None:
            run_id, input_id = self.state.new_id("run"), self.state.new_id("inp")
            change = partial(mail.deliver, session_id=session_id, run_id=run_id, input_id=input_id)
            with suppress(Refusal):
                self.commit(partial(change, runtime=self.holder.current()))

    def first_of(self, table: Any) -> Any:
        """Return the value of the first row of a table; None if it is empty."""
        with self.store.read() as snapshot:
            return next((value for _, value in snapshot.scan(table)), None)

    @rule()
    def restart(self) -> None:
        """Close the store and open it again: everything in it is as it was."""
        previous = self.read_all()
        self.store.close()
        self.open_store()
        assert self.read_all() == previous

    def read_all(self) -> list[Any]:
        """Return every child, receipt, message and run."""
        with self.store.read() as snapshot:
            tables: tuple[Table[Any], ...] = (SESSIONS, AGENTS, SPAWN_RECEIPTS, MAIL, RUNS)
            return [list(snapshot.scan(table)) for table in tables]

    # Laws.

    @invariant()
    def rights_only_narrow(self) -> None:
        """Require that rights are among those of the root and the parent, and a session's own never grow."""
        runtime = self.holder.current()
        with self.store.read() as snapshot:
            rights, modes, places = {}, {}, {}
            for session_id in self.sessions:
                record = snapshot.need(SESSIONS, session_id)
                bounds = bounds_of(snapshot, runtime, record)
                rights[session_id], modes[session_id] = rights_in(bounds), MODES.index(bounds.mode)
                with suppress(Refusal):
                    # A directory that its parent has left cannot be used: a refusal.
                    places[session_id] = workspace_of(snapshot, runtime, record)
                own = rights_in(
                    Restriction(record.scope, record.credential_scope, tuple(record.blocked_tools))
                )
                assert own <= self.own_rights.get(session_id, own)
                self.own_rights[session_id] = own
                assert rights[session_id] <= own
                for above in ancestors(snapshot, record):
                    above_id = above.session_id
                    assert rights[session_id] <= rights[above_id]
                    assert modes[session_id] <= modes[above_id]
                    if session_id in places:
                        assert is_within(places[session_id], places[above_id])

    @invariant()
    def the_tree_is_a_tree(self) -> None:
        """Require one parent, one root, one path and one nickname of each agent; every index finds it."""
        with self.store.read() as snapshot:
            agents = [agent for _, agent in snapshot.scan(AGENTS)]
            for spawned in agents:
                record = snapshot.need(SESSIONS, spawned.agent_id)
                parent = snapshot.need(SESSIONS, spawned.parent_id)
                above = [session.session_id for session in ancestors(snapshot, record)]
                assert above[0] == record.parent_session_id == spawned.parent_id
                assert above[-1] == root_id_of(record) == spawned.root_id
                assert spawned.agent_id not in above
                assert spawned.path == f"{path_of(snapshot, parent)}/{spawned.name}"
                assert (spawned.state == "closed") <= (record.status == "ended")
                self.require_found(snapshot, spawned.agent_id)
            for table in (AGENTS_BY_PATH, AGENTS_BY_NICKNAME, SPAWN_RECEIPTS):
                assert snapshot.count(table) == len(agents)
            live = sorted(key for key, _ in snapshot.scan(AGENTS_LIVE))
            assert live == sorted(
                (agent.root_id, agent.parent_id, agent.agent_id)
                for agent in agents
                if agent.state != "closed"
            )
            reachable = [
                agent_id
                for top_id in self.sessions
                if snapshot.get(AGENTS, top_id) is None
                for _, agent_id in tree_of(snapshot, top_id)
            ]
            assert sorted(reachable) == sorted(agent.agent_id for agent in agents)

    def require_found(self, snapshot: Snapshot, agent_id: str) -> None:
        """Require that an agent's path, nickname and receipt lead to it."""
        agent = snapshot.need(AGENTS, agent_id)
        assert snapshot.get(AGENTS_BY_PATH, agent.path) == agent_id
        assert snapshot.get(AGENTS_BY_NICKNAME, hash_key(fold_text(agent.nickname))) == agent_id
        assert snapshot.get(SPAWN_RECEIPTS, agent.parent_id, hash_key(agent.spawn_request_id)) == agent_id

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        """Require that what is used and reserved below a session is at most what it was given.

        The last answer of each session may take more than was left: each takes two tokens.
        """
        with self.store.read() as snapshot:
            sessions = [snapshot.need(SESSIONS, session_id) for session_id in self.sessions]
            for record in sessions:
                if record.budget is None or record.account is None or not record.budget.max_tokens:
                    continue
                account, excess = record.account, 2 * len(sessions)
                reserved = {item.child_id: item.amounts.tokens for item in account.reserved}
                taken = account.used.tokens + account.delegated.tokens + sum(reserved.values())
                assert taken <= record.budget.max_tokens + excess
                # Nothing stays reserved for a session that has ended, once its worker is done.
                for child_id, tokens in reserved.items():
                    child = snapshot.need(SESSIONS, child_id)
                    assert child.parent_session_id == record.session_id
                    assert child.budget is not None
                    assert child.budget.max_tokens <= tokens

    @invariant()
    def each_run_is_reported_once(self) -> None:
        """Require at most one notice of each run of a child, and none of a run that is open."""
        with self.store.read() as snapshot:
            notices = [
                row.message_id for _, row in snapshot.scan(MAIL) if row.message_id.startswith("notice:")
            ]
            assert len(set(notices)) == len(notices)
            for message_id in notices:
                run = snapshot.need(RUNS, message_id.removeprefix("notice:"))
                assert run.ended_at_ms is not None
                assert not run.reports
            for _, spawned in snapshot.scan(AGENTS):
                run = snapshot.need(RUNS, spawned.launch_run_id)
                parent: Session = snapshot.need(SESSIONS, spawned.parent_id)
                # An agent that is open now was open when the run was concluded.
                if run.ended_at_ms is not None and not run.reports and mail.is_open(snapshot, parent):
                    assert mail.notice_id(run.run_id) in notices


# A restart at any point.

QUESTION = {"question": "Which color?", "options": [{"label": "Red"}, {"label": "Blue"}]}

STORIES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "mail": (
        ("delegate", {"tasks": [{"name": name, "prompt": f"look at {name}"} for name in ("ape", "bee")]}),
        ("spawn_agent", {"name": "cat", "prompt": "look at the cat"}),
        ("message_agent", {"agent": "cat", "subject": "more", "message": "look again"}),
    ),
    "question": (
        ("spawn_agent", {"name": "ape", "prompt": "wonder", "wait": True}),
        ("answer_agent", {"agent": "ape", "answers": [{"key": "q1", "choose": ["Red"]}]}),
        ("wait_agent", {"agent": "ape"}),
        ("close_agent", {"agent": "ape"}),
    ),
}
"""The calls of the root's model, one after another."""


def follow(story: str, request: ModelRequest) -> AsyncIterator[ModelEvent]:
    """Answer as the root by the story's next call, or as another agent; a repeated call is the same."""
    first = text_of(request.messages[0].items)
    results = sum(isinstance(item, ToolResult) for message in request.messages for item in message.items)
    if first == "go":
        calls = STORIES[story]
    else:
        calls = (("request_parent_clarification", {"questions": [QUESTION]}),) if "wonder" in first else ()
    if results == len(calls):
        return says(f"did it {len(request.messages)}")
    tool, arguments = calls[results]
    return gives(ToolCall(f"c{results}", tool, arguments), stop_reason="tool_calls")


@asynccontextmanager
async def open_team(directory: Path, story: str) -> AsyncIterator[Desk]:
    """Open a store with all workers, whose agents follow a story."""
    async with open_desk(directory, Scripted([partial(follow, story)])) as desk:
        hooks = CompositeHook([Delegation(desk.services), MailTools()])
        desk.holder.replace(change_runtime(desk.holder.current(), generation=2, hooks=hooks))
        async with working(desk), trio.open_nursery() as nursery:
            await nursery.start(AgentWorker(desk.services).serve)
            await nursery.start(MailWorker(desk.services).serve)
            yield desk
            nursery.cancel_scope.cancel()


def has_settled(desk: Desk) -> bool:
    """Whether nothing is left to do for runs, mail and agents."""
    with desk.state.read() as store:
        tables: tuple[Table[Any], ...] = (RUNS_TO_CONCLUDE, MAILBOXES_DUE, AGENTS_CLOSING, AGENTS_SETTLED)
        return not any(store.count(table) for table in tables) and not any(
            record.open_runs for _, record in store.scan(SESSIONS)
        )


def read_result(desk: Desk) -> list[str]:
    """Return everything that happened, without ids."""
    assert examine_whole(desk.state.read, deep=True).findings == []
    rows: list[str] = []
    read_by: dict[str, str | None] = {}
    for _, event in desk.journal("root"):
        if isinstance(event, MailAcknowledged):
            read_by |= {name: event.how for name in event.message_ids if name.startswith("notice:")}
        elif isinstance(event, ToolReturned):
            rows.append(f"result {event.call_id} {event.is_error} {event.text.count('did it')}")
    with desk.state.read() as store:
        messages = [row for _, row in store.scan(MAIL)]
        for _, spawned in store.scan(AGENTS):
            rows.append(f"agent {spawned.path} {spawned.state} {spawned.retention}")
            for envelope, event in desk.journal(spawned.agent_id):
                if isinstance(event, RunConcluded):
                    # A wait takes the report itself, or acknowledges the message that tells it.
                    told = read_by.pop(event.message_id or "", event.report)
                    run = store.need(RUNS, envelope.run_id)  # type: ignore[arg-type]
                    rows.append(
                        f"run {spawned.path} {run.kind} {run.status} {told}".replace("waited", "wait")
                    )
        assert not read_by
        names = [path_of(store, store.need(SESSIONS, row.agent_id)) for row in messages]
        rows += [
            f"mail {name} {row.state}" for name, row in zip(names, messages, strict=True) if name != "root"
        ]
        assert all(row.state == "done" for row in messages)
        rows.append(f"receipts {store.count(SPAWN_RECEIPTS)}")
        for _, record in store.scan(SESSIONS):
            account: Account = record.account or Account()
            reserved = [path_of(store, store.need(SESSIONS, item.child_id)) for item in account.reserved]
            rows.append(f"budget {record.agent} {reserved}")
    return sorted(rows)


@pytest.mark.parametrize("story", STORIES)
async def test_a_restart_at_any_point_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock, story: str
) -> None:
    """A daemon that dies after any commit of a family's work leaves the same children, mail and results."""
    copies: list[Path] = []
    async with open_team(tmp_path / "whole", story) as desk:
        deliver = desk.state.deliver

        def deliver_and_copy(group: Group) -> None:
            copies.append(tmp_path / f"copy{len(copies)}")
            desk.copy_store(copies[-1])
            deliver(group)

        budget = Budget(max_tokens=10_000)
        await desk.do(session.create, SessionCreate(session_id="root", budget=budget))
        desk.state.deliver = deliver_and_copy  # type: ignore[method-assign]
        await desk.do(send_to_session, SessionSend(session_id="root", content="go"))
        await desk.until(lambda: has_settled(desk))
        result = read_result(desk)
    assert not any(" True " in row for row in result)
    assert len(copies) > 20
    for copy in copies:
        async with open_team(copy, story) as desk:
            await desk.until(lambda desk=desk: has_settled(desk))  # type: ignore[misc]
            assert read_result(desk) == result


TestForest = Forest.TestCase
TestForest.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
