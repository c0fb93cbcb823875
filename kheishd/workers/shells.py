"""The shell worker: runs the commands of background tasks and records how each of them ended.

Level-triggered: after each commit that touches one of two lists in the store, the live shells and the shells
to be stopped, the worker reads both. A task's record exists before its process does, and says that the shell
has ended only when no process of it is left. At its start the worker first kills the processes that a crashed
daemon left running and ends their tasks.

Cancelling the worker cancels no shell: it asks each to stop, and returns when all of them have ended and
their tasks say so.
"""

from __future__ import annotations

import logging
from codecs import getincrementaldecoder
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import trio
from msgspec.structs import replace

from kheishd.core.permissions.claims import NETWORK, Claim
from kheishd.core.permissions.judge import Ruling, ToolFacts, judge_claim
from kheishd.core.text.stream import TextStreamScrubber
from kheishd.core.text.surrogates import join_surrogates
from kheishd.hooks.os.shell.log import ends_in_prompt
from kheishd.objects.people.permission import closed_patterns_of, layers_of
from kheishd.objects.work.shell import (
    ShellOutcome,
    live_shells,
    record_ended,
    record_stalled,
    record_started,
)
from kheishd.store.epoch import read_restore_mark
from kheishd.store.tables import RUNS, SESSIONS, SHELLS_LIVE, SHELLS_STOPPING, TASKS
from kheishd.workers.worker import Worker
from protocol.errors.store import StorageFull
from protocol.limits.shell import MAX_KILL_SECONDS, MAX_SHELL_BYTES_PER_SECOND, MAX_SHELL_FILES_BYTES

if TYPE_CHECKING:
    from kheishd.config.sections.config import Config
    from kheishd.hooks.network.gate import Gate
    from kheishd.hooks.os.shell.log import ShellFiles, ShellLog
    from kheishd.hooks.os.shell.process import CommandEnd, KeptCommand
    from kheishd.hooks.os.shell.starter import Starter
    from kheishd.kernel.live import Live
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Transaction
    from protocol.objects.task import ShellEnding, Task

log = logging.getLogger("kheishd.shells")

GRACE_SECONDS: Final = 2.0
"""How long a shell may take to end once it was asked to, before it is killed."""

MAX_STOP_SECONDS: Final = GRACE_SECONDS + 2 * MAX_KILL_SECONDS
"""How long stopping a shell takes at most."""

MAX_DRAIN_SECONDS: Final = 1.0
"""How long to wait for the end of the output after the command's: another process may hold the pipe."""

STALL_SECONDS: Final = 45.0
"""How long a shell may be silent after something like a question before its task is marked as stalled."""

BURST_SECONDS: Final = 4.0
"""How many seconds' worth of output a shell may be ahead of its rate limit before it is slowed down."""

READ_BYTES: Final = 64 * 1024

MAX_PROBLEM_CHARACTERS: Final = 500

RETRY_SECONDS: Final = 1.0
"""How long to wait before a failed commit is retried while the disk is full."""

FAILED: Final = "something failed inside the daemon; its log has the details"

SHELL: Final = ToolFacts("bash", "execute", "ask")
"""The tool whose rules apply to the connections of a shell."""

StopCause = Literal["stopped", "daemon_stopped"]

Commit = Callable[["Callable[[Transaction], None]"], Awaitable[None]]
"""Commits a transaction function; retries while the disk is full."""


class BackgroundShell:
    """One background command. It must not be cancelled: only ``stop`` or its own end ends it."""

    def __init__(
        self, task: Task, live: Live, files: ShellFiles, commit: Commit, *, stall_s: float = STALL_SECONDS
    ) -> None:
        self.task = task
        self._live = live
        self._files = files
        self._commit = commit
        self._stall_s = stall_s
        self._log: ShellLog = files.log(task.task_id)
        self._running = trio.CancelScope()
        self._cause: StopCause = "stopped"

    def stop(self, cause: StopCause) -> None:
        """Ask the shell to end. Only the first cause counts."""
        if not self._running.cancel_called:
            self._cause = cause
            self._running.cancel()

    async def run(
        self, starter: Starter, config: Config, gate: Gate, closed: Sequence[str] = ()
    ) -> ShellOutcome:
        """Run the command; return how it ended, with no process of it left and its output in its file.

        Its connections go through ``gate``. ``closed`` are the patterns of paths that it cannot read in a
        sandbox.
        """
        from kheishd.hooks.os.shell.process import NotStarted

        shell = self.task.shell
        assert shell is not None, "the task has a command"
        if self._running.cancel_called:
            return ShellOutcome(self._cause, problem="it had not begun")
        await trio.to_thread.run_sync(self._log.begin)
        try:
            notes: list[str] = []
            async with starter.running(self.task.task_id, shell, config, gate, closed, notes) as process:
                ended = await self._attend(process)
            code = None if ended is None else ended.code
            written = await self._files.read(self.task.task_id, 1)
            ending, problem = self._ending(ended, config)
            # Names of files need not be UTF-8.
            problem = join_surrogates("; ".join(filter(None, (problem, *notes))))
            return ShellOutcome(
                ending,
                code,
                _brief(problem),
                self._log.total_bytes,
                written.kept_bytes,
                list(gate.connected),
                list(gate.refused),
            )
        except NotStarted as error:
            return ShellOutcome("not_started", problem=_brief(str(error)))
        finally:
            await trio.to_thread.run_sync(self._log.close)

    async def _attend(self, process: KeptCommand) -> CommandEnd | None:
        """Store the output and watch for stalls until the command ends or is stopped.

        Return how it ended; None if it was stopped and its exit is unknown.
        """
        ended = None
        pumped = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, process.stdout, pumped)
            nursery.start_soon(self._watch)
            if process.pid:
                task_id = self.task.task_id
                started = partial(record_started, task_id=task_id, pid=process.pid, since=process.start_ticks)
                nursery.start_soon(self._commit, started)
            with self._running:
                ended = await process.wait()
            if ended is None:
                await process.stop(GRACE_SECONDS)
                with trio.move_on_after(MAX_KILL_SECONDS):
                    ended = await process.wait()
            with trio.move_on_after(MAX_DRAIN_SECONDS):
                await pumped.wait()
            nursery.cancel_scope.cancel()
        return ended

    def _ending(self, ended: CommandEnd | None, config: Config) -> tuple[ShellEnding, str]:
        """Return the kind of ending and the problem, which is empty if nothing went wrong."""
        problem = self._log.problem or ""
        if self._running.cancelled_caught:
            return self._cause, problem
        if ended is not None and ended.unboxed:
            last_output = self._log.last.decode(errors="replace")
            return "not_started", f"its sandbox could not be set up: {last_output}"
        if ended is not None and ended.exceeded is not None:
            from kheishd.hooks.os.shell.limits import explain_excess

            return "exited", explain_excess(ended.exceeded, config.tools.limits)
        if ended is None or ended.code is None:
            return "exit_unknown", "its supervisor was killed"
        return ("output_capture_failed" if problem else "exited"), problem

    async def _pump(self, stream: trio.abc.ReceiveStream, pumped: trio.Event) -> None:
        """Write the output to the shell's file, as text without secrets, until the stream ends."""
        decoder, stream_scrubber = getincrementaldecoder("utf-8")("replace"), TextStreamScrubber()
        began = trio.current_time()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(READ_BYTES):
                await self._write(stream_scrubber.feed(decoder.decode(data), self._live.scrubber))
                # While nothing is read, the pipe fills up and the command blocks.
                ahead_s = self._log.total_bytes / MAX_SHELL_BYTES_PER_SECOND - (trio.current_time() - began)
                await trio.sleep(max(ahead_s - BURST_SECONDS, 0.0))
        last = stream_scrubber.feed(decoder.decode(b"", final=True), self._live.scrubber)
        await self._write(last + stream_scrubber.finish(self._live.scrubber))
        pumped.set()

    async def _write(self, text: str) -> None:
        if text:
            await self._files.write(self.task.task_id, self._log, text.encode())

    async def _watch(self) -> None:
        """Mark the task as stalled, once, when the shell is silent after something like a question."""
        while True:
            grown = self._files.growth(self.task.task_id)
            with trio.move_on_after(self._stall_s) as silence:
                await grown.wait()
            if silence.cancelled_caught:
                if ends_in_prompt(self._log.last.decode(errors="replace")):
                    await self._commit(partial(record_stalled, task_id=self.task.task_id))
                    return
                await grown.wait()


class ShellWorker(Worker):
    """Runs all background shells, side by side.

    A shell whose end cannot be committed is not started again: the next daemon ends its task.
    """

    name: ClassVar[str] = "shells"

    def __init__(
        self,
        services: Services,
        files: ShellFiles,
        make_starter: Callable[[], Starter],
        *,
        stall_s: float = STALL_SECONDS,
        own_ports: Collection[int] = (),
    ) -> None:
        self._services = services
        self._state = services.state
        self._files = files
        self._make_starter = make_starter
        self._stall_s = stall_s
        self._own_ports = own_ports
        self._running: dict[str, BackgroundShell] = {}
        self._abandoned: set[str] = set()
        self._stopping = False

    @cached_property
    def _starter(self) -> Starter:
        """The starter of shells; most daemons start none in their first hour."""
        return self._make_starter()

    @property
    def active(self) -> int:
        """The number of shells that run."""
        return len(self._running)

    @property
    def max_stop_s(self) -> float:
        """The time that stopping the running shells may take."""
        return MAX_STOP_SECONDS if self._running else 0.0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run shells until cancelled; then stop them, and return when all of them have ended."""
        with self._state.read() as store:
            orphans = list(live_shells(store))
        async with trio.open_nursery() as nursery:
            for task in orphans:
                nursery.start_soon(self._end_orphan, task)
        await self._prune()
        async with trio.open_nursery() as nursery:
            try:
                task_status.started()
                while True:
                    bell = self._state.bell(SHELLS_LIVE.name, SHELLS_STOPPING.name)
                    self._look(nursery)
                    await bell.wait()
            finally:
                self._stopping = True
                self._look(nursery)
                for shell in self._running.values():
                    shell.stop("daemon_stopped")

    def _look(self, nursery: trio.Nursery) -> None:
        """Start the live shells that do not run yet, and stop those to be stopped."""
        with self._state.read() as store:
            live = list(live_shells(store))
            stopping = [task_id for _, task_id in store.scan(SHELLS_STOPPING)]
        for task in live:
            if task.task_id not in self._running and task.task_id not in self._abandoned:
                shell = BackgroundShell(
                    task, self._services.live, self._files, self._commit, stall_s=self._stall_s
                )
                self._running[task.task_id] = shell
                nursery.start_soon(self._run, shell)
        for task_id in stopping:
            if task_id in self._running:
                self._running[task_id].stop("stopped")

    async def _run(self, shell: BackgroundShell) -> None:
        """Run a shell and commit how it ended."""
        # The first shell imports it, not the start of the daemon.
        from kheishd.hooks.network.gate import Gate

        task_id = shell.task.task_id
        # Shielded, so that the end of the shell is committed even while the daemon stops.
        with trio.CancelScope(shield=True):
            try:
                try:
                    await self._prune()
                    runtime = self._services.runtimes.current()
                    gate = Gate(partial(self._judge, shell.task), self._own_ports)
                    with self._state.read() as store:
                        closed = closed_patterns_of(store, runtime, shell.task)
                    over = await shell.run(self._starter, runtime.config, gate, closed)
                except Exception:
                    log.exception("a background shell failed", extra={"task_id": task_id})
                    over = ShellOutcome("exit_unknown", problem=FAILED)
                await self._commit(partial(record_ended, task_id=task_id, outcome=over))
            except Exception:
                log.exception("the end of a shell could not be committed", extra={"task_id": task_id})
                self._abandoned.add(task_id)
            finally:
                del self._running[task_id]

    def _judge(self, task: Task, claim: Claim) -> Ruling:
        """Judge a connection of a running shell by the current rules of the session that began it.

        A host that was allowed with the command stays allowed unless a rule denies it now.
        """
        with self._state.read() as store:
            session = store.need(SESSIONS, task.moved_from or task.session_id)
            run = None if task.created_by_run_id is None else store.get(RUNS, task.created_by_run_id)
            layers = layers_of(store, self._services.runtimes.current(), session, run)
        ruling = judge_claim(SHELL, claim, layers)
        hosts = [] if task.shell is None else task.shell.hosts
        if ruling.decision != "deny" and claim.subject.removeprefix(NETWORK) in hosts:
            return replace(ruling, decision="allow")
        return ruling

    async def _commit(self, fn: Callable[[Transaction], None]) -> None:
        """Commit; retry while the disk is full and the daemon is not stopping.

        Errors: StorageFull while the daemon stops, and those of ``State.update``.
        """
        while True:
            try:
                await self._state.update(fn)
                return
            except StorageFull:
                if self._stopping:
                    raise
                log.warning("the disk is full; a commit of the shell worker is retried")
                await trio.sleep(RETRY_SECONDS)

    async def _prune(self) -> None:
        """Make room for output: delete the files of deleted tasks, then the oldest of other ended shells."""
        names = await self._files.names()
        with self._state.read() as store:
            tasks = {name: store.get(TASKS, name) for name in names}
            live = [task.task_id for task in live_shells(store)]
        orphans = [name for name, task in tasks.items() if task is None or task.deleted_at_ms is not None]
        await self._files.prune(orphans, live, MAX_SHELL_FILES_BYTES)

    async def _end_orphan(self, task: Task) -> None:
        """Kill the processes of a shell that a crashed daemon left running, and end its task."""
        gone = await self._starter.kill_orphans(task.task_id)
        if not gone:
            log.error("processes of a shell could not be killed", extra={"task_id": task.task_id})
        written = await self._files.read(task.task_id, 1)
        problems = [] if task.status == "in_progress" else ["it had hardly begun, if at all"]
        with self._state.read() as store:
            mark = read_restore_mark(store)
        if mark is not None and task.created_cursor <= mark.cursor:
            problems.append("the store was restored from a backup that was made while it ran")
        problems += [] if gone else ["some of its processes could not be killed"]
        over = ShellOutcome(
            "daemon_restarted", None, "; ".join(problems), written.total_bytes, written.kept_bytes
        )
        # On a full disk the next daemon ends the task; no process of it runs any more.
        with suppress(StorageFull):
            await self._state.update(partial(record_ended, task_id=task.task_id, outcome=over))
            return
        self._abandoned.add(task.task_id)


def _brief(text: str) -> str:
    return " ".join(text.split())[:MAX_PROBLEM_CHARACTERS]
