"""What waits for a person, and what their keys mean."""

from typing import Any

import pytest

from kheishctl.contract import Json
from kheishctl.shell.waiting import GRACE_SECONDS, KEYS, Edit, Reply, Resolve, Typing, Waiting

COLORS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue"}]


def approval(number: int, run_id: str = "run_1") -> Json:
    """An approval as it is heard."""
    return {"approval_id": f"apr_{number}", "run_id": run_id, "tool": "bash", "created_cursor": number}


def question(number: int, *parts: Json) -> Json:
    """A question as it is heard."""
    return {"question_id": f"qst_{number}", "questions": list(parts), "created_cursor": number}


ONE = {"key": "color", "question": "Which?", "options": COLORS}
SOME = {**ONE, "key": "colors", "multi_select": True}
FREE = {"key": "name", "question": "What name?"}


class Sitting:
    """Somebody who looks at what waits, and at a clock."""

    def __init__(self, *records: Json) -> None:
        self.now_s = 100.0
        self.waiting = Waiting(lambda: self.now_s)
        for record in records:
            self.waiting.put(record)
        self.looks()

    def looks(self, *, empty: bool = True) -> None:
        """See what is shown, for long enough."""
        self.waiting.drawn(empty=empty)
        self.now_s += GRACE_SECONDS
        self.waiting.drawn(empty=empty)

    def press(self, key: str) -> Any:
        """Press a key."""
        return self.waiting.press(key)

    @property
    def shown(self) -> str | None:
        """The id of what is shown."""
        return self.waiting.first.key if self.waiting.first is not None else None


@pytest.mark.parametrize(
    ("key", "resolution"),
    [
        ("a", {"decision": "allow"}),
        ("r", {"decision": "allow", "remember": "run"}),
        ("s", {"decision": "allow", "remember": "session"}),
        ("d", {"decision": "deny"}),
    ],
)
def test_a_key_answers_an_approval(key: str, resolution: Json) -> None:
    """The one that is shown; the next is shown then."""
    sitting = Sitting(approval(1), approval(2))
    assert sitting.press(key) == (Resolve(({"approval_id": "apr_1", **resolution},)),)
    assert sitting.shown == "apr_2"


def test_a_key_answers_nothing_that_was_not_seen() -> None:
    """Not what has just appeared, and not what comes after what was answered; then it does."""
    now_s = 0.0
    waiting = Waiting(lambda: now_s)
    waiting.put(approval(1))
    assert waiting.press("a") is None
    waiting.drawn(empty=True)
    now_s = GRACE_SECONDS / 2
    assert waiting.press("a") is None
    waiting.put(approval(2))
    now_s = GRACE_SECONDS
    assert waiting.press("a") is not None
    assert waiting.press("a") is None
    waiting.drawn(empty=True)
    now_s = 2 * GRACE_SECONDS
    assert waiting.press("a") is not None


@pytest.mark.parametrize(("key", "decision"), [("A", "allow"), ("X", "deny")])
def test_all_that_wait_now(key: str, decision: str) -> None:
    """Approvals of one run are answered together; questions are none of it."""
    sitting = Sitting(approval(1), approval(2, "run_2"), question(3, ONE), approval(4))
    assert [action.ids for action in sitting.press(key)] == [["apr_1", "apr_4"], ["apr_2"]]
    assert sitting.shown == "qst_3"


def test_a_denial_with_a_reason() -> None:
    """The line that is typed next is the reason, on one line; keys mean nothing meanwhile."""
    sitting = Sitting(approval(1))
    assert sitting.press("D") == ()
    assert sitting.waiting.typing == Typing("reason", "apr_1")
    assert sitting.press("a") is None
    denied = Resolve(({"approval_id": "apr_1", "decision": "deny", "note": "not this"},))
    assert sitting.waiting.entered(" not\nthis ").actions == (denied,)
    assert sitting.waiting.typing is None
    assert sitting.shown is None


def test_an_input_that_is_changed() -> None:
    """What is no object can be mended; then the call is allowed with what was typed."""
    sitting = Sitting(approval(1))
    assert sitting.press("e") == (Edit("apr_1"),)
    assert sitting.waiting.edit("apr_1")
    for wrong in ("{", "[1]", "[" * 100_000):
        entered = sitting.waiting.entered(wrong)
        assert entered.again
        assert "JSON" in entered.problem
    entered = sitting.waiting.entered('{"command": "ls"}')
    assert entered.actions == (
        Resolve(({"approval_id": "apr_1", "decision": "allow", "updated_input": {"command": "ls"}},)),
    )


def test_what_is_typed_for_what_somebody_answered() -> None:
    """It goes nowhere, and that is said."""
    sitting = Sitting(approval(1))
    sitting.press("D")
    sitting.waiting.drop("apr_1")
    entered = sitting.waiting.entered("because")
    assert entered.actions == ()
    assert "meanwhile" in entered.problem
    assert not sitting.waiting.edit("apr_1")


def test_what_is_typed_can_be_left() -> None:
    """Then keys count again."""
    sitting = Sitting(approval(1))
    assert not sitting.waiting.leave()
    sitting.press("D")
    assert sitting.waiting.leave()
    assert sitting.press("d")


def test_an_answer_that_is_refused() -> None:
    """It waits on."""
    sitting = Sitting(approval(1))
    sitting.press("a")
    assert sitting.shown is None
    sitting.waiting.refused(["apr_1"])
    assert sitting.shown == "apr_1"
    sitting.waiting.refused(["apr_9"])


def test_one_option() -> None:
    """Its number answers; keys that are no option are text."""
    sitting = Sitting(question(1, ONE))
    assert sitting.press("3") is None
    assert sitting.press("a") is None
    assert sitting.press("enter") == ()
    assert sitting.press("2") == (Reply("qst_1", ({"key": "color", "selected": ["b"]},)),)


def test_several_options() -> None:
    """Numbers choose and take back, Enter answers, once something is chosen."""
    sitting = Sitting(question(1, SOME))
    for key in ("1", "2", "1"):
        assert sitting.press(key) == ()
    assert sitting.press("enter") == (Reply("qst_1", ({"key": "colors", "selected": ["b"]},)),)


def test_several_questions() -> None:
    """One after the other, each seen before it can be answered; what was answered goes together."""
    sitting = Sitting(question(1, ONE, SOME, FREE))
    assert sitting.press("1") == ()
    assert sitting.press("1") is None
    sitting.looks()
    sitting.press("2")
    assert sitting.press("enter") == ()
    sitting.looks()
    assert sitting.press("n") is None
    first = sitting.waiting.first
    assert first is not None
    [reply] = sitting.waiting.answer(first, first.chosen, "Ada")
    assert isinstance(reply, Reply)
    assert reply.answers == (
        {"key": "color", "selected": ["r"]},
        {"key": "colors", "selected": ["b"]},
        {"key": "name", "text": "Ada"},
    )


def test_a_question_is_declined() -> None:
    """That is an answer, too."""
    assert Sitting(question(1, ONE)).press("n") == (Reply("qst_1", declined=True),)


def test_a_line_answers_a_question_that_was_seen() -> None:
    """Not one that was begun before the question was there; and approvals take none."""
    sitting = Sitting()
    assert not sitting.waiting.takes_line
    sitting.waiting.put(question(1, FREE))
    sitting.looks(empty=False)
    assert not sitting.waiting.takes_line
    sitting.looks()
    assert sitting.waiting.takes_line
    sitting.looks(empty=False)
    assert sitting.waiting.takes_line
    assert not Sitting(approval(1)).waiting.takes_line


def test_what_is_long_is_turned_over() -> None:
    """Page by page, no further than its ends; what fits takes no such key."""
    sitting = Sitting(approval(1))
    sitting.waiting.rows, sitting.waiting.page = 25, 10
    offsets = []
    for key in (" ", " ", " ", "b", "b"):
        assert sitting.press(key) == ()
        offsets.append(sitting.waiting.offset)
    assert offsets == [10, 15, 15, 5, 0]
    sitting.waiting.rows = 10
    assert sitting.press(" ") is None


def test_the_next_is_shown_from_its_beginning() -> None:
    """However far the one before was turned over."""
    sitting = Sitting(approval(1), approval(2))
    sitting.waiting.rows, sitting.waiting.page = 25, 10
    sitting.press(" ")
    sitting.press("a")
    sitting.looks()
    assert sitting.waiting.offset == 0


def test_all_that_waits_is_told_anew() -> None:
    """In the order in which it was asked; what was begun stays, what is being answered waits again."""
    sitting = Sitting(question(5, SOME), approval(6))
    sitting.press("2")
    sitting.waiting.resolve([sitting.waiting.items[1]], "allow")
    sitting.waiting.replace([approval(6), question(5, SOME), approval(2)])
    assert [item.key for item in sitting.waiting.items] == ["apr_2", "qst_5", "apr_6"]
    assert sitting.waiting.items[1].chosen == ["b"]
    sitting.waiting.replace([])
    assert sitting.shown is None
    sitting.looks()


def test_something_known_is_not_asked_twice() -> None:
    """A list and the journal may tell of the same; a question without parts is none."""
    sitting = Sitting(approval(1), approval(1), question(2))
    assert len(sitting.waiting.items) == 1


def test_the_bell_rings_once() -> None:
    """For each thing that comes, whatever waited before."""
    sitting = Sitting(approval(1))
    assert [sitting.waiting.ring(), sitting.waiting.ring()] == [True, False]
    sitting.waiting.put(approval(2))
    assert [sitting.waiting.ring(), sitting.waiting.ring()] == [True, False]
    sitting.waiting.drop("apr_1")
    assert not sitting.waiting.ring()


@pytest.mark.parametrize("record", [approval(1), question(1, ONE), question(1, SOME)])
def test_every_key_that_means_something_is_asked_for(record: Json) -> None:
    """The screen tells only of the keys that it is told."""
    for key in map(chr, range(0x20, 0x7F)):
        sitting = Sitting(record)
        sitting.waiting.rows, sitting.waiting.page = 2, 1
        assert sitting.press(key) is None or key in KEYS
