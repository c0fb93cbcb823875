"""Tasks of servers: a server may answer a call by a task, whose result is polled (SEP-2663).

The extension is offered to servers of the protocol's newer generation. Only the server decides whether a call
becomes a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import mcp_types as types

from kheishd.kernel.mcp import RemoteResult, RemoteTask, ServerFailure, TaskState
from protocol.limits.mcp import MAX_SERVER_ERROR_BYTES
from protocol.text import sanitize, truncate

if TYPE_CHECKING:
    from collections.abc import Mapping

EXTENSION: Final = "io.modelcontextprotocol/tasks"

# The time between two polls: the server's, within limits.
DEFAULT_POLL_SECONDS: Final = 1.0
MIN_POLL_SECONDS: Final = 0.05
MAX_POLL_SECONDS: Final = 60.0

MAX_TASK_ID_BYTES: Final = 1_024


class RawResult(types.Result, extra="allow"):
    """A result with all of its fields: what it is depends on its ``resultType``."""


class TaskParams(types.RequestParams):
    """The params of requests about a task."""

    task_id: str
    input_responses: dict[str, Any] | None = None


class TaskGet(types.Request[TaskParams, Literal["tasks/get"]]):
    """The request for the state of a task."""

    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param = "taskId"


class TaskCancel(types.Request[TaskParams, Literal["tasks/cancel"]]):
    """The request to cancel a task."""

    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams
    name_param = "taskId"


def quote(text: str) -> str:
    """Return a text of a server or of the library, on one line."""
    return truncate(" ".join(sanitize(text).split()), MAX_SERVER_ERROR_BYTES)


def read_result(raw: Mapping[str, Any]) -> RemoteResult:
    """Return the result of a call. Errors: ServerFailure if it is none."""
    try:
        result = types.CallToolResult.model_validate(raw, by_name=False)
    except ValueError as error:
        raise ServerFailure("refused", f"the answer is invalid: {quote(str(error))}") from None
    return RemoteResult(
        [block.model_dump(by_alias=True, exclude_none=True, mode="json") for block in result.content],
        result.structured_content,
        result.is_error,
    )


def read_task(raw: Mapping[str, Any]) -> RemoteTask:
    """Return a task. Errors: ServerFailure if it is none, or its result is none."""
    task_id, interval = raw.get("taskId"), raw.get("pollIntervalMs")
    status: Any = raw.get("status")
    if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_TASK_ID_BYTES or not task_id.isprintable():
        raise ServerFailure("refused", "the answer is a task without a valid 'taskId'")
    if status not in get_args(TaskState):
        raise ServerFailure("refused", "the answer is a task without a valid 'status'")
    # An integer may be too large for a division. No comparison with NaN is true.
    poll_s = DEFAULT_POLL_SECONDS
    if isinstance(interval, int | float) and interval >= 0:
        poll_s = min(interval, MAX_POLL_SECONDS * 1000) / 1000
    result, error, message = raw.get("result"), raw.get("error"), raw.get("statusMessage")
    if status == "completed" and not isinstance(result, dict):
        raise ServerFailure("refused", "the task is completed, and has no 'result'")
    if status == "failed" and isinstance(error, dict):
        message = f"{error.get('message')} (code {error.get('code')})"
    return RemoteTask(
        task_id,
        status,
        quote(message) if isinstance(message, str) else "",
        max(poll_s, MIN_POLL_SECONDS),
        read_result(result) if status == "completed" and isinstance(result, dict) else None,
    )
