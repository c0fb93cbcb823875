"""Hints after refusals."""

from typing import get_args

from kheishctl import hints
from protocol.errors.refusal import REFUSALS
from protocol.objects.indoubt import IndoubtStatus
from tests.support.ctl import Ctl

IN_DOUBT = tuple(status.replace("_", "-") for status in get_args(IndoubtStatus))


def test_hints_belong_to_refusals() -> None:
    """Every hint belongs to a refusal, and every missing object has a hint."""
    assert hints.HINTS.keys() <= REFUSALS.keys()
    of_a_connection = {"subscription_not_found", "request_not_found"}
    missing = {reason for reason, refusal in REFUSALS.items() if refusal.code == 1404}
    assert missing - of_a_connection <= hints.HINTS.keys()


def test_a_refusal_hints_at_a_command(ctl: Ctl) -> None:
    """The hint names a command for the same daemon, as text and as JSON."""
    done = ctl("run", "show", "run_0")
    assert done.err.endswith(f"  hint: kheishctl --home {ctl.home} run list\n")
    error = ctl("run", "show", "run_0", "--json").json["error"]
    assert error["data"]["hint"] == f"kheishctl --home {ctl.home} run list"
