"""Runs: show them, wait for them, cancel them, and read the debug captures of their model calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from msgspec.structs import replace

from kheishd.core.run.commands import RequestCancel
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.kernel.log_fields import find_first_request
from kheishd.objects.pages import PageTokens, cursor_after, last_part, page_of
from kheishd.objects.talk.address import find_run, find_session, may_read_run
from kheishd.objects.talk.output import output_of
from kheishd.records.run import read_pinned
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RUNS, RUNS_BY_SESSION, SESSIONS
from protocol.objects import run as rows
from protocol.objects.run import (
    ENDED,
    DebugCapture,
    Run,
    RunCancel,
    RunDebug,
    RunList,
    RunListParams,
    RunRef,
    RunState,
    RunView,
    RunWait,
)
from protocol.structs import fields_of

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot, Transaction

# Show.


def public_run(store: Snapshot, run: RunRecord) -> Run:
    """Return a run as clients see it: its state and its pinned values."""
    return Run(**fields_of(RunState, run), pinned=read_pinned(store, run))


def view_of(store: Snapshot, run: RunRecord) -> RunView:
    """Return a run as shown, with its output and its position in the queue."""
    position = None
    if run.status == "queued":
        session = store.get(SESSIONS, run.session_id)
        if session is not None and run.run_id in session.open_runs:
            position = session.open_runs.index(run.run_id) or None
    public = public_run(store, run)
    return RunView(**fields_of(Run, public), queue_position=position, **output_fields(store, run))


def output_fields(store: Snapshot, run: RunRecord) -> dict[str, Any]:
    """Return the run's newest output, by the names of the fields of a view and of the result of a send."""
    output = output_of(store, run)
    if output is None:
        return {}
    return {"output": output.text, "output_kind": output.source_kind, "value": output.value}


@query(rows.GET)
def get(call: Call, params: RunRef) -> RunView:
    """Show a run."""
    with call.state.read() as store:
        view = view_of(store, find_run(store, call, params.run_id))
        return replace(view, request_id=find_first_request(store, view.run_id))


@query(rows.LIST)
def list_(call: Call, params: RunListParams) -> RunList:
    """List runs: those of a session by its index, all others by id, which sorts by time."""
    reverse = params.order == "newest"
    with call.state.read() as store:
        if params.session_id is not None:
            session_id = find_session(store, call, params.session_id).session_id
            cursor = cursor_after(params.after)
            start = None if cursor is None else (session_id, cursor)
            indexed = store.scan(RUNS_BY_SESSION, session_id, after=start, reverse=reverse)
            runs: Any = ((key, store.get(RUNS, run_id)) for key, run_id in indexed)
            token_of = last_part
        else:
            tokens = PageTokens(call)
            run_id = tokens.id_of(params.after)
            runs = store.scan(RUNS, after=None if run_id is None else (run_id,), reverse=reverse)
            token_of = tokens.token_of
        page, following = page_of(
            runs, params.limit, lambda run: _matches(store, call, params, run), token_of
        )
        return RunList([public_run(store, run) for run in page], following)


def _matches(store: Snapshot, call: Call, params: RunListParams, run: RunRecord) -> bool:
    """Whether a list shows a run: it passes every filter, and the caller may read it."""
    if params.active and run.status in ENDED:
        return False
    return params.status in (None, run.status) and may_read_run(store, call, run)


# Wait.


async def wait_until_settled(call: Call, session_id: str, run_id: str, timeout_s: float | None) -> RunRecord:
    """Wait until a run has ended or waits for a person. Returns its state, also after a timeout.

    Errors: StoreDamaged if it will do neither.
    """
    wait = partial(call.services.waits.wait, call.state, session_id, run_id, call.caller.principal)
    if timeout_s is None:
        return await wait()
    with trio.move_on_after(timeout_s):
        return await wait()
    with call.state.read() as store:
        return store.need(RUNS, run_id)


@control(rows.WAIT)
async def wait(call: Call, params: RunWait) -> RunView:
    """Wait until a run has ended or waits for a person. Errors: RunNotFound, Overloaded."""
    with call.state.read() as store:
        run = find_run(store, call, params.run_id)
    call.services.waits.require_room(run.run_id, call.caller.principal)
    run = await wait_until_settled(call, run.session_id, run.run_id, params.timeout_s)
    with call.state.read() as store:
        return view_of(store, run)


# Cancel.


def request_stop(tx: Transaction, call: Call, run: RunRecord, command: RequestCancel) -> RunRecord:
    """Commit that a run is to stop. Errors: RunAlreadyEnded."""
    session = tx.need(SESSIONS, run.session_id)
    writer = SessionWriter(tx, run.session_id, session=session, run=run, origin=origin_of(call))
    writer.carry_out(command)
    writer.write()
    return writer.run


async def follow_cancel(call: Call, params: RunCancel, result: Run) -> Run:
    """Wait until the run has stopped."""
    run = await wait_until_settled(call, result.session_id, result.run_id, None)
    with call.state.read() as store:
        return public_run(store, run)


@mutation(rows.CANCEL, follow=follow_cancel)
def cancel(tx: Transaction, call: Call, params: RunCancel) -> Run:
    """Request the stop of a run. Errors: RunNotFound, RunAlreadyEnded."""
    run = find_run(tx, call, params.run_id)
    return public_run(tx, request_stop(tx, call, run, RequestCancel("cancelled", params.note)))


# Debug captures.


@control(rows.DEBUG)
async def debug(call: Call, params: RunDebug) -> DebugCapture:
    """List the debug captures of a run, or read a part of one artifact.

    Errors: RunNotFound, DebugNotFound, ArtifactNotFound; ScopeMissing for a caller that may only list.
    """
    with call.state.read() as store:
        run = find_run(store, call, params.run_id)
        level = read_pinned(store, run).debug
    captures = call.services.captures
    if params.artifact is None:
        artifacts = await captures.list_artifacts(run.run_id)
        return DebugCapture(run_id=run.run_id, debug=level, artifacts=artifacts)
    call.caller.require_scope("operate")
    artifact, text, next_offset = await captures.read_text(
        run.run_id, params.artifact, params.offset, params.limit
    )
    return DebugCapture(run_id=run.run_id, debug=level, artifacts=[artifact], text=text, next=next_offset)


HANDLERS = (get, list_, wait, cancel, debug)
