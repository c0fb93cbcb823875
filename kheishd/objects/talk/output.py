"""Outputs: listing what runs gave. Nothing is kept of them but the journal and where they stand in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kheishd.kernel.call import Call, query
from kheishd.objects.pages import not_a_mark, page_of
from kheishd.objects.talk.giving import outputs_of
from kheishd.objects.talk.run import find_run, may_read
from kheishd.objects.talk.session import find_session
from kheishd.store.tables import RUNS, RUNS_BY_SESSION
from protocol.errors.rpc import InvalidParams
from protocol.objects import output as rows
from protocol.objects.output import Output, OutputList, OutputListParams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Run

_Place = tuple[int, int]
"""Where an output is among those of its session: the acceptance of its run, and its own cursor."""

_MARK = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})")
_START: _Place = (0, 0)


@query(rows.LIST)
def list_(call: Call, params: OutputListParams) -> OutputList:
    """List the outputs of a run, or of a session's runs in the order of their acceptance."""
    after = _after(params.after)
    with call.state.read() as store:
        found = _outputs(store, _runs(store, call, params, after), after)
        chosen, following = page_of(found, params.limit, lambda output: True, _mark)
    return OutputList(chosen, following)


def _after(mark: str | None) -> _Place:
    if mark is None:
        return _START
    found = _MARK.fullmatch(mark)
    if found is None:
        raise not_a_mark()
    return int(found[1]), int(found[2])


def _mark(place: tuple[int, ...]) -> str:
    return ".".join(map(str, place))


def _runs(store: Snapshot, call: Call, params: OutputListParams, after: _Place) -> Iterator[Run]:
    """The runs that are meant, from the one on in which the page before ended."""
    if params.run_id is not None and params.session_id is None:
        return iter([find_run(store, call, params.run_id)])
    if params.session_id is not None and params.run_id is None:
        session = find_session(store, call, params.session_id)
        return _runs_of(store, call, session.session_id, after)
    raise InvalidParams("give either 'run_id' or 'session_id'", field="$.params.run_id")


def _runs_of(store: Snapshot, call: Call, session_id: str, after: _Place) -> Iterator[Run]:
    beyond = (session_id, after[0] - 1) if after[0] else None
    for _, run_id in store.scan(RUNS_BY_SESSION, session_id, after=beyond):
        run = store.need(RUNS, run_id)
        if may_read(store, call, run):
            yield run


def _outputs(store: Snapshot, runs: Iterator[Run], after: _Place) -> Iterator[tuple[_Place, Output | None]]:
    """Every output beyond a place; a run that gave none is a row of its own, with nothing in it."""
    for run in runs:
        yield (run.accepted_cursor, 0), None
        for output in outputs_of(store, run):
            if (run.accepted_cursor, output.created_cursor) > after:
                yield (run.accepted_cursor, output.created_cursor), output


HANDLERS = (list_,)
