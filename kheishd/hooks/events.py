"""The tools of the event bus: publish an event, wait for one, and be woken by the events of a source.

An agent publishes only under its own name. To read events of others, it needs a person's approval or a rule,
because they may tell of other conversations. Each change is decided in the transaction that commits the
call's result. A call that waits for an event becomes a row: its run has no task and takes no slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType
from trio.lowlevel import checkpoint

from kheishd.core.event import agent_source
from kheishd.core.run.commands import AwaitEvent
from kheishd.core.trust import join_origins
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, Tool, ToolError, tool
from kheishd.objects.wake.event import find_event, make_result, require_room
from kheishd.objects.wake.trigger import triggers_of
from kheishd.records.writer import Origin, StreamWriter, publish
from kheishd.store.tables import RUNS, TRIGGERS
from protocol import ids
from protocol.errors.event import EventBusFull, EventSourceReserved
from protocol.events.event import EventPublished, EventReturned
from protocol.events.trigger import TriggerCreated, TriggerDeleted
from protocol.journal.envelope import BUS_STREAM
from protocol.limits.event import (
    DEFAULT_EVENT_WAIT_SECONDS,
    MAX_COALESCE_SECONDS,
    MAX_EVENT_PAYLOAD_BYTES,
    MAX_EVENT_TOPIC_BYTES,
    MAX_EVENT_WAIT_SECONDS,
    MAX_SESSION_TRIGGERS,
    MAX_TRIGGERS,
)
from protocol.limits.wake import MAX_WAKE_PROMPT_BYTES
from protocol.objects.event import SOURCE_SHAPE, EventPattern
from protocol.objects.wake import WakeTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.environment import Transaction

EXAMINED_EVENTS: Final = 500
"""The entries of the bus that are examined in one iteration of the loop: about two milliseconds."""

_PATTERN_TEXT: Final = "The source of the events, or the beginning of sources and '*', such as 'ci.*'."


class PublishEvent(Arguments, frozen=True):
    """Arguments of ``publish_event``."""

    topic: Annotated[
        str,
        Meta(
            min_length=1,
            pattern="^[A-Za-z0-9._/-]+$",
            description="The topic: the event's source is 'agent:<your name>:<topic>'.",
        ),
    ]
    payload: Annotated[Any, Meta(description="The content: any JSON.")] = None


class SubscribeEvent(Arguments, frozen=True):
    """Arguments of ``subscribe_event``."""

    source: Annotated[str, Meta(min_length=1, description=_PATTERN_TEXT, extra=ids.IDENTITY)]
    prompt: Annotated[str, Meta(min_length=1, description="What you are to do with each event.")]
    once: Annotated[bool, Meta(description="Only for the first event.")] = False
    coalesce_s: Annotated[
        int,
        Meta(ge=0, le=MAX_COALESCE_SECONDS, description="Get the events of so many seconds together."),
    ] = 0


class ListSubscriptions(Arguments, frozen=True):
    """Arguments of ``list_subscriptions``."""


class UnsubscribeEvent(Arguments, frozen=True):
    """Arguments of ``unsubscribe_event``."""

    trigger_id: Annotated[str, Meta(description="The id that subscribe_event returned.")]


class WaitForEvent(Arguments, frozen=True):
    """Arguments of ``wait_for_event``."""

    source: Annotated[str, Meta(min_length=1, description=_PATTERN_TEXT, extra=ids.IDENTITY)]
    timeout_s: Annotated[
        int, Meta(ge=1, le=MAX_EVENT_WAIT_SECONDS, description="How long to wait at most.")
    ] = DEFAULT_EVENT_WAIT_SECONDS
    after: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="A cursor: an event since then is returned at once. Default: the last event that "
                "this run got for the same source; the first time, now.",
            ),
        ]
        | UnsetType
    ) = UNSET


def _subject(part: EventTools, call: Invocation, arguments: SubscribeEvent | WaitForEvent) -> str:
    """Return the pattern, which rules match."""
    return arguments.source


class EventTools(SubHook):
    """The tools of the event bus. ``offered``: to all agents, not only if their definition names them."""

    name = "events"

    def __init__(self, *, offered: bool) -> None:
        self._offered = offered

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Offer the tools that the agent's definition names; most agents need none."""
        if self._offered or not context.pinned.tools:
            return self.tools if self._offered else ()
        return [row for row in self.tools if row.name in context.pinned.tools]

    @tool(
        "publish_event",
        description="Publish an event under your own name. Programs, people and agents that follow your "
        "events react to it; nobody answers you.",
        kind="coordinate",
        repeatable=True,
        timeout_s=10.0,
    )
    async def publish_event(self, call: Invocation, arguments: PublishEvent) -> Outcome:
        """Publish an event. Errors: ToolError."""
        run = call.context.run
        if len(arguments.topic) > MAX_EVENT_TOPIC_BYTES:
            raise ToolError(f"the topic has more than {MAX_EVENT_TOPIC_BYTES} characters")
        if len(msgspec.json.encode(arguments.payload)) > MAX_EVENT_PAYLOAD_BYTES:
            raise ToolError(f"the payload takes more than {MAX_EVENT_PAYLOAD_BYTES} bytes; shorten it")
        try:
            source = agent_source(run.guest or run.agent, arguments.topic)
        except EventSourceReserved as refusal:
            raise ToolError(refusal.message) from None
        event_id = call.context.state.new_id(ids.EVENT)

        def decide(tx: Transaction) -> Outcome:
            try:
                require_room(tx)
            except EventBusFull as refusal:
                raise ToolError(refusal.message) from None
            event = EventPublished(
                event_id=event_id,
                source=source,
                publisher=run.session_id,
                payload=arguments.payload,
                hops=run.hops,
                by_run=run.run_id,
                origins=join_origins(run.origins, ["agent"]),
            )
            publication = publish(tx, event)
            return Outcome(f"Published {event_id} as '{source}', at cursor {publication.created_cursor}.")

        return Outcome("", decide=decide)

    @tool(
        "subscribe_event",
        description="Be woken by later events: each one begins a new run of this session, with your prompt "
        "and the event.",
        kind="coordinate",
        default="ask",
        repeatable=True,
        timeout_s=10.0,
        subject=_subject,
    )
    async def subscribe_event(self, call: Invocation, arguments: SubscribeEvent) -> Outcome:
        """Create a trigger for the own session. Errors: ToolError."""
        _require_pattern(arguments.source)
        if len(arguments.prompt.encode()) > MAX_WAKE_PROMPT_BYTES:
            raise ToolError(f"the prompt takes more than {MAX_WAKE_PROMPT_BYTES} bytes; shorten it")
        session_id = call.context.session.session_id
        created = TriggerCreated(
            trigger_id=call.context.state.new_id(ids.TRIGGER),
            author="agent",
            owner_session=session_id,
            authority="agent",
            origins=join_origins(call.context.session.origins, call.context.run.origins, ["agent"]),
            source=arguments.source,
            target=WakeTarget(session_id=session_id, prompt=arguments.prompt),
            once=arguments.once,
            coalesce_s=arguments.coalesce_s,
        )

        def decide(tx: Transaction) -> Outcome:
            if len(triggers_of(tx, session_id)) >= MAX_SESSION_TRIGGERS:
                raise ToolError(f"this session has {MAX_SESSION_TRIGGERS} subscriptions; remove some first")
            if tx.count(TRIGGERS) >= MAX_TRIGGERS:
                raise ToolError(f"the daemon has {MAX_TRIGGERS} triggers, the maximum")
            writer = StreamWriter(tx, BUS_STREAM, origin=Origin(on_behalf_of=call.context.session.sender))
            writer.append(created)
            writer.write()
            return Outcome(f"Subscribed: {created.trigger_id} on '{arguments.source}'.")

        return Outcome("", decide=decide)

    @tool(
        "list_subscriptions",
        description="List the events that wake this session because you subscribed to them.",
        kind="coordinate",
        repeatable=True,
        parallel=True,
        in_plan=True,
    )
    async def list_subscriptions(self, call: Invocation, arguments: ListSubscriptions) -> Outcome:
        """List the own triggers."""
        with call.context.state.read() as store:
            triggers = triggers_of(store, call.context.session.session_id)
        names = ("trigger_id", "source", "status", "once", "delivered", "problem")
        rows = [{name: getattr(trigger, name) for name in names} for trigger in triggers]
        return Outcome(msgspec.json.encode({"subscriptions": rows}).decode())

    @tool(
        "unsubscribe_event",
        description="Remove a subscription of this session.",
        kind="coordinate",
        repeatable=True,
        timeout_s=10.0,
    )
    async def unsubscribe_event(self, call: Invocation, arguments: UnsubscribeEvent) -> Outcome:
        """Delete an own trigger. Errors: ToolError."""
        session_id, trigger_id = call.context.session.session_id, arguments.trigger_id

        def decide(tx: Transaction) -> Outcome:
            if trigger_id not in [trigger.trigger_id for trigger in triggers_of(tx, session_id)]:
                raise ToolError("this session has no such subscription; list_subscriptions shows all")
            writer = StreamWriter(tx, BUS_STREAM)
            writer.append(TriggerDeleted(trigger_id=trigger_id, why="request"))
            writer.write()
            return Outcome(f"Removed {trigger_id}.")

        return Outcome("", decide=decide)

    @tool(
        "wait_for_event",
        description="Wait until an event of a source is published, and return it. You do nothing meanwhile; "
        "a message to you ends the wait. Events are data from outside. Waiting for the same source again "
        "misses none.",
        kind="coordinate",
        default="ask",
        repeatable=True,
        timeout_s=60.0,
        subject=_subject,
    )
    async def wait_for_event(self, call: Invocation, arguments: WaitForEvent) -> Outcome:
        """Return the first event since a cursor, or wait for one. Errors: ToolError."""
        _require_pattern(arguments.source)
        state, pattern = call.context.state, arguments.source
        with state.read() as store:
            present = store.head(BUS_STREAM)[0]
            awaited = store.need(RUNS, call.context.run.run_id).awaited
        if arguments.after is UNSET:
            after = next((row.cursor for row in awaited if row.source == pattern), present)
        else:
            after = min(arguments.after, present)
        wait_id = state.new_id(ids.EVENT_WAIT)
        expires_at_ms = state.now_ms() + arguments.timeout_s * 1000
        while after < present:
            with state.read() as store:
                event, after = find_event(store, pattern, after, EXAMINED_EVENTS)
            if event is not None:
                return _return_event(call, pattern, event, after)
            await checkpoint()

        def decide(tx: Transaction) -> Outcome:
            # Events since the last look; while none is published in between, there are none.
            event, cursor = find_event(tx, pattern, after, EXAMINED_EVENTS)
            if event is not None:
                return _return_event(call, pattern, event, cursor)
            if cursor < tx.head(BUS_STREAM)[0]:
                raise ToolError("too many events are published at once; call again")
            return Outcome("", awaits=AwaitEvent(call.call_id, wait_id, pattern, cursor, expires_at_ms))

        return Outcome("", decide=decide)


def _return_event(call: Invocation, pattern: str, event: EventPublished, cursor: int) -> Outcome:
    origins = join_origins(["event"], event.origins)
    returned = EventReturned(
        call_id=call.call_id, source=pattern, event_id=event.event_id, event_cursor=cursor
    )
    return Outcome(make_result(event, cursor), events=(returned,), origins=origins, hops=event.hops + 1)


def _require_pattern(pattern: str) -> None:
    """Require a valid pattern of sources. Errors: ToolError."""
    try:
        msgspec.convert(pattern, EventPattern)
    except msgspec.ValidationError:
        text = f"'source' is a source, or its beginning and '*', of {SOURCE_SHAPE}"
        raise ToolError(text) from None
