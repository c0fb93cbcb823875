"""Background shells for tests: a worker on a real store, with real processes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from kheishd.hooks.os.shell.log import ShellFiles
from kheishd.hooks.os.shell.starter import Starter
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS, TASKS
from kheishd.workers.shells import ShellWorker
from protocol.events.session import SessionCreated
from protocol.events.task import TaskCreated, TaskStopRequested
from protocol.journal.line import JournalEvent
from protocol.objects.task import Shell, ShellCommand, Task
from tests.support.desk import Desk, open_desk


class Yard:
    """A session ``s`` whose shells run in a workspace, while a worker runs (``worked``)."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk = desk
        self.home = directory / "home"
        self.workspace = directory / "work"
        self.files = ShellFiles(self.home / "run" / "shells")
        self.starter = Starter(self.home, {"PATH": os.environ["PATH"]})

    @asynccontextmanager
    async def run_worker(self, *, stall_s: float = 45.0) -> AsyncIterator[ShellWorker]:
        """Provide a worker; leaving stops its shells, as the end of a daemon does."""
        desk = self.desk
        worker = ShellWorker(desk.services, self.files, lambda: self.starter, stall_s=stall_s)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.serve)
            yield worker
            nursery.cancel_scope.cancel()

    async def append(self, *events: JournalEvent) -> None:
        """Append events to the session."""

        def change(tx: Transaction) -> None:
            writer = SessionWriter(tx, "s", session=tx.get(SESSIONS, "s"))
            if tx.get(SESSIONS, "s") is None:
                writer.append(SessionCreated(agent="default"))
            writer.append_all(list(events))
            writer.write()

        await self.desk.state.update(change)

    async def begin(
        self,
        command: str,
        task_id: str = "t",
        *,
        workdir: str = "",
        boxed: bool = False,
        is_stopped: bool = False,
    ) -> None:
        """Create a task whose command runs in the background; perhaps with the request that it is stopped."""
        shell = ShellCommand(
            command=command,
            workdir=str(self.workspace / workdir),
            workspace=str(self.workspace),
            sandboxed=boxed,
        )
        events: list[JournalEvent] = [
            TaskCreated(task_id=task_id, title=command[:80], kind="shell", shell=shell)
        ]
        if is_stopped:
            events.append(TaskStopRequested(task_id=task_id))
        await self.append(*events)

    async def stop(self, task_id: str = "t", reason: str = "") -> None:
        """Request that a shell is stopped."""
        await self.append(TaskStopRequested(task_id=task_id, note=reason))

    def task(self, task_id: str = "t") -> tuple[Task, Shell]:
        """Return the current record of a task."""
        with self.desk.state.read() as store:
            task = store.get(TASKS, task_id)
        assert task is not None
        assert task.shell is not None
        return task, task.shell

    async def wait_ended(self, task_id: str = "t") -> tuple[Task, Shell]:
        """Return a task once it has ended."""
        await self.desk.until(lambda: self.task(task_id)[0].ended_at_ms is not None)
        return self.task(task_id)

    async def wait_for_output(self, text: str, task_id: str = "t") -> str:
        """Wait until a shell's output contains a text, and return the output."""
        while True:
            grown = self.files.growth(task_id)
            written = await self.files.read(task_id, 100_000)
            if text in written.text:
                return written.text
            await grown.wait()

    def kinds(self) -> list[str]:
        """Return the types of the events about tasks."""
        return [kind for kind in self.desk.kinds("s") if kind.startswith("task_")]


@asynccontextmanager
async def yard(directory: Path, **runtime: object) -> AsyncIterator[Yard]:
    """Provide a yard in a new directory. A test that hangs fails."""
    for name in ("home", "work"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    async with open_desk(directory / "home", threaded=True, **runtime) as desk:
        yield Yard(desk, directory)
