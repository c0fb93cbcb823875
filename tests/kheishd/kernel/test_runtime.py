"""What a Runtime is: a snapshot that nothing changes, and failures that say what programs need."""

import dataclasses

import pytest

from kheishd.kernel.runtime import ModelFailure
from tests.support.runtimes import make_runtime


def test_a_runtime_cannot_be_changed() -> None:
    """A reload makes another; whoever holds this one sees what it saw."""
    runtime = make_runtime()
    with pytest.raises(dataclasses.FrozenInstanceError):
        runtime.generation = 2  # type: ignore[misc]


def test_a_failure_says_whether_trying_again_helps() -> None:
    """Its reason for programs, its message for people."""
    failure = ModelFailure("rate_limited", "too many", retryable=True, status=429, retry_after_s=2.0)
    assert str(failure) == failure.message == "too many"
    assert (failure.reason, failure.retryable, failure.status, failure.retry_after_s) == (
        "rate_limited",
        True,
        429,
        2.0,
    )
