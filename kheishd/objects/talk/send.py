"""Send an input to a session: ``conversation.send`` and ``session.send``.

They differ only in the address. Read from top to bottom: ``prepare_send`` runs before the transaction,
``send`` is the transaction, and ``follow_send`` runs after the commit.

A run that nothing delays starts in the transaction that accepts it: no earlier run of its session is open,
and all ready runs have a slot, so it overtakes none. A daemon that dies then has started it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.run.commands import RequestCancel, Start, Steer
from kheishd.kernel.call import Call, mutation, origin_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import (
    definition_of,
    find_definition,
    find_session,
    require_valid_sender,
)
from kheishd.objects.talk.bounds import find_closed, scope_of
from kheishd.objects.talk.busy import place_message
from kheishd.objects.talk.contract import StoredSchema, bind_output
from kheishd.objects.talk.input import apply_input_contract, declared_origin, input_field, read_items
from kheishd.objects.talk.persona import bind_at_creation
from kheishd.objects.talk.pin import pin_run
from kheishd.objects.talk.run import output_fields, wait_until_settled
from kheishd.objects.talk.workspace import find_workspace, resolve_requested
from kheishd.records.writer import BY_DAEMON, SessionWriter
from kheishd.store.tables import CONVERSATIONS, RUNS_READY, SESSIONS
from protocol import ids
from protocol.errors.rpc import NotSupported, Overloaded
from protocol.errors.session import QueueFull, SessionAlreadyEnded
from protocol.events.conversation import ConversationBound
from protocol.events.run import InputReceived, RunAccepted
from protocol.events.session import SessionCreated, SessionUpdated
from protocol.limits.names import MAX_METADATA_BYTES
from protocol.limits.session import MAX_INPUT_BYTES, MAX_QUEUED_RUNS
from protocol.limits.store import MAX_BEGIN_BYTES
from protocol.objects import conversation, session
from protocol.objects.conversation import ConversationSend
from protocol.objects.journal import Filter
from protocol.objects.run import SendResult
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.slots import RunSlots
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.definition import Definition
    from protocol.objects.session import Session, SessionSend
    from protocol.transcript import InputItem, InputOrigin


class _Input(Value, frozen=True):
    """A validated input and the ids it will have. ``definition`` is the agent of a conversation.

    ``workspace`` is the requested directory, ``first_workspace`` that of a new conversation.
    """

    params: ConversationSend | SessionSend
    items: list[InputItem]
    input_id: str
    run_id: str
    new_session_id: str
    item_id: str
    origin: InputOrigin
    steer_id: str
    definition: Definition | None = None
    guest: Definition | None = None
    workspace: str | None = None
    first_workspace: str | None = None
    schema: StoredSchema | None = None

    def received(self, items: list[InputItem]) -> InputReceived:
        """Return the event of the input, with its items as the session's contract demands."""
        params = self.params
        return InputReceived(
            input_id=self.input_id,
            items=items,
            sender=params.sender,
            guest=self.guest.name if self.guest is not None else None,
            metadata=params.metadata,
            origin=self.origin,
            source=params.source,
        )


def prepare_send(call: Call, params: ConversationSend | SessionSend) -> _Input:
    """Validate an input and assign its ids.

    Errors: NotSupported, AgentForbidden, AgentNotFound, SenderInvalid, SenderForbidden, ScopeMissing,
    ContractInvalid, InputTooLarge, InvalidParams, InputOriginForbidden, WorkspaceForbidden, WorkspaceMissing.
    """
    definition = guest = workspace = first_workspace = None
    if isinstance(params, ConversationSend):
        if params.reply_targets:
            raise NotSupported("this version has no deliveries", field="$.params.reply_targets")
        definition = find_definition(call, params.agent)
    if params.sender is not None:
        require_valid_sender(params.sender)
    call.caller.require_sender(params.sender)
    if params.debug is not None:
        call.caller.require_scope("operate")
    contract = params.output_contract
    schema = (
        StoredSchema.of(contract.schema, "$.params.output_contract.schema") if contract is not None else None
    )
    # A contract that comes with the input is stored in the same transaction.
    items = read_items(params, MAX_INPUT_BYTES - (len(schema.content) if schema is not None else 0))
    require_storable(params.metadata, MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    if isinstance(params, ConversationSend) and definition is not None:
        # An agent is no guest in its own conversation.
        if params.guest is not None and params.guest != definition.name:
            guest = find_definition(call, params.guest, "$.params.guest")
        if params.workspace is not None:
            workspace = first_workspace = resolve_requested(call, params.workspace)
        elif params.cwd is not None and definition.workspace is None:
            first_workspace = find_workspace(call, params.cwd)
            if first_workspace == call.runtime.workspaces.root:
                first_workspace = None
    return _Input(
        params=params,
        items=items,
        input_id=call.state.new_id(ids.INPUT),
        run_id=call.state.new_id(ids.RUN),
        new_session_id=call.state.new_id(ids.SESSION),
        item_id=call.state.new_id(ids.ITEM),
        origin=declared_origin(call, params),
        steer_id=call.state.new_id(ids.STEER),
        definition=definition,
        guest=guest,
        workspace=workspace,
        first_workspace=first_workspace,
        schema=schema,
    )


def send(tx: Transaction, call: Call, prepared: _Input) -> SendResult:
    """Resolve the address, then append the input, the acceptance of its run, and its start if it is due.

    While a run is in flight, the policy decides: the message may join that run, or interrupt it.

    Errors: SessionNotFound, AgentNotFound, SessionAlreadyEnded, SessionBusy, QueueFull, RouteNotFound,
    RouteNotReady, WorkspaceForbidden, InputContractViolated.
    """
    params = prepared.params
    if isinstance(params, ConversationSend):
        assert prepared.definition is not None
        definition = prepared.definition
        writer = _open_conversation(tx, call, prepared, definition, params.sender)
    else:
        addressed = find_session(tx, call, params.session_id)
        definition = definition_of(call.runtime, addressed)
        origin = origin_of(call, params.sender)
        writer = SessionWriter(tx, addressed.session_id, session=addressed, origin=origin)
    record = writer.session
    _require_open(tx, record)
    busy = params.busy or record.busy or definition.busy or call.runtime.config.runs.busy
    place = place_message(tx, record, busy, params)
    if place.applied == "steered" and place.run is not None:
        return _steer(tx, call, prepared, writer, place.run)
    if len(record.open_runs) > MAX_QUEUED_RUNS:
        text = f"the session has {MAX_QUEUED_RUNS} runs waiting; wait for some to end or cancel them"
        raise QueueFull(text)
    contract = None
    if prepared.schema is not None and params.output_contract is not None:
        contract = bind_output(params.output_contract, prepared.schema)
    speaker = prepared.guest or definition
    pinned = pin_run(
        tx, call.runtime, record, speaker, params, workspace=prepared.workspace, contract=contract
    )
    items = apply_input_contract(tx, record, prepared.items, input_field(params))
    guest = prepared.guest.name if prepared.guest is not None else None
    if guest is None and prepared.workspace not in (None, record.workspace):
        # From here on the conversation works there; a guest's own directory is that of its message.
        writer.append(SessionUpdated(changes={"workspace": prepared.workspace}))
    if prepared.schema is not None:
        prepared.schema.store(tx)
    accepted = RunAccepted(
        input_id=prepared.input_id,
        agent=record.agent,
        sender=params.sender,
        guest=guest,
        pinned=pinned,
        origins=[prepared.origin],
        queue_index=place.queue_index,
    )
    if place.applied == "interrupted" and place.run is not None:
        writer.continue_run(place.run)
        writer.carry_out(RequestCancel("interrupted", "a message was sent that interrupts it"))
    writer.begin_run(prepared.run_id, pinned)
    writer.append(prepared.received(items))
    cursor = writer.append(accepted).cursor
    start_if_free(writer, call.services.slots, call.runtime, prepared.item_id)
    writer.write()
    return SendResult(
        session_id=record.session_id,
        run_id=prepared.run_id,
        status="queued",
        cursor=cursor,
        applied=place.applied,
        in_flight=place.in_flight,
        note=place.note,
        epoch=call.state.epoch,
    )


def start_if_free(writer: SessionWriter, slots: RunSlots, runtime: Runtime, item_id: str) -> None:
    """Start the run that was just accepted, and begin its model call, if nothing delays it."""
    tx = writer.tx
    if (
        slots.is_open
        and writer.session.open_runs[0] == writer.run.run_id
        and tx.count(RUNS_READY) < runtime.config.runs.max_active
        and tx.free_bytes >= MAX_BEGIN_BYTES
    ):
        writer.origin = BY_DAEMON
        writer.carry_out(Start())
        writer.begin_model_call(item_id)


def _steer(
    tx: Transaction, call: Call, prepared: _Input, writer: SessionWriter, run: RunRecord
) -> SendResult:
    """Append the message to the run in flight. Errors: InputContractViolated."""
    items = apply_input_contract(tx, writer.session, prepared.items, input_field(prepared.params))
    writer.continue_run(run)
    params = prepared.params
    writer.carry_out(Steer(prepared.steer_id, items, params.sender, prepared.origin, params.source))
    writer.write()
    return SendResult(
        session_id=writer.session_id,
        run_id=run.run_id,
        status=writer.run.status,
        cursor=writer.run.updated_cursor,
        applied="steered",
        in_flight=run.run_id,
        steer_id=prepared.steer_id,
        epoch=call.state.epoch,
    )


def _require_open(store: Snapshot, record: Session) -> None:
    """Require that a session takes input. Errors: SessionAlreadyEnded."""
    closed = find_closed(store, record)
    if closed is not None:
        raise SessionAlreadyEnded(f"{closed.message}; {record.session_id} takes no more input")


def _open_conversation(
    tx: Transaction, call: Call, prepared: _Input, definition: Definition, sender: str
) -> SessionWriter:
    """Return a writer of the session bound to an address; of a new one where none is, or where it ended."""
    origin = origin_of(call, sender)
    binding = tx.get(CONVERSATIONS, definition.name, sender)
    bound = tx.get(SESSIONS, binding.session_id) if binding is not None else None
    if bound is not None and bound.status == "open":
        return SessionWriter(tx, bound.session_id, session=bound, origin=origin)
    writer = SessionWriter(tx, prepared.new_session_id, session=None, origin=origin)
    created = SessionCreated(
        agent=definition.name,
        sender=sender,
        scope=scope_of(definition),
        persona=bind_at_creation(tx, definition, tx.now_ms),
        workspace=prepared.first_workspace,
    )
    writer.append(created)
    writer.append(ConversationBound(agent=definition.name, sender=sender))
    return writer


async def follow_send(call: Call, params: ConversationSend | SessionSend, result: SendResult) -> SendResult:
    """Stream the run and wait for it, as the params say. A repeated request streams and waits again."""
    if params.stream:
        selection = Filter(session_id=result.session_id, run_id=result.run_id)
        try:
            # The stream begins with the run's first event, its input, right before its acceptance; for a
            # message that joined a run, with that.
            events = 1 if result.applied == "steered" else 2
            subscribed = call.connection.subscribe(
                selection, max(result.cursor - events, 0), deltas=True, until_settled=result.run_id
            )
            result = replace(result, subscription=subscribed.subscription)
        except Overloaded:
            # The connection has too many subscriptions, but the input was accepted: this is no refusal.
            pass
    if params.wait == "settled":
        run = await wait_until_settled(call, result.session_id, result.run_id, params.timeout_s)
        with call.state.read() as store:
            output = output_fields(store, run)
        result = replace(result, status=run.status, error=run.error, usage=run.usage, cost=run.cost, **output)
    return result


send_to_conversation, send_to_session = HANDLERS = tuple(
    mutation(
        row,
        prepare=prepare_send,
        follow=follow_send,
        on_commit=lambda call, result: call.services.slots.take_up(result.run_id),
        follows=lambda params: params.stream or params.wait == "settled",
    )(send)
    for row in (conversation.SEND, session.SEND)
)
