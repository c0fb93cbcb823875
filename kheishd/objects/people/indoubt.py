"""Calls in doubt: the daemon died while they ran. An operator says what became of them; the model is told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.core import indoubt as rules
from kheishd.kernel.call import Call, mutation, query
from kheishd.objects.people.listing import Reader, Waiting, find, fold_of, page
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

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction


def find_indoubt(store: Snapshot, call: Call, indoubt_id: str) -> Indoubt:
    """A call in doubt that the caller may read.

    Errors: IndoubtNotFound, also for one whose agent or sender the caller's token does not cover.
    """
    doubt = find(store, call, INDOUBT_RECORDS, indoubt_id)
    if doubt is None:
        raise IndoubtNotFound(f"there is no call in doubt '{indoubt_id}'", field="$.params.indoubt_id")
    return doubt


def view_of(reader: Reader, doubt: Indoubt) -> IndoubtView:
    """A call in doubt with its input, read from the journal."""
    arguments = reader.arguments(doubt.session_id, doubt.message_cursor, doubt.index)
    return replace(_bare(doubt), arguments=arguments)


def _bare(doubt: Indoubt) -> IndoubtView:
    return IndoubtView(**{name: getattr(doubt, name) for name in Indoubt.__struct_fields__})


WAITING: Final = Waiting("open", INDOUBTS_OPEN, in_slot=False)


@query(rows.GET)
def get(call: Call, params: IndoubtRef) -> IndoubtView:
    """Show one call in doubt."""
    with call.state.read() as store:
        return view_of(Reader(store), find_indoubt(store, call, params.indoubt_id))


@query(rows.LIST)
def list_(call: Call, params: IndoubtListParams) -> IndoubtList:
    """List calls in doubt, oldest first."""
    with call.state.read() as store:
        show = partial(view_of, Reader(store))
        found, following = page(store, call, INDOUBT_RECORDS, params, waiting=WAITING, show=show)
    return IndoubtList(found, following)


async def _shown(call: Call, params: IndoubtResolve, result: IndoubtView) -> IndoubtView:
    """The result with the call's input: read anew, as a receipt has no room for it."""
    with call.state.read() as store:
        return view_of(Reader(store), result)


@mutation(rows.RESOLVE, follow=_shown, follows=lambda params: True)
def resolve(tx: Transaction, call: Call, params: IndoubtResolve) -> IndoubtView:
    """Say what became of a call, also of a run that has ended: the session's next model call is told."""
    doubt = find_indoubt(tx, call, params.indoubt_id)
    if doubt.status != "open":
        how = doubt.status.replace("_", " ")
        raise IndoubtAlreadyResolved(
            f"{doubt.indoubt_id} was settled as {how} by {doubt.resolved_by} already"
        )
    run = tx.need(RUNS, doubt.run_id)
    arguments = Reader(tx).arguments(doubt.session_id, doubt.message_cursor, doubt.index)
    fold = fold_of(tx, call, run)
    fold.append(
        IndoubtResolved(
            indoubt_id=doubt.indoubt_id,
            call_id=doubt.call_id,
            tool=doubt.tool,
            outcome=params.outcome,
            justification=params.justification,
            note=rules.format_resolution(doubt, arguments, params.outcome),
        )
    )
    fold.write()
    return _bare(find_indoubt(tx, call, doubt.indoubt_id))


HANDLERS = (get, list_, resolve)
