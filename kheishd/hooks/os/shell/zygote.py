"""The zygote: a process that has imported what a keeper needs, and forks a keeper for each command.

Starting an interpreter takes longer than most commands, so only the first command of a daemon waits for it.
The zygote starts with that command and ends with the daemon. It does not end earlier, since the next one
would be of the version that is installed by then. It has one thread and knows nothing of the daemon: no
memory, no variables, no descriptor but its socket. It reads no request: a keeper that it has forked does, so
no request can disturb the next one.

Standard input is the daemon's socket. Each message on it is one byte and one descriptor. ``k``: the keeper's
own socket to the daemon (see ``keeper``), from which the new keeper reads its request. ``s``: a socket that
is closed once all orphans have been killed. If the zygote dies, keepers and commands live on, and the daemon
starts another zygote.

An orphan is a process of a command that killed its keeper. The zygote is the *subreaper* of keepers, so all
that was below a keeper falls to it, whatever became of its environment: a process below the zygote that is
below no live keeper is an orphan.

After a command the daemon sends the socket of the next one's keeper, which is forked while a model answers,
and waits for its request.

A request is a message (see ``handover``): the marshalled fields of ``KeeperRequest``, and the descriptors of
standard output, of standard error, of the working directory, and those that the command inherits.

Like ``keeper``, this imports little.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import gc
import marshal
import os
import signal
from contextlib import suppress

from kheishd.hooks.os.shell.handover import DESCRIPTOR_BYTES, receive_message
from kheishd.hooks.os.shell.keeper import (
    PR_SET_CHILD_SUBREAPER,
    is_ending,
    keep,
    report_failure,
    start_ticks_of,
    sweep,
)
from kheishd.hooks.os.shell.runner import (
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Orders,
    Runner,
    call_libc,
    libc,
)
from protocol import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MARK_VARIABLE = "KHEISH_CALL"

# The room for a mark in the environment of a keeper, which has the zygote's environment.
MAX_MARK_BYTES = 255

# Standard output, standard error, and the working directory.
OWN_DESCRIPTORS = 3

# Keepers that are remembered before the ended ones are forgotten.
MAX_KEEPERS = 256


class KeeperRequest:
    """A command and its conditions. ``numbers`` are those of the descriptors that it inherits."""

    def __init__(self, fields: bytes) -> None:
        arguments, environ, numbers, mark, manner, limits, workspace, umask = marshal.loads(fields)
        self.argv: list[str] = [os.fsdecode(argument) for argument in arguments]
        self.environ: dict[bytes, bytes] = environ
        self.numbers: list[int] = numbers
        self.mark: bytes = mark
        self.manner: str = manner
        self.limits: str = limits
        self.workspace: str = os.fsdecode(workspace)
        self.umask: int = umask


def receive(control: int) -> tuple[KeeperRequest, list[int]]:
    """Receive a request and its descriptors.

    Errors: EOFError if the daemon gave it up, OSError.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control)
    try:
        fields, descriptors = receive_message(connection)
    finally:
        connection.detach()
    request = KeeperRequest(fields)
    # The kernel drops descriptors for which a process has no room.
    if len(descriptors) != OWN_DESCRIPTORS + len(request.numbers):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return request, descriptors


def mark_process(mark: bytes) -> None:
    """Write a mark over the room for it in this process's environment, as others see that.

    The variables of a process are those that it was started with, and this one was forked only.
    """
    getenv = libc().getenv
    getenv.restype = ctypes.c_void_p
    ctypes.memmove(getenv(MARK_VARIABLE.encode()), mark.ljust(MAX_MARK_BYTES, b"\0"), MAX_MARK_BYTES)


def become_keeper(control: int) -> None:
    """Serve the command that the socket asks for; return when nothing of it runs."""
    os.setsid()
    runner = None
    # If there are too many processes now, there may be fewer when the request arrives.
    with suppress(OSError):
        runner = Runner(control)
    try:
        # Until then it may be a spare one, which commands of the same user could make theirs.
        request, descriptors = receive(control)
        call_libc("prctl", PR_SET_DUMPABLE, 1)
        mark_process(request.mark)
        os.umask(request.umask)
        os.fchdir(descriptors[OWN_DESCRIPTORS - 1])
    except (EOFError, ConnectionError):
        return
    except OSError as error:
        report_failure(control, error)
        return
    orders = Orders(
        request.argv, request.environ, request.limits, request.numbers, request.umask, descriptors
    )
    keep(control, request.manner, request.workspace, runner, orders)


def main(version: str = __version__) -> None:
    """Fork a keeper for each socket that arrives, until the daemon ends.

    ``version`` is the daemon's: it speaks with keepers of its own version only.
    """
    # It is the daemon that ends the zygote. Ended keepers need no attention.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    # Commands of the same user could use its socket.
    call_libc("prctl", PR_SET_DUMPABLE, 0)
    # It would not notice the daemon's end while it is suspended. The daemon's thread is the event loop's.
    call_libc("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    call_libc("prctl", PR_SET_CHILD_SUBREAPER, 1)
    keepers: dict[int, int] = {}
    daemon = _socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    # A collection would write to pages that keepers share.
    gc.disable()
    gc.freeze()
    while True:
        data, rights, _, _ = daemon.recvmsg(1, _socket.CMSG_SPACE(DESCRIPTOR_BYTES), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            break
        for _, _, numbers in rights:
            (control,) = memoryview(numbers).cast("i")
            if data == b"s" or len(keepers) >= MAX_KEEPERS:
                keepers = {pid: ticks for pid, ticks in keepers.items() if not is_ending((pid, ticks))}
            if data == b"s":
                sweep(os.getpid(), keepers)
                os.close(control)
                continue
            try:
                if version != __version__:
                    raise OSError(f"kheish {__version__} was installed over {version}; restart the daemon")
                pid = os.fork()
                if pid == 0:
                    _run(daemon, control)
                keepers[pid] = start_ticks_of(pid) or 0
            except OSError as error:
                report_failure(control, error)
            os.close(control)


def _run(daemon: _socket.socket, control: int) -> NoReturn:
    """Be a keeper until nothing of the command runs, and exit."""
    try:
        daemon.close()
        become_keeper(control)
    finally:
        # An error leaves the socket without a report, which says that the keeper failed.
        os._exit(0)
