"""The rows of the tools for tasks: what models are told, and what the daemon knows of each."""

import msgspec
import pytest

from kheishd.hooks.tasks.tools import MAX_WAIT_SECONDS, TOOLS, Create, Listing, Named, Read, Stop, Update
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Tool, ToolError
from protocol.limits.shell import MAX_SHELL_TAIL_BYTES
from protocol.objects.task import TaskCreate, TaskUpdate

BY_NAME = {tool.name: tool for tool in TOOLS}
READS = {"task_get", "task_list", "task_output"}


def test_they_are_seven() -> None:
    """The verbs of the object, as tools."""
    verbs = ("create", "get", "list", "update", "stop", "delete", "output")
    assert set(BY_NAME) == {f"task_{verb}" for verb in verbs}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_what_the_daemon_knows_of_each(tool: Tool) -> None:
    """None needs to be allowed, each may be run twice, and those that only read do so beside others."""
    assert (tool.kind, tool.default, tool.repeatable) == ("coordinate", "allow", True)
    assert (tool.parallel, tool.in_plan) == (tool.name in READS, tool.name in READS)
    assert tool.schema["additionalProperties"] is False
    assert "$ref" not in msgspec.json.encode(tool.schema).decode()


def test_waiting_ends_before_the_tool_s_time() -> None:
    """So that what there is by then is given."""
    assert BY_NAME["task_output"].timeout_s > MAX_WAIT_SECONDS


def test_what_is_asked_is_what_the_methods_take() -> None:
    """Every argument has the name of the param that it becomes; none is invented."""
    assert set(Create.__struct_fields__) < set(TaskCreate.__struct_fields__)
    assert set(Update.__struct_fields__) < set(TaskUpdate.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("task_create", {"title": ""}),
        ("task_create", {"title": "x", "blocked_by": "tsk_1"}),
        ("task_update", {"task_id": "t", "status": "done"}),
        ("task_list", {"status": "closed"}),
        ("task_get", {}),
        ("task_output", {"task_id": "t", "timeout_s": MAX_WAIT_SECONDS + 1}),
        ("task_output", {"task_id": "t", "tail_bytes": MAX_SHELL_TAIL_BYTES + 1}),
    ],
)
def test_what_does_not_fit_is_refused(name: str, arguments: dict[str, object]) -> None:
    """Before anything is judged."""
    with pytest.raises(ToolError):
        Validator().validate(BY_NAME[name], arguments)


def test_what_is_left_out() -> None:
    """Open tasks are listed; an output is waited for."""
    assert Listing().status == "open"
    asked = Read(task_id="t")
    assert (asked.wait, asked.timeout_s) == (True, 30.0)
    assert (Named(task_id="t").task_id, Stop(task_id="t").note) == ("t", "")
