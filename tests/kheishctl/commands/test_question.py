"""``kheishctl question``."""

import sys
from pathlib import Path

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.terminal import Terminal
from tests.support.waiting_runs import asks, waits


def ask(ctl: Ctl, sender: str) -> tuple[str, str]:
    """Start a run that asks a question; return the ids of the run and the question."""
    run_id = waits(ctl, sender, asks())
    ((question_id, *_),) = ctl("question", "list", "--run", run_id).rows
    return run_id, question_id


def read_answers(ctl: Ctl, question_id: str) -> dict[str, object]:
    """Return the read_answers of a question by key."""
    request = ctl.json("question", "show", question_id)
    return {answer.pop("key"): answer for answer in request["answers"]}


def test_list_and_show(ctl: Ctl, sender: str) -> None:
    """A pending question is listed, and shown with numbered options."""
    run_id, question_id = ask(ctl, sender)
    (row,) = ctl("question", "list", "--run", run_id).rows
    assert row[1:5] == ["pending", "Which color? / Which ones then? / Why?", "default", sender]
    text = ctl("question", "show", question_id).out
    assert "  2. Blue: like the sky" in text.splitlines()
    ctl("question", "cancel", question_id)


def test_answer(ctl: Ctl, sender: str) -> None:
    """Labels, ids, numbers, several options and text are all read_answers, and the run continues."""
    run_id, question_id = ask(ctl, sender)
    words = ["--answer", "q1=blue", "--answer", "q2=1", "--answer", "q2=o2", "--answer", "q3=because"]
    done = ctl("question", "answer", question_id, *words, "--text", "q1=a dark one")
    assert done.out.startswith(f"{question_id} answered by uid:")
    assert read_answers(ctl, question_id) == {
        "q1": {"selected": ["o2"], "text": "a dark one"},
        "q2": {"selected": ["o1", "o2"]},
        "q3": {"text": "because"},
    }
    assert "a dark one" in ctl("run", "wait", run_id).out
    again = ctl("question", "answer", question_id, *words)
    assert (again.code, "answered by uid:" in again.err) == (exit_codes.FAILED, True)


def test_text_that_equals_a_label(ctl: Ctl, sender: str) -> None:
    """--text is text, even if it equals the label of an option."""
    _, question_id = ask(ctl, sender)
    ctl("question", "answer", question_id, "--text", "q1=Blue", "--text", "q2=1", "--answer", "q3=x")
    assert read_answers(ctl, question_id)["q1"] == {"text": "Blue"}


def test_invalid_answers(ctl: Ctl, sender: str) -> None:
    """The client or the daemon refuses invalid read_answers and names the problem."""
    _, question_id = ask(ctl, sender)
    for words in (["--answer", "q9=x"], ["--answer", "blue"], ["--decline", "--text", "q1=x"], []):
        done = ctl("question", "answer", question_id, *words)
        assert done.code == exit_codes.USAGE, words
    wrong_key = ctl("question", "answer", question_id, "--answer", "q9=x")
    assert "no part 'q9'; the keys are q1, q2, q3" in wrong_key.err
    empty = ctl("question", "answer", question_id, "--answer", "q3=")
    assert (empty.code, "the answer to q3 is empty" in empty.err) == (exit_codes.USAGE, True)
    missing = ctl("question", "answer", question_id, "--answer", "q1=red")
    assert (missing.code, "q2, q3" in missing.err) == (exit_codes.FAILED, True)
    ctl("question", "cancel", question_id)


def test_decline(ctl: Ctl, sender: str) -> None:
    """A declined question lets the run continue, and the model reads the reason."""
    run_id, question_id = ask(ctl, sender)
    done = ctl("question", "answer", question_id, "--decline", "--justification", "ask tomorrow")
    assert "declined by uid:" in done.out
    assert "ask tomorrow" in ctl("run", "wait", run_id).out


def test_cancel(ctl: Ctl, sender: str) -> None:
    """A cancelled question ends its run."""
    run_id, question_id = ask(ctl, sender)
    done = ctl("question", "cancel", question_id, "--justification", "no time")
    assert "cancelled by uid:" in done.out
    assert ctl("run", "wait", run_id).code == exit_codes.RUN_STOPPED


def test_answer_in_a_terminal(daemon: Daemon, ctl: Ctl, sender: str, tmp_path: Path) -> None:
    """Without options, the terminal prompts for each part in turn."""
    run_id, question_id = ask(ctl, sender)
    command = [
        sys.executable,
        "-m",
        "kheishctl",
        "--home",
        str(daemon.home),
        "question",
        "answer",
        question_id,
    ]
    with Terminal(command, {"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.sees("Your answer (a number, or your own words):")
        terminal.say("2")
        terminal.sees("(numbers separated by commas, or your own words):")
        terminal.say("red, 2")
        terminal.sees("\nYour answer:")
        terminal.say("because")
        terminal.sees("answered by uid:")
        assert terminal.ends() == exit_codes.OK
    assert read_answers(ctl, question_id) == {
        "q1": {"selected": ["o2"]},
        "q2": {"selected": ["o1", "o2"]},
        "q3": {"text": "because"},
    }
    assert ctl("run", "wait", run_id).code == exit_codes.OK
