"""What becomes of exceptions at the border."""

import logging

import pytest

from kheishd.server.faults import refusal_of
from protocol.errors.rpc import InternalError
from protocol.errors.run import RunNotFound


def test_a_refusal_is_itself() -> None:
    """Also alone in a group, as a nursery wraps it."""
    refusal = RunNotFound("no such run")
    assert refusal_of(refusal, "run.get") is refusal
    assert refusal_of(ExceptionGroup("", [ExceptionGroup("", [refusal])]), "run.get") is refusal


def test_a_fault_is_logged_and_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns only that something failed; the log has the method and the traceback."""
    with caplog.at_level(logging.ERROR):
        told = refusal_of(RuntimeError("the password is x"), "toy.broken")
    assert type(told) is InternalError
    assert told.number == -32603
    assert "password" not in told.message
    assert "toy.broken" in caplog.text
    assert "the password is x" in caplog.text


def test_several_faults_at_once_are_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """Even if one of them is a refusal."""
    told = refusal_of(ExceptionGroup("", [RunNotFound(), RuntimeError("x")]), "toy.broken")
    assert type(told) is InternalError
    assert "RuntimeError" in caplog.text
