"""Calls in doubt: the daemon died while they ran. An operator reports the outcome, and the model is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kheishd.core import indoubt as rules
from kheishd.kernel.call import Call, mutation, query
from kheishd.objects.people.listing import EventReader, PendingIndex, find_record, list_records, writer_of
from kheishd.records.indoubt import INDOUBT_RECORDS
from kheishd.store.tables import INDOUBTS_OPEN, RUNS
from protocol.errors.indoubt import IndoubtAlreadyResolved, IndoubtNotFound
from protocol.events.indoubt import IndoubtResolved
from protocol.objects import indoubt as rows
from protocol.objects.indoubt import (
    Indoubt,
    IndoubtList,
    IndoubtListParams,
    IndoubtRef,
    IndoubtResolve,
    IndoubtView,
)
from protocol.structs import fields_of

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction

PENDING: Final = PendingIndex("open", INDOUBTS_OPEN, in_slot=False)


def find_indoubt(store: Snapshot, call: Call, indoubt_id: str) -> Indoubt:
    """Return a call in doubt that the caller may read. Errors: IndoubtNotFound."""
    indoubt = find_record(store, call, INDOUBT_RECORDS, indoubt_id)
    if indoubt is None:
        raise IndoubtNotFound(f"there is no call in doubt '{indoubt_id}'", field="$.params.indoubt_id")
    return indoubt


def view_of(reader: EventReader, indoubt: Indoubt) -> IndoubtView:
    """Return a call in doubt as shown, with its arguments from the journal."""
    arguments = reader.arguments(indoubt.session_id, indoubt.message_cursor, indoubt.index)
    return IndoubtView(**fields_of(Indoubt, indoubt), arguments=arguments)


@query(rows.GET)
def get(call: Call, params: IndoubtRef) -> IndoubtView:
    """Show a call in doubt."""
    with call.state.read() as store:
        return view_of(EventReader(store), find_indoubt(store, call, params.indoubt_id))


@query(rows.LIST)
def list_(call: Call, params: IndoubtListParams) -> IndoubtList:
    """List calls in doubt, oldest first."""
    with call.state.read() as store:
        view = partial(view_of, EventReader(store))
        page, following = list_records(store, call, INDOUBT_RECORDS, params, pending=PENDING, view_of=view)
    return IndoubtList(page, following)


async def follow_resolve(call: Call, params: IndoubtResolve, result: IndoubtView) -> IndoubtView:
    """Add the call's arguments, for which a receipt has no room."""
    with call.state.read() as store:
        return view_of(EventReader(store), result)


@mutation(rows.RESOLVE, follow=follow_resolve)
def resolve(tx: Transaction, call: Call, params: IndoubtResolve) -> IndoubtView:
    """Report the outcome of a call. If its run has ended, the session's next model call is told.

    Errors: IndoubtNotFound, IndoubtAlreadyResolved.
    """
    indoubt = find_indoubt(tx, call, params.indoubt_id)
    if indoubt.status != "open":
        outcome = indoubt.status.replace("_", " ")
        raise IndoubtAlreadyResolved(
            f"{indoubt.indoubt_id} was already resolved as {outcome} by {indoubt.resolved_by}",
            field="$.params.indoubt_id",
        )
    arguments = EventReader(tx).arguments(indoubt.session_id, indoubt.message_cursor, indoubt.index)
    writer = writer_of(tx, call, tx.need(RUNS, indoubt.run_id))
    writer.append(
        IndoubtResolved(
            indoubt_id=indoubt.indoubt_id,
            call_id=indoubt.call_id,
            tool=indoubt.tool,
            outcome=params.outcome,
            justification=params.justification,
            note=rules.format_resolution(indoubt, arguments, params.outcome),
        )
    )
    writer.write()
    return IndoubtView(**fields_of(Indoubt, find_indoubt(tx, call, indoubt.indoubt_id)))


HANDLERS = (get, list_, resolve)
