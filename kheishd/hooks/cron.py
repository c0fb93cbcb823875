"""The tools by which an agent wakes itself, or its parent, later: once, or on a schedule.

An entry is created in the transaction that commits the call's result. The run that it starts has the rights
of the session that it wakes, and the origins of everything that the agent had read.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from kheishd.core.cron.schedule import ScheduleError, parse_schedule
from kheishd.core.trust import join_origins
from kheishd.hooks.agents.mail import decide_at_commit
from kheishd.kernel.hook import (
    Arguments,
    Invocation,
    Outcome,
    RunContext,
    SubHook,
    Tool,
    ToolError,
    tool,
)
from kheishd.objects.agents.tree import root_id_of
from kheishd.objects.talk.input import origins_read
from kheishd.objects.wake.cron import create_cron, delete_cron
from kheishd.records.writer import Origin
from kheishd.store.environment import Snapshot, Transaction
from kheishd.store.tables import CRONS, CRONS_BY_AUTHOR, RUNS, SESSIONS
from protocol import ids
from protocol.events.cron import CronCreated
from protocol.limits.cron import (
    MAX_CRON_NAME_BYTES,
    MAX_CRONS_OF_TREE,
    MAX_PERIOD_S,
    MIN_AGENT_PERIOD_MS,
)
from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.cron import Cron, Schedule, Zone
from protocol.objects.session import Session
from protocol.objects.wake import WakeTarget

Task = Annotated[
    str, Meta(min_length=1, max_length=MAX_WAKE_PROMPT_BYTES, description="What is to be done then.")
]


class WakeAfter(Arguments, frozen=True):
    """Arguments of ``wake_after``."""

    seconds: Annotated[int, Meta(ge=MIN_AGENT_PERIOD_MS // 1000, le=MAX_PERIOD_S)]
    prompt: Task


class WakeAt(Arguments, frozen=True):
    """Arguments of ``wake_at``."""

    time: Annotated[str, Meta(max_length=64, description="Such as 2027-03-01T09:00, local to the zone.")]
    prompt: Task
    timezone: Zone = "UTC"


class ScheduleCreate(Arguments, frozen=True):
    """Arguments of ``schedule_create``."""

    schedule: Schedule
    prompt: Task
    timezone: Zone = "UTC"
    name: Annotated[str, Meta(max_length=MAX_CRON_NAME_BYTES)] = ""
    once: Annotated[bool, Meta(description="Only the first due time.")] = False
    wake_parent: Annotated[bool, Meta(description="Wake your parent instead of yourself.")] = False


class ScheduleList(Arguments, frozen=True):
    """Arguments of ``schedule_list``."""


class ScheduleDelete(Arguments, frozen=True):
    """Arguments of ``schedule_delete``."""

    schedule_id: Annotated[str, Meta(min_length=1, max_length=128)]


class CronTools(SubHook):
    """The tools for an agent's own cron entries. ``offered``: to all agents, as with ``EventTools``."""

    name = "cron"

    def __init__(self, *, offered: bool) -> None:
        self._offered = offered

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Offer the tools that the agent's definition names; most agents need none."""
        names = context.pinned.tools or ()
        return self.tools if self._offered else [row for row in self.tools if row.name in names]

    @tool(
        "wake_after",
        description="Wake yourself after some time with a task. End your turn then; do not sleep or poll.",
        kind="coordinate",
        repeatable=True,
    )
    async def wake_after(self, call: Invocation, arguments: WakeAfter) -> Outcome:
        """Create an entry of a single time. Errors: ToolError."""
        at_ms = call.context.state.now_ms() + arguments.seconds * 1000
        time = datetime.fromtimestamp(-(-at_ms // 1000), UTC).isoformat(timespec="seconds")
        return _create(call, f"at {time}", arguments.prompt)

    @tool(
        "wake_at",
        description="Wake yourself at a time with a task.",
        kind="coordinate",
        repeatable=True,
    )
    async def wake_at(self, call: Invocation, arguments: WakeAt) -> Outcome:
        """Create an entry of a single time. Errors: ToolError."""
        try:
            at_ms = parse_schedule(f"at {arguments.time}", arguments.timezone).at_ms
        except ScheduleError as error:
            raise ToolError(error.message) from None
        if 0 < at_ms - call.context.state.now_ms() < MIN_AGENT_PERIOD_MS:
            raise ToolError("the time is less than a minute ahead; choose a later one")
        return _create(call, f"at {arguments.time}", arguments.prompt, timezone=arguments.timezone)

    @tool(
        "schedule_create",
        description="Wake yourself on a schedule, until you delete it: five cron fields, or 'every 30m'.",
        kind="coordinate",
        default="ask",
        repeatable=True,
        subject=lambda self, call, arguments: arguments.schedule,
    )
    async def schedule_create(self, call: Invocation, arguments: ScheduleCreate) -> Outcome:
        """Create an entry. Errors: ToolError."""
        return _create(
            call,
            arguments.schedule,
            arguments.prompt,
            timezone=arguments.timezone,
            name=arguments.name,
            once=arguments.once,
            wake_parent=arguments.wake_parent,
        )

    @tool(
        "schedule_list",
        description="List the schedules that you created, or that wake you.",
        kind="coordinate",
        repeatable=True,
        parallel=True,
        in_plan=True,
    )
    async def schedule_list(self, call: Invocation, arguments: ScheduleList) -> Outcome:
        """List the agent's entries."""
        own = call.context.session
        with call.context.state.read() as store:
            entries = [_describe(cron) for cron in _entries_of(store, own)]
        return Outcome(msgspec.json.encode({"schedules": entries}).decode())

    @tool(
        "schedule_delete",
        description="Delete a schedule that you created, or that wakes you.",
        kind="coordinate",
        repeatable=True,
        subject=lambda self, call, arguments: arguments.schedule_id,
    )
    async def schedule_delete(self, call: Invocation, arguments: ScheduleDelete) -> Outcome:
        """Delete an entry of the agent. Errors: ToolError."""
        own = call.context.session

        def decide(tx: Transaction) -> Outcome:
            cron = next(
                (cron for cron in _entries_of(tx, own) if cron.cron_id == arguments.schedule_id), None
            )
            if cron is None:
                raise ToolError(f"you have no schedule '{arguments.schedule_id}'; schedule_list shows yours")
            delete_cron(tx, cron, Origin(f"agent:{own.session_id}"))
            return Outcome(f"The schedule {cron.cron_id} is deleted.")

        return decide_at_commit(decide)


def _entries_of(store: Snapshot, own: Session) -> Iterator[Cron]:
    """Yield the entries of an agent's tree that it created, or that wake it."""
    for key, _ in store.scan(CRONS_BY_AUTHOR, root_id_of(own)):
        cron = store.need(CRONS, key[1])
        if own.session_id in (cron.owner_session_id, cron.target.session_id):
            yield cron


def _describe(cron: Cron) -> dict[str, object]:
    """Return an entry for a model."""
    due_ms = cron.next_due_ms if cron.deferred_until_ms is None else cron.deferred_until_ms
    due = datetime.fromtimestamp(due_ms / 1000, UTC).isoformat(timespec="seconds") if due_ms else None
    last = cron.recent[-1].outcome if cron.recent else None
    fields = {
        "schedule_id": cron.cron_id,
        "name": cron.name,
        "schedule": cron.schedule,
        "status": cron.status,
    }
    return fields | {"timezone": cron.timezone, "next": due, "last": last, "prompt": cron.target.prompt}


def _create(
    call: Invocation,
    schedule: str,
    prompt: str,
    *,
    timezone: str = "UTC",
    name: str = "",
    once: bool = False,
    wake_parent: bool = False,
) -> Outcome:
    """Return the outcome that creates an entry of the agent. Errors: ToolError."""
    own, state = call.context.session, call.context.state
    if len(prompt.encode()) > MAX_WAKE_PROMPT_BYTES:
        raise ToolError(f"the prompt takes more than {MAX_WAKE_PROMPT_BYTES} bytes; put details in a file")
    if not prompt.strip():
        raise ToolError("the prompt is blank: say what is to be done then")
    target_id = own.parent_session_id if wake_parent else own.session_id
    if target_id is None:
        raise ToolError("you have no parent; wake yourself")
    cron_id = state.new_id(ids.CRON)

    def decide(tx: Transaction) -> Outcome:
        root_id = root_id_of(own)
        count = sum(1 for _ in tx.scan(CRONS_BY_AUTHOR, root_id))
        if count >= MAX_CRONS_OF_TREE:
            raise ToolError(f"the agents of your tree have {count} schedules, the maximum; delete some first")
        created = CronCreated(
            cron_id=cron_id,
            schedule=schedule,
            target=WakeTarget(session_id=target_id, prompt=prompt),
            name=name,
            timezone=timezone,
            once=once,
            next_due_ms=None,
            source="agent",
            owner_session_id=own.session_id,
            root_session_id=root_id,
            authority="agent",
            origins=join_origins(origins_read(tx, tx.need(SESSIONS, own.session_id)), ["agent"]),
            hops=tx.need(RUNS, call.context.run.run_id).hops + 1,
        )
        origin = Origin(f"agent:{own.session_id}")
        cron = create_cron(tx, created, origin, min_period_ms=MIN_AGENT_PERIOD_MS)
        return Outcome(msgspec.json.encode(_describe(cron)).decode())

    return decide_at_commit(decide)
