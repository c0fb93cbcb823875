"""Tasks of servers, as they are read."""

import math
from typing import Any

import pytest

from kheishd.kernel.mcp import RemoteResult, RemoteTask, ServerFailure
from kheishd.mcp.task import MAX_POLL_SECONDS, MAX_TASK_ID_BYTES, MIN_POLL_SECONDS, read_task

RESULT: dict[str, Any] = {"content": [{"type": "text", "text": "x"}], "isError": True}


@pytest.mark.parametrize(
    ("raw", "task"),
    [
        ({"status": "working"}, RemoteTask("t", "working")),
        ({"status": "working", "pollIntervalMs": 0}, RemoteTask("t", "working", poll_s=MIN_POLL_SECONDS)),
        ({"status": "working", "pollIntervalMs": 1e12}, RemoteTask("t", "working", poll_s=MAX_POLL_SECONDS)),
        (
            {"status": "working", "pollIntervalMs": 10**400},
            RemoteTask("t", "working", poll_s=MAX_POLL_SECONDS),
        ),
        ({"status": "working", "pollIntervalMs": math.nan}, RemoteTask("t", "working")),
        ({"status": "working", "statusMessage": "a\nb\x1b"}, RemoteTask("t", "working", "a b\u241b")),
        (
            {"status": "completed", "result": RESULT},
            RemoteTask("t", "completed", result=RemoteResult(RESULT["content"], is_error=True)),
        ),
        (
            {"status": "failed", "error": {"code": 5, "message": "no"}},
            RemoteTask("t", "failed", "no (code 5)"),
        ),
        ({"status": "failed", "error": 5}, RemoteTask("t", "failed")),
    ],
)
def test_tasks(raw: dict[str, Any], task: RemoteTask) -> None:
    """A task has its state, message and result, and an interval within limits."""
    assert read_task({"taskId": "t", **raw}) == task


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"taskId": "", "status": "working"},
        {"taskId": 5, "status": "working"},
        {"taskId": "a\nb", "status": "working"},
        {"taskId": "t" * (MAX_TASK_ID_BYTES + 1), "status": "working"},
        {"taskId": "t", "status": "dreaming"},
        {"taskId": "t", "status": "completed"},
        {"taskId": "t", "status": "completed", "result": {"content": 5}},
    ],
)
def test_invalid_tasks(raw: dict[str, Any]) -> None:
    """An invalid task is a refused call."""
    with pytest.raises(ServerFailure) as caught:
        read_task(raw)
    assert caught.value.reason == "refused"
