"""Refusals: declared once, and each says what to do."""

import re

import msgspec
import pytest

from protocol.errors.refusal import REFUSALS, Refusal
from protocol.errors.run import RunNotFound
from protocol.rpc import catalogue

CODES = {
    -32700, -32600, -32601, -32602, -32603,
    1401, 1403, 1404, 1409, 1410, 1413, 1422, 1429, 1499, 1503, 1507,
}  # fmt: skip
"""The error codes of the contract."""

ALL = list(REFUSALS.values())


@pytest.mark.parametrize("refusal", ALL)
def test_refusal_says_what_to_do(refusal: type[Refusal]) -> None:
    """Every refusal has a docstring of its own, a full sentence or two, which is its message."""
    text = refusal.__doc__
    assert text is not None, "no docstring"
    assert text not in {base.__doc__ for base in refusal.__mro__[1:]}, "an inherited docstring"
    message = refusal().message
    assert message == " ".join(text.split())
    assert message[0].isupper()
    assert message.endswith(".")
    assert 20 <= len(message) <= 200


@pytest.mark.parametrize("refusal", ALL)
def test_refusal_is_in_the_contract(refusal: type[Refusal]) -> None:
    """Its code is one of the contract's and its reason is a name."""
    assert refusal.code in CODES
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", refusal.reason)
    assert REFUSALS[refusal.reason] is refusal


@pytest.mark.parametrize("refusal", ALL)
def test_data_is_what_error_data_holds(refusal: type[Refusal]) -> None:
    """The data has the reason and whether to try again; the rest only where it is said."""
    assert msgspec.to_builtins(refusal().data()) == {
        "reason": refusal.reason,
        "retryable": refusal.retryable,
    }
    data = refusal("No.", field="$.params.x", hint="y", retry_after_ms=100).data()
    assert msgspec.to_builtins(data) == {
        "reason": refusal.reason,
        "retryable": refusal.retryable,
        "retry_after_ms": 100,
        "field": "$.params.x",
        "hint": "y",
    }


def test_a_refusal_is_an_exception_with_its_message() -> None:
    """What is raised reads well in a log."""
    with pytest.raises(RunNotFound, match="no run 'r1'"):
        raise RunNotFound("no run 'r1'")


def test_one_reason_one_refusal() -> None:
    """A reason cannot be declared twice."""
    with pytest.raises(AssertionError, match="two refusals have the reason run_not_found"):
        type("Again", (Refusal,), {}, reason="run_not_found")
    assert REFUSALS["run_not_found"] is RunNotFound


def test_retryable_means_try_again() -> None:
    """Only what passes by itself is worth trying again."""
    retryable = {refusal.code for refusal in ALL if refusal.retryable}
    assert retryable == {1429, 1503, 1507}


def test_rows_declare_refusals_with_a_reason() -> None:
    """No row declares a mere kind of refusal, which has no reason of its own."""
    for method in catalogue.METHODS.values():
        for refusal in method.errors:
            assert REFUSALS.get(refusal.reason) is refusal, (method.name, refusal)
