"""Following the agents below a session: events in, changes out."""

from typing import Any

from kheishctl.render import children as module
from kheishctl.render.changes import (
    ApprovalClosing,
    ApprovalOpening,
    ChildProgress,
    DisplayChange,
    DoubtOpening,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.render.children import CHILD_EVENTS, ChildFollower, format_progress
from protocol.journal.line import EVENT_TYPES

CALL = {"kind": "tool_call", "call_id": "c", "name": "bash", "arguments": {"command": "ls"}}


class Journal:
    """A follower of the agents below session ``r`` and a fake daemon that sends it events."""

    def __init__(self) -> None:
        self.follower = ChildFollower("r")
        self.cursor = 0

    def event(self, session_id: str, type_: str, **fields: Any) -> list[DisplayChange]:
        """Feed an event."""
        self.cursor += 1
        event = {"type": type_, "session_id": session_id, "run_id": "run", "at_ms": 1, **fields}
        return self.follower.feed("journal.event", {"cursor": self.cursor, "event": event})

    def spawn(self, parent_id: str, child_id: str) -> list[DisplayChange]:
        """Feed the event of a new child."""
        return self.event(parent_id, "child_spawned", child_id=child_id, name=child_id)

    def say(self, session_id: str, *items: dict[str, Any]) -> list[DisplayChange]:
        """Feed a message of a child's model, which took 12 tokens."""
        message = {"role": "assistant", "items": list(items)}
        usage = {"input_tokens": 10, "output_tokens": 2}
        return self.event(session_id, "message_appended", item_id="i", message=message, usage=usage)


def test_the_types_of_events_exist() -> None:
    """Every type of the subscription is one of the journal."""
    assert set(CHILD_EVENTS) <= EVENT_TYPES


def test_progress_of_a_tree() -> None:
    """Every agent below the session has a path from it, a status, its tokens and its last line."""
    journal = Journal()
    assert journal.spawn("r", "a") == [ChildProgress("a", "a", "queued", 0, "", False)]
    assert journal.spawn("a", "b") == [ChildProgress("b", "a/b", "queued", 0, "", False)]
    assert journal.spawn("other", "c") == []
    assert journal.event("b", "run_started", starts=1) == [ChildProgress("b", "a/b", "running", 0, "", False)]
    text = {"kind": "text", "text": "one\ntwo\n"}
    assert journal.say("b", text) == [ChildProgress("b", "a/b", "running", 12, "two", False)]
    assert journal.say("b", text, CALL)[0] == ChildProgress("b", "a/b", "running", 24, "→ bash ls", False)
    ended = {"outcome": "failed", "error": {"message": "no"}}
    assert journal.event("b", "run_ended", **ended) == [ChildProgress("b", "a/b", "failed", 24, "no", True)]
    assert journal.event("b", "agent_closed") == []
    assert journal.event("b", "run_started", starts=1) == []
    assert journal.event("r", "run_started", starts=1) == []
    journal.cursor -= 1
    assert journal.event("a", "run_started", starts=1) == [], "it was sent before"


def test_requests_have_the_path_of_their_agent() -> None:
    """Approvals, questions and calls in doubt are passed on; questions to an agent above are not."""
    journal = Journal()
    journal.spawn("r", "a")
    journal.say("a", CALL)
    request = {"approval_id": "p", "call_id": "c", "tool": "bash"}
    opening, progress = journal.event("a", "approval_requested", **request)
    assert isinstance(opening, ApprovalOpening)
    assert (opening.approval["agent_path"], opening.approval["arguments"]) == ("a", {"command": "ls"})
    assert isinstance(progress, ChildProgress)
    assert progress.status == "waiting for approval"
    closing, progress = journal.event("a", "approval_answered", decision="deny", **request)
    assert isinstance(closing, ApprovalClosing)
    assert (closing.tool, closing.outcome) == ("a: bash", "deny")
    question = {"question_id": "q", "call_id": "c", "questions": []}
    opening, _ = journal.event("a", "question_asked", **question)
    assert isinstance(opening, QuestionOpening)
    assert opening.question["agent_path"] == "a"
    closing, _ = journal.event("a", "question_lapsed", how="expired", **question)
    assert isinstance(closing, QuestionClosing)
    assert closing.agent_path == "a"
    hidden = question | {"question_id": "h", "to_agent": "r"}
    assert [type(change) for change in journal.event("a", "question_asked", **hidden)] == [ChildProgress]
    answered = journal.event("a", "question_answered", **hidden)
    assert [type(change) for change in answered] == [ChildProgress]
    doubt = journal.event("a", "indoubt_opened", call_id="c", tool="bash", indoubt_id="d")[0]
    assert isinstance(doubt, DoubtOpening)
    assert doubt.doubt["tool"] == "a: bash"


def test_agents_that_exist_already(monkeypatch: Any) -> None:
    """A tree can be learned from a list; the number of followed agents is bounded."""
    follower = ChildFollower("r")
    rows: list[dict[str, Any]] = [
        {"agent_id": "x", "name": "x", "status": "idle"},
        {"agent_id": "r", "name": "r", "status": "running", "parent_id": "x", "active_run_id": "1"},
        {"agent_id": "a", "name": "a", "status": "idle", "parent_id": "r", "usage": {"input_tokens": 3}},
        {
            "agent_id": "b",
            "name": "b",
            "status": "waiting_for_approval",
            "parent_id": "a",
            "active_run_id": "2",
        },
    ]
    assert follower.add(rows) == [ChildProgress("b", "a/b", "waiting for approval", 0, "", False)]
    assert follower.mark({"session_id": "b"}) == {"session_id": "b", "agent_path": "a/b"}
    assert follower.mark({"session_id": "b", "to_agent": "a"}) is None
    assert follower.mark({"session_id": "x"}) is None
    monkeypatch.setattr(module, "MAX_CHILDREN", 2)
    journal = Journal()
    journal.spawn("r", "a")
    journal.spawn("r", "b")
    assert journal.spawn("r", "c") == []
    journal.event("a", "run_ended", outcome="completed")
    assert len(journal.spawn("r", "d")) == 1


def test_a_line_is_sanitized_and_short() -> None:
    """A path never pushes the status off the line."""
    progress = ChildProgress("a", "x/" * 99, "running", 5, "a\x1b[2J", False)
    line = format_progress(progress, 60)
    assert len(line) <= 60
    assert "running · 5" in line
    assert format_progress(progress).endswith("… · running · 5 tokens · a␛[2J")
