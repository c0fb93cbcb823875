"""The state of a run as text."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import Display
from kheishctl.render.run import MAX_PENDING_SHOWN, describe_outcome, explain_run, format_run, paint_status
from protocol.objects.run import SETTLED, OpenCall, RunView
from protocol.text import sanitize
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(100, False, NOW)
COLORED = Display(100, True, NOW)
APPROVAL = {"approval_id": "apr_1", "tool": "bash", "subject": "make all"}
PART = {"key": "q1", "question": "Which?", "options": [{"option_id": "r", "label": "Dark red"}]}
QUESTION = {"question_id": "qst_1", "questions": [PART, {"key": "q2", "question": "Why?"}]}


def command_line(*words: str) -> str:
    """Return the command line of some words."""
    return shlex.join(["kheishctl", *words])


def test_approval_without_a_subject() -> None:
    """A call without a subject is shown by its tool only."""
    run = {
        "run_id": "run_1",
        "waiting": {"approvals": [APPROVAL | {"tool": "exit_plan_mode", "subject": ""}]},
    }
    assert next(explain_run(run, command_line)) == "exit_plan_mode needs approval"


def test_pending_requests() -> None:
    """Each pending request is shown with the exact commands that answer it."""
    run = {"run_id": "run_1", "waiting": {"approvals": [APPROVAL], "questions": [QUESTION]}}
    assert list(explain_run(run, command_line)) == [
        "bash needs approval: make all",
        "  kheishctl approval show apr_1",
        "  kheishctl approval allow apr_1",
        "  kheishctl approval deny apr_1",
        "the agent asks: Which? (Dark red)",
        "the agent asks: Why?",
        "  kheishctl question answer qst_1 --answer 'q1=Dark red' --answer q2=...",
    ]


def test_a_failure_has_its_reason() -> None:
    """The state of a failed run shows the message for people and the reason that scripts compare."""
    error = {"message": "the token budget is used up", "reason": "token_budget"}
    text = format_run(sample(RunView, full=False) | {"status": "failed", "error": error}, PIPE)
    assert "error\tthe token budget is used up\nreason\ttoken_budget" in text


def test_many_pending_requests() -> None:
    """Of many pending requests, the first are shown, with the command that lists all."""
    run = {"run_id": "run_1", "waiting": {"approvals": [APPROVAL] * 20}}
    lines = list(explain_run(run, command_line))
    assert len(lines) == 4 * MAX_PENDING_SHOWN + 1
    assert lines[-1] == "there are more: kheishctl approval list --run run_1"


def test_incomplete_answers() -> None:
    """A truncated answer has a note, and a complete one has none."""
    assert list(explain_run({"stop_reason": "length"}, command_line)) == [
        "the answer was cut off at its length limit"
    ]
    assert list(explain_run({"status": "completed"}, command_line)) == []


@given(st.text(st.characters(exclude_categories=[])))
def test_pending_requests_are_sanitized(text: str) -> None:
    """Any text of pending requests is one sanitized line."""
    part = {"key": "k", "question": text}
    approval, question = {**APPROVAL, "subject": text}, {"question_id": "qst_1", "questions": [part]}
    lines = list(explain_run({"waiting": {"approvals": [approval], "questions": [question]}}, command_line))
    for line in (lines[0], lines[4]):
        assert sanitize(line) == line
        assert "\n" not in line


def test_format_run() -> None:
    """A run shows its settings, its use of time and tokens, its next attempt, and each open call."""
    run = {
        "run_id": "run_1",
        "session_id": "ses_1",
        "agent": "default",
        "sender": "ada",
        "guest": "bob",
        "status": "waiting_for_approval",
        "accepted_at_ms": NOW - 60_000,
        "started_at_ms": NOW - 5_000,
        "turn": 2,
        "pinned": {"route": "local", "model": "m", "permission_mode": "plan", "workspace": "/w"},
        "usage": {
            "input_tokens": 10,
            "output_tokens": 3,
            "cached_input_tokens": 4,
            "cache_write_tokens": 2,
            "reasoning_tokens": 1,
        },
        "calls": [
            {"call_id": "c1", "tool": "bash", "state": "asked"},
            {"call_id": "c2", "tool": "read_file", "state": "called", "called_at_ms": NOW - 2_000},
        ],
    }
    rows = dict(line.split("\t", 1) for line in format_run(run, PIPE).splitlines()[:-2])
    assert rows["status"] == "waiting for approval"
    assert rows["agent"] == "default as ada, guest bob"
    assert rows["route"] == "local (m)"
    assert rows["took"] == "5.0 s"
    assert "retry" not in rows
    waiting = format_run({**run, "failures": 1, "retry_at_ms": NOW}, PIPE)
    assert f"retry\tattempt 2 at {PIPE.format_time(NOW)}\n" in waiting
    assert rows["tokens"] == "10 read, 3 written, 4 cached, 2 written to the cache, 1 reasoning"
    calls = format_run(run, WIDE).splitlines()[-2:]
    assert calls[0] == "call c1: bash needs approval"
    assert calls[1].startswith("call c2: read_file running since ")
    assert calls[1].endswith("(2 s ago)")
    assert format_run(run, PIPE).splitlines()[-2].split("\t") == [
        "call",
        "c1",
        "bash",
        "needs approval",
    ]


def test_a_run_names_its_waits() -> None:
    """A waiting run says for what it waits, since when and until when; a queued one, its position."""
    run = sample(RunView, full=False) | {
        "queue_position": 2,
        "waiting": {
            "approvals": [
                {"tool": "bash", "subject": "ls", "requested_at_ms": NOW, "expires_at_ms": NOW + 1}
            ],
            "questions": [{"asked_at_ms": NOW}],
            "events": [{"source": "bell", "at_ms": NOW, "expires_at_ms": NOW + 1}],
        },
    }
    since, until = f", since {PIPE.format_time(NOW)}", f", until {PIPE.format_time(NOW + 1)}"
    rows = [line.split("\t") for line in format_run(run, PIPE).splitlines()]
    assert [text for name, text in rows if name == "waits for"] == [
        f"approval of bash ls{since}{until}",
        f"an answer to its question{since}, without a limit",
        f"an event of bell{since}{until}",
    ]
    assert ["queue", "number 2 in the session's queue"] in rows


@pytest.mark.parametrize("full", [True, False])
def test_every_run_can_be_shown(full: bool) -> None:
    """A run with all fields or only the required ones can be shown; a queued run took no time."""
    run = sample(RunView, full=full)
    for look in (PIPE, WIDE):
        assert "run_id" not in format_run(run, look)
    assert ("took" in format_run(run, PIPE)) is full


def test_every_call_state_has_a_text() -> None:
    """Every state of a call has a text; an unknown state is shown as it is."""
    for state in (*OpenCall.__annotations__["state"].__args__, "admired"):
        call = {"call_id": "c", "tool": "t", "state": state}
        assert (
            format_run(sample(RunView, full=False) | {"calls": [call]}, WIDE)
            .splitlines()[-1]
            .startswith("call c: t ")
        )


def test_paint_status() -> None:
    """A status is colored if the display has colors."""
    assert paint_status("failed", WIDE) == "failed"
    assert paint_status("failed", COLORED) == "\x1b[31mfailed\x1b[0m"


def test_a_waiting_run_names_a_command() -> None:
    """The sentence about a waiting run ends with a command."""
    for name, command in (("approval", "approval list"), ("user_question", "question list")):
        sentence = describe_outcome({"status": f"waiting_for_{name}", "run_id": "run_1"}, command_line)
        assert sentence.endswith(f"kheishctl {command} --run run_1")


@pytest.mark.parametrize("name", sorted(SETTLED | {"queued", "running"}))
def test_every_status_has_a_sentence(name: str) -> None:
    """Every status except success has a sentence."""
    assert bool(describe_outcome({"status": name, "run_id": "run_1"}, command_line)) is (name != "completed")


def test_a_failed_run_names_its_error() -> None:
    """The sentence about a failed run holds the sanitized error."""
    run = {"status": "failed", "error": {"message": "no key\x1b[2J"}}
    assert describe_outcome(run, command_line) == "the run failed: no key␛[2J"
