"""Tool output cut to size: the beginning and the end are kept, and each cut is marked."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.hook import Outcome
from kheishd.workers.runs.results import cut_middle, cut_to_end, fit_evidence, fit_outcome
from protocol.limits.call import (
    MAX_EVIDENCE_BYTES,
    MAX_STOPPED_TEXT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
)


def test_short_output_is_unchanged() -> None:
    """Text and output within the limits are returned unchanged."""
    assert fit_outcome(Outcome("done")) == ("done", None)
    assert fit_outcome(Outcome("some of it", full_output=b"all of it")) == ("some of it", b"all of it")
    text = "x" * MAX_TOOL_TEXT_BYTES
    assert fit_outcome(Outcome(text)) == (text, None)


@pytest.mark.parametrize("text", ["x" * 100_000, "ä" * 50_000, "\0" * 20_000, '"' * 40_000, "\x1b" * 100_000])
def test_a_long_text_keeps_both_ends(text: str) -> None:
    """Whatever its characters, it fits its transaction as JSON, and the output is complete."""
    read, whole = fit_outcome(Outcome(text))
    assert whole == text.encode()
    assert len(msgspec.json.encode(read)) <= 2 * MAX_TOOL_TEXT_BYTES + 100
    head, middle, tail = read.split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "bytes left out here" in middle


def test_a_full_output_is_not_replaced_by_a_long_text() -> None:
    """A tool that returns a full output beside a long text keeps it."""
    _, whole = fit_outcome(Outcome("x" * 100_000, full_output=b"everything"))
    assert whole == b"everything"


def test_the_output_has_a_limit() -> None:
    """The model is told the size of an output that was cut."""
    text, whole = fit_outcome(Outcome("much", full_output=bytes(MAX_TOOL_OUTPUT_BYTES + 5)))
    assert whole is not None
    assert len(whole) == MAX_TOOL_OUTPUT_BYTES
    assert (
        f"Of {MAX_TOOL_OUTPUT_BYTES + 5} bytes of output the first {MAX_TOOL_OUTPUT_BYTES} were kept" in text
    )


@given(st.text(min_size=20, max_size=200), st.integers(2, 30))
def test_left_out_bytes_are_counted(text: str, max_bytes: int) -> None:
    """A text is cut between characters, with the number of bytes left out."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return
    read = cut_middle(encoded, max_bytes)
    left_out = len(encoded) - 2 * (max_bytes // 2)
    head, _, tail = read.partition(f"\n[... {left_out} bytes left out here ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head.encode()) <= max_bytes // 2 >= len(tail.encode())


@given(st.text(max_size=3 * MAX_STOPPED_TEXT_BYTES))
def test_a_text_is_cut_to_its_end(text: str) -> None:
    """The end is kept as far as it fits, and a cut is marked."""
    end = cut_to_end(text)
    assert len(msgspec.json.encode(end)) <= MAX_STOPPED_TEXT_BYTES + 10
    if end != text:
        assert end.startswith("[...] ")
        assert text.endswith(end.removeprefix("[...] "))
    else:
        assert len(msgspec.json.encode(text)) <= MAX_STOPPED_TEXT_BYTES


def test_a_cut_uses_most_of_the_limit() -> None:
    """Escapes count, and most of the limit is used."""
    assert len(cut_to_end("x" * 10_000)) > MAX_STOPPED_TEXT_BYTES * 0.7
    assert len(cut_to_end("\0" * 10_000)) * 6 > MAX_STOPPED_TEXT_BYTES * 0.5


def test_the_largest_evidence_is_left_out_first() -> None:
    """Evidence is kept as far as it fits."""
    small, large = {"pid": 7, "digest": "d" * 64}, {"output": "x" * MAX_EVIDENCE_BYTES}
    assert fit_evidence(small) == small
    assert fit_evidence(small | large) == small
    assert fit_evidence({str(n): "x" * 1_000 for n in range(10)}).keys() < {str(n) for n in range(10)}
    assert fit_evidence({}) == {}


@pytest.mark.parametrize("odd", [object(), "caf\udce9", {1: object()}, 2**70])
def test_evidence_that_cannot_be_journaled_is_left_out(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the evidence is kept, and the problem is logged."""
    assert fit_evidence({"pid": 7, "odd": odd}) == {"pid": 7}
    assert "evidence is left out" in caplog.text


def test_a_secret_is_scrubbed_before_the_cut() -> None:
    """No part of a secret is left on either side of a cut."""
    secret = "sk-" + "0123456789" * 5
    scrub = Scrubber([secret]).scrub_bytes
    half = MAX_TOOL_TEXT_BYTES // 2
    text = "x" * (half - 20) + secret + "y" * half
    read, whole = fit_outcome(Outcome(text), scrub=scrub)
    assert "0123456789" not in read
    assert whole is not None
    assert b"0123456789" not in whole
    output = b"x" * 90 + secret.encode()
    assert fit_outcome(Outcome("much", full_output=output), 100, scrub)[1] == b"x" * 90 + b"[scrubbed]"


def test_a_secret_is_scrubbed_before_the_end_is_kept() -> None:
    """No rest of a secret is left at the beginning of the end of a text; a short text stays."""
    secret = "sk-" + "0123456789" * 5
    scrub = Scrubber([secret]).scrub_bytes
    for kept in range(1, len(secret)):
        end = cut_to_end("x" * 100 + secret + "y" * (MAX_STOPPED_TEXT_BYTES - 2 - kept), scrub)
        assert "789" not in end
    assert cut_to_end(secret, scrub) == secret
