"""Tests of the pending requests and the keys that answer them."""

from typing import Any

import pytest

from kheishctl.contract import Json
from kheishctl.shell.pending import (
    GRACE_SECONDS,
    KEYS,
    UNREAD_KEYS,
    EditInput,
    LineEntry,
    PendingRequests,
    ResolveApprovals,
    SubmitAnswers,
)

COLORS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue"}]
SINGLE = {"key": "color", "question": "Which?", "options": COLORS}
MULTIPLE = {**SINGLE, "key": "colors", "multi_select": True}
FREE = {"key": "name", "question": "What name?"}


def make_approval(number: int, run_id: str = "run_1") -> Json:
    """Return the record of an approval."""
    return {"approval_id": f"apr_{number}", "run_id": run_id, "tool": "bash", "created_cursor": number}


def make_question(number: int, *parts: Json) -> Json:
    """Return the record of a question."""
    return {"question_id": f"qst_{number}", "questions": list(parts), "created_cursor": number}


class Viewer:
    """A person who looks at the panel, with a clock."""

    def __init__(self, *records: Json) -> None:
        self.now_s = 100.0
        self.pending = PendingRequests(lambda: self.now_s)
        for record in records:
            self.pending.add(record)
        self.look()

    def look(self, *, empty: bool = True) -> None:
        """Draw the shown request for long enough."""
        self.pending.mark_drawn(empty=empty)
        self.now_s += GRACE_SECONDS
        self.pending.mark_drawn(empty=empty)
        self.pending.mark_read()

    def press(self, key: str) -> Any:
        """Press a key."""
        return self.pending.press(key)

    @property
    def shown_id(self) -> str | None:
        """The id of the shown request."""
        return self.pending.first.key if self.pending.first is not None else None


@pytest.mark.parametrize(
    ("key", "resolution"),
    [
        ("a", {"decision": "allow"}),
        ("r", {"decision": "allow", "remember": "run"}),
        ("s", {"decision": "allow", "remember": "session"}),
        ("d", {"decision": "deny"}),
    ],
)
def test_key_answers_approval(key: str, resolution: Json) -> None:
    """A key answers the shown approval, and the next one is shown."""
    viewer = Viewer(make_approval(1), make_approval(2))
    assert viewer.press(key) == (ResolveApprovals(({"approval_id": "apr_1", **resolution},)),)
    assert viewer.shown_id == "apr_2"


def test_key_answers_only_a_request_that_was_visible() -> None:
    """A key answers no request that has just appeared, also after the answer to another one."""
    now_s = 0.0
    pending = PendingRequests(lambda: now_s)
    pending.add(make_approval(1))
    assert pending.press("a") is None
    pending.mark_drawn(empty=True)
    pending.mark_read()
    now_s = GRACE_SECONDS / 2
    assert pending.press("a") is None
    pending.add(make_approval(2))
    now_s = GRACE_SECONDS
    assert pending.press("a") is not None
    assert pending.press("a") is None
    pending.mark_drawn(empty=True)
    pending.mark_read()
    now_s = 2 * GRACE_SECONDS
    assert pending.press("a") is not None


@pytest.mark.parametrize(("key", "decision"), [("A", "allow"), ("X", "deny")])
def test_capital_answers_all_approvals(key: str, decision: str) -> None:
    """A capital answers all approvals, those of one run in one action; questions stay pending."""
    viewer = Viewer(make_approval(1), make_approval(2, "run_2"), make_question(3, SINGLE), make_approval(4))
    actions = viewer.press(key)
    assert [action.ids for action in actions] == [["apr_1", "apr_4"], ["apr_2"]]
    assert {row["decision"] for action in actions for row in action.resolutions} == {decision}
    assert viewer.shown_id == "qst_3"


def test_denial_with_note() -> None:
    """The next line becomes the note of the denial, on one line; keys have no meaning meanwhile."""
    viewer = Viewer(make_approval(1))
    assert viewer.press("D") == ()
    assert viewer.pending.line_entry == LineEntry("note", "apr_1")
    assert viewer.press("a") is None
    action = ResolveApprovals(({"approval_id": "apr_1", "decision": "deny", "note": "not this"},))
    assert viewer.pending.enter_line(" not\nthis ").actions == (action,)
    assert viewer.pending.line_entry is None
    assert viewer.shown_id is None


def test_edited_input() -> None:
    """An invalid input can be corrected; a valid input allows the call with it."""
    viewer = Viewer(make_approval(1))
    assert viewer.press("e") == (EditInput("apr_1"),)
    assert viewer.pending.start_edit("apr_1")
    for invalid in ("{", "[1]", "[" * 100_000):
        result = viewer.pending.enter_line(invalid)
        assert result.editable
        assert "JSON" in result.problem
    result = viewer.pending.enter_line('{"command": "ls"}')
    resolution = {"approval_id": "apr_1", "decision": "allow", "updated_input": {"command": "ls"}}
    assert result.actions == (ResolveApprovals((resolution,)),)


def test_line_for_closed_approval() -> None:
    """A line for an approval that was answered meanwhile is discarded, and the person is told."""
    viewer = Viewer(make_approval(1))
    viewer.press("D")
    viewer.pending.remove("apr_1")
    result = viewer.pending.enter_line("because")
    assert result.actions == ()
    assert "meanwhile" in result.problem
    assert not viewer.pending.start_edit("apr_1")


def test_cancelled_line() -> None:
    """After the line for an approval is cancelled, keys have a meaning again."""
    viewer = Viewer(make_approval(1))
    assert not viewer.pending.cancel_line()
    viewer.press("D")
    assert viewer.pending.cancel_line()
    assert viewer.press("d")


def test_refused_answer() -> None:
    """A request whose answer is refused is shown again."""
    viewer = Viewer(make_approval(1))
    viewer.press("a")
    assert viewer.shown_id is None
    viewer.pending.restore(["apr_1"])
    assert viewer.shown_id == "apr_1"
    viewer.pending.restore(["apr_9"])


def test_single_option() -> None:
    """The number of an option answers; keys that name no option are text."""
    viewer = Viewer(make_question(1, SINGLE))
    assert viewer.press("3") is None
    assert viewer.press("a") is None
    assert viewer.press("enter") == ()
    assert viewer.press("2") == (SubmitAnswers("qst_1", ({"key": "color", "selected": ["b"]},)),)


def test_multiple_options() -> None:
    """Numbers select and unselect options; Enter answers once an option is selected."""
    viewer = Viewer(make_question(1, MULTIPLE))
    for key in ("1", "2", "1"):
        assert viewer.press(key) == ()
    answers = ({"key": "colors", "selected": ["b"]},)
    assert viewer.press("enter") == (SubmitAnswers("qst_1", answers),)


def test_several_parts() -> None:
    """The parts of a question are shown and answered one after the other, and sent together."""
    viewer = Viewer(make_question(1, SINGLE, MULTIPLE, FREE))
    assert viewer.press("1") == ()
    assert viewer.press("1") is None
    viewer.look()
    viewer.press("2")
    assert viewer.press("enter") == ()
    viewer.look()
    assert viewer.press("n") is None
    first = viewer.pending.first
    assert first is not None
    [action] = viewer.pending.answer(first, first.selected, "Ada")
    assert isinstance(action, SubmitAnswers)
    assert action.answers == (
        {"key": "color", "selected": ["r"]},
        {"key": "colors", "selected": ["b"]},
        {"key": "name", "text": "Ada"},
    )


def test_declined_question() -> None:
    """A key declines a question with options."""
    assert Viewer(make_question(1, SINGLE)).press("n") == (SubmitAnswers("qst_1", declined=True),)


def test_line_answers_question() -> None:
    """A line answers a question unless it was begun before the question appeared; approvals take no line."""
    viewer = Viewer()
    assert not viewer.pending.accepts_line
    viewer.pending.add(make_question(1, FREE))
    viewer.look(empty=False)
    assert not viewer.pending.accepts_line
    viewer.look()
    assert viewer.pending.accepts_line
    viewer.look(empty=False)
    assert viewer.pending.accepts_line
    assert not Viewer(make_approval(1)).pending.accepts_line


def test_paging() -> None:
    """Two keys turn the pages of a long request within its bounds; for a short request they are text."""
    viewer = Viewer(make_approval(1))
    viewer.pending.total_lines, viewer.pending.page_lines = 25, 10
    offsets = []
    for key in (" ", " ", " ", "b", "b"):
        assert viewer.press(key) == ()
        offsets.append(viewer.pending.offset)
    assert offsets == [10, 15, 15, 5, 0]
    viewer.pending.total_lines = 10
    assert viewer.press(" ") is None


def test_next_request_starts_at_its_first_line() -> None:
    """The page of the previous request does not apply to the next one."""
    viewer = Viewer(make_approval(1), make_approval(2))
    viewer.pending.total_lines, viewer.pending.page_lines = 25, 10
    viewer.press(" ")
    viewer.press("a")
    viewer.look()
    assert viewer.pending.offset == 0


@pytest.mark.parametrize("key", UNREAD_KEYS)
def test_an_approval_is_allowed_only_after_its_end_was_shown(key: str) -> None:
    """The keys that allow have no effect before the last line was on the screen; going back is fine then."""
    viewer = Viewer()
    viewer.pending.total_lines, viewer.pending.page_lines = 25, 10
    viewer.pending.add(make_approval(1))
    viewer.look()
    assert viewer.press(key) == ()
    assert viewer.pending.must_be_read
    for _ in range(2):
        viewer.press(" ")
        viewer.look()
    viewer.press("b")
    viewer.look()
    assert viewer.press(key)
    assert viewer.pending.first is None


def test_an_approval_is_denied_at_any_time() -> None:
    """A person who has read enough to say no need not read the rest."""
    viewer = Viewer()
    viewer.pending.total_lines, viewer.pending.page_lines = 25, 10
    viewer.pending.add(make_approval(1))
    viewer.look()
    assert viewer.press("d")


def test_replaced_requests() -> None:
    """Replaced requests are in the order of creation; partial answers stay, answers in flight do not."""
    viewer = Viewer(make_question(5, MULTIPLE), make_approval(6))
    viewer.press("2")
    viewer.pending.resolve([viewer.pending.requests[1]], "allow")
    viewer.pending.replace([make_approval(6), make_question(5, MULTIPLE), make_approval(2)])
    assert [request.key for request in viewer.pending.requests] == ["apr_2", "qst_5", "apr_6"]
    assert viewer.pending.requests[1].selected == ["b"]
    viewer.pending.replace([])
    assert viewer.shown_id is None
    viewer.look()


def test_request_is_added_once() -> None:
    """A list and the journal may report the same request; a question without parts is ignored."""
    viewer = Viewer(make_approval(1), make_approval(1), make_question(2))
    assert len(viewer.pending.requests) == 1


def test_new_requests_are_announced_once() -> None:
    """Every new request is announced once, whatever else is pending."""
    viewer = Viewer(make_approval(1))
    assert [viewer.pending.announce(), viewer.pending.announce()] == [True, False]
    viewer.pending.add(make_approval(2))
    assert [viewer.pending.announce(), viewer.pending.announce()] == [True, False]
    viewer.pending.remove("apr_1")
    assert not viewer.pending.announce()


@pytest.mark.parametrize("record", [make_approval(1), make_question(1, SINGLE), make_question(1, MULTIPLE)])
def test_every_key_with_a_meaning_is_bound(record: Json) -> None:
    """The prompt binds only KEYS, so every key with a meaning is one of them."""
    for key in map(chr, range(0x20, 0x7F)):
        viewer = Viewer(record)
        viewer.pending.total_lines, viewer.pending.page_lines = 2, 1
        assert viewer.press(key) is None or key in KEYS
