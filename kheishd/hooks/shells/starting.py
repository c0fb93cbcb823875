"""Starting the shell of a task: what was allowed when its task was made, and nothing else.

It is the same as for a command in the foreground: the same keeper, sandbox and environment. What was allowed
is where it works and whether it is confined: where that is no longer so, it is not started.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from kheishd.hooks.leftovers import KEEPER_SECONDS, home_id, hunt
from kheishd.hooks.prepared import prepared
from kheishd.hooks.processes import Command, Kept, NotStarted, running
from kheishd.hooks.sandbox import Sandbox
from kheishd.hooks.workdir import Workdir, open_workdir
from kheishd.kernel.hook import ToolError
from protocol.objects.task import Shell

TASK: Final = "KHEISH_SHELL_TASK_ID"
"""The variable that tells a shell which task it is."""


class Starter:
    """Starts shells of tasks for the daemon of one home."""

    def __init__(self, home: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._home = home
        self._home_id = home_id(home)
        self._environ = environ

    @asynccontextmanager
    async def running(self, task_id: str, asked: Shell, readable: Sequence[str]) -> AsyncIterator[Kept]:
        """The shell of a task, while the block runs. ``readable`` is what a sandboxed one sees besides.

        Errors: NotStarted.
        """
        try:
            workdir = await trio.to_thread.run_sync(open_workdir, asked.workspace, asked.workdir)
        except ToolError as error:
            raise NotStarted(str(error)) from None
        try:
            command = await self._command(task_id, asked, workdir, readable)
            async with running(command, merged=True) as kept:
                yield kept
        finally:
            workdir.close()

    async def hunt(self, task_id: str) -> bool:
        """Kill what a dead daemon left of a shell; whether nothing of it runs any more."""
        return await hunt(self._mark(task_id), patience_s=KEEPER_SECONDS)

    async def _command(
        self, task_id: str, asked: Shell, workdir: Workdir, readable: Sequence[str]
    ) -> Command:
        """What runs it, confined if it is to be. Errors: NotStarted."""
        sandbox = Sandbox([str(self._home)], readable) if asked.sandboxed else None
        also, mark = {TASK: task_id}, self._mark(task_id)
        ready = partial(prepared, asked.command, workdir, self._environ, mark, sandbox, also)
        try:
            if sandbox is not None:
                await sandbox.chosen("required")
            return await trio.to_thread.run_sync(ready)
        except ToolError as error:
            raise NotStarted(str(error)) from None

    def _mark(self, task_id: str) -> str:
        return f"{self._home_id}.{task_id}"
