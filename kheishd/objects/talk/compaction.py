"""Asking for a session to be summed up: a run of its own kind, which answers nobody.

It stands in the session's line like any other, so it is durable, can be waited for, followed and cancelled,
and a daemon that dies in it takes it up again. It is accepted only where nothing else is in that line: what
was being said meanwhile would be half inside the summary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kheishd.kernel.call import origin_of
from kheishd.objects.talk.run import settled
from kheishd.objects.talk.send import Sending, pinned_for
from kheishd.records.writer import SessionWriter
from protocol import ids
from protocol.errors.definition import AgentNotFound
from protocol.errors.session import SessionAlreadyEnded, SessionBusy
from protocol.events.context import ContextCompacted
from protocol.events.run import RunAccepted, RunEnded
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.run import CompactParams, CompactResult, SendParams

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.session import Session


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session is to be summed up; the ids that this will have."""

    run_id: str
    input_id: str


def wanted(call: Call) -> Wanted:
    """Give it its ids."""
    return Wanted(call.state.new_id(ids.RUN), call.state.new_id(ids.INPUT))


def accept_compaction(tx: Transaction, call: Call, session: Session, plan: Wanted) -> CompactResult:
    """Accept a run that sums a session up.

    Errors: SessionAlreadyEnded, SessionBusy, AgentNotFound, RouteNotFound, RouteNotReady, WorkspaceForbidden.
    """
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session.session_id} was ended; nothing more is asked of it")
    if session.open_runs:
        raise SessionBusy(
            f"the session has {len(session.open_runs)} runs that have not ended; "
            "wait for them or cancel them. A conversation that becomes too long is summed up by itself"
        )
    definition = call.runtime.definitions.get(session.agent)
    if definition is None:
        raise AgentNotFound(f"the session's agent '{session.agent}' is no longer defined")
    sending = Sending(
        params=SendParams(),
        items=[],
        sender=session.sender,
        input_id=plan.input_id,
        run_id=plan.run_id,
        session_id=session.session_id,
    )
    fold = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call, session.sender))
    accepted = fold.append(
        RunAccepted(
            input_id=plan.input_id,
            agent=session.agent,
            sender=session.sender,
            pinned=pinned_for(tx, call, sending, session, definition),
            kind="compaction",
        ),
        run_id=plan.run_id,
    )
    fold.write()
    return CompactResult(
        session_id=session.session_id, run_id=plan.run_id, status="queued", cursor=accepted.cursor
    )


def compact_waits(params: CompactParams) -> bool:
    """Whether there is something to do after the commit."""
    return params.wait == "settled"


async def follow_compaction(call: Call, params: CompactParams, result: CompactResult) -> CompactResult:
    """Wait for the run; what came of it."""
    run = await settled(call, result.session_id, result.run_id, params.timeout_s)
    result = msgspec.structs.replace(result, status=run.status, error=run.error, usage=run.usage)
    with call.state.read() as store:
        return _outcome(store, result)


def _outcome(store: Snapshot, result: CompactResult) -> CompactResult:
    """Read from the run's own events, which are few."""
    for _, line in store.entries(result.session_id, result.cursor):
        if decode_envelope(line).run_id != result.run_id:
            continue
        match decode_event(line):
            case ContextCompacted(summary=summary, pre_tokens=pre_tokens, post_tokens=post_tokens):
                result = msgspec.structs.replace(
                    result, summary=summary, pre_tokens=pre_tokens, post_tokens=post_tokens
                )
            case RunEnded(note=reason):
                return msgspec.structs.replace(result, note=reason)
            case _:
                pass
    return result
