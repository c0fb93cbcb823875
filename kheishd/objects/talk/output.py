"""Outputs of runs, read from the journal: those of tool calls, else the text of the last answer.

Nothing is stored but journal events and their cursors. The answer of a run with an output contract is JSON,
and its output is the canonical form of it. That is computed on reading: an answer that matched the contract
when the run completed matches it for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kheishd.core.contract import ContractViolation, parse_value
from kheishd.kernel.call import Call, query
from kheishd.objects.pages import not_a_token, page_of
from kheishd.objects.talk.address import find_run, find_session, may_read_run
from kheishd.objects.talk.contract import schema_text
from kheishd.records.run import read_pinned
from kheishd.store.tables import RUNS, RUNS_BY_SESSION
from protocol import ids
from protocol.errors.rpc import InvalidParams
from protocol.events.output import OutputEmitted
from protocol.events.run import MessageAppended
from protocol.journal.line import decode_envelope, decode_event
from protocol.lazy import lazy_pattern
from protocol.objects import output as rows
from protocol.objects.output import Output, OutputKind, OutputList, OutputListParams
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot

# Read.


def output_of(store: Snapshot, run: RunRecord) -> Output | None:
    """Return the run's newest output; None if there is none yet. Only that of a completed run is final."""
    if run.output_cursors:
        return _read_output(store, run, run.output_cursors[-1])
    return None if run.output_cursor is None else _read_output(store, run, run.output_cursor)


def outputs_of(store: Snapshot, run: RunRecord) -> Iterator[Output]:
    """Yield the run's outputs in order: those of its tool calls, else its answer once that is final."""
    if run.output_cursors:
        yield from filter(None, (_read_output(store, run, cursor) for cursor in run.output_cursors))
    elif run.status == "completed":
        answer = output_of(store, run)
        if answer is not None and answer.text:
            yield answer


def _read_output(store: Snapshot, run: RunRecord, cursor: int) -> Output | None:
    """Return the output at a cursor of the journal; None where it was pruned."""
    entry = store.entry(run.session_id, cursor)
    if entry is None:
        return None
    is_last = cursor == (run.output_cursors[-1] if run.output_cursors else run.output_cursor)
    output = Output(
        output_id="",
        run_id=run.run_id,
        session_id=run.session_id,
        source_kind="assistant_text",
        text="",
        at_ms=decode_envelope(entry[1]).at_ms,
        created_cursor=cursor,
        final=run.status == "completed" and is_last,
    )
    match decode_event(entry[1]):
        case OutputEmitted(output_id=output_id, text=text, value=value, structured=structured):
            kind: OutputKind = "structured_output" if structured else "emit_output"
            return replace(output, output_id=output_id, source_kind=kind, text=text, value=value)
        case MessageAppended(item_id=item_id, message=message):
            # An answer is its own output. Its id is derived from the message's, so it is as lasting.
            output_id = f"{ids.OUTPUT}_{item_id.partition('_')[2]}"
            text = answer_text(store, run, run.partial_cursors) + text_of(message.items)
            return _structure(store, run, replace(output, output_id=output_id, text=text))
        case _:
            return None


def answer_text(store: Snapshot, run: RunRecord, cursors: Iterable[int]) -> str:
    """Return the joined text of a run's answers, such as the truncated ones that its last one continues."""
    texts = []
    for cursor in cursors:
        entry = store.entry(run.session_id, cursor)
        event = decode_event(entry[1]) if entry is not None else None
        texts.append(text_of(event.message.items) if isinstance(event, MessageAppended) else "")
    return "".join(texts)


def _structure(store: Snapshot, run: RunRecord, answer: Output) -> Output:
    """Return a final answer as canonical JSON if an output contract binds it."""
    contract = read_pinned(store, run).output_contract if answer.final else None
    if contract is None:
        return answer
    verdict = parse_value(msgspec.json.decode(schema_text(store, contract.digest)), answer.text)
    if isinstance(verdict, ContractViolation):
        return answer
    return replace(answer, source_kind="structured_output", text=verdict.text, value=verdict.value)


# List.

_Position = tuple[int, int]
"""The position of an output in its session: the cursor of its run's acceptance, and its own cursor."""

_TOKEN = lazy_pattern(r"([0-9]{1,19})\.([0-9]{1,19})")


@query(rows.LIST)
def list_(call: Call, params: OutputListParams) -> OutputList:
    """List the outputs of a run, or of a session's runs in the order of their acceptance."""
    last: _Position = (0, 0)
    if params.after is not None:
        token = _TOKEN.fullmatch(params.after)
        if token is None:
            raise not_a_token()
        last = (int(token[1]), int(token[2]))
    with call.state.read() as store:
        rows_ = _scan(store, _find_runs(store, call, params, last), last)
        outputs, following = page_of(
            rows_, params.limit, lambda output: True, lambda position: ".".join(map(str, position))
        )
    return OutputList(outputs, following)


def _find_runs(store: Snapshot, call: Call, params: OutputListParams, last: _Position) -> Iterator[RunRecord]:
    """Yield the runs of a list, beginning with the one in which the previous page ended.

    Errors: RunNotFound, SessionNotFound, InvalidParams.
    """
    if (params.run_id is None) == (params.session_id is None):
        raise InvalidParams("give either 'run_id' or 'session_id'", field="$.params.run_id")
    if params.run_id is not None:
        yield find_run(store, call, params.run_id)
    elif params.session_id is not None:
        session = find_session(store, call, params.session_id)
        start = (session.session_id, last[0] - 1) if last[0] else None
        for _, run_id in store.scan(RUNS_BY_SESSION, session.session_id, after=start):
            run = store.need(RUNS, run_id)
            if may_read_run(store, call, run):
                yield run


def _scan(
    store: Snapshot, runs: Iterator[RunRecord], last: _Position
) -> Iterator[tuple[_Position, Output | None]]:
    """Yield the outputs after a position; a row without an output for each run, so that pages end."""
    for run in runs:
        yield (run.accepted_cursor, 0), None
        for output in outputs_of(store, run):
            position = (run.accepted_cursor, output.created_cursor)
            if position > last:
                yield position, output


HANDLERS = (list_,)
