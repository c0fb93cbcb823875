"""Processes that tools start: each under its keeper, read as it writes, gone when its block is left.

A command has its own session, nothing to read on standard input, and an environment of its own. Whatever
happens to whoever runs it (an answer, an error, a timeout, a cancellation), leaving the block waits until
nothing of the command runs any more. That waiting is shielded and bounded; what outlives it, such as a
process that waits for a broken disk, is told in the log.
"""

import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from kheishd.hooks.leftovers import MARK, hunt

log = logging.getLogger(__name__)

# How long a command may take to end once it was asked to, before it is killed; and the keeper to see that
# everything is gone. A killed process is gone in milliseconds unless the kernel holds it.
GRACE_SECONDS = 0.5
MAX_KILL_SECONDS = 5.0

# What the longest line of a keeper may have: a reason why a command could not be started.
MAX_LINE_BYTES = 4096

ROOT = Path(__file__).parents[2]
# Imported, not run as a script: so it is compiled once and not at every start.
KEEPER = "import sys; sys.path.append(sys.argv[1]); from kheishd.hooks.keeper import main; main(sys.argv[2:])"


class NotStarted(Exception):
    """The command never ran; the message says why."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, now that nothing of it runs: ``code`` is 128 + n if it ended by signal n.

    ``code`` is None where it is not known: ``unboxed`` if the sandbox could not be set up and the command
    never ran, else the keeper was killed.
    """

    code: int | None
    unboxed: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. ``workdir`` is an open directory; ``mark`` tells its processes from all others.

    ``boxed``: the argv is that of a sandbox, which runs the command proper. It gets the descriptors
    ``passed`` as they are, and sees to it that the command does not.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    workdir: int
    mark: str
    boxed: bool = False
    passed: tuple[int, ...] = ()


class Kept:
    """A command under its keeper. ``pid`` and ``started`` say for certain which process it is."""

    def __init__(self, keeper: trio.Process, control: trio.SocketStream, mark: str) -> None:
        assert keeper.stdout is not None, "it was asked for"
        self.stdout = keeper.stdout
        self.stderr = keeper.stderr
        self.pid = 0
        self.started = 0
        self._keeper = keeper
        self._control = control
        self._mark = mark
        self._heard = b""
        self._ended = Ended(None)
        self._gone = False

    async def begin(self) -> None:
        """Wait until the command runs. Errors: NotStarted.

        A command that kills its keeper at once has no ``pid``: nobody lived to tell.
        """
        what, _, rest = (await self._hear()).partition(" ")
        if what == "failed":
            raise NotStarted(rest)
        if what == "began":
            self.pid, self.started = map(int, rest.split())

    async def wait(self) -> Ended:
        """Wait until nothing of it runs any more. Cancelled, it can be waited for again."""
        while line := await self._hear():
            match line.split():
                case ["ended", code]:
                    self._ended = Ended(int(code))
                case ["unboxed"]:
                    self._ended = Ended(None, unboxed=True)
                case ["gone"]:
                    self._gone = True
                case ["began" | "failed", *_]:
                    # Whoever waited for it to begin was stopped before this was said.
                    pass
                case _:
                    log.error("a keeper said what nobody understands: %r", line)
        return self._ended

    async def stop(self, grace_s: float = GRACE_SECONDS) -> None:
        """Have everything of it end: ask, and after a moment kill. Done when nothing of it runs any more."""
        with trio.CancelScope(shield=True), trio.move_on_after(grace_s + MAX_KILL_SECONDS):
            with suppress(trio.BrokenResourceError):
                await self._control.send_all(b"stop %.3f\n" % grace_s)
            await self.wait()

    async def aclose(self) -> None:
        """See that nothing of it is left, and close what was open."""
        with trio.CancelScope(shield=True):
            if not self._gone:
                await self.stop()
            await self._control.aclose()
            for stream in (self.stdout, self.stderr):
                if stream is not None:
                    await stream.aclose()
            with trio.move_on_after(MAX_KILL_SECONDS):
                await self._keeper.wait()
            if not self._gone and not await hunt(self._mark):
                log.error("processes of a command could not be killed", extra={"mark": self._mark})

    async def _hear(self) -> str:
        """The keeper's next line; empty when it has ended."""
        while b"\n" not in self._heard and len(self._heard) < MAX_LINE_BYTES:
            try:
                more = await self._control.receive_some(MAX_LINE_BYTES)
            except trio.BrokenResourceError:
                more = b""
            if not more:
                return ""
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode(errors="replace")


@asynccontextmanager
async def running(command: Command, *, merged: bool = False) -> AsyncIterator[Kept]:
    """Run a command while the block runs. ``merged``: its errors come with its output.

    Errors: NotStarted.
    """
    kept = await _start(command, merged=merged)
    try:
        await kept.begin()
        yield kept
    finally:
        await kept.aclose()


async def _start(command: Command, *, merged: bool) -> Kept:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-I", "-S", "-c", KEEPER, str(ROOT)]
    argv += ["boxed" if command.boxed else "bare", *command.argv]
    control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        # Begun is begun: cancelled in between, there would be a process that nobody knows.
        with theirs, trio.CancelScope(shield=True):
            keeper = await trio.lowlevel.open_process(
                argv,
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                # The directory itself, whatever its name leads to by now.
                cwd=f"/proc/self/fd/{command.workdir}",
                env={**command.environ, MARK: command.mark},
                pass_fds=command.passed,
                start_new_session=True,
            )
    except BaseException as error:
        control.socket.close()
        if isinstance(error, OSError):
            raise NotStarted(error.strerror or str(error)) from None
        raise
    return Kept(keeper, control, command.mark)
