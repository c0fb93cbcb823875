"""Records of tasks and background shells, and their index rows."""

from kheishd.core.task import hash_title
from kheishd.records.task import TASK_RECORDS
from protocol.events.task import TaskDeleted, TaskStopRequested, TaskUpdated
from tests.support.histories import task_created, task_ended
from tests.support.records import fold_record, index_rows

LASTING = {"records_by_session": [("s", "task", 1)]}


def test_an_open_task_is_found_by_its_title_and_by_the_tasks_it_waits_for() -> None:
    """A completed or deleted task stays only in the list of its session."""
    created = task_created("tsk_1", "tsk_0")
    digest = hash_title("do tsk_1")
    assert index_rows(TASK_RECORDS, created) == LASTING | {
        "tasks_open": [("s", digest, "tsk_1")],
        "tasks_waiting": [("tsk_0", "tsk_1")],
    }
    completed = TaskUpdated(task_id="tsk_1", status="completed", output="x")
    for end in (completed, TaskDeleted(task_id="tsk_1")):
        assert index_rows(TASK_RECORDS, created, end) == LASTING


def test_a_shell_is_live_until_it_ends() -> None:
    """The worker finds live shells, and those to be stopped, by their index rows."""
    created = task_created("shl_1", shell=True)
    stopping = TaskStopRequested(task_id="shl_1")
    assert index_rows(TASK_RECORDS, created) == LASTING | {"shells_live": [(1,)]}
    assert index_rows(TASK_RECORDS, created, stopping) == LASTING | {
        "shells_live": [(1,)],
        "shells_stopping": [(1,)],
    }
    assert index_rows(TASK_RECORDS, created, stopping, task_ended("shl_1")) == LASTING


def test_only_a_deleted_task_is_final() -> None:
    """A completed task may still be changed or deleted."""
    completed = TaskUpdated(task_id="tsk_1", status="completed", output="x")
    assert not TASK_RECORDS.final(fold_record(TASK_RECORDS, task_created("tsk_1"), completed))
    assert TASK_RECORDS.final(
        fold_record(TASK_RECORDS, task_created("tsk_1"), completed, TaskDeleted(task_id="tsk_1"))
    )
