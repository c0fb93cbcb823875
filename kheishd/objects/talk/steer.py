"""Steer the run in flight: ``conversation.steer`` and ``session.steer``.

The model reads the message before its next answer. A run that is giving its last answer continues for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kheishd.core.run.commands import Steer
from kheishd.kernel.call import Call, mutation, origin_of
from kheishd.objects.talk.address import find_addressed, require_valid_sender
from kheishd.objects.talk.input import apply_input_contract, declared_origin, input_field, read_items
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS
from protocol import ids
from protocol.errors.run import NothingToSteer
from protocol.errors.session import QueueFull
from protocol.limits.session import MAX_STEERS
from protocol.objects import conversation, session
from protocol.objects.run import SteerResult

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Transaction
    from protocol.objects.conversation import ConversationSteer
    from protocol.objects.session import SessionSteer
    from protocol.transcript import InputItem, InputOrigin


class _Message(NamedTuple):
    """A validated message for a run, and the id it will have."""

    params: ConversationSteer | SessionSteer
    items: list[InputItem]
    steer_id: str
    origin: InputOrigin


def prepare_steer(call: Call, params: ConversationSteer | SessionSteer) -> _Message:
    """Validate a message.

    Errors: SenderInvalid, SenderForbidden, InputOriginForbidden, InvalidParams, InputTooLarge.
    """
    if params.sender is not None:
        require_valid_sender(params.sender)
    call.caller.require_sender(params.sender)
    origin = declared_origin(call, params)
    return _Message(params, read_items(params), call.state.new_id(ids.STEER), origin)


def steer(tx: Transaction, call: Call, message: _Message) -> SteerResult:
    """Append a message to the first open run of a session.

    Errors: SessionNotFound or ConversationNotFound, NothingToSteer, QueueFull, InputContractViolated.
    """
    params = message.params
    record = find_addressed(tx, call, params)
    if not record.open_runs:
        raise NothingToSteer()
    run = tx.need(RUNS, record.open_runs[0])
    problem = find_steer_problem(run)
    if problem is not None:
        raise problem
    items = apply_input_contract(tx, record, message.items, input_field(params))
    origin = origin_of(call, params.sender)
    writer = SessionWriter(tx, run.session_id, session=record, run=run, origin=origin)
    writer.carry_out(Steer(message.steer_id, items, params.sender, message.origin, params.source))
    writer.write()
    return SteerResult(
        session_id=run.session_id,
        run_id=run.run_id,
        steer_id=message.steer_id,
        cursor=writer.run.updated_cursor,
    )


def find_steer_problem(run: RunRecord) -> NothingToSteer | QueueFull | None:
    """Return the refusal of a message to a run that takes none; None if it takes one."""
    if run.kind == "compaction":
        return NothingToSteer("the run in flight compacts the session; send the message instead")
    if run.cancel is not None:
        return NothingToSteer("the run in flight is being stopped; send the message instead")
    if run.pending_steers >= MAX_STEERS:
        return QueueFull(f"{MAX_STEERS} messages wait for the run's next model call; try again after it")
    return None


HANDLERS = tuple(mutation(row, prepare=prepare_steer)(steer) for row in (conversation.STEER, session.STEER))
