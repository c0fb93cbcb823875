"""Tasks: the shapes of params and records."""

import msgspec
import pytest
from msgspec import UNSET

from protocol.limits.names import MAX_AGENT_BYTES, MAX_TITLE_BYTES
from protocol.limits.rpc import MAX_WAIT_SECONDS
from protocol.limits.shell import MAX_SHELL_TAIL_BYTES
from protocol.limits.task import MAX_TASK_BLOCKERS, MAX_TASK_OUTPUT_BYTES
from protocol.objects.task import (
    OPEN,
    Shell,
    ShellCommand,
    Task,
    TaskCreate,
    TaskListParams,
    TaskOutputParams,
    TaskUpdate,
    TaskView,
)
from tests.support.samples import refuse, sample, take

NEW = {"session_id": "ses_1", "title": "Paint"}
CHANGE = {"task_id": "tsk_1"}


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (TaskCreate, {"session_id": "ses_1"}, "$.params.title"),
        (TaskCreate, NEW | {"title": ""}, "$.params.title"),
        (TaskCreate, NEW | {"title": "x" * (MAX_TITLE_BYTES + 1)}, "$.params.title"),
        (TaskCreate, NEW | {"owner": "x" * (MAX_AGENT_BYTES + 1)}, "$.params.owner"),
        (TaskCreate, NEW | {"blocked_by": ["a b"]}, "$.params.blocked_by[0]"),
        (TaskCreate, NEW | {"blocked_by": ["t"] * (MAX_TASK_BLOCKERS + 1)}, "$.params.blocked_by"),
        (TaskCreate, NEW | {"task_id": "tsk_mine"}, "$.params.task_id"),
        (TaskUpdate, CHANGE | {"status": "done"}, "$.params.status"),
        (TaskUpdate, CHANGE | {"title": None}, "$.params.title"),
        (TaskUpdate, CHANGE | {"output": "x" * (MAX_TASK_OUTPUT_BYTES + 1)}, "$.params.output"),
        (TaskListParams, {"status": "closed"}, "$.params.status"),
        (TaskListParams, {"kind": "cron"}, "$.params.kind"),
        (TaskOutputParams, CHANGE | {"tail_bytes": MAX_SHELL_TAIL_BYTES + 1}, "$.params.tail_bytes"),
        (TaskOutputParams, CHANGE | {"timeout_s": MAX_WAIT_SECONDS + 1}, "$.params.timeout_s"),
        (TaskOutputParams, CHANGE | {"offset": -1}, "$.params.offset"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path; the id cannot be chosen."""
    assert refuse(kind, params) == field


def test_absent_is_not_null() -> None:
    """An update leaves absent fields unchanged, and null unsets the owner."""
    unchanged = take(TaskUpdate, CHANGE)
    assert (unchanged.owner, unchanged.status, unchanged.metadata) == (UNSET, UNSET, UNSET)
    assert take(TaskUpdate, CHANGE | {"owner": None}).owner is None


def test_lists_show_what_is_open() -> None:
    """A list shows open tasks by default, and an output does not wait by default."""
    assert take(TaskListParams, {}).status == "open"
    assert take(TaskListParams, {"status": "failed"}).status == "failed"
    asked = take(TaskOutputParams, CHANGE)
    assert (asked.wait, asked.timeout_s, asked.tail_bytes, asked.offset) == (False, 30.0, 8192, None)


def test_what_is_open_has_not_ended() -> None:
    """The statuses of open tasks and the final statuses are all statuses."""
    assert OPEN == {"pending", "in_progress", "blocked"}


def test_a_view_is_a_record_and_more() -> None:
    """Every field that is kept is shown under its name; a shell is its command and what is known of it."""
    record = msgspec.convert(sample(Task, full=True), Task)
    shown = msgspec.to_builtins(record)
    assert msgspec.to_builtins(msgspec.convert(shown, TaskView)) == shown
    assert set(ShellCommand.__struct_fields__) < set(Shell.__struct_fields__)
