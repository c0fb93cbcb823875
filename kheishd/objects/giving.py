"""What a run gave, read from the journal: the outputs of its calls, else the text of its last answer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from protocol import ids
from protocol.events import MessageAppended, OutputEmitted, decode_envelope, decode_event
from protocol.objects.output import Output, OutputKind
from protocol.transcript import text_of

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Run


def output_of(store: "Snapshot", run: "Run") -> Output | None:
    """What the run gave last; None before there is anything. It is final only of a completed run."""
    if run.outputs:
        return _read(store, run, run.outputs[-1])
    return None if run.output_cursor is None else _read(store, run, run.output_cursor)


def outputs_of(store: "Snapshot", run: "Run") -> Iterator[Output]:
    """Everything that the run gave, in order: what its calls gave, or its answer, once that is final."""
    if run.outputs:
        yield from filter(None, (_read(store, run, cursor) for cursor in run.outputs))
    elif run.status == "completed":
        answered = output_of(store, run)
        if answered is not None and answered.text:
            yield answered


def _read(store: "Snapshot", run: "Run", cursor: int) -> Output | None:
    """The output that stands in the journal at a cursor; None where that was pruned."""
    found = store.entry(run.session_id, cursor)
    if found is None:
        return None
    last = cursor == (run.outputs[-1] if run.outputs else run.output_cursor)
    base = Output(
        output_id="",
        run_id=run.run_id,
        session_id=run.session_id,
        source_kind="assistant_text",
        text="",
        at_ms=decode_envelope(found[1]).at_ms,
        cursor=cursor,
        final=run.status == "completed" and last,
    )
    match decode_event(found[1]):
        case OutputEmitted(output_id=output_id, text=text, value=value, structured=structured):
            kind: OutputKind = "structured_output" if structured else "emit_output"
            return replace(base, output_id=output_id, source_kind=kind, text=text, value=value)
        case MessageAppended(item_id=item_id, message=message):
            # The answer is its own output, and has an id that is as lasting as the message's.
            output_id = f"{ids.OUTPUT}_{item_id.partition('_')[2]}"
            return replace(base, output_id=output_id, text=text_of(message.items))
        case _:
            return None
