"""The TCP transport: WebSocket, for bearers of tokens, over TLS where a certificate is configured.

The head of the request is read and judged here, before the WebSocket library sees anything: who has no
business here gets a plain HTTP answer (403 for another site's page, 401 for want of a token, 404 for a
wrong path) and reaches no other code. From then on one text message is one JSON-RPC message or batch.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, NoReturn, Protocol

import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from kheishd.server.connection import Connection, Reason, Shared
from kheishd.server.listeners import TcpListen, accept_all
from kheishd.server.peers import check_origin, token_caller
from protocol.errors.refusal import Forbidden, Refusal, Unauthenticated
from protocol.errors.rpc import InvalidRequest
from protocol.limits.rpc import MAX_LINE_BYTES
from protocol.rpc.wire import decode, encode_error

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kheishd.kernel.call import Caller

log = logging.getLogger(__name__)

PATH = "/rpc"
READ_BYTES = 64 * 1024
# A head holds a token and what browsers send along; h11 itself takes no more than this.
MAX_HEAD_BYTES = 16 * 1024
# A handshake, TLS included, takes a few round trips; so does saying goodbye.
HANDSHAKE_S = 10.0
GOODBYE_S = 5.0

# A peer that vanished without a word is noticed in two minutes, by the kernel.
_KEEP_ALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 15),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
)

JUDGED = (b"host", b"origin", b"authorization")

UNSUPPORTED, POLICY, TOO_BIG, GOING_AWAY, NORMAL = 1003, 1008, 1009, 1001, 1000
_NO_CODE = frozenset((1005, 1006))


class Host(Protocol):
    """What a transport needs of the server."""

    shared: Shared

    def live(self, connection: Connection) -> AbstractContextManager[None]:
        """Count a connection as long as it lasts."""
        ...

    async def descriptor_freed(self) -> None:
        """Until a connection has ended."""
        ...


async def serve_websockets(
    host: Host,
    listening: socket.socket,
    spec: TcpListen,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve whoever connects. Errors: OSError (ssl.SSLError) for an unusable certificate or key."""
    context = None if spec.certificate is None else _tls(spec)

    def accepted(plain: socket.socket) -> None:
        for option, value in _KEEP_ALIVE:
            plain.setsockopt(*option, value)
        stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(plain))
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        host.shared.nursery.start_soon(_serve, host, stream, spec)

    task_status.started()
    await accept_all(listening, accepted, host.descriptor_freed)


def _tls(spec: TcpListen) -> ssl.SSLContext:
    assert spec.certificate is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(spec.certificate, spec.key)
    return context


async def _serve(host: Host, stream: trio.abc.Stream, spec: TcpListen) -> None:
    """One peer, from its first byte to its last; what goes wrong with it harms no other."""
    try:
        async with stream:
            admitted = None
            with trio.move_on_after(HANDSHAKE_S):
                admitted = await _admit(host, stream, spec)
            if admitted is not None:
                await _converse(host, *admitted)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
        pass  # Gone, perhaps in the middle of a handshake.
    except* Exception:
        log.exception("a WebSocket connection failed")


# The head of the request.


async def _admit(
    host: Host, stream: trio.abc.Stream, spec: TcpListen
) -> tuple[Replayed, Caller, int | None] | None:
    """The stream as it was before its head was read, who it is and until when; None if turned away."""
    head = bytearray()
    parser = h11.Connection(h11.SERVER, MAX_HEAD_BYTES)
    try:
        while (request := parser.next_event()) is h11.NEED_DATA:
            data = await stream.receive_some(READ_BYTES)
            parser.receive_data(bytes(data))
            head += data
        if not isinstance(request, h11.Request):
            return None
        headers = _headers_of(request)
    except (h11.RemoteProtocolError, UnicodeDecodeError):
        text = "this is not HTTP in ASCII, or has a body, or a header twice that there is one of"
        await stream.send_all(_http(400, InvalidRequest(text)))
        return None
    state = host.shared.dispatcher.state
    try:
        check_origin(headers.get("host"), headers.get("origin"), hosts=spec.hosts, origins=spec.origins)
        with state.read() as store:
            caller, expires_at_ms = token_caller(store, headers.get("authorization"), state.now_ms())
    except Forbidden as refusal:
        await stream.send_all(_http(403, refusal))
    except Unauthenticated as refusal:
        await stream.send_all(_http(401, refusal))
    else:
        if request.target.split(b"?")[0] == PATH.encode():
            return Replayed(stream, bytes(head)), caller, expires_at_ms
        await stream.send_all(_http(404, InvalidRequest(f"the path is {PATH}")))
    return None


def _headers_of(request: h11.Request) -> dict[str, str]:
    """The headers, those that are judged once each: a proxy in front may have judged the other.

    Errors: h11.RemoteProtocolError, also for a request that announces a body, which an upgrade has none of
    and by which two readers could disagree where it ends; UnicodeDecodeError.
    """
    names = [name for name, _ in request.headers]
    if any(names.count(name) > 1 for name in JUDGED):
        raise h11.RemoteProtocolError("a header twice that there is one of")
    length = next((value for name, value in request.headers if name == b"content-length"), b"")
    if length.strip(b"0") or b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("a body")
    # The library decodes headers too, and would fail on others than these.
    return {name.decode("ascii"): value.decode("ascii") for name, value in request.headers}


_REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


def _http(status: int, refusal: Refusal) -> bytes:
    """A whole answer, after which the connection closes."""
    body = encode_error(None, refusal)
    challenge = "WWW-Authenticate: Bearer\r\n" if status == 401 else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n{challenge}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class Replayed(trio.abc.Stream):
    """A stream of which some was read already and is given again.

    When the library finds that a peer broke the protocol (text that is not UTF-8, say), it closes the
    stream without saying why. The last frame, which says so, is sent from here.
    """

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first
        self._said_goodbye = False
        self.websocket: WebSocketConnection | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The bytes read already, then those of the stream."""
        first, self._first = self._first, b""
        return first or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send on."""
        self._said_goodbye = self._said_goodbye or data[:1] == b"\x88"
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Say why, if nobody did, and close."""
        closed = None if self.websocket is None else self.websocket.closed
        if closed is not None and not self._said_goodbye and closed.code not in _NO_CODE:
            self._said_goodbye = True
            # Shielded, because the library's task is cancelled as soon as its connection is over.
            with trio.move_on_after(GOODBYE_S, shield=True):
                try:
                    await self._stream.send_all(b"\x88\x02" + closed.code.to_bytes(2, "big"))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # It is gone, and does not want to know.
        await self._stream.aclose()


# Messages.


async def _converse(host: Host, stream: Replayed, caller: Caller, expires_at_ms: int | None) -> None:
    async with trio.open_nursery() as nursery:
        # What is not an upgrade is answered with 400 by the library, which then closes the stream.
        with trio.move_on_after(HANDSHAKE_S) as handshake:
            request = await wrap_server_stream(
                nursery, stream, max_message_size=MAX_LINE_BYTES, receive_buffer_size=READ_BYTES
            )
            websocket = stream.websocket = await request.accept()
        if not handshake.cancelled_caught:
            peer = WebSocketPeer(host.shared, caller, websocket, expires_at_ms)
            with host.live(peer):
                await peer.run()
        await stream.aclose()
        nursery.cancel_scope.cancel()


class WebSocketPeer(Connection):
    """A peer on a WebSocket. A writer task exists only while there is something to write."""

    __slots__ = ("_code", "_queue", "_reading", "_stopped", "_websocket")

    def __init__(
        self, shared: Shared, caller: Caller, websocket: WebSocketConnection, expires_at_ms: int | None
    ) -> None:
        super().__init__(shared, caller)
        self._websocket = websocket
        self._queue: deque[bytes] = deque()
        self._stopped: Reason | None = None
        self._code = NORMAL
        self._reading = trio.CancelScope()
        if expires_at_ms is not None:
            left_s = (expires_at_ms - shared.dispatcher.state.now_ms()) / 1000
            self._reading.deadline = trio.current_time() + left_s

    async def run(self) -> None:
        """Serve the peer until it is done, gone, stopped, or its token has expired."""
        try:
            with self._reading:
                await self._read()
            if self._reading.cancelled_caught:
                await self._finish(self._stopped or "revoked")
        finally:
            self.finished()
            with trio.move_on_after(GOODBYE_S):
                await self._websocket.aclose(self._code)

    async def _read(self) -> None:
        while True:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed:
                return
            data = message.encode() if isinstance(message, str) else None
            if data is None:
                self._code = UNSUPPORTED
                return
            # The library counts characters.
            if len(data) > MAX_LINE_BYTES:
                self._code = TOO_BIG
                return
            await self.receive([decode(data)])

    async def _finish(self, reason: Reason) -> None:
        """Answer what is open and see it sent."""
        self._code = GOING_AWAY if reason == "shutdown" else POLICY
        self.give_up(reason)
        with trio.move_on_after(GOODBYE_S):
            while (self.pending or self.unsent_bytes) and not self.ended:
                await self.change()

    def _transmit(self, messages: list[bytes]) -> None:
        idle = not self._queue
        self._queue.extend(messages)
        self.unsent_bytes += sum(map(len, messages))
        if idle:
            self.start(self._write)

    async def _write(self) -> None:
        """Send what is queued. A message leaves the queue when it was sent, so there is one writer."""
        while self._queue and not self.ended:
            try:
                await self._websocket.send_message(self._queue[0].decode())
            except ConnectionClosed:
                self.ended = True
                break
            self.unsent_bytes -= len(self._queue.popleft())
        if self.ended:
            self._queue.clear()
            self.unsent_bytes = 0
        self.wake()

    def stop(self, reason: Reason) -> None:
        """Read no more; the connection's task then answers what is open and closes."""
        self._stopped = reason
        self._reading.cancel()
