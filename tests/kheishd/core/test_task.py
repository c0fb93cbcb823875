"""Tasks: the fold of their events, and every rule about how they change, against a model of a session."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core import task as rules
from kheishd.core.task import ended_note, evolve, may_create, may_delete, may_update, revised, stalled_note
from protocol.errors.rpc import InvalidParams
from protocol.errors.task import (
    TaskAlreadyEnded,
    TaskBlocked,
    TaskCycle,
    TaskNeeded,
    TaskNotFound,
    TaskOutputMissing,
    TaskRunning,
    TasksFull,
    TaskTitleTaken,
)
from protocol.events.task import (
    TaskCreated,
    TaskDeleted,
    TaskEnded,
    TaskEvent,
    TaskStalled,
    TaskStarted,
    TaskStopRequested,
    TaskUpdated,
)
from protocol.journal.envelope import Envelope
from protocol.limits.task import MAX_OPEN_TASKS
from protocol.objects.task import OPEN, ShellCommand, Task, TaskStatus

COMMAND = ShellCommand(command="npm run dev", workdir="/w", workspace="/w", sandboxed=True, call_id="c1")
STATUSES: tuple[TaskStatus, ...] = ("pending", "in_progress", "blocked", "completed", "failed", "cancelled")


def at(cursor: int, **more: Any) -> Envelope:
    """The envelope of an event at a time that is as far on as the cursor."""
    return Envelope(cursor=cursor, at_ms=1000 + cursor, session_id="ses_1", **more)


def folded(*events: TaskEvent, **more: Any) -> Task:
    """What events give, one after another."""
    task: Task | None = None
    for cursor, event in enumerate(events, 1):
        task = evolve(task, at(cursor, **more), event)
    assert task is not None
    return task


def new(task_id: str = "a", title: str = "", **more: Any) -> TaskCreated:
    """A task is created, titled by its id if nothing else is said."""
    return TaskCreated(task_id=task_id, title=title or f"do {task_id}", **more)


SHELL = new(kind="shell", shell=COMMAND)


class Session:
    """The tasks of one session, as the rules ask for them."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = {task.task_id: task for task in tasks}

    def task(self, task_id: str) -> Task | None:
        return self.tasks.get(task_id)

    def titled(self, title: str) -> Iterable[str]:
        digest = rules.title_digest(title)
        return [task.task_id for task in self._open() if rules.title_digest(task.title) == digest]

    def waiting_for(self, task_id: str) -> Iterable[str]:
        return [task.task_id for task in self._open() if task_id in task.blocked_by]

    def open(self) -> int:
        return sum(task.kind == "task" for task in self._open())

    def _open(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.status in OPEN and task.deleted_at_ms is None]


def task(task_id: str, status: TaskStatus = "pending", *blocked_by: str, **more: Any) -> Task:
    """A task of a status that waits for others."""
    created = folded(new(task_id, blocked_by=list(blocked_by)))
    return replace(created, status=status, **more)


# The fold.


def test_created() -> None:
    """It is pending; where, when and by which run it began is kept."""
    made = folded(new("a", "Paint", description="blue", owner="ann", metadata={"n": 1}), run_id="run_1")
    assert (made.title, made.status, made.kind, made.owner) == ("Paint", "pending", "task", "ann")
    assert (made.created_cursor, made.created_at_ms, made.created_by_run_id) == (1, 1001, "run_1")
    assert (made.description, made.metadata, made.session_id) == ("blue", {"n": 1}, "ses_1")


def test_updated() -> None:
    """What an update names changes, null clears, and the rest stays; its reason goes with the status."""
    changed = folded(
        new(owner="ann"),
        TaskUpdated(task_id="a", status="blocked", note="no paint"),
        TaskUpdated(task_id="a", owner=None, description="red"),
    )
    assert (changed.status, changed.note, changed.owner) == ("blocked", "no paint", None)
    assert (changed.description, changed.title, changed.updated_at_ms) == ("red", "do a", 1003)
    assert changed.ended_at_ms is None


def test_what_has_ended_no_longer_changes() -> None:
    """Neither is it reopened, whatever the journal says; when it ended is kept."""
    done = folded(new(), TaskUpdated(task_id="a", status="completed", output="done"))
    assert (done.ended_at_ms, done.output) == (1002, "done")
    assert evolve(done, at(3), TaskUpdated(task_id="a", status="pending")) is done
    assert evolve(done, at(3), TaskStopRequested(task_id="a")) is done


def test_what_was_deleted_does_not_come_back() -> None:
    """Its place is left, and nothing of what it said; no event changes that."""
    gone = folded(
        new(description="secret", blocked_by=["b"], metadata={"n": 1}), TaskDeleted(task_id="a"), new()
    )
    assert (gone.deleted_at_ms, gone.title, gone.created_cursor) == (1002, "do a", 1)
    assert (gone.description, gone.blocked_by, gone.metadata) == ("", [], {})
    for event in (TaskUpdated(task_id="a", title="back"), TaskDeleted(task_id="a"), new()):
        assert evolve(gone, at(9), event) is gone


def test_an_ended_task_can_be_deleted() -> None:
    """That it was completed is still known: others waited for it."""
    done = folded(new(), TaskUpdated(task_id="a", status="completed", output="x"), TaskDeleted(task_id="a"))
    assert (done.status, done.ended_at_ms, done.deleted_at_ms, done.output) == ("completed", 1002, 1003, "")


def test_a_shell_from_its_beginning_to_its_end() -> None:
    """Its process, that it stalled, and how it ended."""
    ended = folded(
        SHELL,
        TaskStarted(task_id="a", pid=7, start_ticks=99),
        TaskStalled(task_id="a"),
        TaskEnded(
            task_id="a",
            status="failed",
            terminal_reason="exited",
            exit_code=3,
            output_bytes=10,
            output_kept_bytes=8,
        ),
    )
    assert ended.shell is not None
    assert (ended.status, ended.ended_at_ms) == ("failed", 1004)
    assert (ended.shell.command, ended.shell.pid, ended.shell.start_ticks) == ("npm run dev", 7, 99)
    assert (ended.shell.stalled_at_ms, ended.shell.exit_code) == (1003, 3)
    assert (ended.shell.output_bytes, ended.shell.output_kept_bytes) == (10, 8)
    assert folded(SHELL, TaskStarted(task_id="a", pid=7, start_ticks=99)).status == "in_progress"


def test_the_first_who_stops_a_shell_is_who_did() -> None:
    """A second wish changes nothing, and the task's reason is that of the first."""
    wanted = folded(SHELL, TaskStopRequested(task_id="a", note="enough"), actor="uid:1000")
    again = evolve(wanted, at(3, actor="uid:7"), TaskStopRequested(task_id="a", note="late"))
    assert again.shell is not None
    assert (again.shell.stop_note, again.shell.stopped_by) == ("enough", "uid:1000")
    ended = TaskEnded(task_id="a", status="cancelled", terminal_reason="stopped", exit_code=143)
    assert evolve(again, at(4), ended).note == "enough"
    by_agent = folded(SHELL, TaskStopRequested(task_id="a"), run_id="run_2")
    assert by_agent.shell is not None
    assert by_agent.shell.stopped_by == "run:run_2"


def test_an_event_about_nothing_is_damage() -> None:
    """The first event creates the task, and only a shell has a process."""
    with pytest.raises(AssertionError, match="creation"):
        evolve(None, at(1), TaskDeleted(task_id="a"))
    with pytest.raises(AssertionError, match="shell"):
        folded(new(), TaskStarted(task_id="a", pid=1, start_ticks=1))


# Creating.


def test_a_title_is_one_task_s_as_long_as_that_is_open() -> None:
    """However it is spelled; what has ended or was deleted does not count."""
    session = Session(task("a"))
    with pytest.raises(TaskTitleTaken, match=r"a is open and has that title"):
        may_create(session, new("b", "  DO   a "))
    for ended in (
        task("a", "completed"),
        task("a", "cancelled"),
        task("a", "failed"),
        task("a", deleted_at_ms=1),
    ):
        may_create(Session(ended), new("b", "do a"))


def test_what_is_waited_for_must_be_there() -> None:
    """In the same session, and not deleted."""
    with pytest.raises(TaskNotFound, match="'nowhere'"):
        may_create(Session(task("a")), new("b", blocked_by=["a", "nowhere"]))
    with pytest.raises(TaskNotFound):
        may_create(Session(task("a", deleted_at_ms=5)), new("b", blocked_by=["a"]))
    may_create(Session(task("a", "failed")), new("b", blocked_by=["a"]))


def test_so_many_may_be_open() -> None:
    """Those that have ended make room."""
    many = [task(f"t{number}") for number in range(MAX_OPEN_TASKS)]
    with pytest.raises(TasksFull):
        may_create(Session(*many), new("more"))
    may_create(Session(*many[1:], replace(many[0], status="failed")), new("more"))


def test_titles() -> None:
    """Kept with single spaces; one without words is refused."""
    assert rules.titled("  Paint\n the  fence ") == "Paint the fence"
    with pytest.raises(InvalidParams, match="words"):
        rules.titled(" \t\n")


# Changing.


def change(task_id: str = "a", **changes: Any) -> TaskUpdated:
    """An update."""
    return TaskUpdated(task_id=task_id, **changes)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_has_ended_is_not_changed(status: TaskStatus) -> None:
    """Not even its text."""
    ended = task("a", status)
    with pytest.raises(TaskAlreadyEnded):
        may_update(Session(ended), ended, change(description="x"))


def test_a_shell_changes_by_itself_only() -> None:
    """While it runs; and once it has ended it is like any other."""
    live = folded(SHELL)
    with pytest.raises(TaskRunning):
        may_update(Session(live), live, change(title="x"))
    with pytest.raises(TaskAlreadyEnded):
        may_update(Session(live), replace(live, status="failed"), change(title="x"))


@pytest.mark.parametrize("status", ["in_progress", "completed"])
def test_what_waits_is_not_begun(status: TaskStatus) -> None:
    """All that it waits for must be completed; failed is not completed. Deleted, but completed, is."""
    for blocker in ("pending", "in_progress", "blocked", "failed", "cancelled"):
        session = Session(task("a", "pending", "b"), task("b", blocker))
        with pytest.raises(TaskBlocked, match=rf"b \({blocker}\)"):
            may_update(session, session.tasks["a"], change(status=status, output="x"))
    for done in (task("b", "completed"), task("b", "completed", deleted_at_ms=4)):
        session = Session(task("a", "pending", "b"), done)
        may_update(session, session.tasks["a"], change(status=status, output="x"))


def test_one_that_is_worked_on_gets_no_blocker() -> None:
    """Unless it is put back in the same change."""
    session = Session(task("a", "in_progress"), task("b"))
    with pytest.raises(TaskBlocked):
        may_update(session, session.tasks["a"], change(blocked_by=["b"]))
    may_update(session, session.tasks["a"], change(blocked_by=["b"], status="blocked"))


def test_it_is_completed_with_its_output() -> None:
    """Given with the status or before; spaces are none."""
    session = Session(task("a"))
    for empty in ({}, {"output": " \n"}):
        with pytest.raises(TaskOutputMissing):
            may_update(session, session.tasks["a"], change(status="completed", **empty))
    may_update(session, session.tasks["a"], change(status="completed", output="blue"))
    may_update(session, replace(session.tasks["a"], output="blue"), change(status="completed"))
    may_update(session, session.tasks["a"], change(status="failed"))


def test_a_new_title_must_be_free() -> None:
    """Its own is."""
    session = Session(task("a"), task("b"))
    with pytest.raises(TaskTitleTaken):
        may_update(session, session.tasks["a"], change(title="Do B"))
    may_update(session, session.tasks["a"], change(title="DO A"))


def test_no_circle() -> None:
    """The refusal names all of it, the shortest way; itself is the smallest."""
    session = Session(task("a"), task("b", "pending", "c"), task("c", "pending", "a", "b"), task("d"))
    with pytest.raises(TaskCycle, match=r"a -> a$"):
        may_update(session, session.tasks["a"], change(blocked_by=["a"]))
    with pytest.raises(TaskCycle, match=r"a -> b -> c -> a$"):
        may_update(session, session.tasks["a"], change(blocked_by=["d", "b"]))
    with pytest.raises(TaskCycle, match=r"a -> c -> a$"):
        may_update(session, session.tasks["a"], change(blocked_by=["b", "c"]))


def test_what_has_ended_waits_for_nothing() -> None:
    """So no circle goes through it."""
    session = Session(task("a"), task("b", "cancelled", "a"))
    may_update(session, session.tasks["a"], change(blocked_by=["b"]))


def test_a_blocker_that_is_gone_may_stay() -> None:
    """Only what is added must be there."""
    session = Session(task("a", "pending", "b"), task("b", deleted_at_ms=3))
    may_update(session, session.tasks["a"], change(blocked_by=["b"], description="x"))
    with pytest.raises(TaskBlocked):
        may_update(session, session.tasks["a"], change(status="in_progress"))


# Deleting.


def test_what_others_wait_for_is_not_deleted() -> None:
    """Unless it was completed, or they have ended."""
    session = Session(task("a"), *(task(f"w{number}", "pending", "a") for number in range(7)))
    with pytest.raises(TaskNeeded, match="w0, w1, w2, w3, w4 and 2 more wait for a"):
        may_delete(session, session.tasks["a"])
    may_delete(session, replace(session.tasks["a"], status="completed"))
    may_delete(Session(task("a"), task("b", "failed", "a")), task("a"))


def test_a_live_shell_is_not_deleted() -> None:
    """One that has ended may be."""
    live = folded(SHELL)
    with pytest.raises(TaskRunning, match="stop it first"):
        may_delete(Session(live), live)
    may_delete(Session(live), replace(live, status="failed"))


# Whatever is done.

NAMES = st.sampled_from("abcde")
CHANGES = st.lists(
    st.tuples(NAMES, st.sampled_from(STATUSES), st.lists(NAMES, max_size=3, unique=True)), max_size=30
)


@given(CHANGES)
def test_the_rules_hold_whatever_is_tried(tried: list[tuple[str, TaskStatus, list[str]]]) -> None:
    """No circle among open tasks; nothing begun that waits; nothing that ended is open again."""
    session = Session(*(task(name) for name in "abcde"))
    ended: set[str] = set()
    for name, status, blocked_by in tried:
        event = change(name, status=status, blocked_by=blocked_by, output="x")
        try:
            may_update(session, session.tasks[name], event)
        except (TaskAlreadyEnded, TaskBlocked, TaskCycle):
            continue
        session.tasks[name] = revised(session.tasks[name], event)
        assert name not in ended
        if status not in OPEN:
            ended.add(name)
        waiting = {each.task_id: each.blocked_by for each in session._open()}
        assert not [one for one in waiting if one in _reached(waiting, one)]
        for each in session.tasks.values():
            if each.status in ("in_progress", "completed"):
                assert all(session.tasks[other].status == "completed" for other in each.blocked_by)


def _reached(waiting: dict[str, list[str]], start: str) -> set[str]:
    """All that an open task waits for, directly or not, through open tasks."""
    found: set[str] = set()
    ahead = list(waiting[start])
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += waiting.get(each, [])
    return found


# What the model is told.


def test_the_model_is_told_how_a_shell_ended() -> None:
    """Which one, how, and where to read what it wrote."""
    live = folded(new("tsk_1", "npm run dev\n--port 8080", kind="shell", shell=COMMAND))
    said = ended_note(live, "exited", 1, "", 120)
    assert said == (
        "The background shell tsk_1, 'npm run dev --port 8080', ended with exit code 1. "
        "task_output gives what it wrote: 120 bytes."
    )
    assert ended_note(live, "not_started", None, "no such directory") == (
        "The background shell tsk_1, 'npm run dev --port 8080', could not be started (no such directory)."
    )
    stopped = evolve(live, at(2), TaskStopRequested(task_id="tsk_1", note="enough"))
    assert "was stopped (enough) with exit code 143." in ended_note(stopped, "stopped", 143)
    assert "the daemon went down" in ended_note(live, "daemon_restarted")


def test_the_model_is_told_of_a_shell_that_waits() -> None:
    """And what it can do about it. A long title is cut."""
    said = stalled_note(folded(new("tsk_1", "x" * 500, kind="shell", shell=COMMAND)))
    assert "tsk_1" in said
    assert "task_stop" in said
    assert len(said) < 500
