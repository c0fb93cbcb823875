"""Following a session, as transcripts: notifications in, what is shown out."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.follower import FOLLOW_UP_NOTES, StreamFollower
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
from protocol.contract import FollowUp

RUN, ITEM = "run_1", "itm_1"


class Told:
    """A follower and a daemon's voice; ``said`` is the text as a person would have seen it."""

    def __init__(self, cursor: int = 0) -> None:
        self.follower = StreamFollower(cursor)
        self.cursor = cursor
        self.said = ""

    def event(self, type_: str, cursor: int | None = None, **fields: Any) -> list[Piece]:
        """A durable event."""
        self.cursor = self.cursor + 1 if cursor is None else cursor
        event = {"type": type_, "cursor": self.cursor, "at_ms": 1000, "run_id": RUN, **fields}
        return self._seen(self.follower.feed("journal.event", {"cursor": self.cursor, "event": event}))

    def delta(
        self, text: str, offset: int, *, attempt: int = 1, item: str = ITEM, kind: str = "text"
    ) -> list[Piece]:
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

    def message(self, text: str, *, item: str = ITEM, stop_reason: str = "end", **fields: Any) -> list[Piece]:
        """The durable message."""
        message = {"role": "assistant", "items": [{"kind": "text", "text": text}]}
        return self.event(
            "message_appended", item_id=item, message=message, stop_reason=stop_reason, **fields
        )

    def begin(self, text: str = "hi") -> list[Piece]:
        """An input that is accepted and taken up."""
        items = [{"kind": "text", "text": text}]
        shown = self.event("input_received", input_id="inp_1", items=items, sender="ada")
        shown += self.event("run_accepted", input_id="inp_1")
        shown += self.event("run_started", starts=1)
        return shown + self.event("model_asked", item_id=ITEM, turn=1, attempt=1)

    def _seen(self, shown: list[Piece]) -> list[Piece]:
        for piece in shown:
            if isinstance(piece, AnswerText):
                self.said += piece.text
            elif isinstance(piece, AnswerRestart):
                self.said = ""
        return shown


def test_a_turn_from_input_to_end() -> None:
    """An input is queued, then heard; the answer is said once; the end is told."""
    told = Told()
    assert told.begin() == [QueuedInput("hi", "ada", RUN), StartedInput("hi", "ada", RUN)]
    assert told.follower.running == RUN
    assert told.delta("Hel", 0) == [AnswerText("Hel")]
    assert told.delta("lo", 3) == [AnswerText("lo")]
    assert told.message("Hello.") == [AnswerText("."), MessageEnd("end")]
    assert told.event("run_ended", outcome="completed") == [RunEnd(RUN, "completed", "")]
    assert told.follower.running is None
    assert told.said == "Hello."


def test_without_deltas_the_message_says_all() -> None:
    """Who follows no deltas, or was too slow for them, still gets the answer."""
    told = Told()
    told.begin()
    assert told.message("Hello.") == [AnswerText("Hello."), MessageEnd("end")]


def test_deltas_come_again_after_a_reconnection() -> None:
    """The text so far is sent again from offset 0; only what is new is shown."""
    told = Told()
    told.begin()
    told.delta("Hello, ", 0)
    assert told.delta("Hello, world", 0) == [AnswerText("world")]
    assert told.delta("Hello", 0) == []


def test_a_hole_is_filled_by_the_message() -> None:
    """A piece beyond what was shown is passed over; nothing is shown out of order."""
    told = Told()
    told.begin()
    told.delta("Hel", 0)
    assert told.delta("world", 7) == []
    assert told.message("Hello, world")[0] == AnswerText("lo, world")


def test_a_higher_attempt_takes_the_lower_back() -> None:
    """When the model is asked again, what it had said is void; late pieces of the old attempt are, too."""
    told = Told()
    told.begin()
    told.delta("one thing", 0)
    failed = told.event(
        "model_failed", item_id=ITEM, turn=1, attempt=1, error={"message": "cut"}, retry_at_ms=3000
    )
    assert failed == [Notice("the model call failed (cut); retrying in 2.0 s")]
    assert told.event("model_asked", item_id=ITEM, turn=1, attempt=2) == [AnswerRestart()]
    assert told.delta("ing", 9, attempt=1) == []
    assert told.delta("another", 0, attempt=2) == [AnswerText("another")]
    assert told.message("another thing")[0] == AnswerText(" thing")
    assert told.said == "another thing"


def test_the_delta_of_a_new_attempt_may_come_before_its_event() -> None:
    """Deltas are sent at once and events page from the journal: either order shows the same."""
    told = Told()
    told.begin()
    told.delta("old", 0)
    assert told.delta("new", 0, attempt=2) == [AnswerRestart(), AnswerText("new")]
    assert told.event("model_asked", item_id=ITEM, turn=1, attempt=2) == []
    assert told.said == "new"


def test_another_item_after_a_crash() -> None:
    """A restarted daemon may ask under another item; what was unfinished is taken back."""
    told = Told()
    told.begin()
    told.delta("half", 0)
    told.event("run_started", starts=2)
    assert told.event("model_asked", item_id="itm_2", turn=1, attempt=1) == [AnswerRestart()]
    told.message("whole", item="itm_2")
    assert told.said == "whole"


def test_a_message_that_says_otherwise_replaces() -> None:
    """The durable message has the last word."""
    told = Told()
    told.begin()
    told.delta("wrong", 0)
    assert told.message("right") == [AnswerRestart(), AnswerText("right"), MessageEnd("end")]


def test_two_items_of_one_run() -> None:
    """A finished item is left alone when the next one begins."""
    told = Told()
    told.begin()
    told.delta("first", 0)
    told.message("first")
    assert told.delta("second", 0, item="itm_2") == [AnswerText("second")]


def test_a_late_message_does_not_disturb_the_next_item() -> None:
    """An event that lags behind the deltas of the next item is shown; those deltas go on."""
    told = Told()
    told.begin()
    told.delta("b", 0, item="itm_2")
    assert told.message("a") == [AnswerText("a"), MessageEnd("end")]
    assert told.delta("b!", 0, item="itm_2") == [AnswerText("!")]


def test_thinking_is_separate() -> None:
    """Reasoning has its own offsets."""
    told = Told()
    told.begin()
    assert told.delta("hm", 0, kind="thinking") == [ReasoningText("hm")]
    assert told.delta("so", 0) == [AnswerText("so")]


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
    assert ended == [StartedInput("later", "", RUN), RunEnd(RUN, "cancelled", "")]


def test_joining_in_the_middle() -> None:
    """A follower that comes late shows the text so far and what follows, and no input it never saw."""
    told = Told(cursor=100)
    assert told.delta("so far", 0) == [AnswerText("so far")]
    assert told.follower.running == RUN
    assert told.message("so far so good") == [AnswerText(" so good"), MessageEnd("end")]
    assert told.event("run_ended", outcome="completed") == [RunEnd(RUN, "completed", "")]


def test_a_failed_run_says_why() -> None:
    """The error reaches the person."""
    told = Told()
    told.begin()
    assert told.event("run_ended", outcome="failed", error={"reason": "x", "message": "no key"}) == [
        RunEnd(RUN, "failed", "no key")
    ]


def test_gap_and_synced_move_the_cursor() -> None:
    """Pruned history is told; being level is only remembered."""
    follower = StreamFollower()
    assert follower.feed("journal.gap", {"from": 0, "to": 7}) == [Notice("a part of the history was pruned")]
    assert follower.feed("journal.synced", {"cursor": 9}) == []
    assert follower.cursor == 9


def test_the_unknown_is_passed_over() -> None:
    """Events, notifications and kinds of text of later versions change nothing."""
    told = Told()
    assert told.event("tool_admired", call_id="c") == []
    assert told.event("sun_risen") == []
    assert told.delta("x", 0, kind="music") == []
    assert told.follower.feed("journal.new", {"cursor": 99}) == []


def test_why_a_model_is_asked_again_is_noted() -> None:
    """What the daemon says to it is not what anybody said; of a later version's reasons nothing is shown."""
    told, again = Told(), {"role": "user", "items": [{"kind": "text", "text": "mend it"}]}
    for follow_up in get_args(FollowUp):
        shown = told.event("message_appended", item_id="x", message=again, follow_up=follow_up)
        assert shown == [Notice(FOLLOW_UP_NOTES[follow_up])]
    assert told.event("message_appended", item_id="x", message=again, follow_up="boredom") == []
    assert told.said == ""


def test_user_messages_and_ended_sessions() -> None:
    """Only answers are said; the end of the session is told."""
    told = Told()
    user = {"role": "user", "items": [{"kind": "text", "text": "hi"}]}
    assert told.event("message_appended", item_id="x", message=user) == []
    assert told.event("session_ended") == [Notice("the session has ended and accepts no more input")]


# Calls, and what waits for a person.

CALL = "call_1"
ASKS: Any = {"call_id": CALL, "tool": "bash"}


def calling(told: Told, **arguments: Any) -> list[Piece]:
    """A message that asks for a call."""
    told.begin()
    call = {"kind": "tool_call", "call_id": CALL, "name": "bash", "arguments": arguments}
    message = {"role": "assistant", "items": [{"kind": "text", "text": "So."}, call]}
    return told.event("message_appended", item_id=ITEM, message=message, stop_reason="tool_calls")


def judged(told: Told, decision: str, why: str) -> list[Piece]:
    """Its verdict."""
    return told.event("calls_judged", item_id=ITEM, verdicts=[{**ASKS, "decision": decision, "why": why}])


def test_a_call_from_asking_to_result() -> None:
    """It is asked for after what was said, judged, begun, and has its result."""
    told = Told()
    called = CallRequest(CALL, "bash", "ls")
    assert calling(told, command="ls") == [AnswerText("So."), MessageEnd("tool_calls"), called]
    assert judged(told, "allow", "the tool's default") == [
        CallVerdict(CALL, "bash", "allow", "the tool's default")
    ]
    assert told.event("tool_called", **ASKS) == [CallStart(CALL, "bash", "ls", 1000)]
    returned = told.event("tool_returned", **ASKS, how="returned", text="a b", took_ms=20)
    assert returned == [CallResult(CALL, "bash", "ls", "returned", "a b", 20)]


def test_what_a_call_writes() -> None:
    """It goes on where it was; what comes again is passed over, and a gap replaces."""
    told = Told()
    calling(told)
    told.event("tool_called", **ASKS)

    def says(text: str, offset: int, attempt: int = 1) -> list[Piece]:
        return told.delta(text, offset, item=CALL, kind="output", attempt=attempt)

    assert says("one ", 0) == [CallOutput(CALL, "one ", False)]
    assert says("one two", 0) == [CallOutput(CALL, "two", False)]
    assert says("two", 4) == []
    assert says("five", 20) == [CallOutput(CALL, "five", True)]
    assert says(" six", 24) == [CallOutput(CALL, " six", False)]
    assert says("anew", 0, attempt=2) == [CallOutput(CALL, "anew", True)]
    assert says("late", 28, attempt=1) == []
    assert told.delta("x", 0, item="another", kind="output") == []


def test_a_call_that_runs_again() -> None:
    """What it had written is void, unless it has been heard writing anew before that."""
    told = Told()
    calling(told)
    told.event("tool_called", **ASKS)
    told.delta("old", 0, item=CALL, kind="output")
    began = CallStart(CALL, "bash", "", 1000)
    assert told.event("tool_called", **ASKS, attempt=2) == [CallOutput(CALL, "", True), began]
    told.delta("new", 0, item=CALL, kind="output", attempt=3)
    assert told.event("tool_called", **ASKS, attempt=3) == [began]


def test_a_call_that_a_rule_denies() -> None:
    """The result says which one."""
    told = Told()
    calling(told)
    assert judged(told, "deny", "managed rule bash deny") == [
        CallVerdict(CALL, "bash", "deny", "managed rule bash deny")
    ]
    [returned] = told.event("tool_returned", **ASKS, how="denied", text="This was not allowed: no")
    assert isinstance(returned, CallResult)
    assert (returned.denied_by, returned.denial_shown) == ("managed rule bash deny", False)


def test_an_approval_and_its_answer() -> None:
    """It carries what the call would do; who answers is told, and a denial only once."""
    told = Told()
    calling(told, command="rm x")
    [asked] = told.event("approval_requested", approval_id="apr_1", **ASKS, subject="rm x", note="rule")
    assert isinstance(asked, ApprovalOpening)
    assert asked.approval["arguments"] == {"command": "rm x"}
    assert (asked.approval["approval_id"], asked.approval["requested_at_ms"]) == ("apr_1", 1000)
    answer: Any = {"approval_id": "apr_1", "call_id": CALL, "decision": "deny", "actor": "uid:7"}
    assert told.event("approval_answered", **answer, note="no") == [
        ApprovalClosing("apr_1", "bash", "rm x", "deny", "uid:7", "no")
    ]
    [returned] = told.event("tool_returned", **ASKS, how="denied", text="no")
    assert isinstance(returned, CallResult)
    assert returned.denial_shown


@pytest.mark.parametrize(("how", "known"), [("expired", True), ("withdrawn", False), ("renewed", False)])
def test_an_approval_that_lapses(how: str, known: bool) -> None:
    """It waits no longer, and nobody answered; what expires is denied."""
    told = Told()
    calling(told)
    told.event("approval_requested", approval_id="apr_1", **ASKS)
    lapsed = told.event("approval_lapsed", approval_id="apr_1", call_id=CALL, how=how)
    assert lapsed == [ApprovalClosing("apr_1", "bash", "", how)]
    [returned] = told.event("tool_returned", **ASKS, how="denied", text="x")
    assert isinstance(returned, CallResult)
    assert returned.denial_shown is known


def test_a_question_and_its_answer() -> None:
    """Chosen options are told by what they are called."""
    told = Told()
    options = [{"option_id": "1", "label": "red"}, {"option_id": "2", "label": "blue"}]
    questions = [{"key": "c", "question": "Which?", "options": options}, {"key": "w", "question": "Why?"}]
    [asked] = told.event("question_asked", question_id="qst_1", call_id=CALL, questions=questions)
    assert isinstance(asked, QuestionOpening)
    assert asked.question["questions"] == questions
    answers = [{"key": "c", "selected": ["2"]}, {"key": "w", "text": "so"}]
    answered: Any = {"question_id": "qst_1", "call_id": CALL, "actor": "uid:7"}
    assert told.event("question_answered", **answered, answers=answers) == [
        QuestionClosing("qst_1", "answered", "uid:7", "blue / so")
    ]
    assert told.event("question_answered", **answered, declined=True) == [
        QuestionClosing("qst_1", "declined", "uid:7")
    ]
    lapsed = told.event("question_lapsed", question_id="qst_1", call_id=CALL, how="expired")
    assert lapsed == [QuestionClosing("qst_1", "expired")]


def test_a_doubt_and_its_end() -> None:
    """A call in doubt carries what it was to do; what became of it is told, after its run, too."""
    told = Told()
    calling(told, command="rm x")
    [doubted] = told.event("indoubt_opened", indoubt_id="idt_1", **ASKS, note="gone")
    assert isinstance(doubted, DoubtOpening)
    assert doubted.doubt["arguments"] == {"command": "rm x"}
    told.event("run_ended", outcome="completed")
    settled: Any = {
        "indoubt_id": "idt_1",
        **ASKS,
        "outcome": "done",
        "actor": "uid:7",
        "justification": "seen",
    }
    assert told.event("indoubt_resolved", **settled) == [
        DoubtClosing("idt_1", "bash", "done", "uid:7", "seen")
    ]


def test_what_else_is_told_of_runs() -> None:
    """A call that runs again after a crash, a word to the run in flight, another permission mode."""
    told = Told()
    calling(told)
    [noted] = told.event("call_probed", **ASKS)
    assert isinstance(noted, Notice)
    assert "runs again" in noted.text
    assert told.event("tool_observed", call_id=CALL, evidence={}) == []
    items = [{"kind": "text", "text": "faster"}]
    assert told.event("steered", items=items, sender="ada") == [SteerText("faster", "ada")]
    [noted] = told.event("session_updated", changes={"permission_mode": "plan"})
    assert isinstance(noted, Notice)
    assert "the permission mode is now plan" in noted.text
    assert told.event("session_updated", changes={"title": "x"}) == []


def test_what_became_of_shells_is_told() -> None:
    """That one asks what nobody can answer, and how one ended; of other tasks nothing."""
    told = Told()
    assert told.event("task_created", task_id="tsk_1", title="npm run dev") == []
    (asks,) = told.event("task_stalled", task_id="tsk_1", note="for the model")
    assert asks == Notice("the background shell tsk_1 waits for input that nobody can give")
    (ended,) = told.event(
        "task_ended", task_id="tsk_1", status="failed", terminal_reason="exited", exit_code=2, note="x"
    )
    assert ended == Notice("the background shell tsk_1 has ended: failed, exited with exit code 2")


def test_what_is_told_of_the_context() -> None:
    """That the model is shown less, and that it could not be had."""
    told = Told()
    compacted: Any = {"trigger": "auto", "strategy": "summary", "upto": 3}
    assert told.event("context_compacted", **compacted, pre_tokens=90_000, post_tokens=2_000) == [
        Notice("the model now sees a summary of the conversation so far: 90000 tokens became 2000")
    ]
    assert told.event("context_compacted", **compacted | {"strategy": "results"}) == [
        Notice("the model now sees less of the conversation so far")
    ]
    failed = told.event("compaction_failed", trigger="manual", error={"reason": "x", "message": "no key"})
    assert failed == [Notice("the conversation could not be summarized: no key")]


def test_calls_of_a_message_from_before() -> None:
    """Who comes late and read the message elsewhere understands what is heard of its calls."""
    call = {"kind": "tool_call", "call_id": CALL, "name": "bash", "arguments": {"command": "ls"}}
    known, unknown = Told(), Told()
    known.follower.learn({"role": "assistant", "items": [call]})
    for told, about in ((known, "ls"), (unknown, "")):
        assert told.event("tool_called", **ASKS) == [CallStart(CALL, "bash", about, 1000)]
        assert told.delta("x", 0, item=CALL, kind="output") == [CallOutput(CALL, "x", False)]
        assert told.event("tool_returned", **ASKS, how="returned", text="") == [
            CallResult(CALL, "bash", about, "returned", "")
        ]


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
