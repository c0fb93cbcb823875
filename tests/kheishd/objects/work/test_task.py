"""Tasks over the socket: one test an outcome; and that the rules hold whoever is first."""

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
    TaskCycle,
    TaskNeeded,
    TaskNotFound,
    TaskOutputMissing,
    TaskRunning,
    TasksFull,
    TaskTitleTaken,
)
from protocol.errors.token import ScopeMissing
from protocol.limits.task import MAX_OPEN_TASKS, MAX_TASK_DESCRIPTION_BYTES, MAX_TASK_OUTPUT_BYTES
from tests.support.histories import task_created
from tests.support.household import Household, household, pages, refused


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose runs stay queued, with tokens, and a session ``s``."""
    async with household(tmp_path, work=False, tcp=True) as house:
        await house.call("session.create", session_id="s")
        yield house


async def made(house: Household, title: str = "Paint", **params: Any) -> str:
    """A task's id."""
    created = await house.call("task.create", **{"session_id": "s", "title": title} | params)
    return str(created["task_id"])


async def updated(house: Household, task_id: str, **params: Any) -> Any:
    """A task after a change."""
    return await house.call("task.update", task_id=task_id, **params)


async def shell(house: Household, task_id: str = "tsk_shell", session_id: str = "s") -> str:
    """A shell that lives, as far as the store goes."""

    def begin(tx: Transaction) -> None:
        fold = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        fold.append(task_created(task_id, shell=True))
        fold.write()

    await house.state.update(begin)
    return task_id


async def over(house: Household, task_id: str = "tsk_shell", exit_code: int = 0) -> None:
    """A shell ends by itself."""
    await house.state.update(lambda tx: record_ended(tx, task_id, ShellOutcome("exited", exit_code)))


async def refusal_of(house: Household, method: str, **params: Any) -> Any:
    """The refusal of a change; nothing changed by it."""
    before = house.head()
    refusal = await refused(house.client, method, **params)
    assert house.head() == before
    return refusal


async def not_found(house: Household, method: str, **params: Any) -> None:
    """The method finds neither what is not there nor what is not covered."""
    mine = await made(house)
    stranger = await house.limited(senders=["ann"])
    critic = await house.limited(agents=["critic"])
    for client, name in ((house.client, "tsk_none"), (stranger, mine), (critic, mine)):
        refusal = await refused(client, method, task_id=name, **params)
        assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.task_id")


async def deleted(house: Household, method: str, **params: Any) -> None:
    """The method is told that the task is gone, and does not bring it back."""
    gone = await made(house)
    await house.call("task.delete", task_id=gone)
    assert type(await refusal_of(house, method, task_id=gone, **params)) is TaskAlreadyDeleted
    assert (await house.call("task.list", status="any"))["tasks"] == []


async def session_ended(house: Household, method: str, **params: Any) -> None:
    """The tasks of a session that was ended stay as they are."""
    task_id = await made(house)
    await house.call("session.end", session_id="s")
    refusal = await refusal_of(house, method, task_id=task_id, **params)
    assert type(refusal) is SessionAlreadyEnded
    assert (await house.call("task.get", task_id=task_id))["status"] == "pending"


# task.create


async def test_task_create_ok(house: Household) -> None:
    """A task is created as pending by one event; a repeated request returns the same task."""
    first = await made(house, "Buy paint")
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
        await refused(house.client, "task.create", idempotency_key="k", session_id="s", title="x")
    ) is (IdempotencyConflict)


async def test_task_create_check(house: Household) -> None:
    """A check returns the task and changes nothing."""
    before = house.head()
    created = await house.call("task.create", session_id="s", title="Paint", check=True)
    assert created["title"] == "Paint"
    assert house.head() == before
    assert type(await refused(house.client, "task.create", session_id="s", title=" ")) is InvalidParams


async def test_task_create_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    stranger = await house.limited(senders=["ann"])
    for client, session_id in ((house.client, "nowhere"), (stranger, "s")):
        refusal = await refused(client, "task.create", session_id=session_id, title="x")
        assert type(refusal) is SessionNotFound


async def test_task_create_session_already_ended(house: Household) -> None:
    """An ended session takes no tasks."""
    await house.call("session.end", session_id="s")
    refusal = await refusal_of(house, "task.create", session_id="s", title="x")
    assert type(refusal) is SessionAlreadyEnded


async def test_task_create_input_too_large(house: Household) -> None:
    """Sizes are measured as JSON, where a character may take six bytes."""
    text = "\x01" * (MAX_TASK_DESCRIPTION_BYTES // 4)
    refusal = await refusal_of(house, "task.create", session_id="s", title="x", description=text)
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.description")
    refusal = await refusal_of(house, "task.create", session_id="s", title="x", metadata={"x": "x" * 5000})
    assert (type(refusal), refusal.field) == (InputTooLarge, "$.params.metadata")


async def test_task_create_tasks_full(house: Household) -> None:
    """A session has a maximum of open tasks; one that ends makes room."""

    def many(tx: Transaction) -> None:
        fold = SessionWriter(tx, "s", session=tx.get(SESSIONS, "s"))
        fold.append_all([task_created(f"tsk_{number}") for number in range(MAX_OPEN_TASKS)])
        fold.write()

    await house.state.update(many)
    assert type(await refusal_of(house, "task.create", session_id="s", title="x")) is TasksFull
    await house.call("task.stop", task_id="tsk_0")
    await made(house)


async def test_task_create_task_title_taken(house: Household) -> None:
    """Open tasks of a session have different titles in any spelling; ended tasks and shells do not count."""
    first = await made(house, "Paint it")
    refusal = await refusal_of(house, "task.create", session_id="s", title=" PAINT  IT ")
    assert (type(refusal), refusal.field) == (TaskTitleTaken, "$.params.title")
    assert first in refusal.message
    await house.call("session.create", session_id="other")
    await made(house, "Paint it", session_id="other")
    await house.call("task.stop", task_id=first)
    await made(house, "Paint it")
    await shell(house)
    await made(house, "make")


async def test_task_create_task_not_found(house: Household) -> None:
    """A blocking task must exist in the same session."""
    await house.call("session.create", session_id="other")
    elsewhere = await made(house, session_id="other")
    refusal = await refusal_of(house, "task.create", session_id="s", title="x", blocked_by=[elsewhere])
    assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.blocked_by")


# task.get and task.list


async def test_task_get_ok(house: Household) -> None:
    """A task is shown in full."""
    task_id = await made(house, description="blue")
    shown = await house.call("task.get", task_id=task_id)
    assert (shown["title"], shown["description"], shown["session_id"]) == ("Paint", "blue", "s")


async def test_task_get_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await not_found(house, "task.get")


async def test_task_get_task_already_deleted(house: Household) -> None:
    """A deleted task is refused as deleted."""
    await deleted(house, "task.get")


async def test_task_list_ok(house: Household) -> None:
    """Open tasks are listed oldest first: of a session or of all, by status and kind, in pages."""
    one, two, three = [await made(house, name) for name in ("one", "two", "three")]
    await house.call("session.create", session_id="other")
    four = await made(house, session_id="other")
    five = await shell(house)
    await updated(house, two, status="completed", output="x")
    await house.call("task.delete", task_id=three)

    async def listed(**params: Any) -> list[str]:
        found = await pages(house.client, "task.list", "tasks", **params)
        return [task["task_id"] for task in found]

    assert await listed(session_id="s", limit=1) == [one, five]
    assert await listed(session_id="s", status="any", limit=2) == [one, two, five]
    assert await listed(session_id="s", status="completed") == [two]
    assert await listed(session_id="s", kind="shell") == [five]
    assert sorted(await listed(limit=1)) == sorted([one, four, five])
    assert await listed(kind="task", status="pending", limit=1) == sorted([one, four])
    stranger = await house.limited(senders=["ann"])
    assert (await stranger.call("task.list"))["tasks"] == []


async def test_task_list_session_not_found(house: Household) -> None:
    """An unknown session, and one that the token does not cover, are refused alike."""
    stranger = await house.limited(senders=["ann"])
    for client, session_id in ((house.client, "nowhere"), (stranger, "s")):
        assert type(await refused(client, "task.list", session_id=session_id)) is SessionNotFound


# task.update


async def test_task_update_ok(house: Household) -> None:
    """Named fields change, the journal records the actor, and an update without changes appends no event."""
    first, task_id = await made(house, "first"), await made(house)
    changed = await updated(
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
    before = house.head()
    assert await updated(house, task_id, title="Paint it") == changed
    assert house.head() == before
    assert "owner" not in await updated(house, task_id, owner=None)
    await updated(house, first, status="completed", output="bought")
    assert (await updated(house, task_id, status="in_progress"))["status"] == "in_progress"
    done = await updated(house, task_id, status="completed", output="It is blue.")
    assert (done["output"], "ended_at_ms" in done) == ("It is blue.", True)


async def test_blocking_tasks_name_the_tasks_they_block(house: Household) -> None:
    """Both sides of a dependency change in the same commit; only open tasks are blocked."""
    first, second, third = [await made(house, name) for name in ("one", "two", "three")]

    async def blocks(task_id: str) -> list[str]:
        return list((await house.call("task.get", task_id=task_id)).get("blocks", []))

    await updated(house, third, blocked_by=[first, second])
    assert (await blocks(first), await blocks(second)) == ([third], [third])
    await updated(house, third, blocked_by=[second])
    assert (await blocks(first), await blocks(second)) == ([], [third])
    await house.call("task.stop", task_id=third)
    assert await blocks(second) == []
    with house.state.read() as store:
        assert (store.count(TASKS_WAITING), store.count(TASKS_OPEN)) == (0, 2)
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_task_update_task_not_found(house: Household) -> None:
    """Neither an unknown task nor an unknown blocking task is accepted."""
    await not_found(house, "task.update", title="x")
    refusal = await refusal_of(house, "task.update", task_id=await made(house, "b"), blocked_by=["tsk_none"])
    assert (type(refusal), refusal.field) == (TaskNotFound, "$.params.blocked_by")


async def test_task_update_task_already_deleted(house: Household) -> None:
    """A deleted task does not come back."""
    await deleted(house, "task.update", status="pending")


async def test_task_update_session_already_ended(house: Household) -> None:
    """Tasks of an ended session do not change."""
    await session_ended(house, "task.update", title="x")


async def test_task_update_input_too_large(house: Household) -> None:
    """Each field has its limit."""
    task_id = await made(house)
    for name, value in (
        ("description", "\x01" * (MAX_TASK_DESCRIPTION_BYTES // 4)),
        ("output", "\x01" * (MAX_TASK_OUTPUT_BYTES // 4)),
        ("metadata", {"x": "x" * 5000}),
    ):
        refusal = await refusal_of(house, "task.update", task_id=task_id, **{name: value})
        assert (type(refusal), refusal.field) == (InputTooLarge, f"$.params.{name}")


async def test_task_update_task_running(house: Household) -> None:
    """The status of a shell is that of its process."""
    refusal = await refusal_of(house, "task.update", task_id=await shell(house), status="completed")
    assert type(refusal) is TaskRunning


async def test_task_update_task_already_ended(house: Household) -> None:
    """Neither an ended task nor an ended shell is reopened."""
    task_id = await made(house)
    await updated(house, task_id, status="failed", note="no paint")
    assert type(await refusal_of(house, "task.update", task_id=task_id, status="pending")) is TaskAlreadyEnded
    await shell(house)
    await over(house)
    assert type(await refusal_of(house, "task.update", task_id="tsk_shell", title="x")) is TaskAlreadyEnded


async def test_task_update_task_title_taken(house: Household) -> None:
    """The title of another open task is refused."""
    await made(house, "one")
    two = await made(house, "two")
    assert type(await refusal_of(house, "task.update", task_id=two, title="ONE")) is TaskTitleTaken


async def test_task_update_task_cycle(house: Household) -> None:
    """The refusal names the tasks of the cycle."""
    one = await made(house, "one")
    two = await made(house, "two", blocked_by=[one])
    three = await made(house, "three", blocked_by=[two])
    refusal = await refusal_of(house, "task.update", task_id=one, blocked_by=[three])
    assert (type(refusal), refusal.field) == (TaskCycle, "$.params.blocked_by")
    assert f"{one} -> {three} -> {two} -> {one}" in refusal.message


async def test_task_update_task_blocked(house: Household) -> None:
    """A task waits until every blocking task is completed; a shell can block, too."""
    one = await made(house, "one")
    two = await made(house, "two", blocked_by=[one, await shell(house)])
    for status in ("in_progress", "completed"):
        refusal = await refusal_of(house, "task.update", task_id=two, status=status, output="x")
        assert type(refusal) is TaskBlocked
        assert f"{one} (pending)" in refusal.message
    await updated(house, one, status="completed", output="x")
    await over(house)
    await updated(house, two, status="in_progress")


async def test_task_update_task_output_missing(house: Household) -> None:
    """A task is not completed without its output."""
    task_id = await made(house)
    refusal = await refusal_of(house, "task.update", task_id=task_id, status="completed", output=" ")
    assert (type(refusal), refusal.field) == (TaskOutputMissing, "$.params.output")


async def test_concurrent_updates_close_no_cycle(house: Household) -> None:
    """Each update is checked in its own transaction, so the one that would close a cycle is refused."""
    names = [await made(house, name) for name in "abcdef"]
    refusals: list[Any] = []

    async def wait_for(task_id: str, other: str) -> None:
        client = await house.server.connect()
        try:
            await client.call("task.update", task_id=task_id, blocked_by=[other])
        except TaskCycle as refusal:
            refusals.append(refusal)

    async with trio.open_nursery() as nursery:
        for here, there in zip(names, [*names[1:], names[0]], strict=True):
            nursery.start_soon(wait_for, here, there)
    assert len(refusals) == 1


# task.stop


async def test_task_stop_ok(house: Household) -> None:
    """A stopped task is cancelled with the note; stopping an ended one changes nothing."""
    task_id = await made(house)
    stopped = await house.call("task.stop", task_id=task_id, note="enough")
    assert (stopped["status"], stopped["note"]) == ("cancelled", "enough")
    before = house.head()
    assert await house.call("task.stop", task_id=task_id, note="again") == stopped
    assert house.head() == before


async def test_task_stop_ok_of_a_shell(house: Household) -> None:
    """The answer waits for the shell to end; the first stop counts."""
    await shell(house)

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
    await shell(house)
    for reason in ("enough", "again"):
        stopped = await house.call("task.stop", task_id="tsk_shell", note=reason)
        assert stopped["status"] == "pending"
        assert stopped["shell"]["stop_note"] == "enough"
    assert await house.kinds(session_id="s") == ["session_created", "task_created", "task_stop_requested"]


async def test_task_stop_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await not_found(house, "task.stop")


async def test_task_stop_task_already_deleted(house: Household) -> None:
    """A deleted task cannot be stopped."""
    await deleted(house, "task.stop")


async def test_ending_a_session_stops_its_shells(house: Household) -> None:
    """The same transaction requests the stop of live shells; ended ones are unchanged."""
    await shell(house)
    await shell(house, "tsk_over")
    await over(house, "tsk_over")
    await house.call("session.end", session_id="s")
    assert await house.kinds(session_id="s", types=["session_ended", "task_stop_requested"]) == [
        "session_ended",
        "task_stop_requested",
    ]
    asked = (await house.call("task.get", task_id="tsk_shell"))["shell"]
    assert asked["stop_note"] == "the session was ended"


# task.delete


async def test_task_delete_ok(house: Household) -> None:
    """A deleted task leaves its id and none of its content; an ended one can be deleted."""
    task_id = await made(house, description="blue")
    gone = await house.call("task.delete", task_id=task_id)
    assert (gone["title"], "description" in gone, "deleted_at_ms" in gone) == ("Paint", False, True)
    await made(house, "Paint")
    await shell(house)
    await over(house)
    await house.call("task.delete", task_id="tsk_shell")
    assert examine_whole(house.state.read, deep=True).findings == []


async def test_task_delete_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await not_found(house, "task.delete")


async def test_task_delete_task_already_deleted(house: Household) -> None:
    """A task is deleted once."""
    await deleted(house, "task.delete")


async def test_task_delete_session_already_ended(house: Household) -> None:
    """Tasks of an ended session do not change."""
    await session_ended(house, "task.delete")


async def test_task_delete_task_running(house: Household) -> None:
    """A running shell must be stopped first."""
    assert type(await refusal_of(house, "task.delete", task_id=await shell(house))) is TaskRunning


async def test_task_delete_task_needed(house: Household) -> None:
    """A task that blocks others cannot be deleted until it is completed."""
    one = await made(house, "one")
    two = await made(house, "two", blocked_by=[one])
    refusal = await refusal_of(house, "task.delete", task_id=one)
    assert type(refusal) is TaskNeeded
    assert two in refusal.message
    await updated(house, one, status="completed", output="x")
    await house.call("task.delete", task_id=one)
    assert (await updated(house, two, status="in_progress"))["status"] == "in_progress"


# task.output


async def test_task_output_ok(house: Household) -> None:
    """The end of the output is returned, or a part after an offset; ``ready``: the task has ended."""
    task_id = await made(house)
    empty = await house.call("task.output", task_id=task_id)
    assert (empty["ready"], empty["timed_out"], empty["text"], empty["path"]) == (False, False, "", None)
    await updated(house, task_id, status="completed", output="It is blue.")
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
    task_id = await made(house)
    early = await house.call("task.output", task_id=task_id, wait=True, timeout_s=0.01)
    assert (early["ready"], early["timed_out"]) == (False, True)

    other = await house.server.connect()

    async def complete() -> None:
        await other.call("task.update", task_id=task_id, status="completed", output="done")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(complete)
        late = await house.call("task.output", task_id=task_id, wait=True)
    assert (late["ready"], late["timed_out"], late["text"]) == (True, False, "done")


async def test_task_output_ok_of_a_shell(house: Household, tmp_path: Path) -> None:
    """A shell's output is read from its file; a wait at an offset ends when there is more."""
    await shell(house)
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
        await over(house)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        last = await house.call("task.output", task_id="tsk_shell", wait=True, offset=8)
    assert (last["text"], last["ready"], last["task"]["status"]) == ("", True, "completed")


async def test_task_output_task_not_found(house: Household) -> None:
    """An unknown task, and one that the token does not cover, are refused alike."""
    await not_found(house, "task.output")


async def test_task_output_task_already_deleted(house: Household) -> None:
    """The output of a deleted task cannot be read."""
    await deleted(house, "task.output")


async def test_every_method_needs_its_scope(house: Household) -> None:
    """The scope ``read`` changes no task, and the scope ``converse`` reads none."""
    task_id = await made(house)
    reader = await house.limited(scopes=["read"])
    for verb in ("update", "stop", "delete"):
        assert type(await refused(reader, f"task.{verb}", task_id=task_id)) is ScopeMissing
    assert type(await refused(reader, "task.create", session_id="s", title="x")) is ScopeMissing
    assert (await reader.call("task.get", task_id=task_id))["title"] == "Paint"
    speaker = await house.limited(scopes=["converse"])
    for verb in ("get", "output"):
        assert type(await refused(speaker, f"task.{verb}", task_id=task_id)) is ScopeMissing
    assert (await speaker.call("task.stop", task_id=task_id))["status"] == "cancelled"
