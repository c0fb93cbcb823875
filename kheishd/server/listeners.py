"""Listening sockets: bind them or inherit them from systemd, and accept connections.

A socket that answers is never unlinked; a stale one is replaced. The caller holds the home's lock, so no
other daemon of this home is about to listen.
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
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from msgspec import Struct
from trio.lowlevel import checkpoint, wait_readable

from kheishd.server.authentication import SocketGrant
from kheishd.server.shared_socket import find_obstacle

log = logging.getLogger(__name__)

# sockaddr_un.sun_path has 108 bytes, one of them for the final zero.
MAX_PATH_BYTES = 107
BACKLOG = 1024
LISTEN_FD_FIRST = 3
# Connections accepted before existing connections get their turn.
ACCEPTED_PER_TURN = 64
# Descriptors reserved for runs, reloads and backups, and as many more for the private socket, so that
# other clients cannot keep the daemon's own user out. With a low limit, each reserve is a quarter of it.
DESCRIPTORS_RESERVED = 64

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PASSING = (errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EINTR)


class SocketInUse(Exception):
    """The path is in use by another process, or is not a socket; it is left unchanged."""


class ListenerUnusable(Exception):
    """A listener that cannot be opened. ``key`` is the setting to change; empty for the private socket."""

    def __init__(self, key: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.key = key


class RpcListen(Struct, frozen=True):
    """The private socket: for the daemon's own user and root."""

    path: Path


class SharedListen(Struct, frozen=True):
    """A second socket for other users, with their grants; ``makes_directory`` if its own is missing."""

    path: Path
    mode: int = 0o660
    group: str | None = None
    grants: tuple[SocketGrant, ...] = ()
    makes_directory: bool = False


class TcpListen(Struct, frozen=True):
    """WebSocket over TCP with bearer tokens; TLS with ``certificate`` and ``key``.

    Without TLS, other machines may connect only to an ``insecure`` one.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    insecure: bool = False


Listen = RpcListen | SharedListen | TcpListen


class Listener(Struct, frozen=True):
    """A non-blocking listening socket and its specification."""

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
    """Open every socket; sockets and files created here are removed at the end.

    Sockets inherited from systemd replace the ones to bind. ``<run_dir>/tcp`` holds the TCP address.

    Errors: SocketInUse; ListenerUnusable if binding fails.
    """
    with ExitStack() as stack:
        try:
            inherited = list(_inherit(environ, rpc, shared, tcp))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ListenerUnusable(
                (), f"a descriptor passed by systemd is no listening socket: {reason}"
            ) from None
        listeners = [stack.enter_context(_adopt(fd, spec)) for fd, spec in inherited]
        kinds = {type(listener.spec) for listener in listeners}
        specs: list[Listen] = [spec for spec in (rpc, shared, tcp) if spec is not None]
        for spec in specs:
            if type(spec) not in kinds:
                try:
                    listeners.append(stack.enter_context(_open_socket(spec)))
                except (OSError, KeyError) as error:
                    raise _make_unusable(spec, error) from None
        for listener in listeners:
            if isinstance(listener.spec, TcpListen):
                stack.enter_context(_address_file(run_dir / "tcp", listener))
        yield listeners


def _make_unusable(spec: Listen, error: OSError | KeyError) -> ListenerUnusable:
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else ""
    match spec:
        case TcpListen(host, port):
            # The text of socket.create_server repeats the address.
            reason = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else reason
            return ListenerUnusable(("listen", "tcp", "address"), f"cannot listen on {host}:{port}: {reason}")
        case SharedListen(group=group) if isinstance(error, KeyError):
            return ListenerUnusable(("listen", "shared", "group"), f"this machine has no group '{group}'")
        case SharedListen(path):
            return ListenerUnusable(("listen", "shared", "path"), f"cannot make the socket {path}: {reason}")
        case RpcListen(path):
            return ListenerUnusable((), f"cannot make the socket {path}: {reason}")


# Inherited from systemd.


def _inherit(
    environ: MutableMapping[str, str], rpc: RpcListen, shared: SharedListen | None, tcp: TcpListen | None
) -> Iterator[tuple[int, Listen]]:
    """Yield the inherited sockets with their specification: by address family, Unix sockets by name.

    Errors: OSError; ListenerUnusable for a TCP socket that the configuration does not permit.
    """
    passed_to, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if passed_to != str(os.getpid()) or not count.isdigit():
        return
    named = names.split(":")
    for index in range(int(count)):
        fd = LISTEN_FD_FIRST + index
        name = named[index] if index < len(named) else ""
        with socket.socket(fileno=os.dup(fd)) as probe:
            family, address = probe.family, probe.getsockname()
        if family != socket.AF_UNIX:
            yield fd, _require_permitted(address, tcp)
        elif name == "shared":
            yield fd, shared or SharedListen(Path(address))
        else:
            yield fd, RpcListen(Path(address or rpc.path))


def _require_permitted(address: tuple[object, ...], tcp: TcpListen | None) -> TcpListen:
    """Return the specification of an inherited TCP socket. Errors: ListenerUnusable."""
    if tcp is None:
        raise ListenerUnusable(
            ("listen", "tcp"),
            f"systemd passed a TCP socket ({address[0]}), and [listen.tcp] is not configured; add it, or "
            "remove the socket from the unit",
        )
    if tcp.certificate is None and not tcp.insecure and not ip_address(str(address[0])).is_loopback:
        raise ListenerUnusable(
            ("listen", "tcp"),
            f"other machines can reach the passed socket {address[0]} and tokens would travel unencrypted; "
            "set certificate and key, or insecure = true",
        )
    return tcp


@contextmanager
def _adopt(fd: int, spec: Listen) -> Iterator[Listener]:
    fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    with socket.socket(fileno=fd) as listening:
        listening.setblocking(False)
        yield Listener(spec, listening)


# Bound by the daemon.


@contextmanager
def _open_socket(spec: Listen) -> Iterator[Listener]:
    if isinstance(spec, TcpListen):
        family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
        with socket.create_server((spec.host, spec.port), family=family, backlog=BACKLOG) as listening:
            listening.setblocking(False)
            yield Listener(spec, listening)
        return
    if isinstance(spec, RpcListen):
        spec.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.path.parent.chmod(0o700)
    elif spec.makes_directory and not spec.path.parent.exists():
        spec.path.parent.mkdir()
        spec.path.parent.chmod(0o755)
    if isinstance(spec, SharedListen):
        _require_reachable(spec)
    with short_path(spec.path) as path, socket.socket(socket.AF_UNIX) as listening:
        listening.setblocking(False)
        _clear(path, spec.path)
        _bind(listening, path, spec)
        made = os.stat(path)
        try:
            yield Listener(spec, listening)
        finally:
            with suppress(FileNotFoundError):
                current = os.lstat(path)
                # Another socket may have replaced this one.
                if (current.st_dev, current.st_ino) == (made.st_dev, made.st_ino):
                    os.unlink(path)


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yield the path or, if it is too long for the kernel, the file through its directory's descriptor."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _clear(path: str, name: Path) -> None:
    """Remove a stale socket. Errors: SocketInUse."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SocketInUse(f"{name} is not a socket; it is left unchanged")
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
            pass  # Its backlog is full: a process listens.
    raise SocketInUse(f"another process listens on {name}; it is left unchanged")


def _bind(listening: socket.socket, path: str, spec: RpcListen | SharedListen) -> None:
    """Bind and listen; nobody can connect before mode and group are set."""
    previous = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(previous)
    if isinstance(spec, SharedListen):
        _share(path, spec)
    listening.listen(BACKLOG)


def _share(path: str, spec: SharedListen) -> None:
    """Set mode and group of a newly bound socket. Errors: SocketInUse, OSError, KeyError."""
    # Through a descriptor: a user who may write to the directory could replace the socket by a link.
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise SocketInUse(f"another process replaced {spec.path}; it is left unchanged")
        itself = f"/proc/self/fd/{descriptor}"
        if spec.group is not None:
            os.chown(itself, -1, _find_gid(spec.group))
        os.chmod(itself, spec.mode)
    finally:
        os.close(descriptor)


def _find_gid(group: str | None) -> int:
    """Return the number of a group; the daemon's own for None. Errors: KeyError."""
    if group is None:
        return os.getegid()
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def _require_reachable(spec: SharedListen) -> None:
    """Errors: ListenerUnusable if a granted user cannot reach the socket; OSError, KeyError."""
    obstacle = find_obstacle(spec.path, spec.mode, _find_gid(spec.group), spec.grants)
    if obstacle is not None:
        raise ListenerUnusable(("listen", "shared", obstacle[0]), obstacle[1])


def check_listeners(specs: Iterable[Listen], listeners: Iterable[Listener]) -> None:
    """Check that the next start can open its listeners, apart from those that are open.

    Errors: ListenerUnusable.
    """
    opened = [listener.spec for listener in listeners]
    for spec in specs:
        try:
            if isinstance(spec, SharedListen):
                if not (spec.makes_directory and not spec.path.parent.exists()):
                    _require_reachable(spec)
                    if not os.access(spec.path.parent, os.W_OK | os.X_OK):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            elif isinstance(spec, TcpListen) and not any(
                isinstance(other, TcpListen) and (other.host, other.port) == (spec.host, spec.port)
                for other in opened
            ):
                with _open_socket(spec):
                    pass
        except (OSError, KeyError) as error:
            raise _make_unusable(spec, error) from None


def address_of(listening: socket.socket) -> str:
    """Return the address of a bound TCP socket, ``[::1]:7707`` for IPv6."""
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _address_file(path: Path, listener: Listener) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        path.write_text(address_of(listener.socket) + "\n")
    except OSError as error:
        # A full disk does not prevent a start: the status has the address as well.
        log.warning("the address of the TCP listener cannot be written to %s: %s", path, error.strerror)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


# Accepting.


async def accept_all(
    listening: socket.socket,
    accepted: Callable[[socket.socket], None],
    descriptor_freed: Callable[[], Awaitable[None]],
    *,
    is_private: bool = False,
) -> NoReturn:
    """Accept connections for ever. ``accepted`` receives each, non-blocking, and must not fail.

    When file descriptors run out, accepting pauses until ``descriptor_freed`` returns; new clients wait in
    the kernel's queue. Only the private socket accepts into its own reserve.

    Errors: OSError if the listening socket is broken.
    """
    paused = False
    while True:
        await wait_readable(listening)
        if _accept_some(listening, accepted, is_private=is_private):
            paused = False
            await checkpoint()
            continue
        if not paused:
            log.warning("accepting connections pauses: file descriptors are running out")
        paused = True
        await descriptor_freed()


def _accept_some(
    listening: socket.socket, accepted: Callable[[socket.socket], None], *, is_private: bool
) -> bool:
    """Accept up to one turn's connections; return False if descriptors run out. Errors: OSError."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserved = min(DESCRIPTORS_RESERVED, limit // 4) * (1 if is_private else 2)
    ceiling = sys.maxsize if limit == resource.RLIM_INFINITY else limit - reserved
    try:
        # The kernel assigns the lowest free number.
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
