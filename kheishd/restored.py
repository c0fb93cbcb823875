"""The first start of a restored store: mark the work that was open in the backup, before any worker starts.

After the backup, that work went on, in the store that was replaced or on the machine of the backup. Nothing
here knows its end, so nothing runs again by itself: open runs end as interrupted, calls that were running are
in doubt, queued inputs are not executed, and firings that were due are skipped. Rights that were withdrawn
after the backup are withdrawn again.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kheishd.core.run.commands import EndRestored
from kheishd.objects.agents import mail
from kheishd.objects.wake.cron import skip_restored
from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.store.backup import count_open_work
from kheishd.store.epoch import OpenWork, RestoreMark, Withdrawal, put_restore_mark, read_restore_mark
from kheishd.store.tables import (
    BUS_FANOUT,
    CRONS,
    MAILBOXES_DUE,
    RUNS,
    RUNS_TO_CONCLUDE,
    SESSIONS,
    TOKENS,
    TRIGGERS_DUE,
)
from kheishd.store.withdrawn import make_events
from protocol.events.daemon import DaemonRestored
from protocol.events.token import TokenRevoked
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects.run import ENDED, RunError

if TYPE_CHECKING:
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.daemon")


def format_time(at_ms: int) -> str:
    """Return a time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


async def finish_restore(state: State) -> RestoreMark | None:
    """Mark the open work of a restored store, once; return the mark of the newest restore, if any.

    Each step is a commit of its own, and a start after a crash continues. Errors: StorageFull.
    """
    with state.read() as store:
        mark = read_restore_mark(store)
        if mark is None or not mark.pending:
            return mark
        runs = [run.run_id for _, run in store.scan(RUNS) if run.status not in ENDED]
        if mark.open_work is None:
            mark = replace(mark, open_work=count_open_work(store))
    await state.update(partial(put_restore_mark, mark=mark))
    for run_id in runs:
        try:
            await state.update(partial(end_restored_run, run_id=run_id, backup_at_ms=mark.backup_at_ms))
        except (AssertionError, msgspec.DecodeError):
            # The worker skips it for the same reason.
            log.error("an open run cannot be read; check the store", extra={"run_id": run_id})
    await _withdraw_mail(state)
    await _withdraw_events(state)
    with state.read() as store:
        crons = [record.cron_id for _, record in store.scan(CRONS)]
    for cron_id in crons:
        await state.update(partial(skip_restored, cron_id=cron_id))
    withdrawn = mark.withdrawn
    for token_id in withdrawn.tokens if withdrawn is not None else ():
        await state.update(partial(_revoke_token, token_id=token_id))
    for change in (withdrawn.changes or ()) if withdrawn is not None else ():
        await state.update(partial(_withdraw, change=change))
    mark = replace(mark, pending=False)
    await state.update(partial(_finish, mark=mark, epoch=state.epoch))
    work = mark.open_work or OpenWork()
    log.warning(
        "the store was restored from a backup of %s: %d runs that were open in it are interrupted, %d calls "
        "are in doubt",
        format_time(mark.backup_at_ms),
        work.running + work.queued + work.waiting,
        work.indoubts,
    )
    if withdrawn is None or not withdrawn.is_complete:
        log.warning(
            "it is not known which rights were withdrawn after the backup: tokens, grants, rules, modes"
        )
    return mark


def end_restored_run(tx: Transaction, run_id: str, backup_at_ms: int) -> None:
    """End a run that was open in the backup."""
    run = tx.need(RUNS, run_id)
    if run.status in ENDED:
        return
    backup = f"a backup of {format_time(backup_at_ms)}"
    message = f"the store was restored from {backup}, in which this run was open"
    if run.status == "queued":
        message += "; its input was not executed here, so send it again if it is still needed"
    else:
        message += "; what it did after the backup is not known, so it does not continue"
    session = tx.need(SESSIONS, run.session_id)
    writer = SessionWriter(tx, run.session_id, session=session, run=run)
    writer.carry_out(EndRestored(RunError("restored", message), f"The state is from {backup}"))
    writer.write()


async def _withdraw_mail(state: State) -> None:
    """Give up the mail of the backup: runs may have read it since, and their parents know their ends."""
    with state.read() as store:
        run_ids = [run_id for _, run_id in store.scan(RUNS_TO_CONCLUDE)]
        session_ids = [session_id for _, session_id in store.scan(MAILBOXES_DUE)]
    for run_id in run_ids:
        await state.update(partial(mail.conclude, run_id=run_id, is_restored=True))
    for session_id in session_ids:
        while await state.update(partial(mail.withdraw_restored, session_id=session_id)):
            pass


async def _withdraw_events(state: State) -> None:
    """Give up the events of the backup that are not delivered: runs may have been woken by them since."""
    from kheishd.objects.wake import event, trigger

    note = "the store was restored from a backup that was made before"
    with state.read() as store:
        event_ids = [event_id for _, event_id in store.scan(BUS_FANOUT)]
        trigger_ids = [key[1] for key, _ in store.scan(TRIGGERS_DUE)]
    for event_id in event_ids:
        await state.update(partial(event.withdraw, event_id=event_id, note=note))
    for trigger_id in trigger_ids:
        await state.update(partial(trigger.give_up_held, trigger_id=trigger_id, note=note))


def _revoke_token(tx: Transaction, token_id: str) -> None:
    record = tx.get(TOKENS, token_id)
    if record is not None and record.token.revoked_at_ms is None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        writer.append(TokenRevoked(token_id=token_id, note="revoked after the backup that was restored"))
        writer.write()


def _withdraw(tx: Transaction, change: Withdrawal) -> None:
    writer: StreamWriter
    if change.session_id is None:
        writer = StreamWriter(tx, DAEMON_STREAM)
    else:
        session = tx.need(SESSIONS, change.session_id)
        if session.status == "ended":
            return
        writer = SessionWriter(tx, change.session_id, session=session)
    writer.append_all(make_events(change))
    writer.write()


def _finish(tx: Transaction, mark: RestoreMark, epoch: str) -> None:
    work = mark.open_work or OpenWork()
    withdrawn = mark.withdrawn
    event = DaemonRestored(
        epoch=epoch,
        backup_at_ms=mark.backup_at_ms,
        backup_cursor=mark.cursor,
        restored_at_ms=mark.restored_at_ms,
        runs=work.running + work.queued + work.waiting,
        indoubts=work.indoubts,
        revoked_tokens=len(withdrawn.tokens) if withdrawn is not None else None,
    )
    tx.append(DAEMON_STREAM, event)
    put_restore_mark(tx, mark)
