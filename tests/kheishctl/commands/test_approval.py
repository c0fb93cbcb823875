"""``kheishctl approval``."""

import json

import pytest

from kheishctl import exit_codes
from protocol.limits.call import MAX_WAITING_CALLS
from protocol.limits.permission import MAX_RESOLUTIONS
from tests.support.ctl import Ctl
from tests.support.waiting_runs import waits, writes


def ids(ctl: Ctl, run_id: str, *options: str) -> list[str]:
    """Return the ids of the approvals of a run."""
    return [row[0] for row in ctl("approval", "list", "--run", run_id, *options).rows]


def read_answer(ctl: Ctl, run_id: str) -> str:
    """Wait for a run to end and return its answer."""
    done = ctl("run", "wait", run_id, "--timeout", "30s")
    assert done.code == exit_codes.OK, done.err
    return done.out


def test_one_request_answers_all_approvals_of_a_run() -> None:
    """A run cannot have more pending approvals than one request may resolve."""
    assert MAX_WAITING_CALLS <= MAX_RESOLUTIONS


def test_list_and_show(ctl: Ctl, sender: str) -> None:
    """A pending approval is listed with its tool and subject, and shown with its diff."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (row,) = ctl("approval", "list", "--run", run_id).rows
    assert row[1:6] == ["pending", "write_file", "a.txt", "default", sender]
    done = ctl("approval", "show", row[0])
    assert "+one" in done.out.splitlines()
    assert ctl.json("approval", "show", row[0])["arguments"] == {"path": "a.txt", "content": "one\n"}
    assert ids(ctl, run_id, "--status", "denied") == []
    ctl("approval", "deny", row[0])
    assert ids(ctl, run_id) == []
    assert ids(ctl, run_id, "--status", "any") == [row[0]]


def test_allow(ctl: Ctl, sender: str) -> None:
    """Several approvals of one run are allowed at once, and the run resumes."""
    run_id = waits(ctl, sender, writes(f"{sender}-1.txt", f"{sender}-2.txt"))
    approvals = ids(ctl, run_id)
    done = ctl("approval", "allow", *approvals, "--remember", "run", "--uses", "2")
    assert [line.split(" by ")[0] for line in done.out.splitlines()] == [
        f"{approval} allowed" for approval in approvals
    ]
    assert "bytes_written" in read_answer(ctl, run_id)


def test_allow_with_another_input(ctl: Ctl, sender: str) -> None:
    """A call runs with the input from the command line; several approvals cannot share one."""
    run_id = waits(ctl, sender, writes(f"{sender}-3.txt"))
    (approval_id,) = ids(ctl, run_id)
    changed = json.dumps({"path": f"{sender}-4.txt", "content": "two\n"})
    assert ctl("approval", "allow", approval_id, "x", "--input", changed).code == exit_codes.USAGE
    assert ctl("approval", "allow", approval_id, "--input", "{").code == exit_codes.USAGE
    refused = ctl("approval", "allow", approval_id, "--input", '{"path": 7}')
    assert (refused.code, "write_file" in refused.err) == (exit_codes.FAILED, True)
    result = ctl.json("approval", "allow", approval_id, "--input", changed)
    assert result["approvals"][0]["updated_input"] == {"path": f"{sender}-4.txt", "content": "two\n"}
    assert f"{sender}-4.txt" in read_answer(ctl, run_id)


def test_deny(ctl: Ctl, sender: str) -> None:
    """The model reads the note of a denial; a second answer is refused and names the first person."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (approval_id,) = ids(ctl, run_id)
    result = ctl.json("approval", "deny", approval_id, "--note", "not there", "--justification", "policy 7")
    assert (result["approvals"][0]["denial_note"], result["pending"]) == ("not there", 0)
    assert "not there" in read_answer(ctl, run_id)
    again = ctl("approval", "allow", approval_id)
    assert again.code == exit_codes.FAILED
    assert "was denied by uid:" in again.err


def test_check_changes_nothing(ctl: Ctl, sender: str) -> None:
    """A dry run reports the result and changes nothing."""
    run_id = waits(ctl, sender, writes("a.txt"))
    (approval_id,) = ids(ctl, run_id)
    assert ctl.json("approval", "deny", approval_id, "--check")["approvals"][0]["status"] == "denied"
    assert ids(ctl, run_id) == [approval_id]
    ctl("approval", "deny-all", "--run", run_id)


@pytest.mark.parametrize(("verb", "status"), [("allow-all", "allowed"), ("deny-all", "denied")])
def test_all_approvals_of_a_run_or_session(ctl: Ctl, sender: str, verb: str, status: str) -> None:
    """All pending approvals of a run or session are resolved, and no others."""
    first = waits(ctl, sender, writes(f"{sender}-5.txt", f"{sender}-6.txt"))
    second = waits(ctl, f"{sender}-other", writes(f"{sender}-7.txt"))
    done = ctl.json("approval", verb, "--run", first)
    assert done["resolved"] == 2
    assert [(run["run_id"], len(run["approvals"]), run["pending"]) for run in done["runs"]] == [(first, 2, 0)]
    assert len(ids(ctl, first, "--status", status)) == 2
    session_id = ctl.json("run", "show", second)["session_id"]
    assert ctl("approval", verb, "--session", session_id).rows == [[second, "1", "0", ""]]
    assert ctl.json("approval", verb, "--session", session_id) == {"resolved": 0, "runs": []}
    read_answer(ctl, first)


@pytest.mark.parametrize("verb", ["list", "allow-all", "deny-all"])
def test_nothing_is_pending(ctl: Ctl, sender: str, verb: str) -> None:
    """In a pipe, standard output stays empty, and a note says that nothing is pending."""
    session_id = ctl.json("send", "default", "hello", "--as", sender)["session_id"]
    done = ctl("approval", verb, "--session", session_id)
    assert (done.code, done.out, done.err) == (0, "", "No approvals are pending.\n")
    assert ctl("approval", verb, "--session", session_id, "--json").err == ""


def test_all_approvals_are_resolved_run_by_run(ctl: Ctl, sender: str) -> None:
    """Without a filter, every run with pending approvals is resolved by a request of its own."""
    runs = {waits(ctl, f"{sender}-{name}", writes("a.txt", "b.txt")) for name in ("x", "y")}
    done = ctl.json("approval", "deny-all")
    assert runs <= {run["run_id"] for run in done["runs"]}
    assert ctl.json("approval", "list")["approvals"] == []
