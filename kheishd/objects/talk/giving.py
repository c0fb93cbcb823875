"""What a run gave, read from the journal: the outputs of its calls, else the text of its last answer.

Where an output contract binds a run that text is JSON, and what it gave is that, written in one way. It is
worked out when it is read: whatever fitted the contract when the run completed fits it for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kheishd.core.contract import Violates, read
from kheishd.objects.talk.contract import schema_text
from protocol import ids
from protocol.events.output import OutputEmitted
from protocol.events.run import MessageAppended
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.output import Output, OutputKind
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Run


def output_of(store: Snapshot, run: Run) -> Output | None:
    """What the run gave last; None before there is anything. It is final only of a completed run."""
    if run.output_cursors:
        return _read(store, run, run.output_cursors[-1])
    return None if run.output_cursor is None else _read(store, run, run.output_cursor)


def outputs_of(store: Snapshot, run: Run) -> Iterator[Output]:
    """Everything that the run gave, in order: what its calls gave, or its answer, once that is final."""
    if run.output_cursors:
        yield from filter(None, (_read(store, run, cursor) for cursor in run.output_cursors))
    elif run.status == "completed":
        answered = output_of(store, run)
        if answered is not None and answered.text:
            yield answered


def _read(store: Snapshot, run: Run, cursor: int) -> Output | None:
    """The output that stands in the journal at a cursor; None where that was pruned."""
    found = store.entry(run.session_id, cursor)
    if found is None:
        return None
    last = cursor == (run.output_cursors[-1] if run.output_cursors else run.output_cursor)
    base = Output(
        output_id="",
        run_id=run.run_id,
        session_id=run.session_id,
        source_kind="assistant_text",
        text="",
        at_ms=decode_envelope(found[1]).at_ms,
        created_cursor=cursor,
        final=run.status == "completed" and last,
    )
    match decode_event(found[1]):
        case OutputEmitted(output_id=output_id, text=text, value=value, structured=structured):
            kind: OutputKind = "structured_output" if structured else "emit_output"
            return replace(base, output_id=output_id, source_kind=kind, text=text, value=value)
        case MessageAppended(item_id=item_id, message=message):
            # The answer is its own output, and has an id that is as lasting as the message's.
            output_id = f"{ids.OUTPUT}_{item_id.partition('_')[2]}"
            text = said_at(store, run, run.partial_cursors) + text_of(message.items)
            return _structured(store, run, replace(base, output_id=output_id, text=text))
        case _:
            return None


def said_at(store: Snapshot, run: Run, cursors: Iterable[int]) -> str:
    """The text of some answers of a run, such as those that were cut and that its last one goes on with."""
    texts = []
    for cursor in cursors:
        found = store.entry(run.session_id, cursor)
        event = decode_event(found[1]) if found is not None else None
        texts.append(text_of(event.message.items) if isinstance(event, MessageAppended) else "")
    return "".join(texts)


def _structured(store: Snapshot, run: Run, output: Output) -> Output:
    """An answer that a contract binds, as the JSON that it is; any other as it is."""
    bound = run.pinned.output_contract
    if bound is None or not output.final:
        return output
    found = read(msgspec.json.decode(schema_text(store, bound.digest)), output.text)
    if isinstance(found, Violates):
        return output
    return replace(output, source_kind="structured_output", text=found.text, value=found.value)
