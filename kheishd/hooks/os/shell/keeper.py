"""The keeper: the supervisor process between the daemon and one command that a tool runs.

It is forked from an interpreter that has imported this file and little else (see ``zygote``). Its arguments
are ``bare``, ``boxed``, or ``closed:PORT`` for a sandbox with a network of its own, the workspace, and the
orders of the command's ``runner``. The daemon cannot do its work, for these reasons:

- **No process escapes.** The keeper is the *subreaper* of everything below it: each process that a command
  starts stays a descendant of the keeper, even in a session of its own and with its parent gone. The keeper
  ends only when it has no child, so its end means that nothing of the command runs.
- **The command dies with the daemon.** The daemon's end of the socket closes however the daemon ends. The
  parent-death signal does not work there: the kernel sends it when the *thread* that started the child ends,
  and the daemon starts programs in threads that come and go. The keeper has one thread, so its own child can
  use that signal, in case the keeper is killed.
- **A reaped process id is never signalled**: the keeper reaps, so it knows.

Standard output and error are the command's. The keeper sends these lines over the socket::

    began PID STARTED       the command runs; with the descriptor of the port in its closed network
    failed NOTE             the command could not be started
    exceeded LIMIT          the command is being stopped, because it exceeded this limit, or lost a mount
    ended CODE              the command has ended; 128 + n by signal n
    unboxed                 the sandbox could not be set up, so the command never ran
    gone                    nothing of the command runs any more

It receives ``stop SECONDS``: terminate everything, and kill it after this time. At the end of the socket it
kills everything at once. If either comes before the start, it starts nothing.

A command without a sandbox may kill its keeper. Its processes then fall to the zygote, which kills them when
the daemon asks for that (see ``zygote``). A command that kills the zygote, too, could as well kill the
daemon: its processes are found by the mark in their environment only (see ``process``), and by their control
group.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

from kheishd.hooks.os.shell.mounts import MountWatch
from kheishd.hooks.os.shell.namespace import send_port
from kheishd.hooks.os.shell.runner import Runner, call_libc
from kheishd.hooks.os.shell.watch import Limits, Watch

# Importing ``typing`` takes as long as the rest of the start, so only the type checker does it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from kheishd.hooks.os.shell.runner import Orders

PR_SET_CHILD_SUBREAPER = 36

# The flag of a process that is ending (include/linux/sched.h).
PF_EXITING = 0x4

# The interval between two sweeps, and its maximum: a process that cannot be killed (it waits for a disk, or
# became another user's) must not be signalled a hundred times a second.
SWEEP_SECONDS = 0.01
MAX_SWEEP_SECONDS = 1.0

# A tree that grows while it is being stopped is scanned again; one that outruns this meets the next sweep.
MAX_STOPPING_ROUNDS = 200


ProcessId = tuple[int, int]
"""The unambiguous identity of a process: its pid, which the kernel reuses, and its start in clock ticks."""


def stat_of(pid: int) -> tuple[int, int] | None:
    """Return the parent and the start ticks of a process; None if there is none."""
    fields = _read_stat(pid)
    return None if fields is None else (int(fields[1]), int(fields[19]))


def is_ending(process: ProcessId) -> bool:
    """Whether a process has ended or is about to: its descriptors may be closed already."""
    pid, start_ticks = process
    fields = _read_stat(pid)
    return fields is None or int(fields[19]) != start_ticks or bool(int(fields[6]) & PF_EXITING)


def _read_stat(pid: int) -> list[bytes] | None:
    """Return the fields of ``/proc/PID/stat`` after the name of the program; None if there is no process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program comes second, in parentheses, and may contain parentheses itself.
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def start_ticks_of(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since boot; None if there is none."""
    stat = stat_of(pid)
    return None if stat is None else stat[1]


def send_signal(process: ProcessId, number: int) -> None:
    """Send a signal to this process and no other, if it exists and may be signalled."""
    pid, start_ticks = process
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The handle refers to the process that had the pid when it was opened, so that one is compared.
        if start_ticks_of(pid) == start_ticks:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(handle)


def descendants(root: int, excluded: Collection[int] = (), spared: Collection[int] = ()) -> list[ProcessId]:
    """Return all processes below one, nearest first, without the excluded ones.

    The spared ones are left out with all that is below them.
    """
    children: dict[int, list[ProcessId]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in excluded or int(name) in spared:
            continue
        stat = stat_of(int(name))
        if stat is not None:
            children.setdefault(stat[0], []).append((int(name), stat[1]))
    below = [child for parent in (root, *excluded) for child in children.pop(parent, ())]
    for pid, _ in below:
        below += children.pop(pid, ())
    return below


def sweep(root: int, spared: Collection[int] = ()) -> None:
    """Kill everything below a process, but the spared ones and all below them.

    All of it is stopped first: a stopped process cannot start others. It cannot end either, so its pid stays
    its own, and only new processes have to be scanned. Stopping one takes less time than starting one, so
    this catches up with a tree that grows.
    """
    stopped: dict[int, int] = {}
    for _ in range(MAX_STOPPING_ROUNDS):
        fresh = descendants(root, stopped, spared)
        if not fresh:
            break
        for process in fresh:
            send_signal(process, signal.SIGSTOP)
        stopped.update(fresh)
    for process in stopped.items():
        send_signal(process, signal.SIGKILL)


class Keeper:
    """The state of the command, and the time at which everything that remains of it is killed."""

    def __init__(self, control: int, *, boxed: bool, limits: Limits, workspace: str, port: int = 0) -> None:
        self._control = control
        self._boxed = boxed
        self._port = port
        self._limits = limits
        self._watch = Watch(limits, workspace, boxed=boxed)
        self._exceeded = False
        self._status = -1
        self._main = 0
        self._kill_at: float | None = None
        self._pause = SWEEP_SECONDS
        self._wakeup = _open_wakeup()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        self._mounts = MountWatch((), self._poll)

    def start(self, runner: Runner | None, orders: Orders) -> bool:
        """Start the command and report it; return whether it could be started."""
        release = -1
        if self._boxed:
            self._status, inside = os.pipe()
            orders.add("--json-status-fd", inside)
        if self._port:
            # The command must not look for its port before that is open.
            blocked, release = os.pipe()
            orders.add("--block-fd", blocked)
        elif self._boxed:
            self._mounts = MountWatch(orders.argv, self._poll)
        read, write = os.pipe()
        try:
            self._run(runner, orders, write)
        except OSError as error:
            report_failure(self._control, error)
            return False
        os.close(write)
        orders.close()
        # A successful exec closes the pipe without a message.
        problem = os.read(read, 1_000).decode(errors="replace")
        os.close(read)
        began = f"began {self._main} {start_ticks_of(self._main) or 0}"
        if problem or not self._port or not self._send_port(began):
            self._send(f"failed {problem}" if problem else began)
        if self._port:
            if not problem:
                # Bubblewrap mounts meanwhile, and the command is still blocked.
                self._mounts = MountWatch(orders.argv, self._poll)
            os.close(release)
        return not problem

    def _run(self, runner: Runner | None, orders: Orders, report: int) -> None:
        """Let a runner become the command, or another if it is gone. Errors: OSError."""
        while self._main == 0:
            current, runner = runner or Runner(self._control), None
            try:
                self._watch.group.add(current.pid)
                current.run(orders, report)
                self._main = current.pid
            except (ConnectionError, ProcessLookupError):
                # It was killed while it waited.
                pass

    def _send_port(self, began: str) -> bool:
        """Open the port in the command's network, and send it with the report; return whether that worked."""
        status = b""
        while not status.endswith(b"\n") and (data := os.read(self._status, 1_000)):
            status += data
        # Bubblewrap reports the first process of the sandbox as soon as that has its namespaces.
        _, found, pid = status.partition(b'"child-pid": ')
        return bool(found) and send_port(self._control, began, int(pid[: pid.index(b",")]), self._port)

    def stay(self) -> None:
        """Run until there is no child any more, and report that."""
        while self._reap():
            if self._kill_at is not None:
                if time.monotonic() >= self._kill_at:
                    self._kill()
            elif time.monotonic() >= self._watch.next_look:
                self._look()
            self._wait()
        self._watch.group.remove()
        self._mounts.close()
        self._send("gone")

    def _look(self) -> None:
        """Stop the command if it exceeds a limit, or a mount of its sandbox is gone."""
        _run_first()
        self._report(self._mounts.look(self._main) if self._main else None)
        self._report(self._watch.look())

    def _report(self, exceeded: str | None) -> None:
        """Report a limit that was exceeded, once, and stop the command."""
        if exceeded is not None and not self._exceeded:
            self._exceeded = True
            self._send(f"exceeded {exceeded}")
            self._expire()

    def _reap(self) -> bool:
        """Reap the ended children; return whether any is left."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if ended is None:
                return True
            if ended.si_pid != self._main:
                os.waitpid(ended.si_pid, 0)
                continue
            # The kernel may have killed all of it before the next look.
            self._report(self._watch.group.find_excess())
            self._kill_main()
            _, status = os.waitpid(self._main, 0)
            self._main = 0
            # The kernel kills all that was in the sandbox, faster than a sweep would find it.
            self._kill_at = time.monotonic() + (SWEEP_SECONDS if self._boxed else 0.0)
            self._send(self._describe_end(os.waitstatus_to_exitcode(status)))

    def _describe_end(self, code: int) -> str:
        report = b""
        if self._boxed:
            os.set_blocking(self._status, False)
            with suppress(BlockingIOError):
                report = os.read(self._status, 10_000)
        if code < 0:
            return f"ended {128 - code}"
        # Bubblewrap reports the exit code of the command it ran; without a report, it ran none.
        return f"ended {code}" if not self._boxed or b'"exit-code"' in report else "unboxed"

    def _wait(self) -> None:
        """Wait until a child has ended, the daemon has sent a message, or it is time to kill."""
        until = self._watch.next_look if self._kill_at is None else self._kill_at
        timeout_ms = None if until == float("inf") else max(0.0, until - time.monotonic()) * 1_000
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._wakeup:
                os.read(self._wakeup, 1_000)
            elif descriptor == self._control:
                self._receive()
            elif self._main and self._kill_at is None:
                self._report(self._mounts.look(self._main))

    def _receive(self) -> None:
        try:
            words = os.read(self._control, 100).split()
        except ConnectionError:
            words = []
        if not words:
            self._poll.unregister(self._control)
            self._expire()
        elif self._kill_at is None:
            self._kill_at = time.monotonic() + float(words[1])
            # Not Bubblewrap itself: its end would kill the others at once.
            for process in descendants(os.getpid()):
                if not self._boxed or process[0] != self._main:
                    send_signal(process, signal.SIGTERM)

    def _expire(self) -> None:
        """Let the kill time be now."""
        self._kill_at = time.monotonic()

    def _kill(self) -> None:
        """Kill everything that runs, and schedule the next sweep, later each time."""
        self._watch.group.kill()
        if self._main:
            self._kill_main()
        else:
            _run_first()
            sweep(os.getpid())
        self._kill_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MAX_SWEEP_SECONDS)

    def _kill_main(self) -> None:
        """Kill the command and its group. The command is not reaped yet, so its pid is still its own.

        In a sandbox the kernel kills everything with it. Signalling a group is atomic for the kernel, and no
        fork can slip through, so only processes that left the group remain.
        """
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(self._main, signal.SIGKILL)

    def _send(self, line: str) -> None:
        with suppress(ConnectionError):
            os.write(self._control, line.encode() + b"\n")


def report_failure(control: int, error: OSError) -> None:
    """Report to the daemon that its command could not be started."""
    with suppress(ConnectionError):
        os.write(control, f"failed {error.strerror or error}\n".encode())


def _open_wakeup() -> int:
    """Return a descriptor that is readable after a signal. No signal ends the keeper or is forwarded."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # An ignored signal would not wake.
        signal.signal(number, lambda number, frame: None)
    return read


def _run_first() -> None:
    """Run before all other processes, if that is allowed: there may be thousands to count and to kill."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def keep(control: int, manner: str, workspace: str, runner: Runner | None, orders: Orders) -> None:
    """Keep one command whose socket to the daemon is ``control``; the rest is in this file's docstring."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if poll.poll(0):
        # The daemon gave the command up before this process could run, and does not wait for it any more.
        with suppress(ConnectionError):
            os.write(control, b"gone\n")
        return
    call_libc("prctl", PR_SET_CHILD_SUBREAPER, 1)
    confinement, _, port = manner.partition(":")
    keeper = Keeper(
        control,
        boxed=confinement != "bare",
        limits=Limits(orders.limits),
        workspace=workspace,
        port=int(port or 0),
    )
    if keeper.start(runner, orders):
        # The command's output ends with the command, not with the keeper.
        os.dup2(0, 1)
        os.dup2(0, 2)
        keeper.stay()
