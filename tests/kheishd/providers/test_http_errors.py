"""The failures of HTTP errors."""

import pytest

from kheishd.providers.failures import FailureFactory
from kheishd.providers.http_errors import (
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    UnsendableRequest,
    failure_of,
)


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (UnsendableRequest("x"), "bad_request", False),
        (ConnectFailed("x"), "connection_failed", True),
        (ConnectTimeout("x"), "connection_failed", True),
        (ConnectionBroken("x"), "connection_failed", True),
        (OSError("x"), "connection_failed", True),
    ],
)
def test_failures(error: Exception, reason: str, retryable: bool) -> None:
    """Every network error has its reason."""
    error_failure = failure_of(error, FailureFactory("api.test", None))
    assert error_failure is not None
    assert (error_failure.reason, error_failure.retryable) == (reason, retryable)


def test_a_provider_that_does_not_pick_up() -> None:
    """The note of a connect timeout states the time waited, not the library's exception."""
    error_failure = failure_of(ConnectTimeout("cancelled due to deadline"), FailureFactory("api.test", None))
    assert error_failure is not None
    assert error_failure.message == "api.test: no connection within 30 s"


def test_our_own_faults_are_no_failures() -> None:
    """A bug in our code is not reported as a network failure."""
    assert failure_of(KeyError("x"), FailureFactory("api.test", None)) is None


def test_the_message_of_the_operating_system() -> None:
    """The message is that of the operating system if there is one below the error."""
    broken = ConnectionBroken("something")
    broken.__cause__ = ConnectionResetError(104, "reset")
    failure = failure_of(broken, FailureFactory("api.test", None))
    assert failure is not None
    assert failure.message == "api.test: the connection broke: Connection reset by peer"
