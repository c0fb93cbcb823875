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


def test_an_error_names_a_command(ctl: Ctl) -> None:
    """The text of an error names commands for the same daemon; 'call' and JSON keep the methods."""
    done = ctl("cron", "show", "nosuch")
    assert f"'kheishctl --home {ctl.home} cron list' shows them" in done.err
    assert "hint:" not in done.err
    assert "cron.list" in ctl("cron", "show", "nosuch", "--json").json["error"]["message"]
    assert "cron.list" in ctl("call", "cron.get", '{"cron_id": "nosuch"}').err


def test_a_refusal_hints_at_a_command(ctl: Ctl) -> None:
    """The hint names a command for the same daemon, as text and as JSON."""
    done = ctl("run", "show", "run_nosuch")
    assert done.err.endswith(f"  hint: kheishctl --home {ctl.home} run list\n")
    error = ctl("run", "show", "run_nosuch", "--json").json["error"]
    assert error["data"]["hint"] == f"kheishctl --home {ctl.home} run list"
