"""Truncate tool output to the sizes that the journal and a model accept. Every truncation is marked."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kheishd.kernel.hook import Outcome
from protocol.limits.call import (
    MAX_EVIDENCE_BYTES,
    MAX_STOPPED_TEXT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
)
from protocol.rpc.wire import find_storage_problem

MAX_INLINE_SCRUB_BYTES = 64 * 1024
"""The longest output that is scrubbed on the loop."""

log = logging.getLogger("kheishd.runs")


def fit_outcome(
    outcome: Outcome, max_bytes: int = MAX_TOOL_OUTPUT_BYTES, scrub: Callable[[bytes], bytes] = bytes
) -> tuple[str, bytes | None]:
    """Return the text for the model, and the full output if the text holds only a part of it.

    The output is cut at ``max_bytes``, the setting ``tools.max_output_bytes``. Texts are scrubbed before they
    are cut: the rest of a secret would not be recognized.
    """
    encoded, text = outcome.text.encode(), outcome.text
    if len(encoded) > MAX_TOOL_TEXT_BYTES:
        encoded = scrub(encoded)
        text = cut_middle(encoded, MAX_TOOL_TEXT_BYTES)
    if len(msgspec.json.encode(text)) > 2 * MAX_TOOL_TEXT_BYTES:
        # Binary data takes up to six bytes for each of its own in the journal.
        encoded = scrub(encoded)
        text = cut_middle(encoded, MAX_TOOL_TEXT_BYTES // 3)
    output = outcome.full_output
    if text != outcome.text and output is None:
        output = encoded
    if output is not None and len(output) > max_bytes:
        text += f"\n[Of {len(output)} bytes of output the first {max_bytes} were kept.]"
        output = scrub(output)[:max_bytes]
    return text, output


def cut_middle(encoded: bytes, max_bytes: int) -> str:
    """Return the beginning and the end of a long text, with the number of bytes left out between them."""
    half = max_bytes // 2
    head, tail = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
    return f"{head}\n[... {len(encoded) - 2 * half} bytes left out here ...]\n{tail}"


def cut_to_end(text: str, scrub: Callable[[bytes], bytes] = bytes) -> str:
    """Return the end of a text, of at most ``MAX_STOPPED_TEXT_BYTES`` as JSON.

    A longer text is scrubbed before it is cut; one without ``scrub`` has been scrubbed already.
    """
    if len(text) > MAX_STOPPED_TEXT_BYTES // 6:
        text = scrub(text.encode(errors="replace")).decode(errors="replace")
    end = text[-MAX_STOPPED_TEXT_BYTES:]
    while len(msgspec.json.encode(end)) > MAX_STOPPED_TEXT_BYTES:
        end = end[len(end) // 4 + 1 :]
    return end if len(end) == len(text) else f"[...] {end}"


def fit_evidence(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence without values that cannot be journaled, and without the largest if too long."""
    sizes: dict[str, int] = {}
    for name, value in evidence.items():
        try:
            problem = find_storage_problem({name: value})
        except (TypeError, ValueError) as error:
            problem = str(error)
        if problem is None:
            sizes[name] = len(msgspec.json.encode({name: value}))
        else:
            log.error("evidence is left out, as its values %s: %s", problem, name)
    while sizes and sum(sizes.values()) > MAX_EVIDENCE_BYTES:
        del sizes[max(sizes, key=lambda name: sizes[name])]
    return {name: evidence[name] for name in sizes}
