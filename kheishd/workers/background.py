"""One shell in the background, from its beginning to its end: read, watched, stopped if that is wanted."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from kheishd.core.text.stream import TextStreamScrubber
from kheishd.hooks.os.shell.process import MAX_KILL_SECONDS, Ended, Kept, NotStarted
from kheishd.hooks.shells.asking import looks_like_a_question
from kheishd.objects.work.shell import ShellOutcome, record_stalled, record_started
from protocol.limits.shell import MAX_SHELL_BYTES_PER_SECOND

if TYPE_CHECKING:
    from kheishd.hooks.os.shell.log import ShellFiles, ShellLog
    from kheishd.hooks.os.shell.starter import Starter
    from kheishd.kernel.live import Live
    from kheishd.store.environment import Transaction
    from protocol.objects.task import ShellEnding, Task

GRACE_SECONDS: Final = 2.0
"""What a shell has to end once it was asked to: a server may have something to put away."""

MAX_STOP_SECONDS: Final = GRACE_SECONDS + 2 * MAX_KILL_SECONDS
"""How long it takes at most until a shell that is to be stopped is over."""

MAX_DRAIN_SECONDS: Final = 1.0
"""How long output is waited for once all processes are gone: one may have handed its end on."""

STALL_SECONDS: Final = 45.0
"""How long a shell that wrote a question last may be silent before somebody is told."""

BURST_SECONDS: Final = 4.0
"""How long it may write faster than is kept up with."""

READ_BYTES: Final = 64 * 1024

MAX_PROBLEM_CHARACTERS: Final = 500

Save = Callable[["Callable[[Transaction], None]"], Awaitable[None]]
"""Commits, however long that takes."""


class Background:
    """One shell. Nothing but ``stop`` and its own end ends it, so it is not to be cancelled."""

    def __init__(
        self, task: Task, live: Live, files: ShellFiles, save: Save, *, stall_s: float = STALL_SECONDS
    ) -> None:
        self.task = task
        self._live = live
        self._files = files
        self._save = save
        self._stall_s = stall_s
        self._log: ShellLog = files.log(task.task_id)
        self._waiting = trio.CancelScope()
        self._why: Literal["stopped", "daemon_stopped"] = "stopped"

    def stop(self, why: Literal["stopped", "daemon_stopped"]) -> None:
        """Have it end. The first who does says why."""
        if not self._waiting.cancel_called:
            self._why = why
            self._waiting.cancel()

    async def perform(self, starter: Starter, readable: Sequence[str]) -> ShellOutcome:
        """Run it to its end: then nothing of it runs any more, and what it wrote is in its file."""
        shell = self.task.shell
        assert shell is not None, "only shells are run"
        if self._waiting.cancel_called:
            return ShellOutcome(self._why, problem="it had not begun")
        await trio.to_thread.run_sync(self._log.begin)
        try:
            async with starter.running(self.task.task_id, shell, readable) as kept:
                ended = await self._attend(kept)
            return await self._over(ended)
        except NotStarted as error:
            return ShellOutcome("not_started", problem=_brief(str(error)))
        finally:
            await trio.to_thread.run_sync(self._log.close)

    async def _attend(self, kept: Kept) -> Ended | None:
        """Look after it while it runs; how it ended, None if it was stopped and that is not known."""
        ended = None
        pumped = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, kept.stdout, pumped)
            nursery.start_soon(self._watch)
            if kept.pid:
                note = partial(record_started, task_id=self.task.task_id, pid=kept.pid, since=kept.started)
                nursery.start_soon(self._save, note)
            with self._waiting:
                ended = await kept.wait()
            if ended is None:
                await kept.stop(GRACE_SECONDS)
                with trio.move_on_after(MAX_KILL_SECONDS):
                    ended = await kept.wait()
            with trio.move_on_after(MAX_DRAIN_SECONDS):
                await pumped.wait()
            nursery.cancel_scope.cancel()
        return ended

    async def _over(self, ended: Ended | None) -> ShellOutcome:
        code = None if ended is None else ended.code
        written = await self._files.read(self.task.task_id, 1)
        why, problem = self._how(ended)
        return ShellOutcome(why, code, _brief(problem), self._log.total_bytes, written.kept_bytes)

    def _how(self, ended: Ended | None) -> tuple[ShellEnding, str]:
        """Why it is over, and what went wrong."""
        problem = self._log.problem or ""
        if self._waiting.cancelled_caught:
            return self._why, problem
        if ended is not None and ended.unboxed:
            said = self._log.last.decode(errors="replace")
            return "not_started", f"its sandbox could not be set up: {said}"
        if ended is None or ended.code is None:
            return "exit_unknown", "what watched over it was killed"
        return ("output_capture_failed" if problem else "exited"), problem

    # Output.

    async def _pump(self, stream: trio.abc.ReceiveStream, pumped: trio.Event) -> None:
        """Write down what it writes, as text and without secrets, until that ends."""
        decoder, flow = getincrementaldecoder("utf-8")("replace"), TextStreamScrubber()
        began = trio.current_time()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some(READ_BYTES):
                await self._write(flow.feed(decoder.decode(data), self._live.scrubber))
                # Not read for a while, it waits: its pipe is full.
                ahead_s = self._log.total_bytes / MAX_SHELL_BYTES_PER_SECOND - (trio.current_time() - began)
                await trio.sleep(max(ahead_s - BURST_SECONDS, 0.0))
        last = flow.feed(decoder.decode(b"", final=True), self._live.scrubber)
        await self._write(last + flow.finish(self._live.scrubber))
        pumped.set()

    async def _write(self, text: str) -> None:
        if text:
            await self._files.write(self.task.task_id, self._log, text.encode())

    async def _watch(self) -> None:
        """Tell, once, when it is silent after what looks like a question."""
        while True:
            grown = self._files.grown(self.task.task_id)
            with trio.move_on_after(self._stall_s) as patience:
                await grown.wait()
            if patience.cancelled_caught:
                if looks_like_a_question(self._log.last.decode(errors="replace")):
                    await self._save(partial(record_stalled, task_id=self.task.task_id))
                    return
                await grown.wait()


def _brief(text: str) -> str:
    return " ".join(text.split())[:MAX_PROBLEM_CHARACTERS]
