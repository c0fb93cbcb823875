"""Tasks over the socket: one test per outcome; and the rules under concurrent changes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.objects.work.shell import ShellOutcome, record_ended
from kheishd.records.doctor import examine_whole
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS, SHELLS_STOPPING, TASKS_OPEN, TASKS_WAITING
from protocol.errors.rpc import IdempotencyConflict, InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.task import (
    TaskAlreadyDeleted,
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
from protocol.errors.token import ScopeMissing
from protocol.limits.task import MAX_OPEN_TASKS, MAX_TASK_DESCRIPTION_BYTES, MAX_TASK_OUTPUT_BYTES
from tests.support.histories import task_created
from tests.support.household import Household, household, pages, refusal_of


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a run worker, with a session ``s``; tokens work."""
    async with household(tmp_path, work=False, tcp=True) as house:
        await house.call("session.create", session_id="s")
        yield house


async def create_task(house: Household, title: str = "Paint", **params: Any) -> str:
    """Create a task and return its id."""
    created = await house.call("task.create", **{"session_id": "s", "title": title} | params)
    return str(created["task_id"])


async def update_task(house: Household, task_id: str, **params: Any) -> Any:
    """Update a task and return it."""
    return await house.call("task.update", task_id=task_id, **params)


async def start_shell(house: Household, task_id: str = "tsk_shell", session_id: str = "s") -> str:
    """Append the creation and the start of a shell."""

    def begin(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        writer.append(task_created(task_id, shell=True))
        writer.write()

    await house.state.update(begin)
    return task_id


async def end_shell(house: Household, task_id: str = "tsk_shell", exit_code: int = 0) -> None:
    """Record the exit of a shell."""
    await house.state.update(lambda tx: record_ended(tx, task_id, ShellOutcome("exited", exit_code)))


async def unchanged_refusal_of(house: Household, method: str, **params: Any) -> Any:
    """Return the refusal of a change, which changes nothing."""
    head = house.head()
    refusal = await refusal_of(house.client, method, **params)
    assert house.head() == head
    return refusal


async def require_not_found(house: Household, method: str, **params: Any) -> None:
    """Require that the method refuses an unknown task and an uncovered one alike."""
    mine = await create_task(house)
    stranger = await house.connect_limited(senders=["ann"])
    critic = await house.connect_limited(agents=["critic"])
    for client, name in ((house.client, "tsk_none"), (stranger, mine), (critic, mine)):
        refusal = await refusal_of(client, method, task_id=name, **params)
        assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.task_id")


async def require_deleted(house: Household, method: str, **params: Any) -> None:
    """Require that the method refuses a deleted task, which stays deleted."""
    gone = await create_task(house)
    await house.call("task.delete", task_id=gone)
    assert type(await unchanged_refusal_of(house, method, task_id=gone, **params)) is TaskAlreadyDeleted
    assert (await house.call("task.list", status="any"))["tasks"] == []


async def require_session_ended(house: Household, method: str, **params: Any) -> None:
    """Require that the method changes no task of an ended session."""
    task_id = await create_task(house)
    await house.call("session.end", session_id="s")
    refusal = await unchanged_refusal_of(house, method, task_id=task_id, **params)
    assert type(refusal) is SessionAlreadyEnded
    assert (await house.call("task.get", task_id=task_id))["status"] == "pending"


# task.create


async def test_task_create_ok(house: Household) -> None:
    """A task is created as pending by one event; a repeated request returns the same task."""
    first = await create_task(house, "Buy paint")
    params = {
        "session_id": "s",
        "title": "  Paint the\tfence ",
        "description": "blue",
        "owner": "ann",
        "blocked_by": [first, first],
        "metadata": {"ticket": 7},
    }
    created = await house.call("task.create", idempotency_key="k", **params)
    assert created == await house.call("task.create", idempotency_key="k", **params)
    task_id = created["task_id"]
    assert task_id.startswith("tsk_")
    assert created == await house.call("task.get", task_id=task_id)
    assert {name: created[name] for name in params} == params | {
        "title": "Paint the fence",
        "blocked_by": [first],
    }
    assert created["status"] == "pending"
    assert (await house.call("task.get", task_id=first))["blocks"] == [task_id]
    events = await house.events(session_id="s", types=["task_created"])
    assert [event["task_id"] for event in events] == [first, task_id]
    assert events[1]["cursor"] == created["created_cursor"]
    assert type(
        await refusal_of(house.client, "task.create", idempotency_key="k", session_id="s", title="x")
    ) is (IdempotencyConflict)


async def test_task_create_check(house: Household) -> None:
    """A check returns the task and changes nothing."""
    head = house.head()
    created = await house.call("task.create", session_id="s", title="Paint", check=True)
    assert created["title"] == "Paint"
    assert house.head() == head
    assert type(await refusal_of(house.client, "task.create", session_id="s", title=" ")) is InvalidParams


async def test_task_create_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    stranger = await house.connect_limited(senders=["ann"])
    for client, session_id in ((house.client, "nowhere"), (stranger, "s")):
        refusal = await refusal_of(client, "task.create", session_id=session_id, title="x")
        assert type(refusal) is SessionNotFound


async def test_task_create_session_already_ended(house: Household) -> None:
    """An ended session takes no tasks."""
    await house.call("session.end", session_id="s")
    refusal = await unchanged_refusal_of(house, "task.create", session_id="s", title="x")
    assert type(refusal) is SessionAlreadyEnded


async def test_task_create_input_too_large(house: Household) -> None:
    """Sizes are measured as JSON, where a character may take six bytes."""
    text = "\x01" * (MAX_TASK_DESCRIPTION_BYTES // 4)
    refusal = await unchanged_refusal_of(house, "task.create", session_id="s", title="x", description=text)
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.description")
    refusal = await unchanged_refusal_of(
        house, "task.create", session_id="s", title="x", metadata={"x": "x" * 5000}
    )
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.metadata")


async def test_task_create_task_limit(house: Household) -> None:
    """A session has a maximum of open tasks; one that ends makes room."""

    def many(tx: Transaction) -> None:
        writer = SessionWriter(tx, "s", session=tx.get(SESSIONS, "s"))
        writer.append_all([task_created(f"tsk_{number}") for number in range(MAX_OPEN_TASKS)])
        writer.write()

    await house.state.update(many)
    assert type(await unchanged_refusal_of(house, "task.create", session_id="s", title="x")) is TaskLimit
    await house.call("task.stop", task_id="tsk_0")
    await create_task(house)


async def test_task_create_task_title_taken(house: Household) -> None:
    """Open tasks of a session have different titles in any spelling; ended tasks and shells do not count."""
    first = await create_task(house, "Paint it")
    refusal = await unchanged_refusal_of(house, "task.create", session_id="s", title=" PAINT  IT ")
    assert (type(refusal), refusal.field) == (TaskTitleTaken, "$.params.title")
    assert first in refusal.message
    await house.call("session.create", session_id="other")
    await create_task(house, "Paint it", session_id="other")
    await house.call("task.stop", task_id=first)
    await create_task(house, "Paint it")
    await start_shell(house)
    await create_task(house, "make")


async def test_task_create_task_not_found(house: Household) -> None:
    """A blocking task must exist in the same session."""
    await house.call("session.create", session_id="other")
    elsewhere = await create_task(house, session_id="other")
    refusal = await unchanged_refusal_of(
        house, "task.create", session_id="s", title="x", blocked_by=[elsewhere]
    )
    assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.blocked_by")


# task.get and task.list


async def test_task_get_ok(house: Household) -> None:
    """A task is shown in full."""
    task_id = await create_task(house, description="blue")
    view = await house.call("task.get", task_id=task_id)
    assert (view["title"], view["description"], view["session_id"]) == ("Paint", "blue", "s")


async def test_task_get_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await require_not_found(house, "task.get")


async def test_task_get_task_already_deleted(house: Household) -> None:
    """A deleted task is refused as deleted."""
    await require_deleted(house, "task.get")


async def test_task_list_ok(house: Household) -> None:
    """Open tasks are listed oldest first: of a session or of all, by status and kind, in pages."""
    first, two, three = [await create_task(house, name) for name in ("one", "two", "three")]
    await house.call("session.create", session_id="other")
    four = await create_task(house, session_id="other")
    five = await start_shell(house)
    await update_task(house, two, status="completed", output="x")
    await house.call("task.delete", task_id=three)

    async def list_ids(**params: Any) -> list[str]:
        tasks = await pages(house.client, "task.list", "tasks", **params)
        return [task["task_id"] for task in tasks]

    assert await list_ids(session_id="s", limit=1) == [first, five]
    assert await list_ids(session_id="s", status="any", limit=2) == [first, two, five]
    assert await list_ids(session_id="s", status="completed") == [two]
    assert await list_ids(session_id="s", kind="shell") == [five]
    assert sorted(await list_ids(limit=1)) == sorted([first, four, five])
    assert await list_ids(kind="task", status="pending", limit=1) == sorted([first, four])
    stranger = await house.connect_limited(senders=["ann"])
    assert (await stranger.call("task.list"))["tasks"] == []


async def test_task_list_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    stranger = await house.connect_limited(senders=["ann"])
    for client, session_id in ((house.client, "nowhere"), (stranger, "s")):
        assert type(await refusal_of(client, "task.list", session_id=session_id)) is SessionNotFound


# task.update


async def test_task_update_ok(house: Household) -> None:
    """Named fields change, the journal records the actor, and an update without changes appends no event."""
    first, task_id = await create_task(house, "first"), await create_task(house)
    changed = await update_task(
        house,
        task_id,
        title="Paint it",
        description="blue",
        status="blocked",
        owner="ann",
        blocked_by=[first, first],
        metadata={"n": 1},
        note="no paint",
    )
    assert (changed["title"], changed["description"], changed["owner"]) == ("Paint it", "blue", "ann")
    assert (changed["status"], changed["note"]) == ("blocked", "no paint")
    assert (changed["blocked_by"], changed["metadata"]) == ([first], {"n": 1})
    (event,) = await house.events(session_id="s", types=["task_updated"])
    assert event["actor"].startswith("uid:")
    assert event["run_id" if "run_id" in event else "task_id"] == task_id
    head = house.head()
    assert await update_task(house, task_id, title="Paint it") == changed
    assert house.head() == head
    assert "owner" not in await update_task(house, task_id, owner=None)
    await update_task(house, first, status="completed", output="bought")
    assert (await update_task(house, task_id, status="in_progress"))["status"] == "in_progress"
    done = await update_task(house, task_id, status="completed", output="It is blue.")
    assert (done["output"], "ended_at_ms" in done) == ("It is blue.", True)


async def test_blocking_tasks_name_the_tasks_they_block(house: Household) -> None:
    """Both sides of a dependency change in the same commit; only open tasks are blocked."""
    first, second, third = [await create_task(house, name) for name in ("one", "two", "three")]

    async def blocks(task_id: str) -> list[str]:
        return list((await house.call("task.get", task_id=task_id)).get("blocks", []))

    await update_task(house, third, blocked_by=[first, second])
    assert (await blocks(first), await blocks(second)) == ([third], [third])
    await update_task(house, third, blocked_by=[second])
    assert (await blocks(first), await blocks(second)) == ([], [third])
    await house.call("task.stop", task_id=third)
    assert await blocks(second) == []
    with house.state.read() as store:
        assert (store.count(TASKS_WAITING), store.count(TASKS_OPEN)) == (0, 2)
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_task_update_task_not_found(house: Household) -> None:
    """Neither an unknown task nor an unknown blocking task is accepted."""
    await require_not_found(house, "task.update", title="x")
    refusal = await unchanged_refusal_of(
        house, "task.update", task_id=await create_task(house, "b"), blocked_by=["tsk_none"]
    )
    assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.blocked_by")


async def test_task_update_task_already_deleted(house: Household) -> None:
    """A deleted task does not come back."""
    await require_deleted(house, "task.update", status="pending")


async def test_task_update_session_already_ended(house: Household) -> None:
    """Tasks of an ended session do not change."""
    await require_session_ended(house, "task.update", title="x")


async def test_task_update_input_too_large(house: Household) -> None:
    """Each field has its limit."""
    task_id = await create_task(house)
    for name, value in (
        ("description", "\x01" * (MAX_TASK_DESCRIPTION_BYTES // 4)),
        ("output", "\x01" * (MAX_TASK_OUTPUT_BYTES // 4)),
        ("metadata", {"x": "x" * 5000}),
    ):
        refusal = await unchanged_refusal_of(house, "task.update", task_id=task_id, **{name: value})
        assert (type(refusal), refusal.field) == (InputTooLarge, f"$.params.{name}")


async def test_task_update_task_running(house: Household) -> None:
    """The status of a shell is that of its process."""
    refusal = await unchanged_refusal_of(
        house, "task.update", task_id=await start_shell(house), status="completed"
    )
    assert type(refusal) is TaskRunning


async def test_task_update_task_already_ended(house: Household) -> None:
    """Neither an ended task nor an ended shell is reopened."""
    task_id = await create_task(house)
    await update_task(house, task_id, status="failed", note="no paint")
    assert (
        type(await unchanged_refusal_of(house, "task.update", task_id=task_id, status="pending"))
        is TaskAlreadyEnded
    )
    await start_shell(house)
    await end_shell(house)
    assert (
        type(await unchanged_refusal_of(house, "task.update", task_id="tsk_shell", title="x"))
        is TaskAlreadyEnded
    )


async def test_task_update_task_title_taken(house: Household) -> None:
    """The title of another open task is refused."""
    await create_task(house, "one")
    two = await create_task(house, "two")
    assert type(await unchanged_refusal_of(house, "task.update", task_id=two, title="ONE")) is TaskTitleTaken


async def test_task_update_task_cycle(house: Household) -> None:
    """The refusal names the tasks of the cycle."""
    first = await create_task(house, "one")
    two = await create_task(house, "two", blocked_by=[first])
    three = await create_task(house, "three", blocked_by=[two])
    refusal = await unchanged_refusal_of(house, "task.update", task_id=first, blocked_by=[three])
    assert (type(refusal), refusal.field) == (TaskCycle, "$.params.blocked_by")
    assert f"{first} -> {three} -> {two} -> {first}" in refusal.message


async def test_task_update_task_blocked(house: Household) -> None:
    """A task waits until every blocking task is completed; a shell can block, too."""
    first = await create_task(house, "one")
    two = await create_task(house, "two", blocked_by=[first, await start_shell(house)])
    for status in ("in_progress", "completed"):
        refusal = await unchanged_refusal_of(house, "task.update", task_id=two, status=status, output="x")
        assert type(refusal) is TaskBlocked
        assert f"{first} (pending)" in refusal.message
    await update_task(house, first, status="completed", output="x")
    await end_shell(house)
    await update_task(house, two, status="in_progress")


async def test_task_update_task_output_missing(house: Household) -> None:
    """A task is not completed without its output."""
    task_id = await create_task(house)
    refusal = await unchanged_refusal_of(
        house, "task.update", task_id=task_id, status="completed", output=" "
    )
    assert (type(refusal), refusal.field) == (TaskOutputMissing, "$.params.output")


async def test_concurrent_updates_close_no_cycle(house: Household) -> None:
    """Each update is checked in its own transaction, so the one that would close a cycle is refused."""
    names = [await create_task(house, name) for name in "abcdef"]
    refusals: list[Any] = []

    async def wait_for(task_id: str, blocking: str) -> None:
        client = await house.server.connect()
        try:
            await client.call("task.update", task_id=task_id, blocked_by=[blocking])
        except TaskCycle as refusal:
            refusals.append(refusal)

    async with trio.open_nursery() as nursery:
        for here, successor in zip(names, [*names[1:], names[0]], strict=True):
            nursery.start_soon(wait_for, here, successor)
    assert len(refusals) == 1


# task.stop


async def test_task_stop_ok(house: Household) -> None:
    """A stopped task is cancelled with the note; stopping an ended one changes nothing."""
    task_id = await create_task(house)
    stopped = await house.call("task.stop", task_id=task_id, note="enough")
    assert (stopped["status"], stopped["note"]) == ("cancelled", "enough")
    head = house.head()
    assert await house.call("task.stop", task_id=task_id, note="again") == stopped
    assert house.head() == head


async def test_task_stop_ok_of_a_shell(house: Household) -> None:
    """The answer waits for the shell to end; the first stop counts."""
    await start_shell(house)

    bell = house.state.bell(SHELLS_STOPPING.name)

    async def end() -> None:
        await bell.wait()
        await house.state.update(lambda tx: record_ended(tx, "tsk_shell", ShellOutcome("stopped", 143)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        stopped = await house.call("task.stop", task_id="tsk_shell", note="enough")
    assert (stopped["status"], stopped["shell"]["exit_code"]) == ("cancelled", 143)
    assert (stopped["note"], stopped["shell"]["stop_note"]) == ("enough", "enough")


async def test_task_stop_ok_of_a_shell_that_takes_its_time(
    house: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some seconds the answer shows the requested stop; a second request appends nothing."""
    monkeypatch.setattr("kheishd.objects.work.task.STOP_SECONDS", 0.01)
    await start_shell(house)
    for reason in ("enough", "again"):
        stopped = await house.call("task.stop", task_id="tsk_shell", note=reason)
        assert stopped["status"] == "pending"
        assert stopped["shell"]["stop_note"] == "enough"
    assert await house.kinds(session_id="s") == ["session_created", "task_created", "task_stop_requested"]


async def test_task_stop_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await require_not_found(house, "task.stop")


async def test_task_stop_task_already_deleted(house: Household) -> None:
    """A deleted task cannot be stopped."""
    await require_deleted(house, "task.stop")


async def test_ending_a_session_stops_its_shells(house: Household) -> None:
    """The same transaction requests the stop of live shells; ended ones are unchanged."""
    await start_shell(house)
    await start_shell(house, "tsk_over")
    await end_shell(house, "tsk_over")
    await house.call("session.end", session_id="s")
    assert await house.kinds(session_id="s", types=["session_ended", "task_stop_requested"]) == [
        "session_ended",
        "task_stop_requested",
    ]
    view = (await house.call("task.get", task_id="tsk_shell"))["shell"]
    assert view["stop_note"] == "the session was ended"


# task.delete


async def test_task_delete_ok(house: Household) -> None:
    """A deleted task leaves its id and none of its content; an ended one can be deleted."""
    task_id = await create_task(house, description="blue")
    gone = await house.call("task.delete", task_id=task_id)
    assert (gone["title"], "description" in gone, "deleted_at_ms" in gone) == ("Paint", False, True)
    await create_task(house, "Paint")
    await start_shell(house)
    await end_shell(house)
    await house.call("task.delete", task_id="tsk_shell")
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_task_delete_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await require_not_found(house, "task.delete")


async def test_task_delete_task_already_deleted(house: Household) -> None:
    """A task is deleted once."""
    await require_deleted(house, "task.delete")


async def test_task_delete_session_already_ended(house: Household) -> None:
    """Tasks of an ended session do not change."""
    await require_session_ended(house, "task.delete")


async def test_task_delete_task_running(house: Household) -> None:
    """A running shell must be stopped first."""
    assert (
        type(await unchanged_refusal_of(house, "task.delete", task_id=await start_shell(house)))
        is TaskRunning
    )


async def test_task_delete_task_blocks_others(house: Household) -> None:
    """A task that blocks others cannot be deleted until it is completed."""
    first = await create_task(house, "one")
    two = await create_task(house, "two", blocked_by=[first])
    refusal = await unchanged_refusal_of(house, "task.delete", task_id=first)
    assert type(refusal) is TaskBlocksOthers
    assert two in refusal.message
    await update_task(house, first, status="completed", output="x")
    await house.call("task.delete", task_id=first)
    assert (await update_task(house, two, status="in_progress"))["status"] == "in_progress"


# task.output


async def test_task_output_ok(house: Household) -> None:
    """The end of the output is returned, or a part after an offset; ``ready``: the task has ended."""
    task_id = await create_task(house)
    empty = await house.call("task.output", task_id=task_id)
    assert (empty["ready"], empty["timed_out"], empty["text"], empty["path"]) == (False, False, "", None)
    await update_task(house, task_id, status="completed", output="It is blue.")
    whole = await house.call("task.output", task_id=task_id, wait=True)
    assert (whole["ready"], whole["text"], whole["total_bytes"]) == (True, "It is blue.", 11)
    tail = await house.call("task.output", task_id=task_id, tail_bytes=5)
    assert (tail["text"], tail["left_out_bytes"], tail["offset"]) == ("blue.", 6, 11)
    part = await house.call("task.output", task_id=task_id, offset=3, tail_bytes=5)
    assert (part["text"], part["offset"], part["left_out_bytes"]) == ("is bl", 8, 3)
    beyond = await house.call("task.output", task_id=task_id, offset=99)
    assert (beyond["text"], beyond["offset"]) == ("", 11)


async def test_task_output_ok_waits(house: Household) -> None:
    """The answer waits until the task has ended, or reports that the time was over."""
    task_id = await create_task(house)
    early = await house.call("task.output", task_id=task_id, wait=True, timeout_s=0.01)
    assert (early["ready"], early["timed_out"]) == (False, True)

    client = await house.server.connect()

    async def complete() -> None:
        await client.call("task.update", task_id=task_id, status="completed", output="done")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(complete)
        late = await house.call("task.output", task_id=task_id, wait=True)
    assert (late["ready"], late["timed_out"], late["text"]) == (True, False, "done")


async def test_task_output_ok_of_a_shell(house: Household, tmp_path: Path) -> None:
    """A shell's output is read from its file; a wait at an offset ends when there is more."""
    await start_shell(house)
    written = house.server.services.shells
    assert isinstance(written, ShellFiles)
    log = written.log("tsk_shell")
    log.begin()
    await written.write("tsk_shell", log, b"one\n")
    first = await house.call("task.output", task_id="tsk_shell", wait=True, offset=0)
    assert (first["text"], first["offset"], first["ready"], first["timed_out"]) == ("one\n", 4, False, False)
    assert first["path"] == str(tmp_path / "shells" / "tsk_shell")

    async def more() -> None:
        await written.write("tsk_shell", log, b"two\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(more)
        second = await house.call("task.output", task_id="tsk_shell", wait=True, offset=4)
    assert (second["text"], second["left_out_bytes"], second["total_bytes"]) == ("two\n", 4, 8)
    third = await house.call("task.output", task_id="tsk_shell", wait=True, offset=8, timeout_s=0.01)
    assert (third["text"], third["timed_out"]) == ("", True)

    async def end() -> None:
        log.close()
        await end_shell(house)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        last = await house.call("task.output", task_id="tsk_shell", wait=True, offset=8)
    assert (last["text"], last["ready"], last["task"]["status"]) == ("", True, "completed")


async def test_task_output_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await require_not_found(house, "task.output")


async def test_task_output_task_already_deleted(house: Household) -> None:
    """The output of a deleted task cannot be read."""
    await require_deleted(house, "task.output")


async def test_every_method_needs_its_scope(house: Household) -> None:
    """The scope ``read`` changes no task, and the scope ``converse`` reads none."""
    task_id = await create_task(house)
    reader = await house.connect_limited(scopes=["read"])
    for verb in ("update", "stop", "delete"):
        assert type(await refusal_of(reader, f"task.{verb}", task_id=task_id)) is ScopeMissing
    assert type(await refusal_of(reader, "task.create", session_id="s", title="x")) is ScopeMissing
    assert (await reader.call("task.get", task_id=task_id))["title"] == "Paint"
    speaker = await house.connect_limited(scopes=["converse"])
    for verb in ("get", "output"):
        assert type(await refusal_of(speaker, f"task.{verb}", task_id=task_id)) is ScopeMissing
    assert (await speaker.call("task.stop", task_id=task_id))["status"] == "cancelled"
