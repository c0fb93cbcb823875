"""What a follower shows, as text."""

from typing import get_args

import pytest

from kheishctl.render.pieces import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallOutput,
    CallRequest,
    CallResult,
    CallStart,
    CallVerdict,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    Piece,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.shell.markdown import MAX_LIVE_CHARACTERS, renderer
from kheishctl.shell.present import Presenter


def presenter(*, thinking: bool = False, columns: int = 60) -> Presenter:
    """A presenter without color."""
    return Presenter(renderer(color=False), lambda: columns, color=False, thinking=thinking)


def told(presenter: Presenter, *pieces: Piece) -> str:
    """What some pieces add to the scrollback."""
    return "".join(map(presenter.show, pieces))


def test_a_turn() -> None:
    """The input, then block after block as it is finished; the growing end is in the live area."""
    present = presenter()
    assert told(present, QueuedInput("hi", "ada", "r")) == ""
    assert present.queue == {"r": "hi"}
    assert told(present, StartedInput("hi", "ada", "r")) == "ada > hi\n\n"
    assert present.queue == {}
    assert told(present, AnswerText("one\n\ntw")) == "one\n\n"
    assert present.live(10) == "tw"
    assert told(present, AnswerText("o")) == ""
    assert present.live(10) == "two"
    assert told(present, MessageEnd("end")) == "two\n\n"
    assert present.live(10) == ""
    assert told(present, RunEnd("r", "completed", "")) == ""


def test_the_live_area_fits() -> None:
    """Only the last lines of a long block are shown; one too long to render is shown as it is."""
    present = presenter(columns=20)
    told(present, AnswerText("".join(f"line {n}\n" for n in range(50))))
    assert present.live(3).split("\n") == ["line 47", "line 48", "line 49"]
    told(present, AnswerText("x" * MAX_LIVE_CHARACTERS))
    lines = present.live(5).split("\n")
    assert len(lines) == 5
    assert set("".join(lines)) == {"x"}
    assert all(len(line) <= 20 for line in lines)


def test_restarted_takes_back() -> None:
    """What had been printed cannot be, so it is said; what had not is just gone."""
    present = presenter()
    told(present, AnswerText("half"))
    assert told(present, AnswerRestart()) == ""
    assert present.live(5) == ""
    assert told(present, AnswerText("done\n\nmore")) == "done\n\n"
    assert "starts over" in told(present, AnswerRestart())
    assert told(present, AnswerText("anew"), MessageEnd("end")) == "anew\n\n"


def test_thinking_is_shown_when_asked_for() -> None:
    """Otherwise only that it goes on."""
    quiet, open_ = presenter(), presenter(thinking=True)
    for present in (quiet, open_):
        told(present, ReasoningText("first\nthen\n"))
        assert present.live(5) == "thinking: then"
    assert told(quiet, AnswerText("so\n\nx")) == "so\n\n"
    assert told(open_, AnswerText("so\n\nx")) == "first\nthen\n\nso\n\n"


@pytest.mark.parametrize(
    ("piece", "note"),
    [
        (RunEnd("r", "failed", "no key\x1b"), "· the run failed: no key␛\n"),
        (RunEnd("r", "cancelled", ""), "· stopped\n"),
        (MessageEnd("length"), "· the answer was cut off at its length limit\n"),
        (MessageEnd("refusal"), "· the model refused to continue\n"),
        (Notice("news\x07\nada > yes"), "· news␇ ada > yes\n"),
    ],
)
def test_notes(piece: Piece, note: str) -> None:
    """What is about the conversation comes after what was said so far, and is harmless."""
    present = presenter()
    told(present, AnswerText("partial"))
    assert told(present, piece) == f"partial\n\n{note}"


@pytest.mark.parametrize(
    ("piece", "line"),
    [
        (ApprovalClosing("p", "bash", "ls", "allow", "you"), "✓ bash  allowed by you · ls\n"),
        (
            ApprovalClosing("p", "bash", "ls", "allow", "ada", remember="run"),
            "✓ bash  allowed by ada for this run · ls\n",
        ),
        (ApprovalClosing("p", "bash", "ls", "deny", "ada", "no\x1b"), "✗ bash  denied by ada · no␛ · ls\n"),
        (ApprovalClosing("p", "bash", "ls", "expired"), "✗ bash  denied, as nobody answered in time · ls\n"),
        (
            ApprovalClosing("p", "bash", "", "renewed"),
            "· bash  changed since it was shown; it is asked anew\n",
        ),
        (ApprovalClosing("p", "", "", "withdrawn"), "■ a call  no longer asked\n"),
        (QuestionClosing("q", "answered", "you", "red\nada >"), "✓ question  answered by you · red ada >\n"),
        (QuestionClosing("q", "expired"), "■ question  expired\n"),
        (DoubtClosing("d", "bash", "not_done", "ada", "seen"), "✓ bash  settled as not done by ada · seen\n"),
        (SteerText("faster", "ada"), "ada, meanwhile > faster\n\n"),
    ],
)
def test_what_people_did(piece: Piece, line: str) -> None:
    """A line says what was answered, by whom."""
    assert told(presenter(), piece) == line


def test_a_doubt_says_what_to_do() -> None:
    """What was to be done, what is known, and the words that settle it."""
    doubt = {"tool": "bash", "arguments": {"command": "rm x"}, "note": "its process is gone\nada > yes"}
    assert told(presenter(columns=100), DoubtOpening(doubt)).splitlines() == [
        "? bash  in doubt · rm x",
        "  │ its process is gone",
        "  │ ada > yes",
        "  │ whether it took effect is not known; look, then say /resolve done or /resolve not-done",
    ]


def test_lines_stand_together() -> None:
    """Calls follow each other without gaps, and what is said next stands apart from them."""
    shown = told(
        presenter(),
        AnswerText("so\n\n"),
        MessageEnd("tool_calls"),
        CallRequest("c", "bash", "ls"),
        CallResult("c", "bash", "ls", "returned", ""),
        AnswerText("done\n\nreally"),
        MessageEnd("end"),
        StartedInput("next", "ada", "r"),
    )
    assert shown == "so\n\n→ bash  ls\n✓ bash  ls\n\ndone\n\nreally\n\nada > next\n\n"


def test_calls_end_with_their_run() -> None:
    """Nothing spins any more."""
    present = presenter()
    told(present, CallStart("c", "bash", "ls", 0))
    assert present.working.busy
    told(present, RunEnd("r", "cancelled", ""))
    assert not present.working.busy


def test_a_cancelled_run_leaves_the_queue() -> None:
    """A run that ends unheard waits no longer."""
    present = presenter()
    told(present, QueuedInput("x", "ada", "r"), RunEnd("r", "cancelled", ""))
    assert present.queue == {}


def test_rest_for_one_who_leaves() -> None:
    """What was written so far stays on the screen."""
    present = presenter()
    told(present, AnswerText("so far"))
    assert present.rest() == "so far\n\n"
    assert present.rest() == ""


def test_history_is_shown_alike() -> None:
    """Inputs and answers of before look like those that come."""
    present = presenter()
    assert present.input("a\x1b\nb\n", "") == "somebody > a␛\nb\n\n"
    assert present.answer("**x**") == "x\n\n"
    assert present.answer(" ") == ""


def test_every_piece_can_be_shown() -> None:
    """Each kind of piece there is has a text, if only none."""
    examples: list[Piece] = [
        StartedInput("a", "b", "r"),
        QueuedInput("a", "b", "r"),
        AnswerText("a"),
        ReasoningText("a"),
        AnswerRestart(),
        MessageEnd("end"),
        Notice("a"),
        RunEnd("r", "interrupted", ""),
        CallRequest("c", "t", "a"),
        CallVerdict("c", "t", "allow", "w"),
        CallStart("c", "t", "a", 0),
        CallOutput("c", "a", False),
        CallResult("c", "t", "a", "returned", "x"),
        ApprovalOpening({}),
        ApprovalClosing("p", "t", "a", "allow"),
        QuestionOpening({}),
        QuestionClosing("q", "answered"),
        DoubtOpening({"tool": "t"}),
        DoubtClosing("d", "t", "done", "b", ""),
        SteerText("a", "b"),
    ]
    assert {type(piece) for piece in examples} == set(get_args(Piece))
    told(presenter(), *examples)
