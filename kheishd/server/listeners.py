"""Sockets to listen on: bound, or taken over from systemd, and accepted from.

A live socket is never unlinked: it is asked first, and who answers keeps it. A stale one is replaced;
the caller holds the home's lock, so nobody is just about to listen there.
"""

import errno
import fcntl
import grp
import logging
import os
import resource
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from msgspec import Struct
from trio.lowlevel import checkpoint, wait_readable

from kheishd.server.peers import Grant

log = logging.getLogger(__name__)

# What fits into sockaddr_un.sun_path (108 bytes) with its closing zero.
MAX_PATH_BYTES = 107
BACKLOG = 1024
LISTEN_FD_FIRST = 3
# Accepted at most before the connections that were get their turn.
ACCEPTED_PER_TURN = 64
# Descriptors that no client gets: runs, reloads and backups need some, however many clients there are.
# Where only few may be open, clients get three quarters of them.
DESCRIPTORS_RESERVED = 64

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PASSING = (errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EINTR)


class SocketInUse(Exception):
    """Somebody answers on the socket, or the path is something else; it is left alone."""


class RpcListen(Struct, frozen=True):
    """The private socket: the daemon's own user and root."""

    path: Path


class SharedListen(Struct, frozen=True):
    """A second socket, for others, with what each may do. Its directory must exist."""

    path: Path
    mode: int = 0o660
    group: str | None = None
    grants: tuple[Grant, ...] = ()


class TcpListen(Struct, frozen=True):
    """WebSocket over TCP, for bearers of tokens; with ``certificate`` and ``key``, over TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


Listen = RpcListen | SharedListen | TcpListen


class Listener(Struct, frozen=True):
    """A listening socket, non-blocking, and what was asked for."""

    spec: Listen
    socket: socket.socket

    @property
    def name(self) -> str:
        """The address for people: ``unix:<path>``, ``tcp:<host>:<port>``."""
        if isinstance(self.spec, TcpListen):
            return f"tcp:{address_of(self.socket)}"
        return f"unix:{self.spec.path}"


@contextmanager
def open_listeners(
    rpc: RpcListen,
    shared: SharedListen | None = None,
    tcp: TcpListen | None = None,
    *,
    run_dir: Path,
    environ: MutableMapping[str, str],
) -> Iterator[list[Listener]]:
    """Every socket to listen on; what was made here is removed when left.

    Those that systemd passed are used instead of binding. ``<run_dir>/tcp`` holds the address.

    Errors: SocketInUse; OSError where binding is not possible; KeyError for an unknown group.
    """
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(_adopted(fd, spec)) for fd, spec in _passed(environ, rpc, shared, tcp)
        ]
        kinds = {type(listener.spec) for listener in listeners}
        wanted: list[Listen] = [spec for spec in (rpc, shared, tcp) if spec is not None]
        for spec in wanted:
            if type(spec) not in kinds:
                listeners.append(stack.enter_context(_bound(spec)))
        for listener in listeners:
            if isinstance(listener.spec, TcpListen):
                stack.enter_context(_address_file(run_dir / "tcp", listener))
        yield listeners


# From systemd.


def _passed(
    environ: MutableMapping[str, str], rpc: RpcListen, shared: SharedListen | None, tcp: TcpListen | None
) -> Iterator[tuple[int, Listen]]:
    """The sockets that were passed in, each with what it stands for: by its name, else by its family."""
    passed_to, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if passed_to != str(os.getpid()) or not count.isdigit():
        return
    named = names.split(":")
    for place in range(int(count)):
        fd = LISTEN_FD_FIRST + place
        name = named[place] if place < len(named) else ""
        if name == "shared":
            yield fd, shared or SharedListen(Path(_path_of(fd)))
        elif name == "tcp" or (name != "rpc" and _family_of(fd) != socket.AF_UNIX):
            yield fd, tcp or TcpListen("", 0)
        else:
            yield fd, RpcListen(Path(_path_of(fd) or rpc.path))


@contextmanager
def _adopted(fd: int, spec: Listen) -> Iterator[Listener]:
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    with socket.socket(fileno=fd) as listening:
        listening.setblocking(False)
        yield Listener(spec, listening)


def _family_of(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as probe:
        return probe.family


def _path_of(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as probe:
        name = probe.getsockname()
    return name if isinstance(name, str) else ""


# Bound here.


@contextmanager
def _bound(spec: Listen) -> Iterator[Listener]:
    if isinstance(spec, TcpListen):
        family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
        with socket.create_server((spec.host, spec.port), family=family, backlog=BACKLOG) as listening:
            listening.setblocking(False)
            yield Listener(spec, listening)
        return
    if isinstance(spec, RpcListen):
        spec.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.path.parent.chmod(0o700)
    with short_path(spec.path) as path, socket.socket(socket.AF_UNIX) as listening:
        listening.setblocking(False)
        _clear(path, spec.path)
        _bind(listening, path, spec)
        made = os.stat(path)
        try:
            yield Listener(spec, listening)
        finally:
            _remove(path, made)


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """The path, or where it is too long for the kernel, the same file by its directory's descriptor."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _clear(path: str, shown: Path) -> None:
    """Make way for a socket. Errors: SocketInUse."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketInUse(f"{shown} is not a socket; it is left alone")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # Its backlog is full: somebody is there.
    raise SocketInUse(f"somebody answers on {shown}; it is left alone")


def _bind(listening: socket.socket, path: str, spec: RpcListen | SharedListen) -> None:
    """Bind and listen; nobody can connect before mode and group are as they should be."""
    before = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(before)
    if isinstance(spec, SharedListen):
        _share(path, spec)
    listening.listen(BACKLOG)


def _share(path: str, spec: SharedListen) -> None:
    """Give a socket that was just bound its mode and group. Errors: SocketInUse, OSError, KeyError."""
    # By descriptor: whoever may write to its directory could put a link to another file of ours in its place.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise SocketInUse(f"somebody put something else in the place of {spec.path}; it is left alone")
        itself = f"/proc/self/fd/{descriptor}"
        if spec.group is not None:
            group = int(spec.group) if spec.group.isdigit() else grp.getgrnam(spec.group).gr_gid
            os.chown(itself, -1, group)
        os.chmod(itself, spec.mode)
    finally:
        os.close(descriptor)


def _remove(path: str, made: os.stat_result) -> None:
    """Unlink the socket, unless another has taken its place."""
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            os.unlink(path)


def address_of(listening: socket.socket) -> str:
    """The address that a TCP socket is bound to, ``[::1]:7707`` for IPv6."""
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _address_file(path: Path, listener: Listener) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(address_of(listener.socket) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


# Accepted from.


async def accept_all(
    listening: socket.socket,
    accepted: Callable[[socket.socket], None],
    descriptor_freed: Callable[[], Awaitable[None]],
) -> NoReturn:
    """Accept for ever. ``accepted`` gets each connection, non-blocking, and must not fail.

    With hardly a file descriptor left, accepting pauses until ``descriptor_freed`` returns; those who
    connect meanwhile wait in the kernel's queue.

    Errors: OSError if the socket itself is broken.
    """
    paused = False
    while True:
        await wait_readable(listening)
        if _accept_some(listening, accepted):
            paused = False
            await checkpoint()
            continue
        if not paused:
            log.warning("accepting connections pauses: there are hardly any file descriptors left")
        paused = True
        await descriptor_freed()


def _ceiling() -> int:
    """The first descriptor that no client gets."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(DESCRIPTORS_RESERVED, limit // 4)


def _accept_some(listening: socket.socket, accepted: Callable[[socket.socket], None]) -> bool:
    """Accept who has connected, up to a turn's number; False for want of descriptors. Errors: OSError."""
    ceiling = _ceiling()
    try:
        # The kernel gives the lowest number there is.
        newest = os.dup(listening.fileno())
        os.close(newest)
        for _ in range(ACCEPTED_PER_TURN):
            if newest >= ceiling:
                return False
            stream, _address = listening.accept()
            newest = stream.fileno()
            stream.setblocking(False)
            accepted(stream)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in (*_EXHAUSTED, *_PASSING):
            raise
        return error.errno in _PASSING
    return True
