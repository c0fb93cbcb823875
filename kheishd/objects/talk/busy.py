"""The policy for a message that arrives while a run of its session is in flight.

It is that of the send, else the session's, the agent's, the daemon's. No message is dropped: where a policy
cannot be applied, the message waits for its turn, and the result of the send says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.objects.talk.steer import find_steer_problem
from kheishd.store.tables import RUNS
from protocol.errors.session import SessionBusy
from protocol.objects.conversation import ConversationSend
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Applied, Busy, SendParams
    from protocol.objects.session import Session

_OWN_RUN = ("route", "model", "metadata", "output_contract", "completion_requirements", "budget", "debug")
"""Params that only a run of the message's own can honour."""


class Placement(Value, frozen=True):
    """The place of a message: the effect on the run in flight, and the index of its own run in the queue.

    ``queue_index`` None is the end of the queue. ``run`` is the record of the run in flight if it changes.
    """

    applied: Applied
    in_flight: str | None = None
    note: str = ""
    queue_index: int | None = None
    run: RunRecord | None = None


def place_message(store: Snapshot, session: Session, busy: Busy, params: SendParams) -> Placement:
    """Return the place of a message in its session. Errors: SessionBusy by the policy ``reject``."""
    if not session.open_runs:
        return Placement("started")
    run_id = session.open_runs[0]
    if busy == "queue":
        return Placement("queued", run_id)
    run = store.need(RUNS, run_id)
    if busy == "reject" and run.goal is not None:
        # Continuations follow each other, so that otherwise no person would ever be heard.
        note = "queued instead of rejected: the run in flight continues the session's goal by itself"
        return Placement("queued", run_id, note)
    if busy == "reject":
        waiting = f", and {len(session.open_runs) - 1} more are queued" if len(session.open_runs) > 1 else ""
        status = run.status.replace("_", " ")
        raise SessionBusy(
            f"nothing was accepted, because the session's messages are rejected while a run is in flight: "
            f"{run_id} is {status}{waiting}; wait for it or cancel it, or send with another 'busy'"
        )
    if busy == "steer":
        problem = _find_obstacle(run, params)
        if problem is None:
            return Placement("steered", run_id, run=run)
        return Placement("queued", run_id, f"queued instead of steered: {problem}")
    index = _urgent_index(store, session)
    if run.status == "queued":
        # Stopping it now would drop its own message.
        note = "queued instead of interrupting: the run ahead has not begun"
        return Placement("queued", run_id, note, index)
    note = "the run was being stopped already" if run.cancel is not None else ""
    return Placement("interrupted", run_id, note, index, run)


def _find_obstacle(run: RunRecord, params: SendParams) -> str | None:
    """Return why a message cannot join a run; None if it can."""
    own = [name for name in _OWN_RUN if getattr(params, name)]
    if isinstance(params, ConversationSend):
        own += [name for name in ("guest", "workspace") if getattr(params, name)]
    if own:
        return f"a message with '{own[0]}' needs a run of its own"
    if run.guest is not None:
        return f"the guest '{run.guest}' is speaking"
    problem = find_steer_problem(run)
    return problem.message if problem is not None else None


def _urgent_index(store: Snapshot, session: Session) -> int:
    """Return the index behind the run in flight and the urgent runs that wait for it, in their order."""
    index = 1
    while index < len(session.open_runs) and store.need(RUNS, session.open_runs[index]).urgent:
        index += 1
    return index
