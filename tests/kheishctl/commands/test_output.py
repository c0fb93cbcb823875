"""``kheishctl output``."""

from kheishctl import exit_codes
from tests.support.ctl import Ctl

EMIT = '/call emit_output {"text": "the report", "value": {"pages": 3}}'


def test_list(ctl: Ctl, sender: str) -> None:
    """The outputs of a run, and of all runs of a session, are listed."""
    first = ctl.json("send", "default", EMIT, "--as", sender)
    second = ctl.json("send", "default", "and now?", "--as", sender)
    rows = ctl("output", "list", "--run", first["run_id"]).rows
    assert [(row[1], row[2], row[-1]) for row in rows] == [("emit_output", "final", "the report")]
    page = ctl.json("output", "list", "--session", first["session_id"])
    assert [output["run_id"] for output in page["outputs"]] == [first["run_id"], second["run_id"]]
    assert page["outputs"][0]["value"] == {"pages": 3}
    assert len(ctl("output", "list", "--session", first["session_id"], "--limit", "1").rows) == 1


def test_list_needs_a_run_or_a_session(ctl: Ctl) -> None:
    """A list without a run or session, or with both, is a usage error."""
    assert ctl("output", "list").code == exit_codes.USAGE
    assert ctl("output", "list", "--run", "r", "--session", "s").code == exit_codes.USAGE
    assert ctl("output", "list", "--run", "run_none").code == exit_codes.FAILED


def test_send_prints_the_emitted_output(ctl: Ctl, sender: str) -> None:
    """The output of a run is the emitted one, not its last message."""
    done = ctl("send", "default", EMIT, "--as", sender)
    assert (done.code, done.out) == (exit_codes.OK, "the report\n")
    sent = ctl.json("send", "default", EMIT, "--as", sender)
    assert (sent["output_kind"], sent["value"]) == ("emit_output", {"pages": 3})
