"""Runs: showing, waiting for and cancelling them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from kheishd.core.run.commands import Cancel
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.objects.pages import PageTokens, cursor_after, last_part, page_of
from kheishd.objects.talk.giving import output_of
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import PINNED, RUNS, RUNS_BY_SESSION, SESSIONS
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.objects import run as rows
from protocol.objects.run import (
    SETTLED,
    Run,
    RunCancel,
    RunList,
    RunListParams,
    RunRef,
    RunState,
    RunView,
    RunWait,
)

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot, Transaction


def find_run(store: Snapshot, call: Call, run_id: str) -> RunRecord:
    """A run that the caller may read.

    Errors: RunNotFound, also for one whose agent or sender the caller's token does not cover.
    """
    run = store.get(RUNS, run_id)
    if run is None or not may_read(store, call, run):
        raise RunNotFound(f"there is no run '{run_id}'", field="$.params.run_id")
    return run


def may_read(store: Snapshot, call: Call, run: RunRecord) -> bool:
    """Whether the caller may read a run: who asked for it is covered, and whose session answers it, too."""
    caller = call.caller
    if caller.unlimited:
        return True
    session = store.get(SESSIONS, run.session_id)
    return (
        session is not None
        and caller.covers(run.agent, run.sender)
        and caller.covers(session.agent, session.sender)
    )


def view_of(store: Snapshot, run: RunRecord) -> RunView:
    """A run as it is shown: with its output and its place in the queue."""
    position = None
    if run.status == "queued":
        session = store.get(SESSIONS, run.session_id)
        if session is not None and run.run_id in session.open_runs:
            position = session.open_runs.index(run.run_id) or None
    return RunView(**_public_fields(store, run), queue_position=position, **given_by(store, run))


def public_run(store: Snapshot, run: RunRecord) -> Run:
    """Return a run as clients see it: its record and its pinned values."""
    return Run(**_public_fields(store, run))


def _public_fields(store: Snapshot, run: RunRecord) -> dict[str, Any]:
    fields = {name: getattr(run, name) for name in RunState.__struct_fields__}
    return fields | {"pinned": store.need(PINNED, run.run_id)}


def given_by(store: Snapshot, run: RunRecord) -> dict[str, Any]:
    """What a run gave so far, by the names that a view and the result of a send have for it."""
    given = output_of(store, run)
    if given is None:
        return {}
    return {"output": given.text, "output_kind": given.source_kind, "value": given.value}


@query(rows.GET)
def get(call: Call, params: RunRef) -> RunView:
    """Show one run."""
    with call.state.read() as store:
        return view_of(store, find_run(store, call, params.run_id))


@query(rows.LIST)
def list_(call: Call, params: RunListParams) -> RunList:
    """List runs: of one session by its index, otherwise by id, which is by time."""
    reverse = params.order == "newest"
    with call.state.read() as store:
        if params.session_id is not None:
            session = store.get(SESSIONS, params.session_id)
            if session is None or not call.caller.covers(session.agent, session.sender):
                raise SessionNotFound(
                    f"there is no session '{params.session_id}'", field="$.params.session_id"
                )
            cursor = cursor_after(params.after)
            beyond: Any = None if cursor is None else (params.session_id, cursor)
            rows_of_session = store.scan(RUNS_BY_SESSION, params.session_id, after=beyond, reverse=reverse)
            found: Any = ((key, store.get(RUNS, run_id)) for key, run_id in rows_of_session)
            mark = last_part
        else:
            marks = PageTokens(call)
            run_id = marks.after(params.after)
            found = store.scan(RUNS, after=None if run_id is None else (run_id,), reverse=reverse)
            mark = marks.of
        chosen, following = page_of(found, params.limit, lambda run: _wanted(store, call, params, run), mark)
        return RunList([public_run(store, run) for run in chosen], following)


def _wanted(store: Snapshot, call: Call, params: RunListParams, run: RunRecord) -> bool:
    if params.active and run.status in rows.ENDED:
        return False
    return (params.status is None or run.status == params.status) and may_read(store, call, run)


async def settled(call: Call, session_id: str, run_id: str, timeout_s: float | None) -> RunRecord:
    """The run once it has ended or waits for a person, or as it is when the time is over."""
    with trio.move_on_after(timeout_s if timeout_s is not None else float("inf")):
        while True:
            bell = call.state.bell(f"stream:{session_id}")
            run = _present(call, run_id)
            if run.status in SETTLED:
                return run
            await bell.wait()
    return _present(call, run_id)


def _present(call: Call, run_id: str) -> RunRecord:
    with call.state.read() as store:
        run = store.get(RUNS, run_id)
    assert run is not None, "a run's record is never deleted"
    return run


@control(rows.WAIT)
async def wait(call: Call, params: RunWait) -> RunView:
    """Wait until a run has ended or waits for a person."""
    with call.state.read() as store:
        run = find_run(store, call, params.run_id)
    run = await settled(call, run.session_id, run.run_id, params.timeout_s)
    with call.state.read() as store:
        return view_of(store, run)


async def _until_stopped(call: Call, params: RunCancel, result: Run) -> Run:
    run = await settled(call, result.session_id, result.run_id, None)
    with call.state.read() as store:
        return public_run(store, run)


@mutation(rows.CANCEL, follow=_until_stopped, follows=lambda params: True)
def cancel(tx: Transaction, call: Call, params: RunCancel) -> Run:
    """Ask for a run to be stopped; the answer waits until it has."""
    run = find_run(tx, call, params.run_id)
    return public_run(tx, request_stop(tx, call, run, Cancel("cancelled", params.note)))


def request_stop(tx: Transaction, call: Call, run: RunRecord, command: Cancel) -> RunRecord:
    """Commit that a run is to be stopped. Errors: RunAlreadyEnded."""
    fold = SessionWriter(
        tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run, origin=origin_of(call)
    )
    fold.carry_out(command)
    fold.write()
    return fold.run


HANDLERS = (get, list_, wait, cancel)
