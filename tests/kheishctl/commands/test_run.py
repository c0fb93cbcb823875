"""``kheishctl run``."""

from typing import Any

import pytest

from kheishctl import exit_codes
from kheishctl.client import ConnectionLost, RequestRefused
from kheishctl.commands.run import add_run_details
from kheishctl.contract import RUN_WAITING, Json
from tests.support.ctl import Ctl

APPROVAL = {"approval_id": "apr_1", "tool": "bash", "subject": "make all"}


def test_list(ctl: Ctl, sender: str) -> None:
    """The runs of a session are listed in either order and by status."""
    first = ctl.json("send", "default", "one", "--as", sender)
    second = ctl.json("send", "default", "two", "--as", sender)
    session = ["--session", first["session_id"]]
    newest = [row[0] for row in ctl("run", "list", *session).rows]
    assert newest == [second["run_id"], first["run_id"]]
    assert [row[0] for row in ctl("run", "list", *session, "--oldest").rows] == newest[::-1]
    assert ctl("run", "list", *session, "--status", "failed").out == ""
    assert ctl("run", "list", *session, "--active").out == ""


def test_show(ctl: Ctl, sender: str) -> None:
    """A run is shown as text, and as JSON with its answer."""
    run_id = ctl.json("send", "default", "hello", "--as", sender)["run_id"]
    assert ["status", "completed"] in ctl("run", "show", run_id).rows
    assert "hello" in ctl.json("run", "show", run_id)["output"]


WRITE = '/call write_file {"path": "a", "content": "x"}'


def test_a_run_that_waits_for_a_person(ctl: Ctl, sender: str) -> None:
    """A run's pending calls are shown with the commands that answer; with --json, in 'waiting'."""
    sent = ctl.json("send", "--no-wait", "default", WRITE, "--as", sender)
    waited = ctl("run", "wait", sent["run_id"])
    assert waited.code == exit_codes.RUN_WAITS
    done = ctl("run", "show", sent["run_id"])
    assert ["call", "call_1", "write_file", "needs approval"] in done.rows
    for err in (waited.err, done.err):
        assert "write_file needs approval: a\n" in err
        assert f"kheishctl --home {ctl.home} approval allow apr_" in err
    run = ctl.json("run", "show", sent["run_id"])
    assert [approval["tool"] for approval in run["waiting"]["approvals"]] == ["write_file"]
    assert run["calls"][0]["state"] == "asked"
    ctl("conversation", "cancel", "--as", sender)


def test_show_a_run_that_ended(ctl: Ctl, sender: str) -> None:
    """A finished run shows its use of time and tokens."""
    run_id = ctl.json("send", "default", "hello", "--as", sender)["run_id"]
    done = ctl("run", "show", run_id)
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert ["status", "completed"] in done.rows
    assert any(row[0] == "tokens" for row in done.rows)


def test_wait(ctl: Ctl, sender: str) -> None:
    """The answer is printed, and the exit code reports the outcome."""
    sent = ctl.json("send", "--no-wait", "default", "/slow 3 10\nhello", "--as", sender)
    done = ctl("run", "wait", sent["run_id"])
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert "You say: “hello”" in done.out


@pytest.mark.parametrize(
    ("text", "code"),
    [("/fail unauthorized", exit_codes.RUN_FAILED), ("/slow 1000 1000", exit_codes.TIMED_OUT)],
)
def test_wait_for_another_outcome(ctl: Ctl, sender: str, text: str, code: int) -> None:
    """A failed run and an unfinished run have exit codes and sentences of their own."""
    sent = ctl.json("send", "--no-wait", "default", text, "--as", sender)
    done = ctl("run", "wait", sent["run_id"], "--timeout", "0.2s" if code == exit_codes.TIMED_OUT else "30s")
    assert (done.code, done.out) == (code, "")
    assert "the run " in done.err
    ctl("conversation", "cancel", "--as", sender)


def test_debug(ctl: Ctl, sender: str) -> None:
    """Artifacts are listed, and an artifact of several parts is printed whole."""
    text = "word " * 20_000
    run_id = ctl.json("send", "--debug", "full", "default", text, "--as", sender)["run_id"]
    rows = ctl("run", "debug", run_id).rows
    assert [row[0] for row in rows] == [
        f"turn-0001-attempt-0001-{ending}" for ending in ("request.json", "events.jsonl", "answer.json")
    ]
    assert [row[0] for row in rows] == [
        artifact["artifact_id"] for artifact in ctl.json("run", "debug", run_id)["artifacts"]
    ]
    done = ctl("run", "debug", run_id, rows[0][0])
    assert done.json["body"]["messages"][0]["items"] == [{"kind": "text", "text": text}]
    read = ctl.json("run", "debug", run_id, rows[0][0])
    assert (read["text"] + "\n", "next" in read) == (done.out, False)
    assert len(ctl("run", "debug", run_id, rows[1][0]).out.splitlines()) == 3, "lines end as they do"


def test_debug_not_found(ctl: Ctl, sender: str) -> None:
    """A run without captures and an unknown artifact are refused with hints."""
    run_id = ctl.json("send", "default", "hello", "--as", sender)["run_id"]
    done = ctl("run", "debug", run_id)
    assert (done.code, "--debug redacted" in done.err) == (exit_codes.FAILED, True)
    run_id = ctl.json("send", "--debug", "redacted", "default", "hello", "--as", sender)["run_id"]
    done = ctl("run", "debug", run_id, "../config.toml")
    assert (done.code, "run debug RUN" in done.err) == (exit_codes.FAILED, True)
    assert ctl("send", "--debug", "everything", "default", "hello").code == exit_codes.USAGE


def test_cancel(ctl: Ctl, sender: str) -> None:
    """The run has stopped when the command returns; cancelling it again is refused."""
    sent = ctl.json("send", "--no-wait", "default", "/slow 1000 1000", "--as", sender)
    assert ctl("run", "cancel", sent["run_id"]).out == f"{sent['run_id']} cancelled\n"
    assert ctl("run", "cancel", sent["run_id"]).code == exit_codes.FAILED
    assert ctl("run", "wait", sent["run_id"]).code == exit_codes.RUN_STOPPED


class Daemon:
    """A daemon with fixed answers."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Json]] = []

    def __call__(self, method: str, params: Json) -> Any:
        """Answer a known method and refuse others."""
        self.asked.append((method, params))
        answer = self.answers.get(method.replace(".", "_"))
        if answer is None:
            raise RequestRefused({"code": -32601, "message": "no", "data": {"reason": "method_not_found"}})
        return answer


@pytest.mark.parametrize("status", RUN_WAITING)
def test_details_of_a_waiting_run(status: str) -> None:
    """The pending requests of a waiting run are added, without empty kinds."""
    pending = {"approval_list": {"approvals": [APPROVAL]}, "question_list": {"questions": []}}
    daemon = Daemon(**pending, journal_read={"events": [{"source": "bell"}]})
    run = add_run_details(daemon, {"run_id": "run_1", "status": status})
    events = {"events": [{"source": "bell"}]} if status == "waiting_for_event" else {}
    assert run["waiting"] == {"approvals": [APPROVAL], **events}
    assert daemon.asked[0] == ("approval.list", {"run_id": "run_1"})


@pytest.mark.parametrize(
    ("events", "more"),
    [
        ([{"stop_reason": "length"}], {"stop_reason": "length"}),
        ([{"stop_reason": "refusal"}], {"stop_reason": "refusal"}),
        ([{"stop_reason": "end"}], {}),
        ([{}], {}),
        ([], {}),
    ],
)
def test_details_of_an_incomplete_answer(events: list[Json], more: Json) -> None:
    """An unusual stop reason is added; the normal one is not."""
    run = {"run_id": "run_1", "status": "completed"}
    assert add_run_details(Daemon(journal_read={"events": events}), run) == run | more


@pytest.mark.parametrize("status", ["completed", "failed", "running", "waiting_for_approval"])
def test_details_that_are_unavailable(status: str) -> None:
    """If the daemon refuses or is gone, the run stays unchanged."""
    run = {"run_id": "run_1", "status": status}

    def gone(method: str, params: Json) -> Any:
        raise ConnectionLost("the daemon closed the connection")

    assert add_run_details(Daemon(), run) == run
    assert add_run_details(gone, run) == run
