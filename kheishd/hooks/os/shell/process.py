"""Processes that tools start: each has a keeper, is read while it writes, and ends with its block.

A command has its own session, an empty standard input unless it gets one, and an environment of its own.
However its caller ends (result, error, timeout, cancellation), leaving the block waits until nothing of the
command runs any more. That wait is shielded and bounded; a process that outlives it, for example one that
waits for a broken disk, is logged.

The second line of defence finds orphans: processes of a command whose keeper was killed. A keeper loses no
process of its command (see ``keeper``), and ends them when the daemon dies. The zygote kills the orphans that
fall to it. Others, whose zygote has ended, too, are found by the mark in their inherited environment, or by
the command's control group.
"""

import fcntl
import logging
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import termios
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import trio

from kheishd.hooks.os.shell.cgroup import GROUPS
from kheishd.hooks.os.shell.handover import MAX_RIGHTS, frame
from kheishd.hooks.os.shell.keeper import ProcessId, send_signal, start_ticks_of
from kheishd.hooks.os.shell.zygote import MARK_VARIABLE, MAX_MARK_BYTES
from kheishd.hooks.os.umask import user_umask
from protocol import __version__
from protocol.limits.shell import MAX_KILL_SECONDS
from protocol.structs import Value

log = logging.getLogger(__name__)

# How long a command may take to end after SIGTERM, before it is killed.
GRACE_SECONDS = 0.5

# The time for a keeper's start and its command's, on a machine that is very busy. After it, the zygote is
# replaced: it or its spare keeper may be suspended. Keepers that have a command do not depend on it.
MAX_START_SECONDS = 10.0

# The longest line of a keeper: the reason for which a command could not be started.
MAX_LINE_BYTES = 4096

ROOT = Path(__file__).parents[4]
# Imported, not run as a script: so it is compiled once and not at every start.
ZYGOTE = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from kheishd.hooks.os.shell.zygote import main; main(sys.argv[2])"
)

# Orphans.

MAX_ORPHAN_SECONDS = 5.0

# How long a keeper takes to notice that its daemon has died, and to end its command.
KEEPER_SECONDS = 1.0
SCAN_SECONDS = 0.02

# A process that is becoming another program has no environment for a moment, so one scan may miss it.
EMPTY_SCANS = 2


class NotStarted(Exception):
    """The command never ran; the message says why."""


class KeeperLost(NotStarted):
    """The keeper ended before it had read its request, so that another one may be asked."""

    def __init__(self) -> None:
        super().__init__("its keeper ended before it had read the command")


class CommandEnd(Value, frozen=True):
    """The end of a command, once nothing of it runs: ``code`` is 128 + n if it ended by signal n.

    ``code`` is None if it is unknown: ``unboxed`` if the sandbox could not be set up and the command never
    ran, else the keeper was killed. ``exceeded`` is the limit for which the keeper stopped it.
    """

    code: int | None
    unboxed: bool = False
    exceeded: str | None = None


class Command(Value, frozen=True):
    """A command to run. ``workdir`` is an open directory; ``mark`` identifies its processes.

    ``boxed``: the argv is that of a sandbox, which runs the command proper. It inherits ``descriptors`` and
    closes them for the command; they belong to this command, and are closed here once it has started.
    ``limits`` are those of the keeper, for a command in ``workspace``. ``port``: the sandbox has a network of
    its own, in which this port is opened for the daemon. ``stdin`` is a descriptor for its standard input,
    which is empty without one; it is closed here like the others.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    workdir: int
    mark: str
    boxed: bool = False
    descriptors: tuple[int, ...] = ()
    limits: str = ""
    workspace: str = "/"
    port: int = 0
    stdin: int | None = None

    @property
    def passed(self) -> list[int]:
        """The descriptors that only this command uses."""
        return [*self.descriptors, *([] if self.stdin is None else [self.stdin])]

    def close(self) -> None:
        """Close the descriptors that only this command uses."""
        for descriptor in self.passed:
            os.close(descriptor)


class KeptCommand:
    """A command under its keeper. ``pid`` and ``start_ticks`` identify its process for certain.

    ``listening`` is the port in the command's own network; None without such a network, or if it could not be
    opened: then the command has no network at all.
    """

    def __init__(
        self,
        control: trio.SocketStream,
        stdout: trio.abc.ReceiveStream,
        stderr: trio.abc.ReceiveStream | None,
        mark: str,
        port: int = 0,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.pid = 0
        self.start_ticks = 0
        self.listening: socket.socket | None = None
        self._control = control
        self._mark = mark
        self._port = port
        self._buffer = b""
        self._end = CommandEnd(None)
        # Nothing runs before the keeper has the whole request.
        self._gone = True
        self._unread = False

    async def request(self, command: Command, descriptors: Sequence[int]) -> None:
        """Send the keeper its request (see ``zygote``). If there is no keeper, ``begin`` finds out."""
        mark = command.mark.encode()
        assert len(mark) <= MAX_MARK_BYTES, "there is room for it"
        environ = {**command.environ, MARK_VARIABLE: command.mark}
        manner = f"closed:{command.port}" if command.port else "boxed" if command.boxed else "bare"
        fields = marshal.dumps(
            (
                [os.fsencode(argument) for argument in command.argv],
                {os.fsencode(name): os.fsencode(value) for name, value in environ.items()},
                [*command.descriptors, *([] if command.stdin is None else [0])],
                mark,
                manner,
                command.limits,
                os.fsencode(command.workspace),
                user_umask(),
            )
        )
        data = frame(fields)
        connection = self._control.socket
        for begin in range(0, len(descriptors), MAX_RIGHTS):
            self._unread = not await send_descriptors(
                connection, data[:1], descriptors[begin : begin + MAX_RIGHTS]
            )
            data = data[1:]
        try:
            await self._control.send_all(data)
        except trio.BrokenResourceError:
            self._unread = True
        self._gone = self._unread

    async def begin(self) -> None:
        """Wait until the command runs. Errors: NotStarted, and KeeperLost if another keeper may be asked.

        A command that kills its keeper at once has no ``pid``: the keeper could not report it.
        """
        message, _, rest = (await self._read_line()).partition(" ")
        self._gone = self._unread or message == "failed"
        if message == "failed":
            raise NotStarted(rest)
        if self._unread:
            raise KeeperLost
        if message == "began":
            self.pid, self.start_ticks = map(int, rest.split())
            if self._port and self.listening is None:
                log.warning("the network of a command could not be entered, so it has none")

    def withdraw(self) -> bool:
        """Give the request up if no keeper has read it; return whether it was given up."""
        connection = self._control.socket
        if not _unread_bytes(connection):
            return False
        # A keeper that reads it from now on sees the end after it, and starts nothing.
        connection.shutdown(socket.SHUT_WR)
        if not _unread_bytes(connection):
            raise NotStarted("its keeper was too slow")
        self._gone = True
        return True

    @property
    def is_gone(self) -> bool:
        """Whether nothing of the command runs for certain."""
        return self._gone

    async def wait(self) -> CommandEnd:
        """Wait until nothing of the command runs any more. It may be cancelled and called again."""
        while line := await self._read_line():
            match line.split():
                case ["exceeded", limit]:
                    self._end = CommandEnd(None, exceeded=limit)
                case ["ended", code]:
                    self._end = CommandEnd(int(code), exceeded=self._end.exceeded)
                case ["unboxed"]:
                    self._end = CommandEnd(None, unboxed=True)
                case ["gone"]:
                    self._gone = True
                    break
                case ["began" | "failed", *_]:
                    # The wait for the start was cancelled before this message came.
                    pass
                case _:
                    log.error("a keeper sent an unknown message: %r", line)
        return self._end

    async def stop(self, grace_s: float = GRACE_SECONDS) -> None:
        """End all of the command: SIGTERM, and SIGKILL after the grace time. Waits until nothing runs."""
        with trio.CancelScope(shield=True), trio.move_on_after(grace_s + MAX_KILL_SECONDS):
            with suppress(trio.BrokenResourceError):
                await self._control.send_all(b"stop %.3f\n" % grace_s)
            await self.wait()

    async def aclose(self) -> None:
        """Ensure that nothing of the command runs, and close its streams. It may be called again."""
        if self._control.socket.fileno() < 0:
            return
        with trio.CancelScope(shield=True):
            if not self._gone:
                await self.stop()
            await self._control.aclose()
            if self.listening is not None:
                self.listening.close()
            for stream in (self.stdout, self.stderr):
                if stream is not None:
                    await stream.aclose()
            if self._gone:
                return
            await _zygote().sweep()
            GROUPS.kill(self._mark)
            if not await kill_orphans(self._mark):
                log.error("processes of a command could not be killed", extra={"mark": self._mark})

    async def _read_line(self) -> str:
        """Return the keeper's next line; an empty one once it has ended."""
        while b"\n" not in self._buffer and len(self._buffer) < MAX_LINE_BYTES:
            try:
                data, rights, _, _ = await self._control.socket.recvmsg(
                    MAX_LINE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                # The kernel resets a connection whose other end is closed with data that was not read.
                self._unread = self._unread or (not self.pid and isinstance(error, ConnectionResetError))
                data, rights = b"", []
            for _, _, descriptor in rights:
                self.listening = socket.socket(fileno=int.from_bytes(descriptor, sys.byteorder))
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")


class WaitingKeeper(Value, frozen=True):
    """A keeper that waits for its request: our end of its socket, and the zygote that forks it."""

    control: trio.SocketStream
    forker: subprocess.Popen[bytes]


class Zygote:
    """The daemon's side of the zygote, the process that forks the keepers of one event loop's commands.

    A *spare* keeper is forked ahead, since commands are shorter than forks of an interpreter.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: trio.socket.SocketType | None = None
        self._spare: WaitingKeeper | None = None

    async def take_keeper(self) -> WaitingKeeper:
        """Return the spare keeper, or a new one. Errors: OSError."""
        keeper, self._spare = self._spare, None
        if keeper is not None:
            poll = select.poll()
            poll.register(keeper.control.socket.fileno(), select.POLLIN)
            if not poll.poll(0):
                return keeper
            # It has ended, or could not be forked.
            keeper.control.socket.close()
        return await self._fork_keeper()

    async def fork_spare(self) -> None:
        """Fork the spare keeper, if there is none. A failure concerns only the next command."""
        if self._spare is not None or self._channel is None:
            return
        with suppress(OSError), trio.move_on_after(MAX_START_SECONDS):
            keeper = await self._fork_keeper()
            if self._spare is None:
                self._spare = keeper
            else:
                keeper.control.socket.close()

    async def _fork_keeper(self) -> WaitingKeeper:
        """Let a new keeper have a socket. Start the zygote if there is none. Errors: OSError."""
        ours, theirs = socket.socketpair()
        control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        try:
            with theirs:
                async with self._lock:
                    passed = [theirs.fileno()]
                    if self._channel is None or not await send_descriptors(self._channel, b"k", passed):
                        self._process, self._channel = self._start()
                        await send_descriptors(self._channel, b"k", passed)
                    assert self._process is not None, "it has a channel"
                    return WaitingKeeper(control, self._process)
        except BaseException:
            control.socket.close()
            raise

    async def sweep(self) -> None:
        """Let the process kill the orphans, and wait until it has."""
        if self._channel is None:
            return
        ours, theirs = socket.socketpair()
        with theirs, trio.socket.from_stdlib_socket(ours) as answer, trio.move_on_after(MAX_KILL_SECONDS):
            async with self._lock:
                await send_descriptors(self._channel, b"s", [theirs.fileno()])
            theirs.close()
            with suppress(OSError):
                await answer.recv(1)

    def replace(self, process: subprocess.Popen[bytes]) -> None:
        """End a zygote that forks no keeper, as one that is suspended; the next command starts another."""
        if self._process is process:
            self._channel = None
        self._drop_spare(process)
        process.kill()

    def _drop_spare(self, process: subprocess.Popen[bytes]) -> None:
        """End the spare keeper of a zygote."""
        if self._spare is not None and self._spare.forker is process:
            self._spare.control.socket.close()
            self._spare = None

    def _start(self) -> tuple[subprocess.Popen[bytes], trio.socket.SocketType]:
        """Start the process; return it, and our end of its socket. Errors: OSError.

        The thread that starts it is the event loop's: the zygote ends with that thread (see ``zygote``).
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", ZYGOTE, str(ROOT), __version__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    # Commands have variables of their own. Keepers write their mark over the room for it.
                    env={"LANG": "C.UTF-8", MARK_VARIABLE: "-" * MAX_MARK_BYTES},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        channel = trio.socket.from_stdlib_socket(ours)
        trio.lowlevel.spawn_system_task(self._attend, process, os.pidfd_open(process.pid), channel)
        return process, channel

    async def _attend(
        self, process: subprocess.Popen[bytes], handle: int, channel: trio.socket.SocketType
    ) -> None:
        """Wait for the end of the process; at the end of the event loop, cause it."""
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            if self._channel is channel:
                self._channel = None
            channel.close()
            self._drop_spare(process)
            # Nothing depends on it, and it may have been suspended.
            process.kill()
            with trio.CancelScope(shield=True), trio.move_on_after(MAX_KILL_SECONDS):
                await trio.lowlevel.wait_readable(handle)
            os.close(handle)
            process.poll()


_ZYGOTE: Final = trio.lowlevel.RunVar[Zygote | None]("zygote", None)


def fork_spare_keeper() -> None:
    """Let the next command find its keeper waiting. Call this when the daemon waits for something else."""
    trio.lowlevel.spawn_system_task(_zygote().fork_spare)


async def send_descriptors(
    connection: trio.socket.SocketType, data: bytes, descriptors: Sequence[int]
) -> bool:
    """Send one byte with descriptors; return whether the other end is still open."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
    try:
        await connection.sendmsg([data], [rights])
    except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
        return False
    return True


@asynccontextmanager
async def running(command: Command, *, merged: bool = False) -> AsyncIterator[KeptCommand]:
    """Run a command while the block runs. ``merged``: its errors are in its output.

    Errors: NotStarted.
    """
    try:
        try:
            process = await _start(command, merged=merged)
        except KeeperLost:
            # The zygote has just ended, and the request with it: a new one is there by now, or is started.
            process = await _start(command, merged=merged)
    except OSError as error:
        raise NotStarted(error.strerror or str(error)) from None
    finally:
        command.close()
    try:
        yield process
    finally:
        await process.aclose()


async def _start(command: Command, *, merged: bool) -> KeptCommand:
    """Ask a keeper to run a command. Errors: NotStarted, OSError."""
    zygote = _zygote()
    deadline = trio.current_time() + MAX_START_SECONDS
    with ExitStack() as passed:
        stdout, out = _open_pipe(passed)
        stderr, err = (None, out) if merged else _open_pipe(passed)
        keeper = None
        with trio.move_on_at(deadline):
            keeper = await zygote.take_keeper()
        if keeper is None:
            raise KeeperLost
        process = KeptCommand(keeper.control, stdout, stderr, command.mark, command.port)
        try:
            with trio.move_on_at(deadline) as patience:
                await process.request(command, [out, err, command.workdir, *command.passed])
                passed.close()
                await process.begin()
            if patience.cancelled_caught:
                passed.close()
                zygote.replace(keeper.forker)
                if process.withdraw():
                    raise KeeperLost
                # The command may have begun.
                await process.begin()
        except BaseException:
            await process.aclose()
            if not process.is_gone:
                zygote.replace(keeper.forker)
            raise
    return process


def _unread_bytes(connection: trio.socket.SocketType) -> int:
    """Return the number of bytes that the other end of a connection has not read, in the kernel's units."""
    count = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def _zygote() -> Zygote:
    zygote = _ZYGOTE.get()
    if zygote is None:
        zygote = Zygote()
        _ZYGOTE.set(zygote)
    return zygote


def _open_pipe(passed: ExitStack) -> tuple[trio.lowlevel.FdStream, int]:
    """Return both ends of a pipe; the stack closes the one for writing."""
    read, write = os.pipe()
    passed.callback(os.close, write)
    return trio.lowlevel.FdStream(read), write


def home_id(home: Path) -> str:
    """Return the prefix of the marks of one home's processes: those of other homes are left alone."""
    return sha256(os.path.realpath(home).encode()).hexdigest()[:12]


def find_orphans(mark: str) -> list[ProcessId]:
    """Return the processes that carry a mark. Reads ``/proc``: some microseconds for each process."""
    entry = f"{MARK_VARIABLE}={mark}".encode()
    orphans = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if entry not in file.read().split(b"\0"):
                continue
            start_ticks = start_ticks_of(int(name))
            if start_ticks is not None:
                orphans.append((int(name), start_ticks))
    return orphans


async def kill_orphans(mark: str, *, patience_s: float = 0.0) -> bool:
    """Kill all processes that carry a mark; return whether they are gone.

    ``patience_s`` is the time for those that are ending by themselves.
    """
    began = trio.current_time()
    with trio.move_on_after(patience_s + MAX_ORPHAN_SECONDS):
        empty_scans = 0
        while empty_scans < EMPTY_SCANS:
            orphans = await trio.to_thread.run_sync(find_orphans, mark)
            empty_scans = 0 if orphans else empty_scans + 1
            if trio.current_time() >= began + patience_s:
                for orphan in orphans:
                    send_signal(orphan, signal.SIGKILL)
            await trio.sleep(SCAN_SECONDS)
        return True
    return False
