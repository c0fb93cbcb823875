"""Plan mode, as a session's record has it: what enters and leaves it, and what it never widens."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.planning import unplanned
from kheishd.core.session import evolve
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.session import SessionCreated, SessionUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_event, encode_line
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import Session, Todo

EXITED = PlanExited(artifact_id="art_1", content="first this, then that", created_at_ms=1)


def fold(*events: JournalEvent, mode: PermissionMode | None = None) -> Session:
    """A session of a mode after these events; cursors count from 1, its creation."""
    session = None
    for cursor, event in enumerate((SessionCreated(agent="default", permission_mode=mode), *events), 1):
        envelope = Envelope(cursor=cursor, at_ms=cursor, session_id="ses_1", run_id="run_1")
        stored = decode_event(encode_line(envelope, event))
        assert not isinstance(stored, Unknown)
        session = evolve(session, envelope, stored)
    assert session is not None
    return session


def planning(session: Session) -> tuple[Any, ...]:
    """What a record says about plan mode."""
    return session.permission_mode, session.plan_mode, session.pre_plan_mode


def test_entering_and_leaving_is_as_before() -> None:
    """The session's own mode comes back, also where it had none."""
    for mode in (None, *MODES):
        entered = fold(PlanEntered(), mode=mode)
        assert planning(entered) == ("plan", True, mode)
        left = fold(PlanEntered(), EXITED, mode=mode)
        assert planning(left) == planning(fold(mode=mode))
        assert (left.plan_cursor, left.updated_cursor) == (3, 3)


def test_entering_twice_remembers_the_first_mode() -> None:
    """The mode before plan mode is not plan mode."""
    assert planning(fold(PlanEntered(), PlanEntered(), EXITED, mode="acceptEdits")) == (
        "acceptEdits",
        False,
        None,
    )


def test_a_plan_without_plan_mode_changes_no_mode() -> None:
    """Where somebody else set the mode to plan, a plan is kept and the mode stays."""
    kept = fold(EXITED, mode="plan")
    assert planning(kept) == ("plan", False, None)
    assert kept.plan_cursor == 2


def test_a_mode_that_somebody_sets_ends_plan_mode() -> None:
    """Leaving it later brings nothing back."""
    set_ = SessionUpdated(changes={"permission_mode": "dontAsk"})
    assert planning(fold(PlanEntered(), set_, mode="acceptEdits")) == ("dontAsk", False, None)
    assert planning(fold(PlanEntered(), set_, EXITED, mode="acceptEdits")) == ("dontAsk", False, None)
    other = SessionUpdated(changes={"model": "m"})
    assert planning(fold(PlanEntered(), other)) == ("plan", True, None)


def test_what_is_pinned_is_what_holds_after_plan_mode() -> None:
    """A run that begins in plan mode may leave it; one that is held in it may not."""
    assert unplanned(fold(PlanEntered(), mode="acceptEdits")).permission_mode == "acceptEdits"
    assert unplanned(fold(mode="plan")).permission_mode == "plan"


def test_todos_stand_where_they_were_written_last() -> None:
    """The record points at the newest list."""
    todos = TodosWritten(todos=[Todo(todo_id="1", content="look")])
    assert fold().todos_cursor is None
    assert fold(todos, TodosWritten(todos=[])).todos_cursor == 3


EVENTS = st.lists(
    st.sampled_from((PlanEntered(), EXITED, TodosWritten(todos=[]), SessionUpdated(changes={"model": "m"})))
)


@given(EVENTS, st.sampled_from((None, *MODES)))
def test_no_planning_ever_widens(events: list[JournalEvent], mode: PermissionMode | None) -> None:
    """Whatever an agent does, its session's mode is the one it was given, or plan."""
    session = fold(*events, mode=mode)
    assert session.permission_mode in ((mode, "plan") if session.plan_mode else (mode,))
    assert unplanned(session).permission_mode == mode
