"""Steering: something is said to the run in flight, which its model reads before its next answer.

Shared by conversations and sessions. It is on the disk when it is acknowledged, and whoever steers a run that
is giving its last answer is heard all the same: the run goes on then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheishd.core.run.commands import Steer
from kheishd.kernel.call import origin_of
from kheishd.objects.talk.contract import bound_input
from kheishd.objects.talk.send import said_items, valid_sender
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS
from protocol import ids
from protocol.errors.run import NothingToSteer
from protocol.errors.session import QueueFull
from protocol.limits.session import MAX_STEERS
from protocol.objects.run import SteerParams, SteerResult

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Transaction
    from protocol.objects.session import Session
    from protocol.transcript import InputItem


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be said to a run, checked, and the id it will have."""

    steer_id: str
    items: list[InputItem]
    sender: str | None


def made_ready(call: Call, params: SteerParams, sender: str | None) -> Said:
    """Check what is said. Errors: InvalidParams, InputTooLarge, SenderInvalid, SenderForbidden."""
    if sender is not None:
        valid_sender(sender)
    call.caller.need_sender(sender)
    return Said(call.state.new_id(ids.STEER), said_items(params.content, params.input_items), sender)


def steer(tx: Transaction, call: Call, session: Session | None, said: Said) -> SteerResult:
    """Say it to the first open run of a session, as its input contract wants what is said.

    Errors: NothingToSteer, QueueFull, InputContractViolated.
    """
    run = _in_flight(tx, session)
    if run is None or session is None:
        raise NothingToSteer()
    if run.kind != "input":
        raise NothingToSteer("the run in flight answers nobody; send the message instead")
    if run.cancel is not None:
        raise NothingToSteer("the run in flight is being stopped; send the message instead")
    if run.pending_steers >= MAX_STEERS:
        raise QueueFull(f"{MAX_STEERS} messages wait for the run's next model call; try again after it")
    items = bound_input(tx, session, said.items)
    fold = SessionWriter(tx, run.session_id, session=session, run=run, origin=origin_of(call, said.sender))
    fold.carry_out(Steer(said.steer_id, items, said.sender))
    fold.write()
    return SteerResult(
        session_id=run.session_id, run_id=run.run_id, steer_id=said.steer_id, cursor=fold.run.updated_cursor
    )


def _in_flight(tx: Transaction, session: Session | None) -> RunRecord | None:
    """The run that holds the session's slot."""
    if session is None or not session.open_runs:
        return None
    run = tx.need(RUNS, session.open_runs[0])
    return run
