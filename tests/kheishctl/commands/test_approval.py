"""``kheishctl approval``."""

import json

import pytest

from kheishctl import exits
from protocol.limits.call import MAX_WAITING_CALLS
from protocol.limits.permission import MAX_RESOLUTIONS
from tests.support.asked import waits, writes
from tests.support.ctl import Ctl


def ids(ctl: Ctl, run_id: str, *options: str) -> list[str]:
    """The approvals of a run."""
    return [row[0] for row in ctl("approval", "list", "--run", run_id, *options).rows]


def ended(ctl: Ctl, run_id: str) -> str:
    """What a run answered in the end."""
    done = ctl("run", "wait", run_id, "--timeout", "30s")
    assert done.code == exits.OK, done.err
    return done.out


def test_one_request_answers_all_approvals_of_a_run() -> None:
    """A run cannot have more pending approvals than one request may resolve."""
    assert MAX_WAITING_CALLS <= MAX_RESOLUTIONS


def test_list_and_show(ctl: Ctl, sender: str) -> None:
    """What waits, and what it would do; a person who sends is told where to look."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (row,) = ctl("approval", "list", "--run", run_id).rows
    assert row[1:6] == ["pending", "write_file", "a.txt", "default", sender]
    shown = ctl("approval", "show", row[0])
    assert "+one" in shown.out.splitlines()
    assert ctl.json("approval", "show", row[0])["arguments"] == {"path": "a.txt", "content": "one\n"}
    assert ids(ctl, run_id, "--status", "denied") == []
    ctl("approval", "deny", row[0])
    assert ids(ctl, run_id) == []
    assert ids(ctl, run_id, "--status", "any") == [row[0]]


def test_allow(ctl: Ctl, sender: str) -> None:
    """Several of one run at once; the run goes on."""
    run_id = waits(ctl, sender, writes(f"{sender}-1.txt", f"{sender}-2.txt"))
    approvals = ids(ctl, run_id)
    done = ctl("approval", "allow", *approvals, "--remember", "run", "--uses", "2")
    assert [line.split(" by ")[0] for line in done.out.splitlines()] == [
        f"{each} allowed" for each in approvals
    ]
    assert "bytes_written" in ended(ctl, run_id)


def test_allow_with_another_input(ctl: Ctl, sender: str) -> None:
    """What is given instead is what runs; it goes with one approval only."""
    run_id = waits(ctl, sender, writes(f"{sender}-3.txt"))
    (approval_id,) = ids(ctl, run_id)
    changed = json.dumps({"path": f"{sender}-4.txt", "content": "two\n"})
    assert ctl("approval", "allow", approval_id, "x", "--input", changed).code == exits.USAGE
    assert ctl("approval", "allow", approval_id, "--input", "{").code == exits.USAGE
    refused = ctl("approval", "allow", approval_id, "--input", '{"path": 7}')
    assert (refused.code, "write_file" in refused.err) == (exits.FAILED, True)
    result = ctl.json("approval", "allow", approval_id, "--input", changed)
    assert result["approvals"][0]["updated_input"] == {"path": f"{sender}-4.txt", "content": "two\n"}
    assert f"{sender}-4.txt" in ended(ctl, run_id)


def test_deny(ctl: Ctl, sender: str) -> None:
    """The reason reaches the model; who comes second learns who was first."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (approval_id,) = ids(ctl, run_id)
    result = ctl.json("approval", "deny", approval_id, "--note", "not there", "--justification", "policy 7")
    assert (result["approvals"][0]["denial_note"], result["pending"]) == ("not there", 0)
    assert "not there" in ended(ctl, run_id)
    again = ctl("approval", "allow", approval_id)
    assert again.code == exits.FAILED
    assert "was denied by uid:" in again.err


def test_check_changes_nothing(ctl: Ctl, sender: str) -> None:
    """It says what would be."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (approval_id,) = ids(ctl, run_id)
    assert ctl.json("approval", "deny", approval_id, "--check")["approvals"][0]["status"] == "denied"
    assert ids(ctl, run_id) == [approval_id]
    ctl("approval", "deny-all", "--run", run_id)


@pytest.mark.parametrize(("verb", "status"), [("allow-all", "allowed"), ("deny-all", "denied")])
def test_all_of_a_place(ctl: Ctl, sender: str, verb: str, status: str) -> None:
    """Everything that waits in a run or session, and nothing elsewhere."""
    first = waits(ctl, sender, writes(f"{sender}-5.txt", f"{sender}-6.txt"))
    other = waits(ctl, f"{sender}-other", writes(f"{sender}-7.txt"))
    done = ctl.json("approval", verb, "--run", first)
    assert done["resolved"] == 2
    assert [(run["run_id"], len(run["approvals"]), run["pending"]) for run in done["runs"]] == [(first, 2, 0)]
    assert len(ids(ctl, first, "--status", status)) == 2
    session_id = ctl.json("run", "show", other)["session_id"]
    assert ctl("approval", verb, "--session", session_id).rows == [[other, "1", "0", ""]]
    assert ctl.json("approval", verb, "--session", session_id) == {"resolved": 0, "runs": []}
    ended(ctl, first)


def test_all_without_a_place_goes_run_by_run(ctl: Ctl, sender: str) -> None:
    """One request a run; what one daemon has waiting may be of many."""
    runs = {waits(ctl, f"{sender}-{name}", writes("a.txt", "b.txt")) for name in ("x", "y")}
    done = ctl.json("approval", "deny-all")
    assert runs <= {run["run_id"] for run in done["runs"]}
    assert ctl.json("approval", "list")["approvals"] == []
