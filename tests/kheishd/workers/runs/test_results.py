"""What tools give, cut to what is kept: the beginning and the end, never without saying so."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.kernel.hook import Outcome
from kheishd.workers.runs.results import cut_middle, cut_to_end, fit_evidence, fit_outcome
from protocol.limits.call import (
    MAX_EVIDENCE_BYTES,
    MAX_STOPPED_TEXT_BYTES,
    MAX_TOOL_OUTPUT_BYTES,
    MAX_TOOL_TEXT_BYTES,
)


def test_what_fits_is_kept_as_it_is() -> None:
    """Text and bytes."""
    assert fit_outcome(Outcome("done")) == ("done", None)
    assert fit_outcome(Outcome("some of it", full_output=b"all of it")) == ("some of it", b"all of it")
    text = "x" * MAX_TOOL_TEXT_BYTES
    assert fit_outcome(Outcome(text)) == (text, None)


@pytest.mark.parametrize("text", ["x" * 100_000, "ä" * 50_000, "\0" * 20_000, '"' * 40_000, "\x1b" * 100_000])
def test_a_long_text_is_read_at_both_ends(text: str) -> None:
    """As JSON it fits its transaction, whatever it is made of; all of it is what stands in the blob."""
    read, whole = fit_outcome(Outcome(text))
    assert whole == text.encode()
    assert len(msgspec.json.encode(read)) <= 2 * MAX_TOOL_TEXT_BYTES + 100
    head, middle, tail = read.split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert "bytes left out here" in middle


def test_what_stands_whole_elsewhere_is_not_replaced_by_a_long_text() -> None:
    """A tool that gives both knows what is the whole."""
    _, whole = fit_outcome(Outcome("x" * 100_000, full_output=b"everything"))
    assert whole == b"everything"


def test_output_has_a_limit_and_says_so() -> None:
    """The model learns how much there was."""
    text, whole = fit_outcome(Outcome("much", full_output=bytes(MAX_TOOL_OUTPUT_BYTES + 5)))
    assert whole is not None
    assert len(whole) == MAX_TOOL_OUTPUT_BYTES
    assert (
        f"Of {MAX_TOOL_OUTPUT_BYTES + 5} bytes of output the first {MAX_TOOL_OUTPUT_BYTES} were kept" in text
    )


@given(st.text(min_size=20, max_size=200), st.integers(2, 30))
def test_what_is_left_out_is_counted(text: str, max_bytes: int) -> None:
    """Cut between characters, with the rest in between."""
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
def test_cut_to_end_are_the_end_of_it(text: str) -> None:
    """As much as fits, and a sign if that is not all."""
    kept = cut_to_end(text)
    assert len(msgspec.json.encode(kept)) <= MAX_STOPPED_TEXT_BYTES + 10
    if kept != text:
        assert kept.startswith("[...] ")
        assert text.endswith(kept.removeprefix("[...] "))
    else:
        assert len(msgspec.json.encode(text)) <= MAX_STOPPED_TEXT_BYTES


def test_of_long_words_most_of_what_may_be_kept_is() -> None:
    """Escapes count."""
    assert len(cut_to_end("x" * 10_000)) > MAX_STOPPED_TEXT_BYTES * 0.7
    assert len(cut_to_end("\0" * 10_000)) * 6 > MAX_STOPPED_TEXT_BYTES * 0.5


def test_evidence_is_kept_as_far_as_it_fits() -> None:
    """What is largest goes first."""
    small, large = {"pid": 7, "digest": "d" * 64}, {"output": "x" * MAX_EVIDENCE_BYTES}
    assert fit_evidence(small) == small
    assert fit_evidence(small | large) == small
    assert fit_evidence({str(n): "x" * 1_000 for n in range(10)}).keys() < {str(n) for n in range(10)}
    assert fit_evidence({}) == {}


@pytest.mark.parametrize("odd", [object(), "caf\udce9", {1: object()}, 2**70])
def test_evidence_that_no_journal_can_hold_is_left_out(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of it is of use all the same."""
    assert fit_evidence({"pid": 7, "odd": odd}) == {"pid": 7}
    assert "evidence is left out" in caplog.text
