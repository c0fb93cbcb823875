"""What a follower shows, as text."""

from typing import get_args

import pytest

from kheishctl.follow import Finished, Heard, Noted, Queued, Restarted, Said, Settled, Shown, Thought
from kheishctl.shell.markdown import LIVE_CHARACTERS_MAX, renderer
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
    told(present, Said("x" * LIVE_CHARACTERS_MAX))
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
        (Noted("news\x07"), "· news␇\n"),
    ],
)
def test_notes(piece: Shown, note: str) -> None:
    """What is about the conversation comes after what was said so far, and is harmless."""
    present = presenter()
    told(present, Said("partial"))
    assert told(present, piece) == f"partial\n\n{note}"


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
    ]
    assert {type(piece) for piece in examples} == set(get_args(Shown))
    told(presenter(), *examples)
