"""Compact a session: ``conversation.compact`` and ``session.compact``.

A compaction is a run of its own kind. It waits in the session's queue, so it is durable and can be awaited,
followed and cancelled; a daemon that dies in it resumes it. It is accepted only in an idle session: an input
that arrived meanwhile would be half inside the summary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from kheishd.kernel.call import Call, mutation, origin_of
from kheishd.objects.talk.address import definition_of, find_addressed
from kheishd.objects.talk.pin import pin_run
from kheishd.objects.talk.run import wait_until_settled
from kheishd.records.writer import SessionWriter
from protocol import ids
from protocol.errors.session import SessionAlreadyEnded, SessionBusy
from protocol.events.context import ContextCompacted
from protocol.events.run import RunAccepted, RunEnded
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects import conversation, session
from protocol.objects.run import CompactResult, SendParams

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from protocol.objects.conversation import ConversationCompact
    from protocol.objects.session import SessionCompact


class _Compaction(NamedTuple):
    """A requested compaction and the ids it will have."""

    params: ConversationCompact | SessionCompact
    run_id: str
    input_id: str


def prepare_compaction(call: Call, params: ConversationCompact | SessionCompact) -> _Compaction:
    """Assign the ids of a compaction."""
    return _Compaction(params, call.state.new_id(ids.RUN), call.state.new_id(ids.INPUT))


def compact(tx: Transaction, call: Call, compaction: _Compaction) -> CompactResult:
    """Accept a run that summarizes a session.

    Errors: SessionNotFound or ConversationNotFound, SessionAlreadyEnded, SessionBusy, AgentNotFound,
    RouteNotFound, RouteNotReady, WorkspaceForbidden.
    """
    record = find_addressed(tx, call, compaction.params)
    if record.status == "ended":
        raise SessionAlreadyEnded(f"the session {record.session_id} was ended and takes no more work")
    if record.open_runs:
        raise SessionBusy(
            f"the session has {len(record.open_runs)} runs that have not ended; wait for them or cancel "
            "them. A conversation that becomes too long is compacted automatically"
        )
    definition = definition_of(call.runtime, record)
    accepted = RunAccepted(
        input_id=compaction.input_id,
        agent=record.agent,
        sender=record.sender,
        pinned=pin_run(tx, call.runtime, record, definition, SendParams()),
        kind="compaction",
    )
    origin = origin_of(call, record.sender)
    writer = SessionWriter(tx, record.session_id, session=record, origin=origin)
    writer.begin_run(compaction.run_id)
    cursor = writer.append(accepted).cursor
    writer.write()
    return CompactResult(
        session_id=record.session_id, run_id=compaction.run_id, status="queued", cursor=cursor
    )


async def follow_compaction(
    call: Call, params: ConversationCompact | SessionCompact, result: CompactResult
) -> CompactResult:
    """Wait for the run and read its outcome from its own events, which are few."""
    run = await wait_until_settled(call, result.session_id, result.run_id, params.timeout_s)
    result = replace(result, status=run.status, error=run.error, usage=run.usage)
    with call.state.read() as store:
        for _, line in store.entries(result.session_id, result.cursor):
            if decode_envelope(line).run_id != result.run_id:
                continue
            match decode_event(line):
                case ContextCompacted(summary=summary, pre_tokens=pre_tokens, post_tokens=post_tokens):
                    result = replace(result, summary=summary, pre_tokens=pre_tokens, post_tokens=post_tokens)
                case RunEnded(note=note):
                    return replace(result, note=note)
                case _:
                    pass
    return result


HANDLERS = tuple(
    mutation(
        row,
        prepare=prepare_compaction,
        follow=follow_compaction,
        follows=lambda params: params.wait == "settled",
    )(compact)
    for row in (conversation.COMPACT, session.COMPACT)
)
