"""The transport of TCP: WebSocket with bearer tokens, over TLS if a certificate is configured.

The head of the HTTP request is read and checked here, before the WebSocket library sees it: an unauthorized
client gets a plain HTTP answer (403 for a page of another site, 401 without a token, 404 for a wrong path)
and reaches no other code. From then on one text message is one JSON-RPC message or batch.
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

from kheishd.server.authentication import find_token_caller, require_allowed_origin
from kheishd.server.connection import ClientConnection, EndReason, ServerContext
from kheishd.server.handshakes import HANDSHAKE_S, Handshakes
from kheishd.server.listeners import ListenerUnusable, TcpListen, accept_all
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
# A head holds a token and the headers of browsers; h11 accepts no larger one.
MAX_HEAD_BYTES = 16 * 1024
# Closing takes a few round trips.
GOODBYE_S = 5.0

# The kernel notices a vanished client within two minutes.
_KEEP_ALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 15),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
)

JUDGED = (b"host", b"origin", b"authorization")

UNSUPPORTED, POLICY, TOO_BIG, GOING_AWAY, NORMAL = 1003, 1008, 1009, 1001, 1000
_NO_CODE = frozenset((1005, 1006))


class TransportHost(Protocol):
    """The server, as a transport sees it."""

    shared: ServerContext
    certificates: dict[TcpListen, ssl.SSLContext | None]

    def live(self, connection: ClientConnection) -> AbstractContextManager[None]:
        """Register a connection while it lasts."""
        ...

    async def descriptor_freed(self) -> None:
        """Wait until a connection has ended."""
        ...


def load_certificate(spec: TcpListen) -> ssl.SSLContext | None:
    """Return the TLS context of a listener; None without TLS. Errors: ListenerUnusable."""
    if spec.certificate is None or spec.key is None:
        return None
    for name, path in {"certificate": spec.certificate, "key": spec.key}.items():
        try:
            if path.is_fifo():
                raise ListenerUnusable(("listen", "tcp", name), f"{path} is a named pipe; name a file")
            path.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ListenerUnusable(("listen", "tcp", name), f"cannot read {path}: {reason}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_chain(context, spec)
    return context


def _load_chain(context: ssl.SSLContext, spec: TcpListen) -> None:
    """Load the certificate and its key. Errors: ListenerUnusable."""
    assert spec.certificate is not None

    def refuse_encrypted() -> str:
        # Without this, OpenSSL asks at the terminal.
        raise ListenerUnusable(
            ("listen", "tcp", "key"),
            f"{spec.key} is encrypted; name a key that is not, for instance one of 'openssl pkey -in KEY "
            "-out NEW', readable by the daemon's user only",
        )

    try:
        context.load_cert_chain(spec.certificate, spec.key, refuse_encrypted)
    except (OSError, ValueError) as error:
        text = f"{spec.certificate} is not a certificate in PEM whose private key, in PEM, is {spec.key}"
        reason = getattr(error, "reason", None)
        detail = f" ({reason.lower().replace('_', ' ')})" if reason else ""
        raise ListenerUnusable(
            ("listen", "tcp", "certificate"), f"{text}{detail}; name the right files"
        ) from None


def renew_certificate(context: ssl.SSLContext, spec: TcpListen) -> None:
    """Use the current certificate for new connections. Errors: ListenerUnusable, without a change."""
    load_certificate(spec)
    _load_chain(context, spec)


async def serve_websockets(
    host: TransportHost,
    listening: socket.socket,
    spec: TcpListen,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve clients for ever. Errors: ListenerUnusable for an unusable certificate or key."""
    context = host.certificates[spec] = load_certificate(spec)
    handshakes = Handshakes()

    def serve(plain: socket.socket) -> None:
        try:
            for option, value in _KEEP_ALIVE:
                plain.setsockopt(*option, value)
            address = plain.getpeername()[0]
        except OSError:
            plain.close()  # The client is gone.
            return
        peer = trio.socket.from_stdlib_socket(plain)
        handshakes.add(peer, address)
        stream: trio.abc.Stream = trio.SocketStream(peer)
        if context is not None:
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        host.shared.nursery.start_soon(_serve, host, stream, spec, handshakes.time_limit(peer))

    task_status.started()
    await accept_all(listening, serve, host.descriptor_freed)


async def _serve(
    host: TransportHost, stream: trio.abc.Stream, spec: TcpListen, time_limit: AbstractContextManager[None]
) -> None:
    """Serve one client from its first byte to its last; its errors affect no other."""
    try:
        async with stream:
            admitted = None
            with time_limit:
                admitted = await _admit(host, stream, spec)
            if admitted is not None:
                await _converse(host, *admitted)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
        pass  # The client is gone, perhaps during the handshake.
    except* Exception:
        log.exception("a WebSocket connection failed")


# The head of the request.


async def _admit(
    host: TransportHost, stream: trio.abc.Stream, spec: TcpListen
) -> tuple[ReplayedStream, Caller, int | None] | None:
    """Return the stream before its head was read, its caller and its expiry; None if it was rejected."""
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
        text = "the request is not HTTP in ASCII, has a body, or repeats a header"
        await stream.send_all(_http(400, InvalidRequest(text)))
        return None
    state = host.shared.dispatcher.state
    try:
        require_allowed_origin(
            headers.get("host"), headers.get("origin"), hosts=spec.hosts, origins=spec.origins
        )
        with state.read() as store:
            caller, expires_at_ms = find_token_caller(store, headers.get("authorization"), state.now_ms())
    except Forbidden as refusal:
        await stream.send_all(_http(403, refusal))
    except Unauthenticated as refusal:
        await stream.send_all(_http(401, refusal))
    else:
        if request.target.split(b"?")[0] == PATH.encode():
            return ReplayedStream(stream, bytes(head)), caller, expires_at_ms
        await stream.send_all(_http(404, InvalidRequest(f"the path is {PATH}")))
    return None


def _headers_of(request: h11.Request) -> dict[str, str]:
    """Return the headers. Checked headers must occur once: a proxy may have checked the other.

    Errors: h11.RemoteProtocolError, also for a request with a body, on whose end two readers could disagree;
    UnicodeDecodeError.
    """
    names = [name for name, _ in request.headers]
    if any(names.count(name) > 1 for name in JUDGED):
        raise h11.RemoteProtocolError("a repeated header")
    length = next((value for name, value in request.headers if name == b"content-length"), b"")
    if length.strip(b"0") or b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("a body")
    # The library decodes headers, too, and fails on other than ASCII ones.
    return {name.decode("ascii"): value.decode("ascii") for name, value in request.headers}


_REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


def _http(status: int, refusal: Refusal) -> bytes:
    """Return a complete answer, after which the connection closes."""
    body = encode_error(None, refusal)
    challenge = "WWW-Authenticate: Bearer\r\n" if status == 401 else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n{challenge}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class ReplayedStream(trio.abc.Stream):
    """A stream that returns the bytes read so far once more.

    When the library finds a protocol error (such as text that is not UTF-8), it closes the stream without a
    reason. The close frame with the reason is sent from here.
    """

    def __init__(self, stream: trio.abc.Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first
        self._sent_close = False
        self.websocket: WebSocketConnection | None = None
        self.peer: WebSocketPeer | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the bytes already read, then those of the stream."""
        first, self._first = self._first, b""
        data = first or bytes(await self._stream.receive_some(max_bytes))
        peer = self.peer
        if peer is not None:
            peer.note_received(len(data))
            # The library would keep all of a message that is no longer wanted.
            while data and peer.is_rejected:
                data = bytes(await self._stream.receive_some(max_bytes))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data."""
        self._sent_close = self._sent_close or data[:1] == b"\x88"
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait like the stream itself."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Send the close frame if none was sent, and close."""
        closed = None if self.websocket is None else self.websocket.closed
        # The library's connection holds this stream and perhaps a long unfinished message: no cycle keeps it.
        self.websocket = self.peer = None
        if closed is not None and not self._sent_close and closed.code not in _NO_CODE:
            self._sent_close = True
            # Shielded, because the library's task is cancelled as soon as its connection ends.
            with trio.move_on_after(GOODBYE_S, shield=True):
                try:
                    await self._stream.send_all(b"\x88\x02" + closed.code.to_bytes(2, "big"))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # The client is gone.
        await self._stream.aclose()


# Messages.


async def _converse(
    host: TransportHost, stream: ReplayedStream, caller: Caller, expires_at_ms: int | None
) -> None:
    async with trio.open_nursery() as nursery:
        # The library answers 400 to a request that is no upgrade, and closes the stream.
        with trio.move_on_after(HANDSHAKE_S) as handshake:
            request = await wrap_server_stream(
                nursery, stream, max_message_size=MAX_LINE_BYTES, receive_buffer_size=READ_BYTES
            )
            websocket = stream.websocket = await request.accept()
        if not handshake.cancelled_caught:
            peer = stream.peer = WebSocketPeer(host.shared, caller, websocket, expires_at_ms)
            with host.live(peer):
                await peer.run()
        await stream.aclose()
        nursery.cancel_scope.cancel()


class WebSocketPeer(ClientConnection):
    """A client on a WebSocket. A writer task exists only while there is something to write."""

    __slots__ = ("_code", "_queue", "_reading", "_received", "_stopped", "_websocket")

    def __init__(
        self, shared: ServerContext, caller: Caller, websocket: WebSocketConnection, expires_at_ms: int | None
    ) -> None:
        super().__init__(shared, caller)
        self._websocket = websocket
        self._queue: deque[bytes] = deque()
        self._stopped: EndReason | None = None
        self._code = NORMAL
        self._received = 0
        self._reading = trio.CancelScope()
        if expires_at_ms is not None:
            left_s = (expires_at_ms - shared.dispatcher.state.now_ms()) / 1000
            self._reading.deadline = trio.current_time() + left_s

    async def run(self) -> None:
        """Serve the client until it has finished, is gone, is stopped, or its token has expired."""
        try:
            with self._reading:
                await self._read()
            if self._reading.cancelled_caught:
                await self._finish(self._stopped or "revoked")
        finally:
            self.finished()
            with trio.move_on_after(GOODBYE_S):
                await self._websocket.aclose(self._code)

    def note_received(self, count: int) -> None:
        """Note received bytes, until they make a whole message."""
        self._received += count
        self.note_unfinished(self._received)

    async def _read(self) -> None:
        while True:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed:
                return
            self._received = 0
            self.note_unfinished(0)
            data = message.encode() if isinstance(message, str) else None
            if data is None:
                self._code = UNSUPPORTED
                return
            # The library counts characters, not bytes.
            if len(data) > MAX_LINE_BYTES:
                self._code = TOO_BIG
                return
            await self.receive([decode(data)])

    async def _finish(self, reason: EndReason) -> None:
        """Answer open requests and send the answers."""
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
        """Send queued messages. A message leaves the queue when it is sent, so there is one writer."""
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

    def stop(self, reason: EndReason) -> None:
        """Stop reading; the connection's task then answers open requests and closes."""
        self._stopped = reason
        self._reading.cancel()
