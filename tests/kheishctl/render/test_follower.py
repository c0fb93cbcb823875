"""Following a session, as transcripts: notifications in, changes out."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallEnd,
    CallOutput,
    CallRequest,
    CallStart,
    CallVerdict,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.render.follower import FOLLOW_UP_NOTES, StreamFollower, list_failures
from protocol.contract import FollowUp

RUN, ITEM = "run_1", "itm_1"


class Listener:
    """A follower and a fake daemon; ``said`` is the answer as a person sees it."""

    def __init__(self, cursor: int = 0) -> None:
        self.follower = StreamFollower(cursor)
        self.cursor = cursor
        self.said = ""

    def event(self, type_: str, cursor: int | None = None, **fields: Any) -> list[DisplayChange]:
        """Feed a durable event."""
        self.cursor = self.cursor + 1 if cursor is None else cursor
        event = {"type": type_, "cursor": self.cursor, "at_ms": 1000, "run_id": RUN, **fields}
        return self._seen(self.follower.feed("journal.event", {"cursor": self.cursor, "event": event}))

    def delta(
        self, text: str, offset: int, *, attempt: int = 1, item: str = ITEM, kind: str = "text"
    ) -> list[DisplayChange]:
        """Feed a change of live text."""
        params = {
            "run_id": RUN,
            "item_id": item,
            "attempt": attempt,
            "offset": offset,
            "kind": kind,
            "text": text,
        }
        return self._seen(self.follower.feed("journal.delta", params))

    def message(
        self, text: str, *, item: str = ITEM, stop_reason: str = "end", **fields: Any
    ) -> list[DisplayChange]:
        """Feed the durable message."""
        message = {"role": "assistant", "items": [{"kind": "text", "text": text}]}
        return self.event(
            "message_appended", item_id=item, message=message, stop_reason=stop_reason, **fields
        )

    def begin(self, text: str = "hi") -> list[DisplayChange]:
        """Feed an input whose run is accepted and started."""
        items = [{"kind": "text", "text": text}]
        emitted = self.event("input_received", input_id="inp_1", items=items, sender="ada")
        emitted += self.event("run_accepted", input_id="inp_1")
        emitted += self.event("run_started", starts=1)
        return emitted + self.event("model_asked", item_id=ITEM, turn=1, attempt=1)

    def _seen(self, emitted: list[DisplayChange]) -> list[DisplayChange]:
        for change in emitted:
            if isinstance(change, AnswerText):
                self.said += change.text
            elif isinstance(change, AnswerRestart):
                self.said = ""
        return emitted


def test_a_turn_from_input_to_end() -> None:
    """An input is queued and started, its answer is shown once, and its end is reported."""
    listener = Listener()
    assert listener.begin() == [QueuedInput("hi", "ada", RUN), StartedInput("hi", "ada", RUN)]
    assert listener.follower.running == RUN
    assert listener.delta("Hel", 0) == [AnswerText("Hel")]
    assert listener.delta("lo", 3) == [AnswerText("lo")]
    assert listener.message("Hello.") == [AnswerText("."), MessageEnd("end")]
    assert listener.event("run_ended", outcome="completed") == [RunEnd(RUN, "completed", "")]
    assert listener.follower.running is None
    assert listener.said == "Hello."


def test_without_deltas() -> None:
    """Without deltas, the durable message delivers the whole answer."""
    listener = Listener()
    listener.begin()
    assert listener.message("Hello.") == [AnswerText("Hello."), MessageEnd("end")]


def test_repeated_deltas() -> None:
    """Text that arrives again after a reconnection is shown once."""
    listener = Listener()
    listener.begin()
    listener.delta("Hello, ", 0)
    assert listener.delta("Hello, world", 0) == [AnswerText("world")]
    assert listener.delta("Hello", 0) == []


def test_missing_deltas() -> None:
    """A delta beyond the text so far is ignored until the durable message arrives."""
    listener = Listener()
    listener.begin()
    listener.delta("Hel", 0)
    assert listener.delta("world", 7) == []
    assert listener.message("Hello, world")[0] == AnswerText("lo, world")


def test_a_higher_attempt_voids_the_lower() -> None:
    """A new attempt voids the text so far, and late deltas of the old attempt are ignored."""
    listener = Listener()
    listener.begin()
    listener.delta("one thing", 0)
    failed = listener.event(
        "model_failed", item_id=ITEM, turn=1, attempt=1, error={"message": "cut"}, retry_at_ms=3000
    )
    assert failed == [Notice("the model call failed (cut); retrying in 2.0 s")]
    assert listener.event("model_asked", item_id=ITEM, turn=1, attempt=2) == [AnswerRestart()]
    assert listener.delta("ing", 9, attempt=1) == []
    assert listener.delta("another", 0, attempt=2) == [AnswerText("another")]
    assert listener.message("another thing")[0] == AnswerText(" thing")
    assert listener.said == "another thing"


def test_another_route_is_asked() -> None:
    """The note names the route or key that is asked next, and that another provider's cache is empty."""
    listener = Listener()
    listener.begin()
    fields: dict[str, Any] = {
        "item_id": ITEM,
        "turn": 1,
        "attempt": 1,
        "error": {"message": "busy"},
        "retry_at_ms": 1000,
    }
    key = listener.event("model_failed", **fields, route="a", next_route="a", next_auth_ref="env:K2")
    assert key == [Notice("the model call failed (busy); asking a (env:K2) instead")]
    other = listener.event("model_failed", **fields, route="a", next_route="b")
    assert other == [Notice("the model call failed (busy); asking b instead, whose prompt cache is empty")]
    passed = listener.event("model_failed", **fields, route="b", next_route="c", passed_over=["a: it failed"])
    (note,) = passed
    assert isinstance(note, Notice)
    assert note.text.endswith("is empty; passed over a: it failed")
    answer = listener.event(
        "message_appended",
        item_id=ITEM,
        message={"role": "assistant", "items": [{"kind": "text", "text": "ok"}]},
        route="b",
        passed_over=["a: it failed"],
    )
    assert answer[-1] == Notice("b answered; passed over a: it failed")


def test_a_delta_before_the_event_of_its_attempt() -> None:
    """A delta and the event of its attempt may arrive in either order."""
    listener = Listener()
    listener.begin()
    listener.delta("old", 0)
    assert listener.delta("new", 0, attempt=2) == [AnswerRestart(), AnswerText("new")]
    assert listener.event("model_asked", item_id=ITEM, turn=1, attempt=2) == []
    assert listener.said == "new"


def test_another_item_after_a_crash() -> None:
    """After a crash, a new item voids the unfinished text of the old one."""
    listener = Listener()
    listener.begin()
    listener.delta("half", 0)
    listener.event("run_started", starts=2)
    assert listener.event("model_asked", item_id="itm_2", turn=1, attempt=1) == [AnswerRestart()]
    listener.message("whole", item="itm_2")
    assert listener.said == "whole"


def test_a_different_durable_message() -> None:
    """A durable message that differs from the deltas replaces their text."""
    listener = Listener()
    listener.begin()
    listener.delta("wrong", 0)
    assert listener.message("right") == [AnswerRestart(), AnswerText("right"), MessageEnd("end")]


def test_two_items_of_one_run() -> None:
    """The next item does not void a finished one."""
    listener = Listener()
    listener.begin()
    listener.delta("first", 0)
    listener.message("first")
    assert listener.delta("second", 0, item="itm_2") == [AnswerText("second")]


def test_a_late_message_does_not_disturb_the_next_item() -> None:
    """A durable message that arrives during the next item is shown, and the next item continues."""
    listener = Listener()
    listener.begin()
    listener.delta("b", 0, item="itm_2")
    assert listener.message("a") == [AnswerText("a"), MessageEnd("end")]
    assert listener.delta("b!", 0, item="itm_2") == [AnswerText("!")]


def test_thinking_is_separate() -> None:
    """Reasoning and answer have separate offsets."""
    listener = Listener()
    listener.begin()
    assert listener.delta("hm", 0, kind="thinking") == [ReasoningText("hm")]
    assert listener.delta("so", 0) == [AnswerText("so")]


def test_repeated_events() -> None:
    """An event whose cursor was seen before is ignored."""
    listener = Listener(cursor=10)
    assert listener.event("run_ended", cursor=10, outcome="completed") == []
    assert listener.event("run_ended", cursor=11, outcome="completed") != []
    assert listener.follower.cursor == 11


def test_a_cancelled_queued_run() -> None:
    """A run that ends in the queue still shows its input."""
    listener = Listener()
    items = [{"kind": "text", "text": "later"}]
    listener.event("input_received", input_id="inp_1", items=items)
    listener.event("run_accepted", input_id="inp_1")
    ended = listener.event("run_ended", outcome="cancelled")
    assert ended == [StartedInput("later", "", RUN), RunEnd(RUN, "cancelled", "")]


def test_a_run_that_is_withdrawn_behind_another() -> None:
    """A run that ends in the queue behind a running one leaves that running."""
    listener = Listener()
    listener.event("run_started", run_id="run_1")
    listener.follower.queue_input("run_2", "later", "ada")
    assert listener.event("run_ended", run_id="run_2", outcome="cancelled") == [
        RunEnd("run_2", "cancelled", "")
    ]
    assert listener.follower.running == "run_1"


def test_joining_in_the_middle() -> None:
    """A late follower shows the text so far and the rest, without the input."""
    listener = Listener(cursor=100)
    assert listener.delta("so far", 0) == [AnswerText("so far")]
    assert listener.follower.running == RUN
    assert listener.message("so far so good") == [AnswerText(" so good"), MessageEnd("end")]
    assert listener.event("run_ended", outcome="completed") == [RunEnd(RUN, "completed", "")]


def test_a_failed_run() -> None:
    """The end of a failed run holds its error."""
    listener = Listener()
    listener.begin()
    assert listener.event("run_ended", outcome="failed", error={"reason": "x", "message": "no key"}) == [
        RunEnd(RUN, "failed", "no key")
    ]


def test_gap_and_synced_move_the_cursor() -> None:
    """A gap is reported, and both notifications move the cursor."""
    follower = StreamFollower()
    assert follower.feed("journal.gap", {"from": 0, "to": 7}) == [Notice("a part of the history was pruned")]
    assert follower.cursor == 7
    text = "the daemon's history ends before the last event shown here"
    assert follower.feed("journal.gap", {"from": 7, "to": 3}) == [Notice(text)]
    assert follower.cursor == 3
    restored = {"from": 3, "to": 2, "reason": "restored", "epoch": "e"}
    text = "a backup was restored: events shown here may not be in it"
    assert (follower.feed("journal.gap", restored), follower.cursor) == ([Notice(text)], 2)
    assert follower.feed("journal.synced", {"cursor": 9}) == []
    assert follower.cursor == 9


def test_unknown_notifications() -> None:
    """Unknown events, notifications and kinds of text are ignored."""
    listener = Listener()
    assert listener.event("tool_admired", call_id="c") == []
    assert listener.event("sun_risen") == []
    assert listener.delta("x", 0, kind="music") == []
    assert listener.follower.feed("journal.new", {"cursor": 99}) == []


def test_follow_ups_are_noted() -> None:
    """Each known cause of a follow-up has a note; an unknown cause has none."""
    listener, again = Listener(), {"role": "user", "items": [{"kind": "text", "text": "mend it"}]}
    for follow_up in get_args(FollowUp):
        emitted = listener.event("message_appended", item_id="x", message=again, follow_up=follow_up)
        assert emitted == [Notice(FOLLOW_UP_NOTES[follow_up])]
    assert listener.event("message_appended", item_id="x", message=again, follow_up="boredom") == []
    assert listener.said == ""


def test_user_messages_and_ended_sessions() -> None:
    """User messages are not answers; the end of a session is noted."""
    listener = Listener()
    user = {"role": "user", "items": [{"kind": "text", "text": "hi"}]}
    assert listener.event("message_appended", item_id="x", message=user) == []
    assert listener.event("session_ended") == [Notice("the session has ended and accepts no more input")]


# Calls, and what waits for a person.

CALL = "call_1"
ASKS: Any = {"call_id": CALL, "tool": "bash"}


def request_call(listener: Listener, **arguments: Any) -> list[DisplayChange]:
    """Return a message that requests a call."""
    listener.begin()
    call = {"kind": "tool_call", "call_id": CALL, "name": "bash", "arguments": arguments}
    message = {"role": "assistant", "items": [{"kind": "text", "text": "So."}, call]}
    return listener.event("message_appended", item_id=ITEM, message=message, stop_reason="tool_calls")


def judge(listener: Listener, decision: str, why: str) -> list[DisplayChange]:
    """Send the verdict on the call."""
    return listener.event("calls_judged", item_id=ITEM, verdicts=[{**ASKS, "decision": decision, "why": why}])


def test_life_of_a_call() -> None:
    """A call is requested, judge, started and completed, in this order."""
    listener = Listener()
    called = CallRequest(CALL, "bash", "ls")
    assert request_call(listener, command="ls") == [AnswerText("So."), MessageEnd("tool_calls"), called]
    assert judge(listener, "allow", "the tool's default") == [
        CallVerdict(CALL, "bash", "allow", "the tool's default")
    ]
    assert listener.event("tool_called", **ASKS) == [CallStart(CALL, "bash", "ls", 1000)]
    returned = listener.event("tool_returned", **ASKS, how="returned", text="a b", took_ms=20)
    assert returned == [CallEnd(CALL, "bash", "ls", "returned", "a b", 20)]


def test_call_output() -> None:
    """Output continues, repeated output is skipped, and a gap replaces the output so far."""
    listener = Listener()
    request_call(listener)
    listener.event("tool_called", **ASKS)

    def says(text: str, offset: int, attempt: int = 1) -> list[DisplayChange]:
        return listener.delta(text, offset, item=CALL, kind="output", attempt=attempt)

    assert says("one ", 0) == [CallOutput(CALL, "one ", False)]
    assert says("one two", 0) == [CallOutput(CALL, "two", False)]
    assert says("two", 4) == []
    assert says("five", 20) == [CallOutput(CALL, "five", True)]
    assert says(" six", 24) == [CallOutput(CALL, " six", False)]
    assert says("anew", 0, attempt=2) == [CallOutput(CALL, "anew", True)]
    assert says("late", 28, attempt=1) == []
    assert listener.delta("x", 0, item="another", kind="output") == []


def test_call_output_of_another_attempt() -> None:
    """A new attempt voids the output so far, whether output or event arrives first."""
    listener = Listener()
    request_call(listener)
    listener.event("tool_called", **ASKS)
    listener.delta("old", 0, item=CALL, kind="output")
    began = CallStart(CALL, "bash", "", 1000)
    assert listener.event("tool_called", **ASKS, attempt=2) == [CallOutput(CALL, "", True), began]
    listener.delta("new", 0, item=CALL, kind="output", attempt=3)
    assert listener.event("tool_called", **ASKS, attempt=3) == [began]


def test_a_denied_call() -> None:
    """The result of a denied call names the source of its verdict."""
    listener = Listener()
    request_call(listener)
    assert judge(listener, "deny", "managed rule bash deny") == [
        CallVerdict(CALL, "bash", "deny", "managed rule bash deny")
    ]
    [returned] = listener.event("tool_returned", **ASKS, how="denied", text="This was not allowed: no")
    assert isinstance(returned, CallEnd)
    assert (returned.denied_by, returned.denial_shown) == ("managed rule bash deny", False)


def test_an_approval_and_its_answer() -> None:
    """An approval holds the call's input; its answer is reported, and a denial only once."""
    listener = Listener()
    request_call(listener, command="rm x")
    [opening] = listener.event("approval_requested", approval_id="apr_1", **ASKS, subject="rm x", note="rule")
    assert isinstance(opening, ApprovalOpening)
    assert opening.approval["arguments"] == {"command": "rm x"}
    assert (opening.approval["approval_id"], opening.approval["requested_at_ms"]) == ("apr_1", 1000)
    answer: Any = {"approval_id": "apr_1", "call_id": CALL, "decision": "deny", "actor": "uid:7"}
    assert listener.event("approval_answered", **answer, note="no") == [
        ApprovalClosing("apr_1", "bash", "rm x", "deny", "uid:7", "no")
    ]
    [returned] = listener.event("tool_returned", **ASKS, how="denied", text="no")
    assert isinstance(returned, CallEnd)
    assert returned.denial_shown


@pytest.mark.parametrize(("how", "known"), [("expired", True), ("withdrawn", False), ("renewed", False)])
def test_an_approval_that_lapses(how: str, known: bool) -> None:
    """A lapsed approval names no person; an expired one counts as denied."""
    listener = Listener()
    request_call(listener)
    listener.event("approval_requested", approval_id="apr_1", **ASKS)
    lapsed = listener.event("approval_lapsed", approval_id="apr_1", call_id=CALL, how=how)
    assert lapsed == [ApprovalClosing("apr_1", "bash", "", how)]
    [returned] = listener.event("tool_returned", **ASKS, how="denied", text="x")
    assert isinstance(returned, CallEnd)
    assert returned.denial_shown is known


def test_a_question_and_its_answer() -> None:
    """The answer of a question shows the labels of the options."""
    listener = Listener()
    options = [{"option_id": "1", "label": "red"}, {"option_id": "2", "label": "blue"}]
    questions = [{"key": "c", "question": "Which?", "options": options}, {"key": "w", "question": "Why?"}]
    [opening] = listener.event("question_asked", question_id="qst_1", call_id=CALL, questions=questions)
    assert isinstance(opening, QuestionOpening)
    assert opening.question["questions"] == questions
    answers = [{"key": "c", "selected": ["2"]}, {"key": "w", "text": "so"}]
    answered: Any = {"question_id": "qst_1", "call_id": CALL, "actor": "uid:7"}
    assert listener.event("question_answered", **answered, answers=answers) == [
        QuestionClosing("qst_1", "answered", "uid:7", "blue / so")
    ]
    assert listener.event("question_answered", **answered, declined=True) == [
        QuestionClosing("qst_1", "declined", "uid:7")
    ]
    lapsed = listener.event("question_lapsed", question_id="qst_1", call_id=CALL, how="expired")
    assert lapsed == [QuestionClosing("qst_1", "expired")]


def test_a_doubt_and_its_end() -> None:
    """A call in doubt holds the call's input; its resolution is reported even after its run."""
    listener = Listener()
    request_call(listener, command="rm x")
    [doubted] = listener.event("indoubt_opened", indoubt_id="idt_1", **ASKS, note="gone")
    assert isinstance(doubted, DoubtOpening)
    assert doubted.doubt["arguments"] == {"command": "rm x"}
    listener.event("run_ended", outcome="completed")
    settled: Any = {
        "indoubt_id": "idt_1",
        **ASKS,
        "outcome": "done",
        "actor": "uid:7",
        "justification": "seen",
    }
    assert listener.event("indoubt_resolved", **settled) == [
        DoubtClosing("idt_1", "bash", "done", "uid:7", "seen")
    ]


def test_other_notes_about_runs() -> None:
    """A repeated call after a crash, a steer message and a new permission mode are reported."""
    listener = Listener()
    request_call(listener)
    [noted] = listener.event("call_probed", **ASKS)
    assert isinstance(noted, Notice)
    assert "runs again" in noted.text
    assert listener.event("tool_observed", call_id=CALL, evidence={}) == []
    items = [{"kind": "text", "text": "faster"}]
    assert listener.event("steered", items=items, sender="ada") == [SteerText("faster", "ada")]
    marked = listener.event("steered", items=items, sender="ada", origin="connector", source="mail")
    assert marked == [SteerText("faster", "ada [connector mail]")]
    [noted] = listener.event("session_updated", changes={"permission_mode": "plan"})
    assert isinstance(noted, Notice)
    assert "the permission mode is now plan" in noted.text
    [noted] = listener.event("session_updated", changes={"route": "claude", "model": None})
    assert noted == Notice("the route is now claude; it applies to runs accepted from here on")
    assert listener.event("session_updated", changes={"title": "x"}) == []


def test_notes_about_shells() -> None:
    """A stalled shell and the end of a shell are noted; other tasks are not."""
    listener = Listener()
    assert listener.event("task_created", task_id="tsk_1", title="npm run dev") == []
    (asks,) = listener.event("task_stalled", task_id="tsk_1", note="for the model")
    assert asks == Notice("the background shell tsk_1 waits for input, which it cannot receive")
    (ended,) = listener.event(
        "task_ended", task_id="tsk_1", status="failed", terminal_reason="exited", exit_code=2, note="x"
    )
    assert ended == Notice("the background shell tsk_1 has ended: failed, exited with exit code 2")


def test_notes_about_the_context() -> None:
    """A compaction and a failed compaction are noted."""
    listener = Listener()
    compacted: Any = {"trigger": "auto", "strategy": "summary", "upto": 3}
    assert listener.event("context_compacted", **compacted, pre_tokens=90_000, post_tokens=2_000) == [
        Notice("the model now sees a summary of the conversation so far: 90000 tokens became 2000")
    ]
    assert listener.event("context_compacted", **compacted | {"strategy": "results"}) == [
        Notice("the model now sees less of the conversation so far")
    ]
    failed = listener.event("compaction_failed", trigger="manual", error={"reason": "x", "message": "no key"})
    assert failed == [Notice("the conversation could not be summarized: no key")]


def test_calls_of_an_earlier_message() -> None:
    """A follower that learned an earlier message knows its calls."""
    call = {"kind": "tool_call", "call_id": CALL, "name": "bash", "arguments": {"command": "ls"}}
    known, unknown = Listener(), Listener()
    known.follower.learn({"role": "assistant", "items": [call]})
    for listener, about in ((known, "ls"), (unknown, "")):
        assert listener.event("tool_called", **ASKS) == [CallStart(CALL, "bash", about, 1000)]
        assert listener.delta("x", 0, item=CALL, kind="output") == [CallOutput(CALL, "x", False)]
        assert listener.event("tool_returned", **ASKS, how="returned", text="") == [
            CallEnd(CALL, "bash", about, "returned", "")
        ]


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_any_deltas_show_the_answer_once(text: str, cuts: list[tuple[int, int]]) -> None:
    """With lost, repeated and overlapping deltas, the text is always a prefix and finally whole."""
    listener = Listener()
    listener.begin()
    for start, length in cuts:
        if text[start : start + length]:
            listener.delta(text[start : start + length], start)
        assert text.startswith(listener.said)
    listener.message(text)
    assert listener.said == text


def test_failures_of_a_message() -> None:
    """Of the results in a message of the history, the failed ones are listed."""
    result: dict[str, Any] = {"kind": "tool_result", "call_id": "c", "name": "edit_file", "text": "no match"}
    items = [{"kind": "text", "text": "x"}, result, result | {"is_error": True}]
    assert list_failures({"items": items}) == [CallEnd("c", "edit_file", "", "failed", "no match")]
