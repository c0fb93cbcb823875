"""Tasks: the record, and every rule about changes, against a model of a session."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.core import task as rules
from kheishd.core.task import (
    apply_update,
    format_ended_note,
    format_stalled_note,
    require_creatable,
    require_deletable,
    require_updatable,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.task import (
    TaskAlreadyEnded,
    TaskBlocked,
    TaskBlocksOthers,
    TaskCycle,
    TaskLimit,
    TaskNotFound,
    TaskOutputMissing,
    TaskRunning,
    TaskTitleTaken,
)
from protocol.events.task import (
    TaskAdopted,
    TaskCreated,
    TaskDeleted,
    TaskEnded,
    TaskEvent,
    TaskMoved,
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


def envelope(cursor: int, **fields: Any) -> Envelope:
    """Make the envelope of an event; its time follows the cursor."""
    return Envelope(cursor=cursor, at_ms=1000 + cursor, session_id="ses_1", **fields)


def fold(*events: TaskEvent, **fields: Any) -> Task:
    """Return the record after some events."""
    task: Task | None = None
    for cursor, event in enumerate(events, 1):
        task = evolve(task, envelope(cursor, **fields), event)
    assert task is not None
    return task


def evolve(task: Task | None, envelope: Envelope, event: TaskEvent) -> Task:
    """Return the record after an event of its session."""
    changed = rules.evolve(task, envelope, event)
    assert changed is not None
    return changed


def creation(task_id: str = "a", title: str = "", **fields: Any) -> TaskCreated:
    """Make the event that creates a task."""
    return TaskCreated(task_id=task_id, title=title or f"do {task_id}", **fields)


SHELL = creation(kind="shell", shell=COMMAND)


class Session:
    """The tasks of one session, as the rules ask for them."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = {task.task_id: task for task in tasks}

    def find(self, task_id: str) -> Task | None:
        return self.tasks.get(task_id)

    def find_titled(self, title: str) -> Iterable[str]:
        digest = rules.hash_title(title)
        return [task.task_id for task in self._open() if rules.hash_title(task.title) == digest]

    def find_waiting(self, task_id: str) -> Iterable[str]:
        return [task.task_id for task in self._open() if task_id in task.blocked_by]

    def count_open(self) -> int:
        return sum(task.kind == "task" for task in self._open())

    def _open(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.status in OPEN and task.deleted_at_ms is None]


def task(task_id: str, status: TaskStatus = "pending", *blocked_by: str, **fields: Any) -> Task:
    """Make a task of some status that waits for others."""
    created = fold(creation(task_id, blocked_by=list(blocked_by)))
    return replace(created, status=status, **fields)


# The record.


def test_created() -> None:
    """A created task is pending and keeps its time, place and run."""
    created = fold(creation("a", "Paint", description="blue", owner="ann", metadata={"n": 1}), run_id="run_1")
    assert (created.title, created.status, created.kind, created.owner) == ("Paint", "pending", "task", "ann")
    assert (created.created_cursor, created.created_at_ms, created.created_by_run_id) == (1, 1001, "run_1")
    assert (created.description, created.metadata, created.session_id) == ("blue", {"n": 1}, "ses_1")


def test_updated() -> None:
    """An update changes its fields, null clears one, and the note belongs to the status."""
    changed = fold(
        creation(owner="ann"),
        TaskUpdated(task_id="a", status="blocked", note="no paint"),
        TaskUpdated(task_id="a", owner=None, description="red"),
    )
    assert (changed.status, changed.note, changed.owner) == ("blocked", "no paint", None)
    assert (changed.description, changed.title, changed.updated_at_ms) == ("red", "do a", 1003)
    assert changed.ended_at_ms is None


def test_an_ended_task_never_changes() -> None:
    """No event reopens an ended task or changes its end."""
    completed = fold(creation(), TaskUpdated(task_id="a", status="completed", output="done"))
    assert (completed.ended_at_ms, completed.output) == (1002, "done")
    assert evolve(completed, envelope(3), TaskUpdated(task_id="a", status="pending")) is completed
    assert evolve(completed, envelope(3), TaskStopRequested(task_id="a")) is completed


def test_a_deleted_task_stays_deleted() -> None:
    """A tombstone remains without content, and no event changes it."""
    deleted = fold(
        creation(description="secret", blocked_by=["b"], metadata={"n": 1}),
        TaskDeleted(task_id="a"),
        creation(),
    )
    assert (deleted.deleted_at_ms, deleted.title, deleted.created_cursor) == (1002, "do a", 1)
    assert (deleted.description, deleted.blocked_by, deleted.metadata) == ("", [], {})
    for event in (TaskUpdated(task_id="a", title="back"), TaskDeleted(task_id="a"), creation()):
        assert evolve(deleted, envelope(9), event) is deleted


def test_an_ended_task_can_be_deleted() -> None:
    """A deleted task keeps its status, because others may have waited for it."""
    deleted = fold(
        creation(), TaskUpdated(task_id="a", status="completed", output="x"), TaskDeleted(task_id="a")
    )
    assert (deleted.status, deleted.ended_at_ms, deleted.deleted_at_ms, deleted.output) == (
        "completed",
        1002,
        1003,
        "",
    )


def test_the_events_of_a_shell() -> None:
    """A shell's process, stall and end are recorded."""
    ended = fold(
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
    assert fold(SHELL, TaskStarted(task_id="a", pid=7, start_ticks=99)).status == "in_progress"


def test_a_shell_that_moves_is_a_task_of_one_session() -> None:
    """The other session has its whole state; it remembers the session that began it, over further moves."""
    running = fold(SHELL, TaskStarted(task_id="a", pid=7, start_ticks=9), run_id="run_1")
    assert rules.evolve(running, envelope(3), TaskMoved(task_id="a", to_session_id="ses_2")) is None
    at = Envelope(cursor=9, at_ms=2000, session_id="ses_2")
    adopted = evolve(None, at, TaskAdopted(task_id="a", task=running))
    assert adopted == replace(
        running, session_id="ses_2", moved_from="ses_1", created_cursor=9, updated_at_ms=2000
    )
    again = evolve(None, replace(at, session_id="ses_3"), TaskAdopted(task_id="a", task=adopted))
    assert (again.session_id, again.moved_from) == ("ses_3", "ses_1")


def test_the_first_stop_request_counts() -> None:
    """A second stop request changes nothing; the task's note is that of the first."""
    stopping = fold(SHELL, TaskStopRequested(task_id="a", note="enough"), actor="uid:1000")
    again = evolve(stopping, envelope(3, actor="uid:7"), TaskStopRequested(task_id="a", note="late"))
    assert again.shell is not None
    assert (again.shell.stop_note, again.shell.stopped_by) == ("enough", "uid:1000")
    ended = TaskEnded(task_id="a", status="cancelled", terminal_reason="stopped", exit_code=143)
    assert evolve(again, envelope(4), ended).note == "enough"
    by_agent = fold(SHELL, TaskStopRequested(task_id="a"), run_id="run_2")
    assert by_agent.shell is not None
    assert by_agent.shell.stopped_by == "run:run_2"


def test_unexpected_events_are_damage() -> None:
    """A first event other than the creation, or a process of a plain task, is damage."""
    with pytest.raises(AssertionError, match="creation"):
        evolve(None, envelope(1), TaskDeleted(task_id="a"))
    with pytest.raises(AssertionError, match="shell"):
        fold(creation(), TaskStarted(task_id="a", pid=1, start_ticks=1))


# Creating.


def test_require_creatable_title_taken() -> None:
    """An open task's title is taken in any spelling; that of an ended or deleted task is free."""
    session = Session(task("a"))
    with pytest.raises(TaskTitleTaken, match=r"the open task a has that title"):
        require_creatable(session, creation("b", "  DO   a "))
    for ended in (
        task("a", "completed"),
        task("a", "cancelled"),
        task("a", "failed"),
        task("a", deleted_at_ms=1),
    ):
        require_creatable(Session(ended), creation("b", "do a"))


def test_require_creatable_unknown_blocker() -> None:
    """Blockers must exist in the same session and not be deleted."""
    with pytest.raises(TaskNotFound, match="'nowhere'"):
        require_creatable(Session(task("a")), creation("b", blocked_by=["a", "nowhere"]))
    with pytest.raises(TaskNotFound):
        require_creatable(Session(task("a", deleted_at_ms=5)), creation("b", blocked_by=["a"]))
    require_creatable(Session(task("a", "failed")), creation("b", blocked_by=["a"]))


def test_require_creatable_full() -> None:
    """The number of open tasks is limited; ended tasks do not count."""
    tasks = [task(f"t{number}") for number in range(MAX_OPEN_TASKS)]
    with pytest.raises(TaskLimit):
        require_creatable(Session(*tasks), creation("more"))
    require_creatable(Session(*tasks[1:], replace(tasks[0], status="failed")), creation("more"))


def test_normalize_title() -> None:
    """A title keeps single spaces; one without words is rejected."""
    assert rules.normalize_title("  Paint\n the  fence ") == "Paint the fence"
    with pytest.raises(InvalidParams, match="words"):
        rules.normalize_title(" \t\n")


# Changing.


def update(task_id: str = "a", **changes: Any) -> TaskUpdated:
    """Make an update."""
    return TaskUpdated(task_id=task_id, **changes)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_require_updatable_ended(status: TaskStatus) -> None:
    """Not even the text of an ended task may change."""
    ended = task("a", status)
    with pytest.raises(TaskAlreadyEnded):
        require_updatable(Session(ended), ended, update(description="x"))


def test_require_updatable_shell() -> None:
    """A running shell cannot be updated; an ended one is like any other task."""
    shell = fold(SHELL)
    with pytest.raises(TaskRunning):
        require_updatable(Session(shell), shell, update(title="x"))
    with pytest.raises(TaskAlreadyEnded):
        require_updatable(Session(shell), replace(shell, status="failed"), update(title="x"))


@pytest.mark.parametrize("status", ["in_progress", "completed"])
def test_require_updatable_blocked(status: TaskStatus) -> None:
    """All blockers must be completed, deleted or not; a failed one is not completed."""
    for blocker in ("pending", "in_progress", "blocked", "failed", "cancelled"):
        session = Session(task("a", "pending", "b"), task("b", blocker))
        with pytest.raises(TaskBlocked, match=rf"b \({blocker}\)"):
            require_updatable(session, session.tasks["a"], update(status=status, output="x"))
    for completed in (task("b", "completed"), task("b", "completed", deleted_at_ms=4)):
        session = Session(task("a", "pending", "b"), completed)
        require_updatable(session, session.tasks["a"], update(status=status, output="x"))


def test_require_updatable_blocker_in_progress() -> None:
    """A task in progress gets no open blocker, unless it leaves that status in the same change."""
    session = Session(task("a", "in_progress"), task("b"))
    with pytest.raises(TaskBlocked):
        require_updatable(session, session.tasks["a"], update(blocked_by=["b"]))
    require_updatable(session, session.tasks["a"], update(blocked_by=["b"], status="blocked"))


def test_require_updatable_output_missing() -> None:
    """Completing requires output, given with the status or before; blanks are none."""
    session = Session(task("a"))
    for empty in ({}, {"output": " \n"}):
        with pytest.raises(TaskOutputMissing):
            require_updatable(session, session.tasks["a"], update(status="completed", **empty))
    require_updatable(session, session.tasks["a"], update(status="completed", output="blue"))
    require_updatable(session, replace(session.tasks["a"], output="blue"), update(status="completed"))
    require_updatable(session, session.tasks["a"], update(status="failed"))


def test_require_updatable_title_taken() -> None:
    """A new title must be free; a task may respell its own."""
    session = Session(task("a"), task("b"))
    with pytest.raises(TaskTitleTaken):
        require_updatable(session, session.tasks["a"], update(title="Do B"))
    require_updatable(session, session.tasks["a"], update(title="DO A"))


def test_require_updatable_cycle() -> None:
    """The refusal names the shortest cycle; a task that waits for itself is one."""
    session = Session(task("a"), task("b", "pending", "c"), task("c", "pending", "a", "b"), task("d"))
    with pytest.raises(TaskCycle, match=r"a -> a$"):
        require_updatable(session, session.tasks["a"], update(blocked_by=["a"]))
    with pytest.raises(TaskCycle, match=r"a -> b -> c -> a$"):
        require_updatable(session, session.tasks["a"], update(blocked_by=["d", "b"]))
    with pytest.raises(TaskCycle, match=r"a -> c -> a$"):
        require_updatable(session, session.tasks["a"], update(blocked_by=["b", "c"]))


def test_ended_tasks_form_no_cycle() -> None:
    """An ended task waits for nothing, so it is part of no cycle."""
    session = Session(task("a"), task("b", "cancelled", "a"))
    require_updatable(session, session.tasks["a"], update(blocked_by=["b"]))


def test_a_deleted_blocker_may_stay() -> None:
    """Only added blockers must exist."""
    session = Session(task("a", "pending", "b"), task("b", deleted_at_ms=3))
    require_updatable(session, session.tasks["a"], update(blocked_by=["b"], description="x"))
    with pytest.raises(TaskBlocked):
        require_updatable(session, session.tasks["a"], update(status="in_progress"))


# Deleting.


def test_require_deletable_needed() -> None:
    """A task that open tasks wait for cannot be deleted, unless it is completed."""
    session = Session(task("a"), *(task(f"w{number}", "pending", "a") for number in range(7)))
    with pytest.raises(TaskBlocksOthers, match="w0, w1, w2, w3, w4 and 2 more wait for a"):
        require_deletable(session, session.tasks["a"])
    require_deletable(session, replace(session.tasks["a"], status="completed"))
    require_deletable(Session(task("a"), task("b", "failed", "a")), task("a"))


def test_require_deletable_shell() -> None:
    """A running shell cannot be deleted; an ended one can."""
    shell = fold(SHELL)
    with pytest.raises(TaskRunning, match="stop it first"):
        require_deletable(Session(shell), shell)
    require_deletable(Session(shell), replace(shell, status="failed"))


# Laws.

NAMES = st.sampled_from("abcde")
CHANGES = st.lists(
    st.tuples(NAMES, st.sampled_from(STATUSES), st.lists(NAMES, max_size=3, unique=True)), max_size=30
)


@given(CHANGES)
def test_no_sequence_of_changes_breaks_the_rules(changes: list[tuple[str, TaskStatus, list[str]]]) -> None:
    """No cycle among open tasks; no blocked task begins; no ended task reopens."""
    session = Session(*(task(name) for name in "abcde"))
    ended: set[str] = set()
    for name, status, blocked_by in changes:
        event = update(name, status=status, blocked_by=blocked_by, output="x")
        try:
            require_updatable(session, session.tasks[name], event)
        except (TaskAlreadyEnded, TaskBlocked, TaskCycle):
            continue
        session.tasks[name] = apply_update(session.tasks[name], event)
        assert name not in ended
        if status not in OPEN:
            ended.add(name)
        waiting = {waiter.task_id: waiter.blocked_by for waiter in session._open()}
        assert not [waiter for waiter in waiting if waiter in _find_reachable(waiting, waiter)]
        for waiter in session.tasks.values():
            if waiter.status in ("in_progress", "completed"):
                assert all(session.tasks[blocker].status == "completed" for blocker in waiter.blocked_by)


def _find_reachable(waiting: dict[str, list[str]], start: str) -> set[str]:
    """Return all tasks that an open task waits for through open tasks."""
    reachable: set[str] = set()
    queue = list(waiting[start])
    while queue:
        task_id = queue.pop()
        if task_id not in reachable:
            reachable.add(task_id)
            queue += waiting.get(task_id, [])
    return reachable


# Notes for the model.


def test_format_ended_note() -> None:
    """The note names the shell, its end and the size of its output."""
    shell = fold(creation("tsk_1", "npm run dev\n--port 8080", kind="shell", shell=COMMAND))
    note = format_ended_note(shell, "exited", 1, "", 120)
    assert note == (
        "The background shell tsk_1, 'npm run dev --port 8080', ended with exit code 1. "
        "The output of the task has 120 bytes."
    )
    assert format_ended_note(shell, "not_started", None, "no such directory") == (
        "The background shell tsk_1, 'npm run dev --port 8080', could not be started (no such directory)."
    )
    stopped = evolve(shell, envelope(2), TaskStopRequested(task_id="tsk_1", note="enough"))
    assert "was stopped (enough) with exit code 143." in format_ended_note(stopped, "stopped", 143)
    assert "the daemon went down" in format_ended_note(shell, "daemon_restarted")
    hosts = [f"{name}.example:443" for name in "abcde"]
    refused = "Connections were refused to a.example:443: no rule allows these hosts."
    assert format_ended_note(shell, "exited", refused=hosts[:1]).endswith(refused)
    assert "c.example:443, d.example:443, …: no rule" in format_ended_note(shell, "exited", refused=hosts)


def test_format_stalled_note() -> None:
    """The note says what to do; a long title is abbreviated."""
    note = format_stalled_note(fold(creation("tsk_1", "x" * 500, kind="shell", shell=COMMAND)))
    assert "tsk_1" in note
    assert "stop the task" in note
    assert len(note) < 500
