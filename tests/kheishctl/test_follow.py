"""Following a session, as transcripts: notifications in, what is shown out."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kheishctl.follow import (
    Finished,
    Follower,
    Heard,
    Noted,
    Queued,
    Restarted,
    Said,
    Settled,
    Shown,
    Thought,
)

RUN, ITEM = "run_1", "itm_1"


class Told:
    """A follower and a daemon's voice; ``said`` is the text as a person would have seen it."""

    def __init__(self, cursor: int = 0) -> None:
        self.follower = Follower(cursor)
        self.cursor = cursor
        self.said = ""

    def event(self, type_: str, cursor: int | None = None, **fields: Any) -> list[Shown]:
        """A durable event."""
        self.cursor = self.cursor + 1 if cursor is None else cursor
        event = {"type": type_, "cursor": self.cursor, "at_ms": 1000, "run_id": RUN, **fields}
        return self._seen(self.follower.feed("journal.event", {"cursor": self.cursor, "event": event}))

    def delta(
        self, text: str, offset: int, *, attempt: int = 1, item: str = ITEM, kind: str = "text"
    ) -> list[Shown]:
        """A piece of text being written."""
        params = {
            "run_id": RUN,
            "item_id": item,
            "attempt": attempt,
            "offset": offset,
            "kind": kind,
            "text": text,
        }
        return self._seen(self.follower.feed("journal.delta", params))

    def message(self, text: str, *, item: str = ITEM, stop_reason: str = "end", **fields: Any) -> list[Shown]:
        """The durable message."""
        message = {"role": "assistant", "items": [{"kind": "text", "text": text}]}
        return self.event(
            "message_appended", item_id=item, message=message, stop_reason=stop_reason, **fields
        )

    def begin(self, text: str = "hi") -> list[Shown]:
        """An input that is accepted and taken up."""
        items = [{"kind": "text", "text": text}]
        shown = self.event("input_received", input_id="inp_1", items=items, sender="ada")
        shown += self.event("run_accepted", input_id="inp_1")
        shown += self.event("run_started", start=1)
        return shown + self.event("model_asked", item_id=ITEM, step=1, attempt=1)

    def _seen(self, shown: list[Shown]) -> list[Shown]:
        for piece in shown:
            if isinstance(piece, Said):
                self.said += piece.text
            elif isinstance(piece, Restarted):
                self.said = ""
        return shown


def test_a_turn_from_input_to_end() -> None:
    """An input is queued, then heard; the answer is said once; the end is told."""
    told = Told()
    assert told.begin() == [Queued("hi", "ada", RUN), Heard("hi", "ada", RUN)]
    assert told.follower.running == RUN
    assert told.delta("Hel", 0) == [Said("Hel")]
    assert told.delta("lo", 3) == [Said("lo")]
    assert told.message("Hello.") == [Said("."), Finished("end")]
    assert told.event("run_ended", outcome="completed") == [Settled(RUN, "completed", "")]
    assert told.follower.running is None
    assert told.said == "Hello."


def test_without_deltas_the_message_says_all() -> None:
    """Who follows no deltas, or was too slow for them, still gets the answer."""
    told = Told()
    told.begin()
    assert told.message("Hello.") == [Said("Hello."), Finished("end")]


def test_deltas_come_again_after_a_reconnection() -> None:
    """The text so far is sent again from offset 0; only what is new is shown."""
    told = Told()
    told.begin()
    told.delta("Hello, ", 0)
    assert told.delta("Hello, world", 0) == [Said("world")]
    assert told.delta("Hello", 0) == []


def test_a_hole_is_filled_by_the_message() -> None:
    """A piece beyond what was shown is passed over; nothing is shown out of order."""
    told = Told()
    told.begin()
    told.delta("Hel", 0)
    assert told.delta("world", 7) == []
    assert told.message("Hello, world")[0] == Said("lo, world")


def test_a_higher_attempt_takes_the_lower_back() -> None:
    """When the model is asked again, what it had said is void; late pieces of the old attempt are, too."""
    told = Told()
    told.begin()
    told.delta("one thing", 0)
    failed = told.event(
        "model_failed", item_id=ITEM, step=1, attempt=1, error={"message": "cut"}, retry_at_ms=3000
    )
    assert failed == [Noted("the model call failed (cut); trying again in 2.0 s")]
    assert told.event("model_asked", item_id=ITEM, step=1, attempt=2) == [Restarted()]
    assert told.delta("ing", 9, attempt=1) == []
    assert told.delta("another", 0, attempt=2) == [Said("another")]
    assert told.message("another thing")[0] == Said(" thing")
    assert told.said == "another thing"


def test_the_delta_of_a_new_attempt_may_come_before_its_event() -> None:
    """Deltas are sent at once and events page from the journal: either order shows the same."""
    told = Told()
    told.begin()
    told.delta("old", 0)
    assert told.delta("new", 0, attempt=2) == [Restarted(), Said("new")]
    assert told.event("model_asked", item_id=ITEM, step=1, attempt=2) == []
    assert told.said == "new"


def test_another_item_after_a_crash() -> None:
    """A restarted daemon may ask under another item; what was unfinished is taken back."""
    told = Told()
    told.begin()
    told.delta("half", 0)
    told.event("run_started", start=2)
    assert told.event("model_asked", item_id="itm_2", step=1, attempt=1) == [Restarted()]
    told.message("whole", item="itm_2")
    assert told.said == "whole"


def test_a_message_that_says_otherwise_replaces() -> None:
    """The durable message has the last word."""
    told = Told()
    told.begin()
    told.delta("wrong", 0)
    assert told.message("right") == [Restarted(), Said("right"), Finished("end")]


def test_two_items_of_one_run() -> None:
    """A finished item is left alone when the next one begins."""
    told = Told()
    told.begin()
    told.delta("first", 0)
    told.message("first")
    assert told.delta("second", 0, item="itm_2") == [Said("second")]


def test_a_late_message_does_not_disturb_the_next_item() -> None:
    """An event that lags behind the deltas of the next item is shown; those deltas go on."""
    told = Told()
    told.begin()
    told.delta("b", 0, item="itm_2")
    assert told.message("a") == [Said("a"), Finished("end")]
    assert told.delta("b!", 0, item="itm_2") == [Said("!")]


def test_thinking_is_separate() -> None:
    """Reasoning has its own offsets."""
    told = Told()
    told.begin()
    assert told.delta("hm", 0, kind="thinking") == [Thought("hm")]
    assert told.delta("so", 0) == [Said("so")]


def test_an_event_seen_before_is_passed_over() -> None:
    """A cursor is handled once, whatever is sent again."""
    told = Told(cursor=10)
    assert told.event("run_ended", cursor=10, outcome="completed") == []
    assert told.event("run_ended", cursor=11, outcome="completed") != []
    assert told.follower.cursor == 11


def test_a_queued_run_that_is_cancelled_is_heard() -> None:
    """A run that ends without having begun still shows what was asked."""
    told = Told()
    items = [{"kind": "text", "text": "later"}]
    told.event("input_received", input_id="inp_1", items=items)
    told.event("run_accepted", input_id="inp_1")
    ended = told.event("run_ended", outcome="cancelled")
    assert ended == [Heard("later", "", RUN), Settled(RUN, "cancelled", "")]


def test_joining_in_the_middle() -> None:
    """A follower that comes late shows the text so far and what follows, and no input it never saw."""
    told = Told(cursor=100)
    assert told.delta("so far", 0) == [Said("so far")]
    assert told.follower.running == RUN
    assert told.message("so far so good") == [Said(" so good"), Finished("end")]
    assert told.event("run_ended", outcome="completed") == [Settled(RUN, "completed", "")]


def test_a_failed_run_says_why() -> None:
    """The error reaches the person."""
    told = Told()
    told.begin()
    assert told.event("run_ended", outcome="failed", error={"reason": "x", "message": "no key"}) == [
        Settled(RUN, "failed", "no key")
    ]


def test_gap_and_synced_move_the_cursor() -> None:
    """Pruned history is told; being level is only remembered."""
    follower = Follower()
    assert follower.feed("journal.gap", {"from": 0, "to": 7}) == [
        Noted("some of the history in between was pruned")
    ]
    assert follower.feed("journal.synced", {"cursor": 9}) == []
    assert follower.cursor == 9


def test_the_unknown_is_passed_over() -> None:
    """Events and notifications of later versions change nothing."""
    told = Told()
    assert told.event("tool_called", call_id="c") == []
    assert told.follower.feed("journal.new", {"cursor": 99}) == []


def test_user_messages_and_ended_sessions() -> None:
    """Only answers are said; the end of the session is told."""
    told = Told()
    user = {"role": "user", "items": [{"kind": "text", "text": "hi"}]}
    assert told.event("message_appended", item_id="x", message=user) == []
    assert told.event("session_ended") == [Noted("the session was ended and takes no more input")]


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_whatever_pieces_come_the_answer_is_said_once(text: str, cuts: list[tuple[int, int]]) -> None:
    """Pieces may be lost, repeated and overlap: what is seen is always a prefix, in the end the whole."""
    told = Told()
    told.begin()
    for start, length in cuts:
        if text[start : start + length]:
            told.delta(text[start : start + length], start)
        assert text.startswith(told.said)
    told.message(text)
    assert told.said == text
