"""The tools for tasks as a run uses them: their results, and the decisions at the commit."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.hooks.tasks import (
    MAX_LISTED,
    MAX_WAIT_SECONDS,
    CreateTask,
    ListTasks,
    NameTask,
    ReadTaskOutput,
    StopTask,
    TaskTools,
    UpdateTask,
)
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Invocation, Outcome, RunContext, Tool, ToolError
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from kheishd.objects.work.shell import ShellOutcome, record_ended
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS, TASKS
from protocol.events.call import ToolReturned
from protocol.events.session import SessionCreated
from protocol.events.task import TaskCreated, TaskUpdated
from protocol.journal.line import JournalEvent
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.shell import MAX_SHELL_TAIL_BYTES
from protocol.limits.task import MAX_OPEN_TASKS
from protocol.objects.task import Task, TaskCreate, TaskUpdate
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working
from tests.support.histories import task_created
from tests.support.machine import PINNED, Machine


class Bench:
    """The tools in one session of a store; their changes are committed as the worker commits them."""

    def __init__(self, desk: Desk, part: TaskTools, files: ShellFiles, context: RunContext) -> None:
        self.desk = desk
        self.part = part
        self.files = files
        self.context = context

    def use(self, name: str, **arguments: Any) -> Invocation:
        """Return a call of a tool."""
        tool = next(tool for tool in self.part.tools if tool.name == name)
        return Invocation(self.context, "c1", tool, Validator().validate(tool, arguments))

    async def asked(self, name: str, **arguments: Any) -> Outcome:
        """Return the outcome of dispatching, before its commit."""
        return await self.part.dispatch(self.use(name, **arguments))

    async def committed(self, outcome: Outcome) -> Any:
        """Commit an outcome and return its decoded text. Errors: ToolError."""
        change = outcome.decide
        if change is not None:
            outcome = await self.desk.state.update(lambda tx: self._commit(tx, change))
        assert not outcome.is_error
        return msgspec.json.decode(outcome.text)

    def _commit(self, tx: Transaction, change: Callable[[Transaction], Outcome]) -> Outcome:
        outcome = change(tx)
        self._append(tx, *outcome.events)
        return outcome

    async def run(self, name: str, **arguments: Any) -> Any:
        """Dispatch and commit a call."""
        return await self.committed(await self.asked(name, **arguments))

    async def refused(self, name: str, **arguments: Any) -> str:
        """Return the error of a call that changes nothing."""
        with self.desk.state.read() as store:
            original = store.last_cursor
        with pytest.raises(ToolError) as caught:
            await self.run(name, **arguments)
        with self.desk.state.read() as store:
            assert store.last_cursor == original
        return str(caught.value)

    async def append(self, *events: JournalEvent) -> None:
        """Append events, as another caller would."""
        await self.desk.state.update(lambda tx: self._append(tx, *events))

    def _append(self, tx: Transaction, *events: JournalEvent) -> None:
        session = tx.get(SESSIONS, "s")
        fold = SessionWriter(tx, "s", session=session)
        if session is None:
            fold.append(SessionCreated(agent="default"))
        fold.append_all(list(events))
        fold.write()

    def task(self, task_id: str) -> Task:
        """Return a task of the store."""
        with self.desk.state.read() as store:
            task = store.get(TASKS, task_id)
        assert task is not None
        return task


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Provide the tools in the session ``s`` of the agent ``default``."""
    files = ShellFiles(tmp_path / "shells")
    async with open_desk(tmp_path, threaded=True) as desk:
        part = TaskTools(files)
        bench = Bench(desk, part, files, None)  # type: ignore[arg-type]
        await bench.append()
        run = msgspec.structs.replace(Machine().run, session_id="s", agent="default")
        bench.context = RunContext(desk.session("s"), run, PINNED, str(tmp_path), "off", desk.state)
        yield bench


# Creating and reading.


async def test_a_task_from_its_beginning_to_its_end(bench: Bench) -> None:
    """A task is created, begun by an agent, and completed with its output."""
    made = await bench.run("task_create", title=" Paint ", description="blue")
    task_id = made.pop("task_id")
    assert made == {"title": "Paint", "status": "pending"}
    begun = await bench.run("task_update", task_id=task_id, status="in_progress")
    assert begun == {"task_id": task_id, "title": "Paint", "status": "in_progress", "owner": "default"}
    done = await bench.run("task_update", task_id=task_id, status="completed", output="It is blue.")
    assert (done["status"], bench.task(task_id).output) == ("completed", "It is blue.")
    preview = await bench.run("task_get", task_id=task_id)
    assert (preview["description"], preview["output"]) == ("blue", "It is blue.")
    produced = await bench.run("task_output", task_id=task_id)
    assert (produced["ready"], produced["output"], produced["left_out_bytes"]) == (True, "It is blue.", 0)


async def test_nothing_changes_before_it_is_committed(bench: Bench) -> None:
    """A dispatched change has no effect before its commit, so an interrupted call is run again."""
    outcome = await bench.asked("task_create", title="Paint")
    assert outcome.events == ()
    assert (await bench.run("task_list"))["tasks"] == []
    await bench.committed(outcome)
    assert len((await bench.run("task_list"))["tasks"]) == 1


async def test_who_has_a_task_keeps_it(bench: Bench) -> None:
    """Beginning a task assigns it only if it has no owner; a guest is assigned by its own name."""
    owned = (await bench.run("task_create", title="a", owner="ann"))["task_id"]
    await bench.run("task_update", task_id=owned, status="in_progress")
    assert bench.task(owned).owner == "ann"
    produced = (await bench.run("task_create", title="b"))["task_id"]
    await bench.run("task_update", task_id=produced, status="in_progress", owner="bob")
    assert bench.task(produced).owner == "bob"
    guest = msgspec.structs.replace(bench.context.run, guest="critic")
    bench.context = replace(bench.context, run=guest)
    free = (await bench.run("task_create", title="c"))["task_id"]
    await bench.run("task_update", task_id=free, status="in_progress")
    assert bench.task(free).owner == "critic"


async def test_the_list(bench: Bench) -> None:
    """The list has a row for each task of this session, with its blockers, page by page."""
    first = (await bench.run("task_create", title="first"))["task_id"]
    second = (await bench.run("task_create", title="x" * 500, blocked_by=[first]))["task_id"]
    listed = (await bench.run("task_list"))["tasks"]
    assert listed[0] == {"task_id": first, "title": "first", "status": "pending", "blocks": [second]}
    assert (listed[1]["blocked_by"], len(listed[1]["title"])) == ([first], 81)
    await bench.append(*(task_created(f"tsk_{number:03}") for number in range(MAX_LISTED)))
    page = await bench.run("task_list")
    assert len(page["tasks"]) == MAX_LISTED
    rest = await bench.run("task_list", after=page["next"])
    assert (len(rest["tasks"]), "next" in rest) == (2, False)
    await bench.run("task_stop", task_id=first)
    assert len((await bench.run("task_list", status="cancelled"))["tasks"]) == 1


async def test_the_largest_list_is_read_whole(bench: Bench) -> None:
    """The largest page fits a result."""
    await bench.append(*(task_created(f"tsk_{'0' * 26}{number:03}") for number in range(MAX_LISTED)))
    outcome = await bench.asked("task_list")
    assert len(outcome.text) < MAX_TOOL_TEXT_BYTES


# Rules.


async def test_what_is_refused_is_said(bench: Bench) -> None:
    """A refused change is an error in the words of the rule, and changes nothing."""
    first = (await bench.run("task_create", title="first"))["task_id"]
    second = (await bench.run("task_create", title="second", blocked_by=[first]))["task_id"]
    assert "has that title" in await bench.refused("task_create", title="FIRST")
    assert "no task 'nowhere'" in await bench.refused("task_create", title="x", blocked_by=["nowhere"])
    assert "a title needs words" in await bench.refused("task_create", title=" ")
    assert "in a cycle" in await bench.refused("task_update", task_id=first, blocked_by=[second])
    assert "waits for" in await bench.refused("task_update", task_id=second, status="in_progress")
    assert "requires its output" in await bench.refused("task_update", task_id=first, status="completed")
    assert "wait for" in await bench.refused("task_delete", task_id=first)
    assert "task_list lists" in await bench.refused("task_get", task_id="tsk_none")
    assert "no task 'tsk_none'" in await bench.refused("task_stop", task_id="tsk_none")
    assert "no task 'tsk_none'" in await bench.refused("task_output", task_id="tsk_none")
    await bench.run("task_delete", task_id=second)
    for name in ("task_get", "task_stop", "task_output", "task_delete"):
        assert "was deleted" in await bench.refused(name, task_id=second)


async def test_what_others_do_meanwhile_counts(bench: Bench) -> None:
    """A call is decided in its commit, so two concurrent calls keep the rules."""
    outcomes = [await bench.asked("task_create", title="Paint") for _ in range(2)]
    await bench.committed(outcomes[0])
    with pytest.raises(ToolError, match="has that title"):
        await bench.committed(outcomes[1])
    single, two = [(await bench.run("task_create", title=name))["task_id"] for name in ("one", "two")]
    circle = await bench.asked("task_update", task_id=single, blocked_by=[two])
    await bench.append(TaskUpdated(task_id=two, blocked_by=[single]))
    with pytest.raises(ToolError, match="in a cycle"):
        await bench.committed(circle)
    late = await bench.asked("task_update", task_id=single, status="in_progress")
    await bench.append(TaskUpdated(task_id=single, status="cancelled"))
    with pytest.raises(ToolError, match="is final"):
        await bench.committed(late)
    assert examine_whole(bench.desk.state.read, deep=True).findings == []


async def test_so_many_are_open(bench: Bench) -> None:
    """The number of open tasks has the same limit as over RPC."""
    await bench.append(*(task_created(f"tsk_{number}") for number in range(MAX_OPEN_TASKS)))
    assert f"{MAX_OPEN_TASKS} open tasks" in await bench.refused("task_create", title="x")


async def test_a_change_that_changes_nothing_is_no_event(bench: Bench) -> None:
    """A change without effect makes no event, and returns the task."""
    task_id = (await bench.run("task_create", title="Paint"))["task_id"]
    outcome = await bench.asked("task_update", task_id=task_id, title="Paint")
    assert outcome.decide is not None
    decided = await bench.desk.state.update(outcome.decide)
    assert decided.events == ()


async def test_stopping(bench: Bench) -> None:
    """A task is cancelled, a shell is requested to stop, and an ended one is reported."""
    task_id = (await bench.run("task_create", title="Paint"))["task_id"]
    assert await bench.run("task_stop", task_id=task_id, note="no paint") == {
        "task_id": task_id,
        "status": "cancelled",
    }
    assert (await bench.run("task_stop", task_id=task_id))["note"] == "it had ended already"
    await bench.append(task_created("tsk_shell", shell=True))
    assert (
        "it is being stopped; task_output waits"
        in (await bench.run("task_stop", task_id="tsk_shell"))["note"]
    )
    assert (await bench.run("task_stop", task_id="tsk_shell"))["note"] == "it is being stopped already"
    assert "can only be stopped" in await bench.refused("task_update", task_id="tsk_shell", title="x")


def test_what_rules_match(tmp_path: Path) -> None:
    """The subject is the task's id, or the title of a new task."""
    bench = Bench(None, TaskTools(ShellFiles(tmp_path)), None, None)  # type: ignore[arg-type]
    assert bench.part.subject(bench.use("task_create", title="Paint")) == "Paint"
    assert bench.part.subject(bench.use("task_update", task_id="t", title="Paint")) == "t"
    assert bench.part.subject(bench.use("task_list")) == ""


# Output.


async def shell(bench: Bench, text: str) -> None:
    """Provide a shell with some output."""
    await bench.append(task_created("tsk_shell", shell=True))
    log = bench.files.log("tsk_shell")
    log.begin()
    await bench.files.write("tsk_shell", log, text.encode())
    log.close()


async def test_output_of_a_shell_that_runs(bench: Bench) -> None:
    """The output so far is returned at once, or after the timeout."""
    await shell(bench, "one\n")
    produced = await bench.run("task_output", task_id="tsk_shell", wait=False)
    assert (produced["ready"], produced["timed_out"], produced["output"]) == (False, False, "one\n")
    produced = await bench.run("task_output", task_id="tsk_shell", timeout_s=0.01)
    assert (produced["ready"], produced["timed_out"], produced["kind"]) == (False, True, "shell")


async def test_output_is_waited_for(bench: Bench) -> None:
    """The call waits until the shell has ended, and reports how."""
    await shell(bench, "one\n")

    async def end() -> None:
        await bench.desk.state.update(
            lambda tx: record_ended(
                tx, "tsk_shell", ShellOutcome("exited", 3, "", 4, 4, [], ["x.example:443"])
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        produced = await bench.run("task_output", task_id="tsk_shell")
    assert (produced["ready"], produced["status"], produced["exit_code"]) == (True, "failed", 3)
    assert produced["terminal_reason"] == "exited"
    assert produced["refused_hosts"] == ["x.example:443"]


async def test_output_that_is_more_than_a_model_reads(bench: Bench) -> None:
    """The end of long output is returned, and all of it is stored."""
    text = "".join(f"line {number}\n" for number in range(20_000))
    await shell(bench, text)
    outcome = await bench.asked("task_output", task_id="tsk_shell", wait=False, tail_bytes=100_000)
    message = msgspec.json.decode(outcome.text)
    assert len(outcome.text) <= MAX_TOOL_TEXT_BYTES
    assert message["output"].endswith("line 19999\n")
    assert message["left_out_bytes"] == len(text) - len(message["output"])
    assert outcome.full_output is not None
    assert text.endswith(outcome.full_output.decode())
    assert 99_000 < len(outcome.full_output) <= 100_000


# In the hands of the worker.


def of_last(request: ModelRequest) -> Any:
    """Return the last result that the model read."""
    item = request.messages[-1].items[-1]
    assert isinstance(item, ToolResult)
    return msgspec.json.decode(item.text)


def call(name: str, **arguments: Any) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Return an answer that calls a tool."""
    return lambda request: gives(ToolCall("c", name, arguments), stop_reason="tool_calls")


def about_last(name: str, **arguments: Any) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Return an answer that calls a tool with the task of the last result."""
    return lambda request: gives(
        ToolCall("c", name, {"task_id": of_last(request)["task_id"], **arguments}), stop_reason="tool_calls"
    )


async def test_a_run_works_on_a_task(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each change is journaled right before the result of its call, in the same commit."""
    parts = [
        call("task_create", title="Paint"),
        about_last("task_update", status="in_progress"),
        about_last("task_update", status="completed", output="blue"),
        lambda request: says("done"),
    ]
    hooks = CompositeHook((TaskTools(ShellFiles(tmp_path / "shells")),))
    async with open_desk(tmp_path, Scripted(parts), hooks=hooks) as desk, working(desk):
        sent = await desk.ask()
        journal = desk.journal(sent.session_id)
        kinds = [type(event) for _, event in journal]
        assert kinds[kinds.index(TaskCreated) + 1] is ToolReturned
        changes = [(envelope, event) for envelope, event in journal if isinstance(event, TaskUpdated)]
        assert [event.status for _, event in changes] == ["in_progress", "completed"]
        assert {envelope.run_id for envelope, _ in changes} == {sent.run_id}
        with desk.state.read() as store:
            ((_, task),) = store.scan(TASKS)
        assert (task.status, task.owner, task.output) == ("completed", "default", "blue")
        assert task.created_by_run_id == sent.run_id
        assert examine_whole(desk.state.read, deep=True).findings == []


async def test_a_rule_that_says_no_is_a_failed_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of two calls with one title the second fails, and the run continues."""
    twice = [ToolCall(f"c{number}", "task_create", {"title": "Paint"}) for number in (1, 2)]
    parts = [lambda request: gives(*twice, stop_reason="tool_calls"), lambda request: says("done")]
    hooks = CompositeHook((TaskTools(ShellFiles(tmp_path / "shells")),))
    async with open_desk(tmp_path, Scripted(parts), hooks=hooks) as desk, working(desk):
        sent = await desk.ask()
        results = [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)]
        assert [(result.how, result.is_error) for result in results] == [
            ("returned", False),
            ("failed", True),
        ]
        assert "has that title" in results[1].text
        assert sent.output == "done"
        with desk.state.read() as store:
            assert store.count(TASKS) == 1


# The rows of the tools.


BY_NAME = {tool.name: tool for tool in TaskTools(None).tools}  # type: ignore[arg-type]
READS = {"task_get", "task_list", "task_output"}


def test_they_are_seven() -> None:
    """There is one tool for each verb of tasks."""
    verbs = ("create", "get", "list", "update", "stop", "delete", "output")
    assert set(BY_NAME) == {f"task_{verb}" for verb in verbs}


@pytest.mark.parametrize("tool", BY_NAME.values(), ids=lambda tool: tool.name)
def test_what_the_daemon_knows_of_each(tool: Tool) -> None:
    """All tools are allowed and repeatable; those that only read also run in parallel."""
    assert (tool.kind, tool.default, tool.repeatable) == ("coordinate", "allow", True)
    assert (tool.parallel, tool.in_plan) == (tool.name in READS, tool.name in READS)
    assert tool.schema["additionalProperties"] is False
    assert "$ref" not in msgspec.json.encode(tool.schema).decode()


def test_waiting_ends_before_the_tool_s_time() -> None:
    """A wait ends before the tool's timeout, so its result is returned."""
    assert BY_NAME["task_output"].timeout_s > MAX_WAIT_SECONDS


def test_what_is_asked_is_what_the_methods_take() -> None:
    """Arguments have the names of the methods' params."""
    assert set(CreateTask.__struct_fields__) < set(TaskCreate.__struct_fields__)
    assert set(UpdateTask.__struct_fields__) < set(TaskUpdate.__struct_fields__)


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
    """Invalid arguments are rejected before the call is judged."""
    with pytest.raises(ToolError):
        Validator().validate(BY_NAME[name], arguments)


def test_what_is_left_out() -> None:
    """By default open tasks are listed, and an output is waited for."""
    assert ListTasks().status == "open"
    asked = ReadTaskOutput(task_id="t")
    assert (asked.wait, asked.timeout_s) == (True, 30.0)
    assert (NameTask(task_id="t").task_id, StopTask(task_id="t").note) == ("t", "")
