"""Exit codes."""

import pytest

from kheishctl import exit_codes
from protocol.objects.run import ENDED, SETTLED


def test_every_code_has_one_meaning() -> None:
    """Every code has exactly one meaning in the help."""
    codes = [code for code, _ in exit_codes.MEANINGS]
    assert len(set(codes)) == len(codes)
    assert set(codes) == {
        value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)
    }


@pytest.mark.parametrize("status", sorted(SETTLED))
def test_every_settled_status_has_a_code(status: str) -> None:
    """Every settled status has a code that tells success from failure and waiting."""
    assert (exit_codes.code_for_status(status) == exit_codes.OK) == (status == "completed")
    assert (exit_codes.code_for_status(status) == exit_codes.RUN_WAITS) == (status not in ENDED)


def test_an_empty_answer_has_a_code_of_its_own() -> None:
    """A run that failed because of an empty answer differs from every other failed run."""
    error = {"reason": "empty_answer", "message": "m"}
    assert exit_codes.code_for_run({"status": "failed", "error": error}) == exit_codes.EMPTY_ANSWER
    assert exit_codes.code_for_run({"status": "cancelled", "error": error}) == exit_codes.RUN_STOPPED
    assert exit_codes.code_for_run({"status": "failed", "error": {"reason": "x"}}) == exit_codes.RUN_FAILED
    assert exit_codes.code_for_run({"status": "completed"}) == exit_codes.OK
    assert exit_codes.code_for_run({"status": "running", "error": None}) == exit_codes.TIMED_OUT


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("output_contract_violated", exit_codes.CONTRACT_VIOLATED),
        ("completion_required", exit_codes.CONTRACT_VIOLATED),
        ("token_budget", exit_codes.BUDGET_EXCEEDED),
        ("time_budget", exit_codes.BUDGET_EXCEEDED),
        ("cost_budget", exit_codes.BUDGET_EXCEEDED),
    ],
)
def test_causes_of_failed_runs_have_codes(reason: str, code: int) -> None:
    """A violated contract and an exceeded budget have codes of their own."""
    assert exit_codes.code_for_run({"status": "failed", "error": {"reason": reason}}) == code


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_unsettled_run_is_a_timeout(status: str) -> None:
    """A run that has not settled means a timeout."""
    assert exit_codes.code_for_status(status) == exit_codes.TIMED_OUT
