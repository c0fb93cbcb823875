"""Sessions: the record, and plan mode."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.session import (
    evolve,
    leave_plan_mode,
)
from protocol.events.context import ContextCompacted
from protocol.events.conversation import ConversationBound
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.run import InputReceived, MessageAppended, RunEnded
from protocol.events.session import SessionCreated, SessionEnded, SessionRenamed, SessionUpdated
from protocol.events.skill import SkillActivated, SkillDeactivated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_event, encode_line
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, Session, Todo
from protocol.transcript import Message, Text, Usage
from tests.support.machine import acceptance

CREATED = SessionCreated(agent="default", sender="user", metadata={"team": "red"})


def fold(*events: tuple[JournalEvent, str | None], created: SessionCreated = CREATED) -> Session:
    """Return the session after its creation and some events, each with its run."""
    session = None
    for cursor, (event, run_id) in enumerate(((created, None), *events), 1):
        envelope = Envelope(cursor=cursor, at_ms=1_000 * cursor, session_id="ses_1", run_id=run_id)
        stored = decode_event(encode_line(envelope, event))
        assert not isinstance(stored, Unknown)
        session = evolve(session, envelope, stored)
    assert session is not None
    return session


def test_a_session_begins_with_its_creation() -> None:
    """The creation sets the properties; a journal that begins otherwise is damaged."""
    session = fold()
    assert (session.agent, session.sender, session.metadata) == ("default", "user", {"team": "red"})
    assert (session.created_cursor, session.updated_cursor, session.created_at_ms) == (1, 1, 1_000)
    with pytest.raises(AssertionError, match="creation"):
        evolve(None, Envelope(cursor=1, at_ms=1, session_id="ses_1"), SessionEnded())


def test_runs_queue_until_they_end() -> None:
    """The first open run has the slot; a run that ends leaves the queue at any position."""
    queue = [(acceptance(), "run_1"), (acceptance(), "run_2"), (acceptance(), "run_3")]
    assert fold(*queue).open_runs == ["run_1", "run_2", "run_3"]
    session = fold(*queue, (RunEnded(outcome="cancelled"), "run_2"), (RunEnded(outcome="failed"), "run_1"))
    assert session.open_runs == ["run_3"]
    assert session.runs == 3


def test_usage_adds_up() -> None:
    """The usage of all messages is summed."""
    answer = MessageAppended(item_id="itm", message=Message("assistant", [Text("x")]), usage=Usage(5, 7))
    assert fold((answer, "run_1"), (answer, "run_1")).usage == Usage(10, 14)


def test_an_update_sets_and_clears() -> None:
    """An update sets values by name, and null clears; a scope has its own type."""
    session = fold(
        (SessionUpdated(changes={"route": "local", "model": "m", "scope": {"tools": []}}), None),
        (SessionUpdated(changes={"route": None}), None),
        (SessionRenamed(title="A title"), None),
    )
    assert (session.route, session.model, session.title) == (None, "m", "A title")
    assert session.scope == CapabilityScope(tools=[])
    assert fold((SessionEnded(), None)).status == "ended"


def test_other_events_do_not_change_the_record() -> None:
    """Other events do not even move the cursor, so the record is written less often."""
    events: tuple[JournalEvent, ...] = (
        InputReceived(input_id="inp_1", items=[Text("hello")]),
        ConversationBound(agent="default", sender="user"),
    )
    assert fold(*((event, None) for event in events)) == fold()


# Plan mode.

EXITED = PlanExited(artifact_id="art_1", content="first this, then that", created_at_ms=1)


def fold_plan(*events: JournalEvent, mode: PermissionMode | None = None) -> Session:
    """Return the session of a mode after some events; cursors count from 1, its creation."""
    created = SessionCreated(agent="default", permission_mode=mode)
    return fold(*((event, "run_1") for event in events), created=created)


def plan_state(session: Session) -> tuple[Any, ...]:
    """Return the fields about plan mode."""
    return session.permission_mode, session.plan_mode, session.pre_plan_mode


def test_leaving_plan_mode_restores_the_mode() -> None:
    """The session's own mode is restored, also if it had none."""
    for mode in (None, *MODES):
        entered = fold_plan(PlanEntered(), mode=mode)
        assert plan_state(entered) == ("plan", True, mode)
        exited = fold_plan(PlanEntered(), EXITED, mode=mode)
        assert plan_state(exited) == plan_state(fold_plan(mode=mode))
        assert (exited.plan_cursor, exited.updated_cursor) == (3, 3)


def test_entering_twice_remembers_the_first_mode() -> None:
    """Entering plan mode twice remembers the mode before the first."""
    assert plan_state(fold_plan(PlanEntered(), PlanEntered(), EXITED, mode="acceptEdits")) == (
        "acceptEdits",
        False,
        None,
    )


def test_a_plan_without_plan_mode_changes_no_mode() -> None:
    """If a person set the mode to plan, a plan is recorded and the mode stays."""
    session = fold_plan(EXITED, mode="plan")
    assert plan_state(session) == ("plan", False, None)
    assert session.plan_cursor == 2


def test_setting_the_mode_ends_plan_mode() -> None:
    """After the mode was set, leaving plan mode restores nothing."""
    update = SessionUpdated(changes={"permission_mode": "dontAsk"})
    assert plan_state(fold_plan(PlanEntered(), update, mode="acceptEdits")) == ("dontAsk", False, None)
    assert plan_state(fold_plan(PlanEntered(), update, EXITED, mode="acceptEdits")) == (
        "dontAsk",
        False,
        None,
    )
    unrelated = SessionUpdated(changes={"model": "m"})
    assert plan_state(fold_plan(PlanEntered(), unrelated)) == ("plan", True, None)


def test_leave_plan_mode() -> None:
    """The mode after plan mode is the previous one; a mode set by a person stays."""
    assert leave_plan_mode(fold_plan(PlanEntered(), mode="acceptEdits")).permission_mode == "acceptEdits"
    assert leave_plan_mode(fold_plan(mode="plan")).permission_mode == "plan"


def test_todos_cursor() -> None:
    """The record points at the newest list of todos."""
    todos = TodosWritten(todos=[Todo(todo_id="1", content="look")])
    assert fold_plan().todos_cursor is None
    assert fold_plan(todos, TodosWritten(todos=[])).todos_cursor == 3


EVENTS = st.lists(
    st.sampled_from((PlanEntered(), EXITED, TodosWritten(todos=[]), SessionUpdated(changes={"model": "m"})))
)


@given(EVENTS, st.sampled_from((None, *MODES)))
def test_plan_mode_never_widens(events: list[JournalEvent], mode: PermissionMode | None) -> None:
    """After any events, the mode is the original one or plan."""
    session = fold_plan(*events, mode=mode)
    assert session.permission_mode in ((mode, "plan") if session.plan_mode else (mode,))
    assert leave_plan_mode(session).permission_mode == mode


# Skills.


def test_active_skills_are_in_the_order_of_activation() -> None:
    """A skill that is activated again is last; ending one leaves the others."""
    first, second = (SkillActivated(name=name, text=name * 64, text_bytes=1) for name in "ab")
    session = fold_plan(first, second, SkillActivated(name="a", text="c" * 64, text_bytes=2, by_call=True))
    assert [(skill.name, skill.text[0], skill.activated_cursor) for skill in session.active_skills] == [
        ("b", "b", 3),
        ("a", "c", 4),
    ]
    assert fold_plan(first, second, SkillDeactivated(name="a")).active_skills[0].name == "b"


def test_compaction_is_noted_for_active_skills() -> None:
    """The cursor of the last compaction is kept while a skill is active; dropped results are none."""
    skill = SkillActivated(name="a", text="a" * 64, text_bytes=1, by_call=True)
    compacted = [
        ContextCompacted(upto=7, strategy="summary", trigger="auto"),
        ContextCompacted(upto=5, strategy="snip", trigger="auto"),
        ContextCompacted(upto=9, strategy="results", trigger="auto"),
    ]
    assert fold_plan(skill, *compacted).compacted_cursor == 7
    assert fold_plan(*compacted).compacted_cursor == 0
