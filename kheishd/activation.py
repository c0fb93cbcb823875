"""Answers to the clients of a daemon that cannot start, while systemd keeps its sockets.

systemd starts the daemon for each connection that waits. A daemon that ended without accepting it would be
started again at once, until systemd gives the socket up; the client would hang meanwhile. So a daemon that
cannot start answers every client for a few seconds with the reason, and then ends with its code. A corrected
configuration needs no other command: the next connection starts the daemon.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from kheishd.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import trio

    from protocol.errors.refusal import Refusal

# Clients that retry at once cause one start in this time; systemd permits five starts in ten seconds.
ANSWER_SECONDS = 5.0
# The time of one client, and the number of clients answered at a time.
CLIENT_SECONDS = 2.0
MAX_CLIENTS = 64

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class PassedSockets:
    """The sockets that systemd passed, kept beside the daemon's own use of them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # Copied, because the daemon removes these variables.
        self._environ = {name: environ[name] for name in ("NOTIFY_SOCKET",) if name in environ}
        self._sockets: list[socket.socket] = []
        count = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") == str(os.getpid()) and count.isdigit():
            from kheishd.server.listeners import LISTEN_FD_FIRST

            for fd in range(LISTEN_FD_FIRST, LISTEN_FD_FIRST + int(count)):
                with suppress(OSError):
                    self._sockets.append(socket.socket(fileno=os.dup(fd)))

    def answer(self, message: str, stamp: Callable[[], object]) -> None:
        """Report why the daemon cannot start: to systemd, and to the clients that wait or connect soon.

        ``stamp`` returns another value once the configuration has changed: the next client then starts a new
        daemon. Returns at once if no client waits.
        """
        Notifier(self._environ).status(f"Cannot start: {message}")
        poll = select.poll()
        for listening in self._sockets:
            poll.register(listening, select.POLLIN)
        if self._sockets and poll.poll(0):
            import trio

            trio.run(_Answers(message, stamp, stamp()).serve, self._sockets)

    def close(self) -> None:
        """Close the copies."""
        for listening in self._sockets:
            listening.close()


class _Answers:
    """The answers to all clients of one failed start."""

    def __init__(self, message: str, stamp: Callable[[], object], first_stamp: object) -> None:
        from protocol.errors.daemon import DaemonNotStarted

        self._full = DaemonNotStarted(f"the daemon cannot start: {message}")
        self._brief = DaemonNotStarted()
        self._stamp = stamp
        self._first_stamp = first_stamp

    async def serve(self, sockets: list[socket.socket]) -> None:
        """Answer clients until the time is over, the configuration has changed, or a signal arrives."""
        import trio

        limiter = trio.Semaphore(MAX_CLIENTS)
        with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            async with trio.open_nursery() as clients:
                with trio.move_on_after(ANSWER_SECONDS):
                    async with trio.open_nursery() as listeners:
                        for listening in sockets:
                            listeners.start_soon(self._accept, listening, limiter, clients, listeners)
                        async for _ in signals:
                            listeners.cancel_scope.cancel()

    async def _accept(
        self,
        listening: socket.socket,
        limiter: trio.Semaphore,
        clients: trio.Nursery,
        listeners: trio.Nursery,
    ) -> None:
        import trio

        listening.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listening)
            if self._stamp() != self._first_stamp:
                listeners.cancel_scope.cancel()
                return
            await limiter.acquire()
            try:
                connection, _ = listening.accept()
            except OSError:
                limiter.release()
                await trio.sleep(0.1)
                continue
            connection.setblocking(False)
            clients.start_soon(self._answer_client, connection, limiter)

    async def _answer_client(self, connection: socket.socket, limiter: trio.Semaphore) -> None:
        import trio

        from kheishd.server.authentication import find_private_caller, peer_of
        from protocol.errors.refusal import Refusal

        is_local = connection.family == socket.AF_UNIX
        refusal = self._brief
        if is_local:
            with suppress(OSError, Refusal):
                find_private_caller(peer_of(connection))
                refusal = self._full
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        try:
            with trio.move_on_after(CLIENT_SECONDS), suppress(trio.BrokenResourceError):
                await (_refuse_requests if is_local else _refuse_upgrade)(stream, refusal)
        finally:
            await trio.aclose_forcefully(stream)
            limiter.release()


async def _refuse_requests(stream: trio.SocketStream, refusal: Refusal) -> None:
    """Answer each request of a client on a Unix socket with the refusal."""
    from protocol.rpc.codec import Codec
    from protocol.rpc.wire import Batch, Malformed, Request, encode_batch, encode_error

    codec = Codec()
    while data := bytes(await stream.receive_some(READ_BYTES)):
        for value in codec.feed(data):
            items = value.items if isinstance(value, Batch) else (value,)
            errors = [
                encode_error(item.id, refusal) for item in items if isinstance(item, Request | Malformed)
            ]
            if errors:
                body = encode_batch(errors) if isinstance(value, Batch) else errors[0]
                await stream.send_all(codec.frame(body))


async def _refuse_upgrade(stream: trio.SocketStream, refusal: Refusal) -> None:
    """Answer a client on TCP, which does not use TLS, with status 503."""
    from protocol.rpc.wire import encode_error

    head = b""
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
        data = bytes(await stream.receive_some(READ_BYTES))
        if not data or not (head + data)[:1].isalpha():
            return
        head += data
    body = encode_error(None, refusal)
    await stream.send_all(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
