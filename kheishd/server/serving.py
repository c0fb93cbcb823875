"""Every connection, whatever it came by: accepted, counted, drained, closed."""

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from kheishd.kernel.call import Caller
from kheishd.objects.node.token import is_valid
from kheishd.server.connection import Connection, Shared
from kheishd.server.dispatch import Dispatcher
from kheishd.server.lines import LineConnection
from kheishd.server.listeners import Listener, RpcListen, SharedListen, TcpListen, accept_all
from kheishd.server.peers import peer_of, private_caller, shared_caller
from kheishd.server.subscriptions import Hub
from kheishd.store.tables import TOKENS
from protocol.errors.refusal import Refusal
from protocol.rpc.wire import encode_error

log = logging.getLogger(__name__)

# When all file descriptors are taken, and not by connections, look again this often.
DESCRIPTORS_LOOK_S = 1.0


class Server:
    """The connections there are, and the nursery they live in."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._live: dict[Connection, None] = {}
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._live)

    def connected(self) -> list[Connection]:
        """Those that there are now."""
        return list(self._live)

    @property
    def subscriptions(self) -> int:
        """How many are followed."""
        return len(self.shared.hub)

    async def listen(
        self, listener: Listener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve whoever connects, until cancelled; those who have connected stay."""
        spec = listener.spec
        if isinstance(spec, TcpListen):
            from kheishd.server.websocket import serve_websockets

            await serve_websockets(self, listener.socket, spec, task_status=task_status)
            return
        task_status.started()
        await accept_all(listener.socket, lambda stream: self._welcome(stream, spec), self.descriptor_freed)

    def _welcome(self, stream: socket.socket, spec: RpcListen | SharedListen) -> None:
        try:
            caller = _caller(stream, spec)
        except Refusal as refusal:
            _turn_away(stream, refusal)
        except OSError:
            stream.close()
        else:
            self.shared.nursery.start_soon(self._serve, LineConnection(self.shared, caller, stream))

    async def _serve(self, connection: LineConnection) -> None:
        with self.live(connection):
            await connection.run()

    @contextmanager
    def live(self, connection: Connection) -> Iterator[None]:
        """Count a connection as long as it lasts; what goes wrong inside harms no other."""
        self._live[connection] = None
        try:
            if connection.caller.token_id is not None:
                self._check_tokens([connection])
            yield
        except Exception:
            log.exception("a connection failed")
        finally:
            del self._live[connection]
            self._ended.set()
            self._ended = trio.Event()

    async def descriptor_freed(self) -> None:
        """Until a connection has ended."""
        with trio.move_on_after(DESCRIPTORS_LOOK_S):
            await self._ended.wait()

    async def drain(self, seconds: float) -> None:
        """Answer what is open and close every connection, within ``seconds``."""
        for connection in self.connected():
            connection.stop("shutdown")
        with trio.move_on_after(seconds):
            while self._live:
                await self._ended.wait()

    async def watch_tokens(self) -> None:
        """Close the connections of tokens as they are revoked."""
        state = self.shared.dispatcher.state
        while True:
            bell = state.bell(TOKENS.name)
            self._check_tokens([held for held in self.connected() if held.caller.token_id is not None])
            await bell.wait()

    def _check_tokens(self, connections: list[Connection]) -> None:
        state = self.shared.dispatcher.state
        with state.read() as store:
            for connection in connections:
                record = store.get(TOKENS, str(connection.caller.token_id))
                if record is None or not is_valid(store, record.token, state.now_ms()):
                    connection.stop("revoked")


def _caller(stream: socket.socket, spec: RpcListen | SharedListen) -> Caller:
    peer = peer_of(stream)
    return private_caller(peer) if isinstance(spec, RpcListen) else shared_caller(peer, spec.grants)


def _turn_away(stream: socket.socket, refusal: Refusal) -> None:
    """Say why, as far as that goes without waiting, and hang up."""
    with stream:
        try:
            stream.send(encode_error(None, refusal) + b"\n")
        except OSError:
            return


@asynccontextmanager
async def open_server(dispatcher: Dispatcher) -> AsyncIterator[Server]:
    """A server that holds connections; whatever is left of them when it is left is cut off."""
    async with trio.open_nursery() as nursery:
        hub = Hub(dispatcher.state, dispatcher.live)
        token = trio.lowlevel.current_trio_token()
        server = Server(Shared(dispatcher, hub, nursery, token))
        nursery.start_soon(hub.run)
        nursery.start_soon(server.watch_tokens)
        yield server
        nursery.cancel_scope.cancel()
