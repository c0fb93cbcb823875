"""What tools give, cut to what the journal holds and a model reads. Nothing is cut without saying so."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from kheishd.kernel.hook import Outcome
from protocol.limits.call import (
    MAX_EVIDENCE_BYTES,
    MAX_STOPPED_TEXT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
)
from protocol.rpc.wire import storage_problem_of

log = logging.getLogger("kheishd.runs")


def readable(outcome: Outcome, max_bytes: int = MAX_TOOL_OUTPUT_BYTES) -> tuple[str, bytes | None]:
    """The text of an outcome as a model reads it, and the whole output where that is more than the text.

    Of that so much is kept as ``tools.max_output_bytes`` says.
    """
    text, whole = _cut(outcome.text), outcome.full_output
    if text != outcome.text and whole is None:
        whole = outcome.text.encode()
    if whole is not None and len(whole) > max_bytes:
        text += f"\n[Of {len(whole)} bytes of output the first {max_bytes} were kept.]"
        whole = whole[:max_bytes]
    return text, whole


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) > MAX_TOOL_TEXT_BYTES:
        text = shortened(encoded, MAX_TOOL_TEXT_BYTES)
    if len(msgspec.json.encode(text)) > 2 * MAX_TOOL_TEXT_BYTES:
        # What is no text takes up to six bytes for each of its own in the journal.
        text = shortened(encoded, MAX_TOOL_TEXT_BYTES // 3)
    return text


def shortened(encoded: bytes, max_bytes: int) -> str:
    """The beginning and the end of a long text, and how much was left out between them."""
    half = max_bytes // 2
    head, tail = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
    return f"{head}\n[... {len(encoded) - 2 * half} bytes left out here ...]\n{tail}"


def last_words(text: str) -> str:
    """The end of a text, as much as is kept of what was cut short."""
    kept = text[-MAX_STOPPED_TEXT_BYTES:]
    while len(msgspec.json.encode(kept)) > MAX_STOPPED_TEXT_BYTES:
        kept = kept[len(kept) // 4 + 1 :]
    return kept if len(kept) == len(text) else f"[...] {kept}"


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence as it may be journaled: what cannot be said, or takes too much room, is left out."""
    sizes = {name: _size(name, value) for name, value in evidence.items()}
    kept = {name: value for name, value in evidence.items() if sizes[name] is not None}
    while kept and sum(sizes[name] or 0 for name in kept) > MAX_EVIDENCE_BYTES:
        del kept[max(kept, key=lambda name: sizes[name] or 0)]
    return kept


def _size(name: str, value: Any) -> int | None:
    """What a piece of evidence takes as JSON; None if the journal or a record cannot hold it."""
    try:
        problem = storage_problem_of({name: value})
    except (TypeError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        log.error("evidence is left out, as its values %s: %s", problem, name)
        return None
    return len(msgspec.json.encode({name: value}))
