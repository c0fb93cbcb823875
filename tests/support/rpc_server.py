"""A server inside the test: a real store, real sockets, real dispatch; and a client that speaks lines."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket_url

from kheishd.config.sections.config import Config
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import ModelCaller, RouteSpec, Runtime, Runtimes
from kheishd.kernel.state import State, open_state, wall_clock_ms
from kheishd.objects.node import token
from kheishd.server.dispatch import Dispatcher
from kheishd.server.listeners import RpcListen, SharedListen, TcpListen, open_listeners
from kheishd.server.server import Server, open_server
from protocol.errors.daemon import ConfigInvalid
from protocol.errors.refusal import REFUSALS, Refusal
from protocol.errors.session import ExportKeyUnusable
from protocol.export import ExportEnd, derive_key, sign_end
from protocol.rpc.method import SCOPES
from tests.support.runtimes import WORKSPACES
from tests.support.services import make_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from kheishd.kernel.call import Handler
    from kheishd.kernel.captures import Captures
    from kheishd.kernel.live import Live
    from kheishd.kernel.services import Services
    from kheishd.kernel.shells import Shells
    from protocol.objects.daemon import DaemonStatus

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
PATIENCE_S = 10.0
"""The timeout of every wait of a test."""


@dataclass
class FakeControl:
    """Controls of a daemon that only record their calls."""

    is_draining: bool = False
    shutdowns: list[float | None] = field(default_factory=list)
    problem: str | None = None

    async def reload(self) -> tuple[int, list[str]]:
        if self.problem is not None:
            raise ConfigInvalid(self.problem)
        return 2, []

    def sign_export(self, end: ExportEnd) -> ExportEnd:
        if self.problem is not None:
            raise ExportKeyUnusable(self.problem)
        return sign_end(end, b"s" * 32)

    def export_key(self) -> str:
        if self.problem is not None:
            raise ExportKeyUnusable(self.problem)
        return derive_key(b"s" * 32)

    def shutdown(self, drain_s: float | None) -> None:
        self.shutdowns.append(drain_s)

    def draining(self) -> bool:
        return self.is_draining

    def status(self) -> DaemonStatus:
        raise AssertionError("this harness has no daemon to ask")

    def config_path(self) -> str | None:
        return None


def bare_runtime() -> Runtime:
    """Return a runtime with the offline route and no model."""
    return Runtime(
        generation=1,
        config=Config(),
        routes={"offline": RouteSpec("offline", "offline", "offline", built_in=True)},
        definitions={},
        models=cast("ModelCaller", None),
        load_hooks=lambda: CompositeHook(()),
        workspaces=WORKSPACES,
    )


class Lines:
    """Messages as lines of a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, message: bytes) -> None:
        await self.stream.send_all(message + b"\n")

    async def receive(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def aclose(self) -> None:
        await self.stream.aclose()


class Messages:
    """Messages as text messages of a WebSocket."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, message: bytes) -> None:
        await self.socket.send_message(message.decode())

    async def receive(self) -> bytes:
        try:
            return str(await self.socket.get_message()).encode()
        except ConnectionClosed:
            raise EOFError from None

    async def aclose(self) -> None:
        await self.socket.aclose()
        # The library leaves its stream open when the other side closed first.
        await trio.aclose_forcefully(self.socket._stream)


class Client:
    """A connection over either transport."""

    def __init__(self, transport: Lines | Messages) -> None:
        self.transport = transport
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[Any, dict[str, Any]] = {}
        self._next_id = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.transport.aclose()

    @property
    def stream(self) -> trio.SocketStream:
        """The stream under a connection to the Unix socket."""
        assert isinstance(self.transport, Lines)
        return self.transport.stream

    async def send(self, message: Any) -> None:
        """Send a value, or bytes unchanged, as one message."""
        await self.transport.send(message if isinstance(message, bytes) else msgspec.json.encode(message))

    async def read(self) -> Any:
        """Return the next message, decoded. Errors: EOFError."""
        return msgspec.json.decode(await self.line())

    async def line(self) -> bytes:
        """Return the bytes of the next message. Errors: EOFError."""
        with trio.fail_after(PATIENCE_S):
            return await self.transport.receive()

    async def request(self, method: str, **params: Any) -> int:
        """Send a request without waiting; return its id."""
        self._next_id += 1
        await self.send({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})
        return self._next_id

    async def answer(self, request_id: Any) -> Any:
        """Return the result of an earlier request. Errors: its refusal."""
        while request_id not in self._answers:
            await self._sort(await self.read())
        answer = self._answers.pop(request_id)
        if "error" in answer:
            raise _refusal_from(answer["error"])
        return answer["result"]

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its result. Errors: the refusal."""
        return await self.answer(await self.request(method, **params))

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the next notification: its method and params."""
        while not self._notes:
            await self._sort(await self.read())
        return self._notes.pop(0)

    async def _sort(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        else:
            self._notes.append((message["method"], message["params"]))


def _refusal_from(error: dict[str, Any]) -> Refusal:
    """Return the refusal of an error response, as the class of its reason."""
    data = error.get("data", {})
    refusal = REFUSALS.get(data.get("reason", ""), Refusal)(
        error["message"],
        field=data.get("field"),
        hint=data.get("hint"),
        retry_after_ms=data.get("retry_after_ms"),
    )
    assert refusal.code == error["code"], "a refusal has one code"
    return refusal


@dataclass
class RpcServer:
    """A running server and its parts."""

    path: Path
    tcp: str | None
    services: Services
    dispatcher: Dispatcher
    server: Server
    control: FakeControl
    nursery: trio.Nursery
    _clients: list[Client] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The store."""
        return self.services.state

    @property
    def live(self) -> Live:
        """The live text."""
        return self.services.live

    async def connect(self) -> Client:
        """Open a new connection to the Unix socket."""
        return self._keep(Client(Lines(await trio.open_unix_socket(str(self.path)))))

    async def connect_websocket(self, secret: str) -> Client:
        """Open a new WebSocket connection."""
        socket = await connect_websocket_url(
            self.nursery,
            f"ws://{self.tcp}/rpc",
            extra_headers=[(b"Authorization", f"Bearer {secret}".encode())],
            max_message_size=1 << 26,
        )
        return self._keep(Client(Messages(socket)))

    async def handshake(self, *headers: str, path: str = "/rpc", host: str | None = None) -> tuple[int, str]:
        """Request an upgrade with these headers; return the status and the rest of the response."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {host or self.tcp}", *UPGRADE, *headers, "", ""]
        return await self.raw_http("\r\n".join(lines).encode())

    async def raw_http(self, request: bytes) -> tuple[int, str]:
        """Send bytes to the TCP listener; return the status and the rest of the first read."""
        address, _, port = str(self.tcp).rpartition(":")
        with trio.fail_after(PATIENCE_S):
            async with await trio.open_tcp_stream(address, int(port)) as stream:
                await stream.send_all(request)
                answer = (await stream.receive_some()).decode()
        return int(answer.split(" ", 2)[1]), answer

    async def token(self, **params: Any) -> tuple[str, str]:
        """Make a token; return its id and its secret."""
        async with await self.connect() as client:
            created = await client.call("token.create", **({"scopes": list(SCOPES)} | params))
        return created["token"]["token_id"], created["secret"]

    def _keep(self, client: Client) -> Client:
        self._clients.append(client)
        return client

    async def aclose(self) -> None:
        """Close every connection of this server."""
        for client in self._clients:
            await client.transport.aclose()


@asynccontextmanager
async def rpc_server(
    directory: Path,
    handlers: Iterable[Handler],
    *,
    runtimes: Runtime | Runtimes | None = None,
    captures: Captures | None = None,
    shells: Shells | None = None,
    control: FakeControl | None = None,
    clock: Callable[[], int] = wall_clock_ms,
    tcp: TcpListen | None = None,
    shared: SharedListen | None = None,
) -> AsyncIterator[RpcServer]:
    """Serve ``handlers`` and the tokens on ``<directory>/run/kheishd.sock``; the store is in ``state``."""
    control = control or FakeControl()
    served = {handler.row.name: handler for handler in (*token.HANDLERS, *handlers)}
    run_dir = directory / "run"
    rpc = RpcListen(run_dir / "kheishd.sock")
    async with open_state(directory / "state", version="test", clock=clock) as state:
        services = make_services(state, runtimes or bare_runtime(), captures=captures, shells=shells)
        dispatcher = Dispatcher(served.values(), services, control)
        async with open_server(dispatcher) as server:
            with open_listeners(rpc, shared, tcp, run_dir=run_dir, environ={}) as listeners:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        await nursery.start(server.listen, listener)
                    bound = None if tcp is None else (run_dir / "tcp").read_text().strip()
                    running = RpcServer(rpc.path, bound, services, dispatcher, server, control, nursery)
                    yield running
                    await running.aclose()
                    nursery.cancel_scope.cancel()
