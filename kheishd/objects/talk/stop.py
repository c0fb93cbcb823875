"""Stop the run in flight: ``conversation.cancel`` and ``session.interrupt``. Queued runs continue.

They differ in the status that the run ends with. Both answer once it has stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.run.commands import RequestCancel
from kheishd.kernel.call import Call, mutation
from kheishd.objects.talk.address import find_addressed
from kheishd.objects.talk.run import request_stop, wait_until_settled
from kheishd.store.tables import RUNS
from protocol.objects import conversation, session
from protocol.objects.conversation import CancelResult, ConversationCancel
from protocol.objects.session import InterruptResult, SessionInterrupt

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction

    Params = ConversationCancel | SessionInterrupt
    Stopped = CancelResult | InterruptResult


def stop_run(tx: Transaction, call: Call, params: Params) -> Stopped:
    """Request the stop of a session's first open run. Errors: SessionNotFound or ConversationNotFound."""
    record = find_addressed(tx, call, params)
    run_id = record.open_runs[0] if record.open_runs else None
    if run_id is not None:
        is_cancel = isinstance(params, ConversationCancel)
        command = RequestCancel("cancelled" if is_cancel else "interrupted", params.note)
        request_stop(tx, call, tx.need(RUNS, run_id), command)
    return _result(params, record.session_id, run_id)


async def follow_stop(call: Call, params: Params, result: Stopped) -> Stopped:
    """Wait until the run has stopped. It may have ended first."""
    if result.run_id is None:
        return result
    run = await wait_until_settled(call, result.session_id, result.run_id, None)
    stopped = run.status in ("cancelled", "interrupted")
    return _result(params, result.session_id, result.run_id if stopped else None)


def _result(params: Params, session_id: str, run_id: str | None) -> Stopped:
    """Return the result of either method; without a run nothing was stopped."""
    if isinstance(params, ConversationCancel):
        return CancelResult(run_id is not None, session_id, run_id)
    return InterruptResult(run_id is not None, session_id, run_id)


cancel_in_conversation, interrupt = HANDLERS = tuple(
    mutation(row, follow=follow_stop)(stop_run) for row in (conversation.CANCEL, session.INTERRUPT)
)
