"""The server: accepts connections on every transport, counts, drains and closes them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import trio

from kheishd.objects.node.token import is_valid
from kheishd.server.authentication import find_private_caller, find_shared_caller, peer_of
from kheishd.server.connection import ClientConnection, ServerContext
from kheishd.server.listeners import Listener, RpcListen, SharedListen, TcpListen, accept_all
from kheishd.server.subscriptions import Hub
from kheishd.server.unix_socket import LineConnection
from kheishd.store.tables import TOKENS
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import Overloaded
from protocol.rpc.wire import encode_error

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from kheishd.server.dispatch import Dispatcher

log = logging.getLogger(__name__)

# The interval of checks when file descriptors run out for reasons other than connections.
DESCRIPTORS_LOOK_S = 1.0


class Server:
    """The open connections and the nursery of their tasks."""

    def __init__(self, shared: ServerContext) -> None:
        self.shared = shared
        # The TLS contexts of the TCP listeners, by their specifications.
        self.certificates: dict[TcpListen, ssl.SSLContext | None] = {}
        self._live: dict[ClientConnection, None] = {}
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._live)

    def list_connections(self) -> list[ClientConnection]:
        """Return the open connections."""
        return list(self._live)

    @property
    def subscriptions(self) -> int:
        """The number of open subscriptions."""
        return len(self.shared.hub)

    async def listen(
        self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve a listener until cancelled; accepted connections stay open."""
        spec = listener.spec
        if isinstance(spec, TcpListen):
            from kheishd.server.websocket import serve_websockets

            await serve_websockets(self, listener.socket, spec, task_status=task_status)
            return
        task_status.started()
        await accept_all(
            listener.socket,
            lambda stream: self._welcome(stream, spec),
            self.descriptor_freed,
            is_private=isinstance(spec, RpcListen),
        )

    def _welcome(self, stream: socket.socket, spec: RpcListen | SharedListen) -> None:
        try:
            peer = peer_of(stream)
            if isinstance(spec, RpcListen):
                caller = find_private_caller(peer)
            else:
                caller = find_shared_caller(peer, spec.grants)
        except Refusal as refusal:
            # Send the refusal as far as that needs no waiting, and disconnect.
            with stream, suppress(OSError):
                stream.send(encode_error(None, refusal) + b"\n")
        except OSError:
            stream.close()
        else:
            self.shared.nursery.start_soon(self._serve, LineConnection(self.shared, caller, stream))

    async def _serve(self, connection: LineConnection) -> None:
        with self.live(connection):
            await connection.run()

    @contextmanager
    def live(self, connection: ClientConnection) -> Iterator[None]:
        """Register a connection while it lasts, and log its errors."""
        self._live[connection] = None
        try:
            if connection.caller.token_id is not None:
                self._check_tokens([connection])
            try:
                self.shared.guests.add(connection)
            except Overloaded as refusal:
                connection.reject(refusal)
            yield
        except Exception:
            log.exception("a connection failed")
        finally:
            del self._live[connection]
            self.shared.guests.remove(connection)
            self._ended.set()
            self._ended = trio.Event()

    def renew_certificates(self) -> None:
        """Read certificates anew, for new connections. Errors: ListenerUnusable."""
        for spec, context in self.certificates.items():
            if context is not None:
                from kheishd.server.websocket import renew_certificate

                renew_certificate(context, spec)

    async def descriptor_freed(self) -> None:
        """Until a connection has ended."""
        with trio.move_on_after(DESCRIPTORS_LOOK_S):
            await self._ended.wait()

    async def drain(self, seconds: float) -> None:
        """Answer the open requests and close every connection, within ``seconds``."""
        for connection in self.list_connections():
            connection.stop("shutdown")
        with trio.move_on_after(seconds):
            while self._live:
                await self._ended.wait()

    async def watch_tokens(self) -> None:
        """Close the connections of tokens as they are revoked."""
        state = self.shared.dispatcher.state
        while True:
            bell = state.bell(TOKENS.name)
            self._check_tokens(
                [
                    connection
                    for connection in self.list_connections()
                    if connection.caller.token_id is not None
                ]
            )
            await bell.wait()

    def _check_tokens(self, connections: list[ClientConnection]) -> None:
        state = self.shared.dispatcher.state
        with state.read() as store:
            for connection in connections:
                record = store.get(TOKENS, str(connection.caller.token_id))
                if record is None or not is_valid(store, record.token, state.now_ms()):
                    connection.stop("revoked")


@asynccontextmanager
async def open_server(dispatcher: Dispatcher) -> AsyncIterator[Server]:
    """Open a server for connections; those that remain at the end are closed."""
    async with trio.open_nursery() as nursery:
        hub = Hub(dispatcher.state, dispatcher.live)
        token = trio.lowlevel.current_trio_token()
        server = Server(ServerContext(dispatcher, hub, nursery, token))
        nursery.start_soon(hub.run)
        nursery.start_soon(server.watch_tokens)
        yield server
        nursery.cancel_scope.cancel()
