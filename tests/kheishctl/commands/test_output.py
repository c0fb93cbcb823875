"""``kheishctl output``."""

from kheishctl import exits
from tests.support.ctl import Ctl

EMIT = '/call emit_output {"text": "the report", "value": {"pages": 3}}'


def test_list(ctl: Ctl, sender: str) -> None:
    """What a run gave, and what all runs of its session gave."""
    first = ctl.json("send", "default", EMIT, "--as", sender)
    second = ctl.json("send", "default", "and now?", "--as", sender)
    rows = ctl("output", "list", "--run", first["run_id"]).rows
    assert [(row[1], row[2], row[-1]) for row in rows] == [("emit_output", "final", "the report")]
    page = ctl.json("output", "list", "--session", first["session_id"])
    assert [each["run_id"] for each in page["outputs"]] == [first["run_id"], second["run_id"]]
    assert page["outputs"][0]["value"] == {"pages": 3}
    assert len(ctl("output", "list", "--session", first["session_id"], "--limit", "1").rows) == 1


def test_list_names_either(ctl: Ctl) -> None:
    """A run or a session."""
    assert ctl("output", "list").code == exits.USAGE
    assert ctl("output", "list", "--run", "r", "--session", "s").code == exits.USAGE
    assert ctl("output", "list", "--run", "run_none").code == exits.FAILED


def test_send_prints_what_was_emitted(ctl: Ctl, sender: str) -> None:
    """The run's output is what it emitted, not what it said last."""
    done = ctl("send", "default", EMIT, "--as", sender)
    assert (done.code, done.out) == (exits.OK, "the report\n")
    sent = ctl.json("send", "default", EMIT, "--as", sender)
    assert (sent["output_kind"], sent["value"]) == ("emit_output", {"pages": 3})
