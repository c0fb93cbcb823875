"""Sessions, runs and events written into a store by hand, for tests of readers."""

from collections.abc import Sequence

from kheishd.core.run.record import RunRecord
from kheishd.store.environment import Transaction
from kheishd.store.tables import CHILDREN, META, RUNS, SESSIONS
from protocol.events.call import ToolCalled
from protocol.events.daemon import DaemonReloaded
from protocol.events.run import ModelAsked, RunEnded
from protocol.events.session import SessionCreated, SessionRenamed
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects.run import OpenCall, RunStatus
from protocol.objects.session import Session


def add_session(
    tx: Transaction,
    session_id: str,
    agent: str = "default",
    sender: str | None = "user",
    parent: str | None = None,
) -> int:
    """Add a session and its first event; return the event's cursor."""
    record = Session(
        session_id=session_id,
        agent=agent,
        status="open",
        sender=sender,
        created_at_ms=tx.now_ms,
        updated_at_ms=tx.now_ms,
        parent_session_id=parent,
    )
    tx.put(SESSIONS, session_id, value=record)
    if parent is not None:
        tx.put(CHILDREN, parent, session_id, value=b"")
    event = SessionCreated(agent=agent, sender=sender, parent_session_id=parent)
    return tx.append(session_id, event, session_id=session_id)[0].cursor


def add_event(tx: Transaction, session_id: str, title: str = "", run_id: str | None = None) -> int:
    """Add an event of a session; return its cursor."""
    event = SessionRenamed(title=title)
    return tx.append(session_id, event, session_id=session_id, run_id=run_id)[0].cursor


def add_daemon_event(tx: Transaction) -> int:
    """Add an event of the daemon's stream; return its cursor."""
    return tx.append(DAEMON_STREAM, DaemonReloaded(generation=1))[0].cursor


def put_run(
    tx: Transaction,
    run_id: str,
    session_id: str,
    status: RunStatus,
    item_id: str | None = None,
    calls: Sequence[OpenCall] = (),
) -> None:
    """Write a run's record, new or changed."""
    record = RunRecord(
        run_id=run_id,
        session_id=session_id,
        agent="default",
        input_id="inp_1",
        status=status,
        accepted_at_ms=tx.now_ms,
        updated_at_ms=tx.now_ms,
        accepted_cursor=1,
        updated_cursor=1,
        item_id=item_id,
        calls=list(calls),
    )
    tx.put(RUNS, run_id, value=record)


def ask(tx: Transaction, run_id: str, session_id: str, item_id: str) -> int:
    """Begin a model call of a run; return the event's cursor."""
    put_run(tx, run_id, session_id, "running", item_id)
    event = ModelAsked(item_id=item_id, turn=1, attempt=1)
    return tx.append(session_id, event, session_id=session_id, run_id=run_id)[0].cursor


def call(tx: Transaction, run_id: str, session_id: str, *call_ids: str) -> int:
    """Begin calls of a run in place of its previous ones; return the cursor of the last event."""
    calls = [OpenCall(call_id=call_id, tool="look", state="called") for call_id in call_ids]
    put_run(tx, run_id, session_id, "running", calls=calls)
    events = [ToolCalled(call_id=call_id, tool="look") for call_id in call_ids]
    return [tx.append(session_id, e, session_id=session_id, run_id=run_id)[0].cursor for e in events][-1]


def end(tx: Transaction, run_id: str, session_id: str) -> int:
    """Complete a run; return the event's cursor."""
    put_run(tx, run_id, session_id, "completed")
    event = RunEnded(outcome="completed")
    return tx.append(session_id, event, session_id=session_id, run_id=run_id)[0].cursor


def mark_pruned(tx: Transaction, stream: str, cursor: int) -> None:
    """Write the marks of a pruned journal."""
    tx.put(META, f"pruned:{stream}", value=cursor.to_bytes(8, "big"))
