"""Runtimes, which are immutable, and failures of model calls."""

import pytest

from kheishd.kernel.runtime import ModelFailure
from tests.support.runtimes import make_runtime


def test_a_runtime_cannot_be_changed() -> None:
    """A runtime is immutable, so that a reload does not affect its holders."""
    runtime = make_runtime()
    with pytest.raises(AttributeError):
        runtime.generation = 2  # type: ignore[misc]


def test_a_failure_tells_whether_a_retry_helps() -> None:
    """A failure has a reason for programs and a message for people."""
    failure = ModelFailure("rate_limited", "too many", retryable=True, status=429, retry_after_s=2.0)
    assert str(failure) == failure.message == "too many"
    assert (failure.reason, failure.retryable, failure.status, failure.retry_after_s) == (
        "rate_limited",
        True,
        429,
        2.0,
    )
