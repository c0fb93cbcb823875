"""The tools by which an agent delegates: spawn agents, wait for them, look at them, close them.

An agent is spawned in a transaction of its own, before its call returns, under the call's key. So a call that
a restart interrupted is run again: it finds the agents that it has spawned, and waits for them. While a call
waits, its run takes no slot, so the agents that it waits for can always run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
import trio
from msgspec import Meta

from kheishd.core.trust import join_origins
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.kernel.services import Services
from kheishd.objects.agents.mail import find_question_to_agent, take_report
from kheishd.objects.agents.spawn import prepare_spawn, spawn
from kheishd.objects.agents.tree import find_relative, snapshot_of, top_id_of, tree_of, view_of
from kheishd.objects.talk.bounds import ancestors
from kheishd.objects.talk.input import origins_read
from kheishd.records.writer import Origin, SessionWriter
from kheishd.store.environment import Snapshot, Transaction
from kheishd.store.tables import AGENTS, RUNS, SESSIONS
from protocol.budget import Budget
from protocol.errors.refusal import Refusal
from protocol.events.agent import AgentCloseRequested
from protocol.ids import IDENTITY
from protocol.limits.agent import (
    MAX_AGENT_DESCRIPTION_BYTES,
    MAX_AGENT_PROMPT_BYTES,
    MAX_DELEGATED_TASKS,
    MAX_WAIT_FOR_AGENTS_SECONDS,
)
from protocol.limits.budget import MAX_BUDGET_TOKENS
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.session import MAX_INPUT_ITEMS
from protocol.objects.agent import (
    SETTLED_AGENT,
    AgentRetention,
    AgentSnapshot,
    Isolation,
    ManagedAgent,
    PromptMode,
    ShellsAtClose,
    SpawnRequest,
)
from protocol.objects.permission import PermissionMode
from protocol.objects.session import CapabilityScope, CredentialScope, ProfileName, Session
from protocol.text import truncate
from protocol.transcript import InputItem, InputOrigin

MAX_LISTED: Final = 100
"""How many agents a list shows."""

OUTPUT_SHARE_BYTES: Final = MAX_TOOL_TEXT_BYTES * 3 // 4
"""The part of a result that the outputs of agents share."""

WAITS: Final = MAX_WAIT_FOR_AGENTS_SECONDS + 60.0
"""The time limit of a call that waits: its own wait ends before."""

AgentName = Annotated[
    str, Meta(min_length=1, max_length=512, description="An agent: its id, path or nickname.")
]
Seconds = Annotated[
    float,
    Meta(
        ge=0,
        le=MAX_WAIT_FOR_AGENTS_SECONDS,
        description="How long to wait; then the state so far is returned.",
    ),
]


class DelegatedTask(Arguments, frozen=True):
    """A task for a new agent, as the model writes it."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="A short name for the agent.")]
    prompt: Annotated[
        str, Meta(min_length=1, description="Its task, with all facts that it needs: it knows nothing else.")
    ]
    description: Annotated[str, Meta(max_length=MAX_AGENT_DESCRIPTION_BYTES)] = ""
    agent: (
        Annotated[str, Meta(description="The definition that it works as; by default yours.", extra=IDENTITY)]
        | None
    ) = None
    profile: (
        Annotated[ProfileName, Meta(description="Its role, which fixes the tools that it has.")] | None
    ) = None
    max_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_BUDGET_TOKENS,
                description="The most tokens that it may use, out of yours; by default a share.",
            ),
        ]
        | None
    ) = None
    isolation: Annotated[
        Isolation,
        Meta(description="worktree: a git worktree and a branch of its own; it commits, and you merge it."),
    ] = "shared"


class SpawnArguments(DelegatedTask, frozen=True):
    """Arguments of ``spawn_agent``: the task is either the prompt or the items."""

    prompt: Annotated[
        str, Meta(description="Its task, with all facts that it needs: it knows nothing else.")
    ] = ""
    input_items: (
        Annotated[
            list[InputItem],
            Meta(max_length=MAX_INPUT_ITEMS, description="Its task as texts in order, instead of prompt."),
        ]
        | None
    ) = None
    instructions: Annotated[
        str, Meta(max_length=MAX_AGENT_PROMPT_BYTES, description="How it should work, beside its task.")
    ] = ""
    instructions_mode: PromptMode = "append"
    route: str | None = None
    model: str | None = None
    mode: Annotated[PermissionMode, Meta(description="A permission mode, not wider than yours.")] | None = (
        None
    )
    allowed_tools: Annotated[list[str], Meta(description="The only tools that it may use.")] | None = None
    blocked_tools: list[str] = []
    scope: CapabilityScope | None = None
    credential_scope: CredentialScope | None = None
    cwd: Annotated[str, Meta(description="A directory within your workspace to work in.")] | None = None
    nickname: str | None = None
    retention: Annotated[
        AgentRetention, Meta(description="retain: it can be given more work after this task.")
    ] = "retain"
    shells: Annotated[
        ShellsAtClose,
        Meta(description="pass: its background commands are yours once it is closed; else they are stopped."),
    ] = "stop"
    wait: Annotated[bool, Meta(description="Wait for its result.")] = False
    timeout_s: Seconds = 60.0


class DelegateArguments(Arguments, frozen=True):
    """Arguments of ``delegate``."""

    tasks: Annotated[
        list[DelegatedTask],
        Meta(min_length=1, max_length=MAX_DELEGATED_TASKS, description="Tasks that do not need each other."),
    ]
    timeout_s: Seconds = 3600.0


class WaitArguments(Arguments, frozen=True):
    """Arguments of ``wait_agent``."""

    agent: AgentName
    timeout_s: Seconds = 60.0


class AgentArguments(Arguments, frozen=True):
    """Arguments of ``get_agent``."""

    agent: AgentName


class CloseArguments(Arguments, frozen=True):
    """Arguments of ``close_agent``."""

    agent: AgentName
    note: Annotated[str, Meta(max_length=512)] = ""


class ListArguments(Arguments, frozen=True):
    """Arguments of ``list_agents``."""

    closed: Annotated[bool, Meta(description="Include closed agents.")] = False


class Delegation(SubHook):
    """The tools by which an agent delegates work to agents below it."""

    name = "delegation"

    def __init__(self, services: Services) -> None:
        self._services = services

    def task_subject(self, call: Invocation, arguments: SpawnArguments) -> str:
        """Return the definition of the new agent."""
        return arguments.agent or call.context.session.agent

    def agent_subject(
        self, call: Invocation, arguments: WaitArguments | AgentArguments | CloseArguments
    ) -> str:
        """Return the agent as it was named."""
        return arguments.agent

    _DELEGATE: ClassVar[dict[str, Any]] = {
        "kind": "coordinate",
        "repeatable": True,
        "parallel": True,
        "waits": True,
        "timeout_s": WAITS,
    }
    _LOOK: ClassVar[dict[str, Any]] = {
        "kind": "coordinate",
        "repeatable": True,
        "parallel": True,
        "in_plan": True,
    }

    @tool(
        "spawn_agent",
        description="Give a task to a new agent, which works in a session of its own with at most your "
        "rights. Without wait you continue at once, and its result reaches you as a message. Several tasks "
        "are for delegate.",
        subject=task_subject,
        in_plan=True,
        **_DELEGATE,
    )
    async def spawn_agent(self, call: Invocation, arguments: SpawnArguments) -> Outcome:
        """Spawn an agent, and perhaps wait for it. Errors: ToolError."""
        request = SpawnRequest(
            name=arguments.name,
            agent=arguments.agent,
            description=arguments.description,
            prompt=arguments.prompt or None,
            input_items=arguments.input_items,
            instructions=arguments.instructions,
            instructions_mode=arguments.instructions_mode,
            nickname=arguments.nickname,
            retention=arguments.retention,
            shells=arguments.shells,
            route=arguments.route,
            model=arguments.model,
            permission_mode=arguments.mode,
            scope=arguments.scope,
            credential_scope=arguments.credential_scope,
            profile=arguments.profile,
            allowed_tools=arguments.allowed_tools,
            blocked_tools=arguments.blocked_tools,
            workspace=arguments.cwd,
            isolation=arguments.isolation,
            budget=_budget_of(arguments),
        )
        agent_id = await self.spawn_child(call, request, call.key)
        if not arguments.wait:
            with self._services.state.read() as store:
                return _answer(describe(snapshot_of(store, store.need(SESSIONS, agent_id))))
        await self.wait_for(call, [agent_id], arguments.timeout_s)
        return self._report(call, [agent_id])

    @tool(
        "delegate",
        description="Give several independent tasks to new agents that work at the same time, and wait for "
        "all of them. The results come in the order of the tasks.",
        in_plan=True,
        **_DELEGATE,
    )
    async def delegate(self, call: Invocation, arguments: DelegateArguments) -> Outcome:
        """Spawn agents and wait for all of them. Errors: ToolError."""
        agent_ids: list[str] = []
        problems: dict[int, str] = {}
        for index, task in enumerate(arguments.tasks):
            request = SpawnRequest(
                name=task.name,
                agent=task.agent,
                description=task.description,
                prompt=task.prompt,
                profile=task.profile,
                retention="close_on_settle",
                isolation=task.isolation,
                budget=_budget_of(task),
            )
            try:
                agent_ids.append(await self.spawn_child(call, request, f"{call.key}.{index}"))
            except ToolError as error:
                problems[index] = str(error)
        if not agent_ids:
            index, problem = next(iter(problems.items()))
            raise ToolError(f"task '{arguments.tasks[index].name}': {problem}")
        await self.wait_for(call, agent_ids, arguments.timeout_s)
        return self._report(call, agent_ids, problems)

    @tool(
        "wait_agent",
        description="Wait until an agent below you has finished its work, and return its result, or its "
        "question to you: answer it, and wait again.",
        subject=agent_subject,
        in_plan=True,
        **_DELEGATE,
    )
    async def wait_agent(self, call: Invocation, arguments: WaitArguments) -> Outcome:
        """Wait for an agent. Errors: ToolError."""
        agent_id = self._find_below(call.context, arguments.agent)
        await self.wait_for(call, [agent_id], arguments.timeout_s)
        return self._report(call, [agent_id])

    @tool(
        "get_agent",
        description="Show an agent of your tree: its status and its newest output.",
        subject=agent_subject,
        **_LOOK,
    )
    async def get_agent(self, call: Invocation, arguments: AgentArguments) -> Outcome:
        """Show an agent. Errors: ToolError."""
        with call.context.state.read() as store:
            session = find_agent_of(store, call.context.session, arguments.agent)
            row = describe(snapshot_of(store, session), OUTPUT_SHARE_BYTES)
            return _answer(row, origins_read(store, session))

    @tool(
        "list_agents",
        description="List the agents of your tree, each after its parent, with their status.",
        **_LOOK,
    )
    async def list_agents(self, call: Invocation, arguments: ListArguments) -> Outcome:
        """List the agents of the tree."""
        rows: list[dict[str, Any]] = []
        left_out = 0
        origins: set[InputOrigin] = set()
        with call.context.state.read() as store:
            top_id = top_id_of(store, call.context.session)
            for agent_id in [top_id, *(agent_id for _, agent_id in tree_of(store, top_id))]:
                session = store.need(SESSIONS, agent_id)
                view = view_of(store, session)
                if view.state == "closed" and not arguments.closed:
                    continue
                if len(rows) == MAX_LISTED:
                    left_out += 1
                    continue
                # Agents write the names and descriptions of the agents below them.
                origins.update(origins_read(store, session))
                row: dict[str, Any] = {"path": view.path, "status": view.status, "state": view.state}
                row |= {"nickname": view.nickname, "definition": view.definition}
                row |= {"description": truncate(view.description, 100)}
                rows.append({name: value for name, value in row.items() if value})
        answer = {"agents": rows, "left_out": left_out} if left_out else {"agents": rows}
        return _answer(answer, join_origins(origins))

    @tool(
        "close_agent",
        description="Close an agent below you and all agents below it: their work stops for good.",
        kind="coordinate",
        repeatable=True,
        subject=agent_subject,
    )
    async def close_agent(self, call: Invocation, arguments: CloseArguments) -> Outcome:
        """Begin to close an agent. Errors: ToolError."""
        agent_id = self._find_below(call.context, arguments.agent)
        note = arguments.note or "closed by an agent above it"

        def decide(tx: Transaction) -> Outcome:
            agent = tx.need(AGENTS, agent_id)
            if agent.state == "open":
                origin = Origin(f"agent:{call.context.session.session_id}")
                writer = SessionWriter(tx, agent_id, session=tx.need(SESSIONS, agent_id), origin=origin)
                writer.append(AgentCloseRequested(note=note))
                writer.write()
            state = "closed" if agent.state == "closed" else "closing"
            return _answer({"agent_id": agent_id, "path": agent.path, "state": state})

        return Outcome("", decide=decide)

    # Spawn, wait and report.

    async def spawn_child(
        self,
        call: Invocation,
        request: SpawnRequest,
        key: str,
        complete: Callable[[Transaction, ManagedAgent], None] = lambda tx, agent: None,
    ) -> str:
        """Spawn an agent once for the key; return its id. Errors: ToolError.

        ``complete`` is part of the transaction, which may find the agent spawned already.
        """
        state, runtime = self._services.state, self._services.runtimes.current()
        session_id = call.context.session.session_id
        try:
            # The limits of the protocol hold for a model's request, too.
            request = msgspec.convert(msgspec.to_builtins(request), SpawnRequest)
            plan = prepare_spawn(
                state,
                runtime,
                request,
                parent_id=session_id,
                request_id=key,
                run_id=call.context.run.run_id,
                origin=Origin(f"agent:{session_id}"),
            )

            def spawn_and_complete(tx: Transaction) -> str:
                agent = spawn(tx, runtime, plan, self._services.slots)
                complete(tx, agent)
                return agent.agent_id

            return await state.update(spawn_and_complete)
        except msgspec.ValidationError as error:
            raise ToolError(str(error)) from None
        except Refusal as refusal:
            field = "" if refusal.field is None else f"{refusal.field.removeprefix('$.params.')}: "
            raise ToolError(f"{field}{refusal.message}") from None

    def _find_below(self, context: RunContext, address: str) -> str:
        """Return the id of a spawned agent below the caller. Errors: ToolError."""
        with context.state.read() as store:
            session = find_agent_of(store, context.session, address)
            above = {parent.session_id for parent in ancestors(store, session)}
            if store.get(AGENTS, session.session_id) is None or context.session.session_id not in above:
                raise ToolError(f"'{address}' is not an agent below you; list_agents shows the tree")
        return session.session_id

    async def wait_for(self, call: Invocation, agent_ids: Sequence[str], timeout_s: float) -> None:
        """Wait until all agents have settled, one asks, a message arrives, or the time is over."""
        state, run_id = self._services.state, call.context.run.run_id
        names = [f"stream:{agent_id}" for agent_id in (*agent_ids, call.context.session.session_id)]
        with trio.move_on_after(timeout_s), call.yield_slot():
            while True:
                bell = state.bell(*names)
                with state.read() as store:
                    sessions = [store.need(SESSIONS, agent_id) for agent_id in agent_ids]
                    views = [view_of(store, session) for session in sessions]
                    has_message = store.need(RUNS, run_id).pending_steers > 0
                    has_question = any(find_question_to_agent(store, session) for session in sessions)
                if has_message or has_question or all(view.status in SETTLED_AGENT for view in views):
                    return
                await bell.wait()

    def _report(
        self, call: Invocation, agent_ids: Sequence[str], problems: Mapping[int, str] | None = None
    ) -> Outcome:
        """Return the state of agents in the order of their tasks, decided at the commit."""
        failed = dict(problems or {})

        def decide(tx: Transaction) -> Outcome:
            share = OUTPUT_SHARE_BYTES // max(len(agent_ids), 1)
            rows: list[dict[str, Any]] = []
            events: list[Any] = []
            origins: set[InputOrigin] = set()
            for agent_id in agent_ids:
                row, taken = report_on(tx, call, agent_id, share)
                rows.append(row)
                events += taken
                origins.update(origins_read(tx, tx.need(SESSIONS, agent_id)))
            for index in sorted(failed):
                rows.insert(index, {"status": "not_spawned", "problem": failed[index]})
            answer = _answer(rows[0] if problems is None else {"results": rows}, join_origins(origins))
            return msgspec.structs.replace(answer, events=tuple(events))

        return Outcome("", decide=decide)


def report_on(
    tx: Transaction, call: Invocation, agent_id: str, max_output_bytes: int
) -> tuple[dict[str, Any], list[Any]]:
    """Return an agent that was waited for as the model reads it, and the events that go with the result."""
    session = tx.need(SESSIONS, agent_id)
    snapshot = snapshot_of(tx, session)
    row = describe(snapshot, max_output_bytes)
    request = find_question_to_agent(tx, session)
    if request is not None:
        row["asks"] = {"question_id": request.question_id, "questions": request.questions}
    if snapshot.active_run_id is None and snapshot.last_run_id is not None:
        # No mail tells the outcome once more.
        run = tx.need(RUNS, snapshot.last_run_id)
        return row, list(take_report(tx, run, call.context.session.session_id))
    return row, []


def find_agent_of(store: Snapshot, session: Session, address: str) -> Session:
    """Return the session of an agent in the caller's tree. Errors: ToolError."""
    try:
        return find_relative(store, session, address)
    except Refusal as refusal:
        raise ToolError(refusal.message) from None


def describe(agent: AgentSnapshot, max_output_bytes: int = 0) -> dict[str, Any]:
    """Return an agent as the model reads it; the output of its newest run is cut to a size."""
    row: dict[str, Any] = {
        "agent_id": agent.agent_id,
        "session_id": agent.agent_id,
        "path": agent.path,
        "nickname": agent.nickname,
        "status": agent.status,
        "state": agent.state,
        "launch_run_id": agent.launch_run_id,
        "kept_worktree": agent.kept_worktree,
    }
    if agent.worktree is not None:
        row |= {"worktree": agent.worktree.path, "branch": agent.worktree.branch}
    if agent.active_run_id is None:
        row["outcome"] = agent.last_outcome
        if agent.last_error is not None:
            row["error"] = agent.last_error.message
        if agent.output is not None and max_output_bytes:
            row["final_output"] = truncate(
                agent.output, max_output_bytes, "\n[... truncated; see output.list]"
            )
    return {name: value for name, value in row.items() if value is not None}


def _budget_of(task: DelegatedTask) -> Budget | None:
    """Return the budget that a model asks for; None leaves it to the parent's."""
    return None if task.max_tokens is None else Budget(max_tokens=task.max_tokens)


def _answer(result: Any, origins: Sequence[InputOrigin] = ()) -> Outcome:
    return Outcome(msgspec.json.encode(result).decode(), origins=origins)
