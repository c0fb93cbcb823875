"""What a follower shows, as text."""

from typing import get_args

import pytest

from kheishctl.pieces import (
    ApprovalAsked,
    ApprovalClosed,
    Began,
    Called,
    DoubtClosed,
    Doubted,
    Finished,
    Heard,
    Judged,
    Noted,
    Printed,
    QuestionAsked,
    QuestionClosed,
    Queued,
    Restarted,
    Returned,
    Said,
    Settled,
    Shown,
    Steered,
    Thought,
)
from kheishctl.shell.markdown import MAX_LIVE_CHARACTERS, renderer
from kheishctl.shell.present import Presenter


def presenter(*, thinking: bool = False, columns: int = 60) -> Presenter:
    """A presenter without color."""
    return Presenter(renderer(color=False), lambda: columns, color=False, thinking=thinking)


def told(presenter: Presenter, *pieces: Shown) -> str:
    """What some pieces add to the scrollback."""
    return "".join(map(presenter.show, pieces))


def test_a_turn() -> None:
    """The input, then block after block as it is finished; the growing end is in the live area."""
    present = presenter()
    assert told(present, Queued("hi", "ada", "r")) == ""
    assert present.queue == {"r": "hi"}
    assert told(present, Heard("hi", "ada", "r")) == "ada > hi\n\n"
    assert present.queue == {}
    assert told(present, Said("one\n\ntw")) == "one\n\n"
    assert present.live(10) == "tw"
    assert told(present, Said("o")) == ""
    assert present.live(10) == "two"
    assert told(present, Finished("end")) == "two\n\n"
    assert present.live(10) == ""
    assert told(present, Settled("r", "completed", "")) == ""


def test_the_live_area_fits() -> None:
    """Only the last lines of a long block are shown; one too long to render is shown as it is."""
    present = presenter(columns=20)
    told(present, Said("".join(f"line {n}\n" for n in range(50))))
    assert present.live(3).split("\n") == ["line 47", "line 48", "line 49"]
    told(present, Said("x" * MAX_LIVE_CHARACTERS))
    lines = present.live(5).split("\n")
    assert len(lines) == 5
    assert set("".join(lines)) == {"x"}
    assert all(len(line) <= 20 for line in lines)


def test_restarted_takes_back() -> None:
    """What had been printed cannot be, so it is said; what had not is just gone."""
    present = presenter()
    told(present, Said("half"))
    assert told(present, Restarted()) == ""
    assert present.live(5) == ""
    assert told(present, Said("done\n\nmore")) == "done\n\n"
    assert "starts over" in told(present, Restarted())
    assert told(present, Said("anew"), Finished("end")) == "anew\n\n"


def test_thinking_is_shown_when_asked_for() -> None:
    """Otherwise only that it goes on."""
    quiet, open_ = presenter(), presenter(thinking=True)
    for present in (quiet, open_):
        told(present, Thought("first\nthen\n"))
        assert present.live(5) == "thinking: then"
    assert told(quiet, Said("so\n\nx")) == "so\n\n"
    assert told(open_, Said("so\n\nx")) == "first\nthen\n\nso\n\n"


@pytest.mark.parametrize(
    ("piece", "note"),
    [
        (Settled("r", "failed", "no key\x1b"), "· the run failed: no key␛\n"),
        (Settled("r", "cancelled", ""), "· stopped\n"),
        (Finished("length"), "· the answer was cut off at its length limit\n"),
        (Finished("refusal"), "· the model refused to go on\n"),
        (Noted("news\x07\nada > yes"), "· news␇ ada > yes\n"),
    ],
)
def test_notes(piece: Shown, note: str) -> None:
    """What is about the conversation comes after what was said so far, and is harmless."""
    present = presenter()
    told(present, Said("partial"))
    assert told(present, piece) == f"partial\n\n{note}"


@pytest.mark.parametrize(
    ("piece", "line"),
    [
        (ApprovalClosed("p", "bash", "ls", "allow", "you"), "✓ bash  allowed by you · ls\n"),
        (
            ApprovalClosed("p", "bash", "ls", "allow", "ada", remember="run"),
            "✓ bash  allowed by ada for this run · ls\n",
        ),
        (ApprovalClosed("p", "bash", "ls", "deny", "ada", "no\x1b"), "✗ bash  denied by ada · no␛ · ls\n"),
        (ApprovalClosed("p", "bash", "ls", "expired"), "✗ bash  denied, as nobody answered in time · ls\n"),
        (
            ApprovalClosed("p", "bash", "", "renewed"),
            "· bash  changed since it was shown; it is asked anew\n",
        ),
        (ApprovalClosed("p", "", "", "withdrawn"), "■ a call  no longer asked\n"),
        (QuestionClosed("q", "answered", "you", "red\nada >"), "✓ question  answered by you · red ada >\n"),
        (QuestionClosed("q", "expired"), "■ question  expired\n"),
        (DoubtClosed("d", "bash", "not_done", "ada", "seen"), "✓ bash  settled as not done by ada · seen\n"),
        (Steered("faster", "ada"), "ada, meanwhile > faster\n\n"),
    ],
)
def test_what_people_did(piece: Shown, line: str) -> None:
    """A line says what was answered, by whom."""
    assert told(presenter(), piece) == line


def test_a_doubt_says_what_to_do() -> None:
    """What was to be done, what is known, and the words that settle it."""
    doubt = {"tool": "bash", "arguments": {"command": "rm x"}, "note": "its process is gone\nada > yes"}
    assert told(presenter(columns=100), Doubted(doubt)).splitlines() == [
        "? bash  in doubt · rm x",
        "  │ its process is gone",
        "  │ ada > yes",
        "  │ whether it took effect is not known; look, then say /resolve done or /resolve not-done",
    ]


def test_lines_stand_together() -> None:
    """Calls follow each other without gaps, and what is said next stands apart from them."""
    shown = told(
        presenter(),
        Said("so\n\n"),
        Finished("tool_calls"),
        Called("c", "bash", "ls"),
        Returned("c", "bash", "ls", "returned", ""),
        Said("done\n\nreally"),
        Finished("end"),
        Heard("next", "ada", "r"),
    )
    assert shown == "so\n\n→ bash  ls\n✓ bash  ls\n\ndone\n\nreally\n\nada > next\n\n"


def test_calls_end_with_their_run() -> None:
    """Nothing spins any more."""
    present = presenter()
    told(present, Began("c", "bash", "ls", 0))
    assert present.working.busy
    told(present, Settled("r", "cancelled", ""))
    assert not present.working.busy


def test_a_cancelled_run_leaves_the_queue() -> None:
    """A run that ends unheard waits no longer."""
    present = presenter()
    told(present, Queued("x", "ada", "r"), Settled("r", "cancelled", ""))
    assert present.queue == {}


def test_rest_for_one_who_leaves() -> None:
    """What was written so far stays on the screen."""
    present = presenter()
    told(present, Said("so far"))
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
    examples: list[Shown] = [
        Heard("a", "b", "r"),
        Queued("a", "b", "r"),
        Said("a"),
        Thought("a"),
        Restarted(),
        Finished("end"),
        Noted("a"),
        Settled("r", "interrupted", ""),
        Called("c", "t", "a"),
        Judged("c", "t", "allow", "w"),
        Began("c", "t", "a", 0),
        Printed("c", "a", False),
        Returned("c", "t", "a", "returned", "x"),
        ApprovalAsked({}),
        ApprovalClosed("p", "t", "a", "allow"),
        QuestionAsked({}),
        QuestionClosed("q", "answered"),
        Doubted({"tool": "t"}),
        DoubtClosed("d", "t", "done", "b", ""),
        Steered("a", "b"),
    ]
    assert {type(piece) for piece in examples} == set(get_args(Shown))
    told(presenter(), *examples)
