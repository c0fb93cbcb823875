"""The starter of background shells: starts a command exactly as it was approved with its task.

It runs as a command in the foreground does, with the same keeper, sandbox and environment. Its directory and
its confinement were approved: if those are no longer available, it is not started.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from kheishd.hooks.os.shell.process import KEEPER_SECONDS, NotStarted, home_id, kill_orphans, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from kheishd.config.sections.config import Config
    from kheishd.hooks.network.gate import Gate
    from kheishd.hooks.os.shell.health import SandboxHealth
    from kheishd.hooks.os.shell.process import KeptCommand
    from protocol.objects.task import Shell

TASK_VARIABLE: Final = "KHEISH_SHELL_TASK_ID"
"""The variable with which a shell learns the id of its task."""


class Starter:
    """Starter of background shells for the daemon of one home."""

    def __init__(
        self, home: Path, environ: Mapping[str, str] = os.environ, health: SandboxHealth | None = None
    ) -> None:
        self._home = home
        self._home_id = home_id(home)
        self._environ = environ
        self._health = health

    @asynccontextmanager
    async def running(
        self,
        task_id: str,
        shell: Shell,
        config: Config,
        gate: Gate,
        closed: Sequence[str] = (),
        notes: list[str] | None = None,
    ) -> AsyncIterator[KeptCommand]:
        """Run the shell of a task while the block runs, within the limits of the configuration.

        Its connections go through ``gate``. ``closed`` are the patterns of paths that a sandboxed one cannot
        read. Sentences about its end are appended to ``notes``.

        Errors: NotStarted.
        """
        # The first shell imports the rest of the tool, not the start of the daemon.
        from kheishd.hooks.network.proxy import serving
        from kheishd.hooks.os.shell.command import prepare_command
        from kheishd.hooks.os.shell.sandbox import Sandbox
        from kheishd.hooks.os.shell.scan import PathRules
        from kheishd.hooks.os.shell.shield import Shield
        from kheishd.hooks.os.shell.workdir import open_workdir
        from kheishd.kernel.hook import ToolError
        from kheishd.kernel.master_key import list_key_paths

        sandbox = None
        if shell.sandboxed:
            sandbox = Sandbox(
                (str(self._home), *list_key_paths(self._environ)),
                config.workspace.readable,
                health=self._health,
                network=shell.network,
            )
        try:
            place = (shell.workspace, shell.workdir, shell.repository)
            workdir = await trio.to_thread.run_sync(open_workdir, *place)
        except ToolError as error:
            raise NotStarted(str(error)) from None
        try:
            shield = None
            try:
                if sandbox is not None:
                    await sandbox.choose("required")
                    rules = PathRules(tuple(config.permissions.protected), tuple(closed))
                    shield = await trio.to_thread.run_sync(Shield, workdir, rules, sandbox.hidden)
                prepare = partial(
                    prepare_command,
                    shell.command,
                    workdir,
                    self._environ,
                    self._mark(task_id),
                    sandbox,
                    config.tools.limits,
                    None if shield is None else shield.scan,
                    {TASK_VARIABLE: task_id},
                )
                command = await trio.to_thread.run_sync(prepare)
            except ToolError as error:
                raise NotStarted(str(error)) from None
            async with (
                running(command, merged=True) as process,
                serving(process.listening, gate),
            ):
                yield process
            if shield is not None and notes is not None:
                new = await trio.to_thread.run_sync(shield.find_new)
                notes += shield.describe(new)
        finally:
            workdir.close()

    async def kill_orphans(self, task_id: str) -> bool:
        """Kill the processes of a shell that a dead daemon left; return whether they are gone."""
        return await kill_orphans(self._mark(task_id), patience_s=KEEPER_SECONDS)

    def _mark(self, task_id: str) -> str:
        return f"{self._home_id}.{task_id}"
