"""``kheishctl send``."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kheishctl import exit_codes
from kheishctl.cli import App
from kheishctl.commands import send as module
from kheishctl.contract import Json
from kheishctl.options import parse_pairs
from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    CallEnd,
    CallRequest,
    DisplayChange,
    MessageEnd,
    Notice,
)
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.scripted import Peer, serve_scripts
from tests.support.terminal import Terminal
from tests.support.waiting_runs import order, writes


def test_send_prints_the_answer(ctl: Ctl, sender: str) -> None:
    """Standard output holds the answer and nothing else."""
    done = ctl("send", "default", "good", "day", "--as", sender)
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert done.out.endswith("You say: “good day”\n")


@pytest.mark.parametrize("words", [[], ["default"], ["default", "-"]])
def test_send_reads_standard_input(ctl: Ctl, sender: str, words: list[str]) -> None:
    """Without TEXT, or with '-', the message comes from standard input."""
    assert "“piped”" in ctl("send", *words, "--as", sender, stdin="piped\n").out


def test_send_nothing(ctl: Ctl) -> None:
    """An empty message, and a message that is not text, is a usage error."""
    assert ctl("send", stdin=" \n").code == exit_codes.USAGE
    assert ctl("send", stdin=b"\xff").code == exit_codes.USAGE
    assert ctl("send", "default", "\udcff").code == exit_codes.USAGE
    done = ctl("send", "what is this?", stdin="")
    assert "for the agent 'what is this?'; pass AGENT and TEXT" in done.err


def test_send_resumes(ctl: Ctl, sender: str) -> None:
    """The same agent and sender continue the same conversation."""
    reply = ctl.json("send", "default", "one", "--as", sender)
    two = ctl.json("send", "default", "two", "--as", sender)
    assert reply["session_id"] == two["session_id"]
    assert "before it you said: “one”" in two["output"]


def test_send_without_waiting(ctl: Ctl, sender: str) -> None:
    """With --no-wait, the ids are printed once the input is on disk."""
    done = ctl("send", "--no-wait", "default", "/slow 1000 1000", "--as", sender)
    assert done.code == 0
    assert dict(done.rows)["run_id"].startswith("run_")
    ctl("conversation", "cancel", "--as", sender)


def test_send_check(ctl: Ctl, sender: str) -> None:
    """A dry run reports success and sends nothing."""
    done = ctl("send", "--check", "default", "hi", "--as", sender)
    assert (done.code, done.err) == (0, "Dry run: nothing was changed. The result would be:\n")
    assert ctl("conversation", "show", "--as", sender).code == exit_codes.FAILED


def test_send_agent_not_found(ctl: Ctl) -> None:
    """An unknown agent is refused."""
    done = ctl("send", "nobody", "hi")
    assert done.code == exit_codes.FAILED
    assert "nobody" in done.err


def test_a_failed_run(ctl: Ctl, sender: str) -> None:
    """A failed run prints its error and has its own exit code; --json prints the whole result."""
    done = ctl("send", "default", "/fail unauthorized", "--as", sender)
    assert (done.code, done.out) == (exit_codes.RUN_FAILED, "")
    assert "the run failed" in done.err
    assert ctl("send", "default", "/fail unauthorized", "--as", sender, "--json").json["error"]


def test_an_empty_answer(ctl: Ctl, sender: str) -> None:
    """An empty answer is reported after one retry, with an exit code of its own."""
    done = ctl("send", "default", "/fail empty_answer", "--as", sender)
    assert (done.code, done.out) == (exit_codes.EMPTY_ANSWER, "")
    assert "the retry was empty, too" in done.err


def test_a_timeout(ctl: Ctl, sender: str) -> None:
    """After a timeout, a note says how to continue waiting."""
    done = ctl("send", "--timeout", "0.2s", "default", "/slow 1000 1000", "--as", sender)
    assert done.code == exit_codes.TIMED_OUT
    assert "run wait run_" in done.err
    ctl("conversation", "cancel", "--as", sender)


@pytest.mark.parametrize(
    ("call", "noun", "notes"),
    [
        ('write_file {"path": "a", "content": "x"}', "approvals", "approval allow apr_"),
        ('ask_user_question {"questions": [{"question": "Why?"}]}', "questions", "question answer qst_"),
    ],
)
def test_a_run_that_waits_for_a_person(ctl: Ctl, sender: str, call: str, noun: str, notes: str) -> None:
    """A waiting run has its own exit code and names the commands that answer; --json lists them."""
    done = ctl("send", "default", f"/call {call}", "--as", sender)
    assert done.code == exit_codes.RUN_WAITS
    assert f"kheishctl --home {ctl.home} {notes}" in done.err
    ctl("conversation", "cancel", "--as", sender)
    again = ctl("send", "default", f"/call {call}", "--as", sender, "--json")
    assert (again.code, again.err) == (exit_codes.RUN_WAITS, "")
    assert len(again.json["waiting"][noun]) == 1
    ctl("conversation", "cancel", "--as", sender)


def test_a_run_behind_one_that_waits_for_a_person(ctl: Ctl, sender: str) -> None:
    """A message behind a waiting run is noted at once; behind any other run it is not."""
    first = ctl("send", "default", '/call write_file {"path": "a", "content": "x"}', "--as", sender, "--json")
    behind = ctl("send", "default", "next", "--as", sender, "--timeout", "0.2s")
    assert behind.err.startswith("an earlier run waits for a person, and this message waits for it: ")
    assert behind.err.split("\n")[0].endswith(f"approval list --run {first.json['run_id']}")
    session = ctl("session", "send", first.json["session_id"], "next", "--timeout", "0.2s")
    assert session.err.count("an earlier run waits") == 1
    assert "an earlier run" not in ctl("send", "default", "hello", "--as", f"{sender}-other").err
    keyed = ctl("send", "default", "k", "--as", sender, "--timeout", "0.2s", "--idempotency-key", sender)
    assert "an earlier run" not in keyed.err
    ctl("conversation", "cancel", "--as", sender)
    assert "an earlier run" not in ctl("send", "default", "last", "--as", sender).err


def test_an_answer_that_was_cut(ctl: Ctl, sender: str) -> None:
    """A truncated answer is printed with a note."""
    done = ctl("send", "default", "/long 200000", "--as", sender)
    assert done.code == exit_codes.OK
    assert done.err == "the answer was cut off at its length limit\n"
    assert ctl.json("send", "default", "/long 200000", "--as", sender)["stop_reason"] == "length"


def test_notes_beside_a_streamed_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Each message has a line of its own; calls and notes go to standard error, sanitized."""
    printer = module._AnswerPrinter(App(None, None, as_json=False))
    changes: list[DisplayChange] = [
        AnswerText("one"),
        MessageEnd("tool_calls"),
        CallRequest("c", "bash", "ls"),
        CallEnd("c", "bash", "ls", "returned", "output"),
        CallRequest("d", "bash", ""),
        CallEnd("d", "bash", "", "in_doubt", "gone\x1b\nmore"),
        AnswerRestart(),
        AnswerText("two\n"),
        Notice("a\nb"),
        MessageEnd("length"),
    ]
    printer.show(changes)
    notes = capsys.readouterr()
    assert notes.out == "one\ntwo\n"
    assert notes.err.splitlines() == [
        "(bash ls)",
        "(bash)",
        "(bash in doubt: gone␛)",
        "(the model is called again; the answer starts over)",
        "a b",
        "(the answer was cut off at its length limit)",
    ]


def test_agents_below_have_a_line_each(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """A pipe gets a note for each that has settled; a terminal's lines are redrawn and become one each."""
    tasks = [{"name": name, "prompt": f"/answer {name}\n/slow 3 100"} for name in ("ann", "bob")]
    done = ctl("send", "default", order("delegate", tasks=tasks), "--as", sender)
    notes = [line.split(" · ")[:2] for line in done.err.splitlines()]
    for name in ("ann", "bob"):
        mine = [status for path, status in notes if path == f"({name}"]
        assert mine == ["completed"]
    tasks[0] = {"name": "cid", "prompt": writes("x.txt")}
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "send", "default"]
    with Terminal([*command, order("delegate", tasks=tasks), "--as", sender], {}) as terminal:
        text = terminal.sees("↳ cid · waiting for approval")
        approval = text.partition("approval show ")[2].partition(")")[0]
        assert ctl("approval", "deny", "".join(approval.split())).code == exit_codes.OK
        terminal.sees("(cid · completed")
        assert terminal.ends() == exit_codes.OK
        assert "↳" not in terminal.text


def test_send_once(ctl: Ctl, sender: str) -> None:
    """The same idempotency key and text return the same run."""
    words = ["send", "default", "hi", "--as", sender, "--idempotency-key", f"key-{sender}"]
    assert ctl.json(*words)["run_id"] == ctl.json(*words)["run_id"]
    second = ctl("send", "default", "ho", "--as", sender, "--idempotency-key", f"key-{sender}")
    assert second.code == exit_codes.FAILED


def test_metadata(ctl: Ctl, sender: str) -> None:
    """The metadata of a message is in its event."""
    sent = ctl.json("send", "default", "hi", "--as", sender, "-m", "ticket=7", "-m", "by=ci")
    done = ctl("journal", "read", "--session", sent["session_id"], "--type", "input_received", "--json")
    assert done.json["metadata"] == {"ticket": "7", "by": "ci"}


def test_pairs() -> None:
    """A word without an equals sign is a usage error."""
    assert parse_pairs(("a=b=c",)) == {"a": "b=c"}
    with pytest.raises(click.UsageError):
        parse_pairs(("a",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the socket of a scripted daemon."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "kheishd.sock"


RESULT = {"session_id": "s", "run_id": "r", "status": "completed", "cursor": 1, "output": "done"}


def test_a_restart_in_the_middle(path: Path, tmp_path: Path) -> None:
    """After a lost connection, the message is sent again under the same key."""
    keys = []

    def lost(peer: Peer) -> None:
        keys.append(peer.request()["params"]["idempotency_key"])

    def answered(peer: Peer) -> None:
        request = peer.request()
        keys.append(request["params"]["idempotency_key"])
        assert request["params"]["wait"] == "settled"
        peer.answer(request, RESULT)

    with serve_scripts(path, lambda peer: None, lost, answered):
        done = Ctl(tmp_path)("send", "default", "hi")
    assert (done.code, done.out) == (0, "done\n")
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_an_orderly_stop_in_the_middle(path: Path, tmp_path: Path) -> None:
    """If the daemon is draining, the next daemon receives the message under the same key."""
    keys = []

    def stopping(peer: Peer) -> None:
        request = peer.request()
        keys.append(request["params"]["idempotency_key"])
        peer.refuse(request, 1503, "The daemon is stopping.", reason="daemon_draining", retryable=True)

    def answered(peer: Peer) -> None:
        request = peer.request()
        keys.append(request["params"]["idempotency_key"])
        peer.answer(request, RESULT)

    with serve_scripts(path, lambda peer: None, stopping, answered):
        done = Ctl(tmp_path)("send", "default", "hi")
    assert (done.code, done.out) == (0, "done\n")
    assert "waiting for the daemon" in done.err
    assert len(keys) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ({}, "kheishctl conversation cancel"),
        ({"agent": "a", "sender": "the cat"}, "kheishctl conversation cancel a --as 'the cat'"),
        ({"session_id": "ses_1"}, "kheishctl session interrupt ses_1"),
    ],
)
def test_ctrl_c_names_the_command_that_stops_the_run(address: Json, command: str) -> None:
    """After Ctrl-C, the note holds the command that stops this conversation's run."""
    assert module._stop_command(App(None, None, as_json=False), address) == command


def test_a_daemon_that_does_not_come_back(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the daemon does not return, the message says how to obtain the answer later."""

    def lost(peer: Peer) -> None:
        peer.refuse(peer.request(), 1404, "There is none yet.", reason="conversation_not_found")
        assert peer.request()["method"] == "conversation.send"

    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.3)
    with serve_scripts(path, lost):
        done = Ctl(tmp_path)("send", "default", "hi")
    assert done.code == exit_codes.NO_DAEMON
    assert "--idempotency-key kheishctl-" in done.err


def test_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, the command fails at once."""
    assert Ctl(tmp_path)("send", "default", "hi").code == exit_codes.NO_DAEMON


def test_an_answer_under_a_contract(ctl: Ctl, sender: str, tmp_path: Path) -> None:
    """Matching JSON is printed canonically; other answers fail the run after all repairs."""
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "additionalProperties": false}'
    )
    words = ["send", "default", "--as", sender, "--output-contract", str(schema)]
    done = ctl(*words, '/answer { "ok": true }')
    assert (done.code, done.out) == (exit_codes.OK, '{"ok":true}\n')
    assert ctl.json(*words, '/answer {"ok": true}')["value"] == {"ok": True}
    failed = ctl(*words, "--max-repairs", "1", "hello", "--json")
    assert (failed.code, failed.json["error"]["reason"]) == (
        exit_codes.CONTRACT_VIOLATED,
        "output_contract_violated",
    )
    run = ctl.json("run", "show", failed.json["run_id"])
    assert (run["repairs"], run["pinned"]["output_contract"]["max_repairs"]) == (1, 1)
    schema.write_text('{"type": "string", "enum": []}')
    refused = ctl(*words, "hello")
    assert refused.code == exit_codes.FAILED
    assert "$.enum: not a keyword" in refused.err


def test_an_invalid_answer_is_not_printed(daemon: Daemon, ctl: Ctl, sender: str, tmp_path: Path) -> None:
    """Standard output stays empty when the contract is violated, in a pipe and on a terminal."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {}, "additionalProperties": false}')
    words = ["send", "default", "--as", sender, "--expect-schema", str(schema), "--max-repairs", "0"]
    done = ctl(*words, "no JSON")
    assert (done.code, done.out) == (exit_codes.CONTRACT_VIOLATED, "")
    assert "violates the output contract" in done.err
    run_id = ctl.json("run", "list", "--limit", "1")["runs"][0]["run_id"]
    waited = ctl("run", "wait", run_id)
    assert (waited.code, waited.out) == (exit_codes.CONTRACT_VIOLATED, "")
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), *words, "no JSON"]
    with Terminal(command, {}) as terminal:
        terminal.sees("violates the output contract")
        assert terminal.ends() == exit_codes.CONTRACT_VIOLATED
        assert "You say" not in terminal.text


def test_text_and_standard_input(daemon: Daemon, ctl: Ctl, sender: str, tmp_path: Path) -> None:
    """A pipe's or a file's data follows TEXT after an empty line; --no-stdin leaves it alone."""

    def content(stdin: bytes | Path, *words: str) -> str:
        command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "send", "--as", sender]
        command += ["default", *words]
        if isinstance(stdin, bytes):
            subprocess.run(command, input=stdin, check=True, capture_output=True, timeout=60)
        else:
            with stdin.open("rb") as file:
                subprocess.run(command, stdin=file, check=True, capture_output=True, timeout=60)
        newest = ctl.json("conversation", "history", "--as", sender, "--newest", "--limit", "2")["messages"]
        return str(newest[1]["message"]["items"][0]["text"])

    assert content(b"+ a race\n", "Look for", "races") == "Look for races\n\n+ a race\n"
    assert content(b"slow\n", "Wait for it", "-") == "Wait for it\n\nslow\n"
    assert content(b"", "alone") == "alone"
    assert content(b"secret", "alone", "--no-stdin") == "alone"
    (tmp_path / "x.diff").write_text("- b\n")
    assert content(tmp_path / "x.diff", "a file") == "a file\n\n- b\n"


def test_stream_json(ctl: Ctl, sender: str) -> None:
    """Every line is a versioned object: events and live text, then the result with the exit code."""
    words = ["send", "default", "--as", sender, "--output-format", "stream-json"]
    done = ctl(*words, "/slow 3 10\nhello")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err, {line["version"] for line in lines}) == (0, "", {1})
    assert {line["type"] for line in lines} >= {"event", "delta", "result"}
    types = [line["event"]["type"] for line in lines if line["type"] == "event"]
    assert (types[0], types[-1]) == ("input_received", "run_ended")
    assert [line["type"] for line in lines].index("result") == len(lines) - 1
    assert (lines[-1]["exit_code"], lines[-1]["result"]["status"]) == (0, "completed")
    failed = ctl(*words, "/fail unauthorized")
    last = json.loads(failed.out.splitlines()[-1])
    assert (failed.code, last["type"], last["exit_code"]) == (5, "result", 5)
    accepted = json.loads(ctl(*words, "--no-wait", "hello").out)
    assert accepted["result"]["run_id"].startswith("run_")


def test_stream_json_ends_with_an_error(ctl: Ctl, sender: str, tmp_path: Path) -> None:
    """A refusal and a missing daemon are one line with the error and the exit code."""
    words = ["send", "--output-format", "stream-json", "--as", sender]
    refused = ctl(*words, "nobody", "hi")
    line = json.loads(refused.out)
    assert (refused.code, line["type"], line["exit_code"]) == (exit_codes.FAILED, "error", exit_codes.FAILED)
    assert line["error"]["data"]["reason"] == "agent_not_found"
    alone = Ctl(tmp_path)(*words, "default", "hi")
    assert (alone.code, json.loads(alone.out)["exit_code"]) == (exit_codes.NO_DAEMON, exit_codes.NO_DAEMON)


def test_output_format_json(ctl: Ctl, sender: str) -> None:
    """The format 'json' is that of --json; --wait is the default."""
    done = ctl("send", "default", "hi", "--as", sender, "--output-format", "json", "--wait")
    assert (done.err, done.json["status"]) == ("", "completed")


def test_an_empty_sender(ctl: Ctl) -> None:
    """An empty sender, as of an unset variable, is a usage error."""
    done = ctl("send", "default", "hi", "--as", "")
    assert (done.code, "it is empty" in done.err) == (exit_codes.USAGE, True)


def test_a_required_file(ctl: Ctl, sender: str) -> None:
    """A run that does not write its required file fails with a message."""
    done = ctl("send", "default", "hello", "--as", sender, "--require-file", "report.md")
    assert done.code == exit_codes.CONTRACT_VIOLATED
    assert "write the file 'report.md'" in done.err


def test_budgets(ctl: Ctl, sender: str) -> None:
    """Budgets are pinned to the run, and the error names the budget that was exceeded."""
    words = ["send", "default", "--as", sender]
    sent = ctl.json(*words, "hello", "--max-tokens", "9000", "--max-time", "5m")
    pinned = ctl.json("run", "show", sent["run_id"])["pinned"]
    assert pinned["budget"] == {"max_tokens": 9000, "max_work_s": 300.0}
    done = ctl(*words, "/slow 100 1000", "--max-time", "0.2s")
    assert done.code == exit_codes.BUDGET_EXCEEDED
    assert "time budget (0.2 s)" in done.err
    refused = ctl(*words, "hello", "--max-cost", "0.5")
    assert (refused.code, "states no prices" in refused.err) == (exit_codes.FAILED, True)
    assert ctl(*words, "hello", "--max-cost", "-1").code == exit_codes.USAGE


def test_a_pipe_shows_delays(path: Path, tmp_path: Path) -> None:
    """A wait for a rate limit is noted on standard error; standard output receives the final answer only."""

    def limited(peer: Peer) -> None:
        request = peer.request()
        failed = {
            "type": "model_failed",
            "run_id": "run_1",
            "error": {"reason": "rate_limited", "message": "too many requests"},
            "at_ms": 1000,
            "retry_at_ms": 31_000,
        }
        peer.notify("journal.event", subscription="s", cursor=5, event=failed)
        peer.answer(request, RESULT)

    with serve_scripts(path, lambda peer: None, limited):
        done = Ctl(tmp_path)("send", "default", "hi")
    assert (done.code, done.out) == (0, "done\n")
    assert "the model call failed (too many requests); retrying in 30" in done.err


def test_origin(ctl: Ctl, sender: str) -> None:
    """The message has the origin and the source, and the session's rights follow from them."""
    sent = ctl.json("send", "--as", sender, "--origin", "event", "--source", "bell", "default", "ring")
    history = ctl("session", "history", sent["session_id"])
    assert "[event bell]" in history.out
    assert ctl.json("session", "memory", sent["session_id"])["origins"] == ["event"]
    assert ctl("send", "--origin", "agent", "default", "x").code == exit_codes.USAGE
