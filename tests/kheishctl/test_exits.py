"""Exit codes."""

import pytest

from kheishctl import exits
from protocol.objects.run import ENDED, SETTLED


def test_every_code_has_one_meaning() -> None:
    """Every code has exactly one meaning in the help."""
    codes = [code for code, _ in exits.MEANINGS]
    assert len(set(codes)) == len(codes)
    assert set(codes) == {
        value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
    }


@pytest.mark.parametrize("status", sorted(SETTLED))
def test_every_settled_status_has_a_code(status: str) -> None:
    """Every settled status has a code that tells success from failure and waiting."""
    assert (exits.code_for_status(status) == exits.OK) == (status == "completed")
    assert (exits.code_for_status(status) == exits.RUN_WAITS) == (status not in ENDED)


@pytest.mark.parametrize("status", ["queued", "running"])
def test_an_unsettled_run_is_a_timeout(status: str) -> None:
    """A run that has not settled means a timeout."""
    assert exits.code_for_status(status) == exits.TIMED_OUT
