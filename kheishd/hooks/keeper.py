"""The keeper of one command: a program of its own between the daemon and what a tool runs.

It is an interpreter that has imported this file and little else (see ``processes``), and takes ``bare`` or
``boxed`` and then the command's argv. Why it is there, and not the daemon itself:

- **Nothing gets away.** It is the *subreaper* of all below it: whatever a command starts stays a descendant
  of its keeper, be it in a session of its own and its parent gone. It ends only when it has no child any
  more, so its end means that nothing of the command runs.
- **The command dies with the daemon.** The daemon's end of the socket closes however the daemon ends. The
  signal that a parent's death can send is no good there: it comes when the *thread* ends that started the
  child, and the daemon starts programs in threads that come and go. The keeper has one thread, so its own
  child can have that signal, for the case that the keeper is killed.
- **A number that was reaped is never signalled**: it reaps, so it knows.

Standard input is the socket, standard output and error are the command's. It says, a line each::

    began PID STARTED       the command runs
    failed WHY              it could not be started
    ended CODE              it has ended; 128 + n by signal n
    unboxed                 the sandbox could not be set up, so the command never ran
    gone                    nothing of it runs any more

It hears ``stop SECONDS``: ask everything to terminate, and kill it after so long. The end of the socket: kill
everything now.

What can still get away: a command without a sandbox that kills its keeper, which is to say, one that could
as well kill the daemon. Such leftovers carry a mark (see ``leftovers``).
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

# Importing ``typing`` takes as long as the rest of the start; for the type checker only, so.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# After a kill, how long to wait before looking again for what is left, and at most: what cannot be killed
# (it waits for a disk, or became another user's) is not asked a hundred times a second.
SWEEP_SECONDS = 0.01
MAX_SWEEP_SECONDS = 1.0

# A tree that grows while it is being stopped is looked at again; what outruns this meets the next sweep.
MAX_STOPPING_ROUNDS = 200

# If memory runs out, the command is to go and not the daemon.
OOM_SCORE = 500


Process = tuple[int, int]
"""A process for certain: its number, which is used again, and when it started, in clock ticks."""


def stat_of(pid: int) -> tuple[int, int] | None:
    """The parent of a process and when it started; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program comes second, in parentheses, and may hold some itself.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19])


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None if there is none."""
    found = stat_of(pid)
    return None if found is None else found[1]


def strike(process: Process, number: int) -> None:
    """Send a signal to this process and no other, if it is there and ours."""
    pid, started = process
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The handle holds on to whichever process it was opened on, so that one is looked at now.
        if started_at(pid) == started:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(handle)


def descendants(root: int, known: Collection[int] = ()) -> list[Process]:
    """Every process below one, nearest first, but those that are known already."""
    children: dict[int, list[Process]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in known and (found := stat_of(int(name))) is not None:
            children.setdefault(found[0], []).append((int(name), found[1]))
    below = [child for parent in (root, *known) for child in children.pop(parent, ())]
    for pid, _ in below:
        below += children.pop(pid, ())
    return below


def sweep(root: int) -> None:
    """Kill everything below a process. All of it is stopped first: what is stopped cannot start more.

    It cannot end either, so its number stays its own, and only what is new has to be looked at: stopping one
    takes less time than starting one, so this gains on a tree that grows.
    """
    stopped: dict[int, int] = {}
    for _ in range(MAX_STOPPING_ROUNDS):
        fresh = descendants(root, stopped)
        if not fresh:
            break
        for process in fresh:
            strike(process, signal.SIGSTOP)
        stopped.update(fresh)
    for process in stopped.items():
        strike(process, signal.SIGKILL)


class Keeper:
    """What is known of the command, and when all that is left of it is to be killed."""

    def __init__(self, control: int, *, boxed: bool) -> None:
        self._control = control
        self._boxed = boxed
        self._status = -1
        self._main = 0
        self._kill_at: float | None = None
        self._pause = SWEEP_SECONDS
        self._woken = _woken_by_signals()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def start(self, argv: list[str]) -> bool:
        """Start the command, and tell; whether it could be started."""
        inside = -1
        if self._boxed:
            self._status, inside = os.pipe()
            os.set_inheritable(inside, True)
            argv = [argv[0], "--json-status-fd", str(inside), *argv[1:]]
        read, write = os.pipe()
        self._main = os.fork()
        if self._main == 0:
            _become(argv, write)
        os.close(write)
        if self._boxed:
            os.close(inside)
        # Nothing comes of a command that could be executed: its end was closed then.
        why = os.read(read, 1_000).decode(errors="replace")
        os.close(read)
        self._tell(f"failed {why}" if why else f"began {self._main} {started_at(self._main) or 0}")
        return not why

    def stay(self) -> None:
        """Stay until there is no child any more, and tell."""
        while self._reap():
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill()
            self._listen()
        self._tell("gone")

    def _reap(self) -> bool:
        """Take in what has ended; whether anything is left."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if found is None:
                return True
            if found.si_pid != self._main:
                os.waitpid(found.si_pid, 0)
                continue
            self._kill_main()
            _, status = os.waitpid(self._main, 0)
            self._main = 0
            self._doom()
            self._tell(self._ending(os.waitstatus_to_exitcode(status)))

    def _ending(self, code: int) -> str:
        told = b""
        if self._boxed:
            os.set_blocking(self._status, False)
            with suppress(BlockingIOError):
                told = os.read(self._status, 10_000)
        if code < 0:
            return f"ended {128 - code}"
        # Bubblewrap tells how that ended which it ran; where it tells nothing, it ran nothing.
        return f"ended {code}" if not self._boxed or b'"exit-code"' in told else "unboxed"

    def _listen(self) -> None:
        """Wait until a child has ended, the daemon says something, or it is time to kill."""
        left = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic()) * 1_000
        for descriptor, _ in self._poll.poll(left):
            if descriptor == self._woken:
                os.read(self._woken, 1_000)
            else:
                self._hear()

    def _hear(self) -> None:
        try:
            said = os.read(self._control, 100).split()
        except ConnectionError:
            said = []
        if not said:
            self._poll.unregister(self._control)
            self._doom()
        elif self._kill_at is None:
            self._kill_at = time.monotonic() + float(said[1])
            self._ask()

    def _ask(self) -> None:
        """Ask all to terminate, but not Bubblewrap itself, which would take the others with it at once."""
        for process in descendants(os.getpid()):
            if not self._boxed or process[0] != self._main:
                strike(process, signal.SIGTERM)

    def _doom(self) -> None:
        """All that is left is to go now."""
        self._kill_at = time.monotonic()

    def _kill(self) -> None:
        """Kill what there is, and look again in a while: seldom more often than something comes of it."""
        if self._main:
            self._kill_main()
        else:
            _hurry()
            sweep(os.getpid())
        self._kill_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MAX_SWEEP_SECONDS)

    def _kill_main(self) -> None:
        """Kill the command and its group; not reaped yet, its number is still its own.

        In a sandbox the kernel kills everything with it. The group is one step for the kernel, which no fork
        can slip through, so it takes care of all but what left it.
        """
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(self._main, signal.SIGKILL)

    def _tell(self, line: str) -> None:
        with suppress(ConnectionError):
            os.write(self._control, line.encode() + b"\n")


def _woken_by_signals() -> int:
    """A descriptor to read from after any signal. None of them ends the keeper, and none is told on."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        # Handled, not ignored: what is ignored stays so in the command.
        signal.signal(number, lambda number, frame: None)
    return read


def _hurry() -> None:
    """Come before everything else that runs, where that is allowed: there may be thousands to end."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _become(argv: list[str], report: int) -> NoReturn:
    """Turn this child into the command; why it could not be done goes to ``report``."""
    try:
        keeper = os.getppid()
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                # Python ignores these.
                signal.signal(number, signal.SIG_DFL)
            with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(OOM_SCORE))
            os.execv(argv[0], argv)
    except OSError as error:
        os.write(report, (error.strerror or str(error)).encode())
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def main(argv: list[str]) -> None:
    """Keep one command: ``bare`` or ``boxed``, then its argv."""
    control = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = Keeper(control, boxed=argv[0] == "boxed")
    if keeper.start(argv[1:]):
        # The command's output ends with the command, not with us.
        os.dup2(null, 1)
        os.dup2(null, 2)
        keeper.stay()
