"""Exit codes."""

import pytest

from kheishctl import exits
from protocol.objects.run import ENDED, SETTLED


def test_every_code_has_one_meaning() -> None:
    """No two meanings share a code, and none is missing from the help."""
    codes = [code for code, _ in exits.MEANINGS]
    assert len(set(codes)) == len(codes)
    assert set(codes) == {
        value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
    }


@pytest.mark.parametrize("status", sorted(SETTLED))
def test_every_settled_status_has_a_code(status: str) -> None:
    """Waiting for a run ends with a code that tells success from all else."""
    assert (exits.code_for_status(status) == exits.OK) == (status == "completed")
    assert (exits.code_for_status(status) == exits.RUN_WAITS) == (status not in ENDED)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_run_that_goes_on_is_out_of_time(status: str) -> None:
    """What has not settled was not waited for long enough."""
    assert exits.code_for_status(status) == exits.TIMED_OUT
