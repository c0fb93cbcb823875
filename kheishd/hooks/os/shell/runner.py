"""The runner of a command: the child of a keeper that becomes the command once it has its orders.

Forking an interpreter and leaving its state takes as long as a short command. So the runner is forked before
the keeper has a request: together with a spare keeper, while a model answers. It waits on a socket, ends with
its keeper, and nothing of the command runs before its orders are complete.

Like ``keeper``, this imports little.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import marshal
import os
import resource
import signal
from contextlib import suppress
from functools import cache

from kheishd.hooks.os.shell.handover import place, receive_message, send_message
from kheishd.hooks.os.shell.watch import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4

# keyctl(KEYCTL_JOIN_SESSION_KEYRING): its number, by architecture, and the operation.
KEYCTL = {"x86_64": 250, "aarch64": 219}
JOIN_SESSION_KEYRING = 1

# If memory runs out, the kernel should kill the command and not the daemon.
OOM_SCORE = 500

# Python ignores the first two, and the zygote the others. The command would inherit that.
IGNORED_SIGNALS = (
    *(signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD),
)


class Orders:
    """A command, and what it has of its own: the descriptors of the last ``numbers`` under these numbers.

    Descriptors before those are standard output, standard error and the working directory; without them, the
    command has those of the keeper.
    """

    def __init__(
        self,
        argv: list[str],
        environ: Mapping[bytes, bytes],
        limits: str = "",
        numbers: Sequence[int] = (),
        umask: int = 0o022,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.argv = argv
        self.environ = environ
        self.limits = limits
        self.numbers = list(numbers)
        self.umask = umask
        self.descriptors = list(descriptors)

    def add(self, option: str, descriptor: int) -> None:
        """Let the program inherit a descriptor more, whose number follows an option."""
        number = max((2, *self.numbers)) + 1
        self.numbers.append(number)
        self.descriptors.append(descriptor)
        self.argv = [self.argv[0], option, str(number), *self.argv[1:]]

    def close(self) -> None:
        """Close the descriptors in this process."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


class Runner:
    """The keeper's side of a runner, which inherits its own socket and the standard descriptors only.

    Errors: OSError if it cannot be forked.
    """

    def __init__(self, control: int) -> None:
        self._connection, theirs = _socket.socketpair()
        keeper = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._connection.close()
            os.close(control)
            _become_command(theirs, keeper)
        theirs.close()

    def run(self, orders: Orders, report: int) -> None:
        """Let it become the command; an error is written to ``report``. Errors: OSError if it is gone."""
        fields = marshal.dumps(
            (
                [os.fsencode(argument) for argument in orders.argv],
                dict(orders.environ),
                orders.limits,
                orders.numbers,
                orders.umask,
                len(orders.descriptors),
            )
        )
        send_message(self._connection, fields, [report, *orders.descriptors])
        self._connection.close()


def _become_command(connection: _socket.socket, keeper: int) -> NoReturn:
    """Wait for orders, and become the command."""
    report = -1
    try:
        os.setsid()
        # The keeper may be killed.
        call_libc("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:
            join_keyring()
            fields, descriptors = receive_message(connection)
            report = descriptors[0]
            argv, environ, limits, numbers, umask, count = marshal.loads(fields)
            # The kernel drops descriptors for which a process has no room.
            if len(descriptors) != 1 + count:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            report, *files = place(descriptors, numbers)
            if files:
                out, err, directory = files
                os.dup2(out, 1)
                os.dup2(err, 2)
                os.fchdir(directory)
            os.umask(umask)
            for number in IGNORED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # Its files in ``/proc`` are its own again.
            call_libc("prctl", PR_SET_DUMPABLE, 1)
            with suppress(OSError):
                # Little runs between the orders and the command: each page that it touches is copied.
                os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC), b"%d" % OOM_SCORE)
            limit_process(Limits(limits))
            os.execve(argv[0], argv, environ)
    except (EOFError, ConnectionError):
        pass
    except OSError as error:
        os.write(report, (error.strerror or str(error)).encode())
    finally:
        os._exit(127)


def limit_process(limits: Limits) -> None:
    """Apply the limits that the kernel has for each process; a limit that is lower already stays."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_NOFILE, limits.descriptors),
    ):
        if value or kind == resource.RLIMIT_CORE:
            soft, hard = (
                value if current == resource.RLIM_INFINITY else min(current, value)
                for current in resource.getrlimit(kind)
            )
            resource.setrlimit(kind, (soft, hard))


def join_keyring() -> None:
    """Leave the daemon's session keyring for an empty one, if the kernel has keyrings."""
    number = KEYCTL.get(os.uname().machine)
    if number is not None:
        with suppress(OSError):
            call_libc("syscall", number, JOIN_SESSION_KEYRING, 0)


@cache
def libc() -> ctypes.CDLL:
    """Return the C library; the zygote loads it before it forks."""
    return ctypes.CDLL(None, use_errno=True)


def call_libc(name: str, *arguments: int) -> None:
    """Call a function of the C library. Errors: OSError."""
    if getattr(libc(), name)(*map(ctypes.c_ulong, arguments)) < 0:
        raise OSError(ctypes.get_errno(), f"{name} failed")
