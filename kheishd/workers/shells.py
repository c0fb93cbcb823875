"""The shell worker: commands that run in the background, each with its keeper, whoever asked for them.

Level-triggered: it looks at two lists in the store, the shells that have not ended and those that somebody
wants stopped, whenever a commit touches them. A task is there before its process is, and says so when nothing
of the process runs any more. What a daemon before this one left is ended first, before anybody is told how
anything stands.

No shell is cancelled with the worker: each is stopped in order, and its task says so, before the worker ends.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from kheishd.objects.work.shell import ShellOutcome, live_shells, record_ended
from kheishd.store.tables import SHELLS_LIVE, SHELLS_STOPPING, TASKS
from kheishd.workers.background import STALL_SECONDS, Background
from protocol.errors.store import StorageFull
from protocol.limits.shell import MAX_SHELL_FILES_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.hooks.os.shell.log import ShellFiles
    from kheishd.hooks.os.shell.starter import Starter
    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtimes
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction
    from protocol.objects.task import Task

log = logging.getLogger("kheishd.shells")

SAVE_AGAIN_SECONDS: Final = 1.0
"""How long to wait before something is saved again while the disk is full."""

FAILED: Final = "something failed inside the daemon; its log has the details"


class ShellWorker:
    """Runs the shells of tasks, all of them side by side."""

    def __init__(
        self,
        state: State,
        live: Live,
        runtimes: Runtimes,
        files: ShellFiles,
        starter: Starter,
        *,
        stall_s: float = STALL_SECONDS,
    ) -> None:
        self._state = state
        self._live = live
        self._runtimes = runtimes
        self._files = files
        self._starter = starter
        self._stall_s = stall_s
        self._running: dict[str, Background] = {}
        self._given_up: set[str] = set()
        self._ending = False
        self._nursery: trio.Nursery | None = None

    @property
    def active(self) -> int:
        """How many shells run now."""
        return len(self._running)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run shells until cancelled; then stop those that are left, and return when they have ended."""
        await self._end_left()
        await self._prune()
        async with trio.open_nursery() as self._nursery:
            try:
                task_status.started()
                while True:
                    bell = self._state.bell(SHELLS_LIVE.name, SHELLS_STOPPING.name)
                    self._look()
                    await bell.wait()
            finally:
                self._ending = True
                self._look()
                for each in self._running.values():
                    each.stop("daemon_stopped")

    def _look(self) -> None:
        with self._state.read() as store:
            live = list(live_shells(store))
            stopping = [task_id for _, task_id in store.scan(SHELLS_STOPPING)]
        for task in live:
            if task.task_id not in self._running and task.task_id not in self._given_up:
                self._start(task)
        for task_id in stopping:
            if task_id in self._running:
                self._running[task_id].stop("stopped")

    def _start(self, task: Task) -> None:
        assert self._nursery is not None
        shell = Background(task, self._live, self._files, self._save, stall_s=self._stall_s)
        self._running[task.task_id] = shell
        self._nursery.start_soon(self._keep, shell)

    async def _keep(self, shell: Background) -> None:
        """One shell, from its beginning to what is written down of its end."""
        task_id = shell.task.task_id
        # Nothing but being stopped ends it, so that its task can say what became of it.
        with trio.CancelScope(shield=True):
            try:
                over = await self._performed(shell)
                await self._save(partial(record_ended, task_id=task_id, over=over))
            except Exception:
                log.exception("the end of a shell could not be written down", extra={"task_id": task_id})
                self._given_up.add(task_id)
            finally:
                del self._running[task_id]

    async def _performed(self, shell: Background) -> ShellOutcome:
        try:
            await self._prune()
            return await shell.perform(self._starter, self._readable())
        except Exception:
            log.exception("a shell was given up", extra={"task_id": shell.task.task_id})
            return ShellOutcome("exit_unknown", problem=FAILED)

    def _readable(self) -> list[str]:
        """Return the directories that sandboxed commands can read in addition to the system's."""
        return self._runtimes.current().config.workspace.readable

    async def _save(self, fn: Callable[[Transaction], None]) -> None:
        """Commit. On a full disk it is tried again until there is room, or the daemon ends.

        Errors: StorageFull then, and as for ``State.update``.
        """
        while True:
            try:
                await self._state.update(fn)
                return
            except StorageFull:
                if self._ending:
                    raise
                log.warning("the disk is full; what became of a shell waits to be saved")
                await trio.sleep(SAVE_AGAIN_SECONDS)

    async def _prune(self) -> None:
        """Make room for what shells will write: files of tasks that were deleted go, then the oldest."""
        names = await self._files.names()
        with self._state.read() as store:
            found = {name: store.get(TASKS, name) for name in names}
            live = [task.task_id for task in live_shells(store)]
        unwanted = [name for name, task in found.items() if task is None or task.deleted_at_ms is not None]
        await self._files.prune(unwanted, live, MAX_SHELL_FILES_BYTES)

    # What a daemon before this one left.

    async def _end_left(self) -> None:
        """End the shells of a daemon that died, side by side; their tasks say so."""
        with self._state.read() as store:
            left = list(live_shells(store))
        async with trio.open_nursery() as nursery:
            for task in left:
                nursery.start_soon(self._end, task)

    async def _end(self, task: Task) -> None:
        gone = await self._starter.hunt(task.task_id)
        if not gone:
            log.error("processes of a shell could not be killed", extra={"task_id": task.task_id})
        written = await self._files.read(task.task_id, 1)
        problems = [] if task.status == "in_progress" else ["it had hardly begun, if at all"]
        problems += [] if gone else ["some of its processes could not be killed"]
        over = ShellOutcome(
            "daemon_restarted", None, "; ".join(problems), written.total_bytes, written.kept_bytes
        )
        # On a full disk it is ended by the next daemon; nothing of it runs any more.
        with suppress(StorageFull):
            await self._state.update(partial(record_ended, task_id=task.task_id, over=over))
            return
        self._given_up.add(task.task_id)
