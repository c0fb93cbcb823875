"""A server inside the test: a real store, real sockets, real dispatch; and a client that speaks lines."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import trio

from kheishd.kernel.call import Handler
from kheishd.kernel.live import Live
from kheishd.kernel.runtime import ModelCaller, RouteSpec, RunLimits, Runtime
from kheishd.kernel.state import State, open_state, wall_clock_ms
from kheishd.server.dispatch import Dispatcher
from kheishd.server.listeners import RpcListen, open_listeners
from kheishd.server.serving import Server, open_server
from protocol.errors import ConfigInvalid
from protocol.objects.daemon import Status
from protocol.wire import Error, refusal_of

PATIENCE_S = 10.0
"""How long a test waits for something that is to come before it fails."""


@dataclass
class FakeControl:
    """A daemon's levers that only note being pulled."""

    is_draining: bool = False
    shutdowns: list[float | None] = field(default_factory=list)
    problem: str | None = None

    async def reload(self) -> tuple[int, list[str]]:
        if self.problem is not None:
            raise ConfigInvalid(self.problem)
        return 2, []

    def shutdown(self, drain_s: float | None) -> None:
        self.shutdowns.append(drain_s)

    def draining(self) -> bool:
        return self.is_draining

    def status(self) -> Status:
        raise AssertionError("this harness has no daemon to ask")

    def config_path(self) -> str | None:
        return None

    def token_revoked(self, token_ids: list[str]) -> None:
        raise AssertionError("the server sees to it by itself")


def bare_runtime() -> Runtime:
    """A runtime with the offline route and nobody to ask."""
    return Runtime(
        generation=1,
        routes={"offline": RouteSpec("offline", "offline", "offline", built_in=True)},
        definitions={},
        default_agent="default",
        default_route="offline",
        limits=RunLimits(),
        models=cast("ModelCaller", None),
    )


class Client:
    """One connection to the Unix socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()
        self._notes: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[Any, dict[str, Any]] = {}
        self._next_id = 0

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stream.aclose()

    async def send(self, message: Any) -> None:
        """Send a value as one line; bytes go as they are."""
        await self.stream.send_all(
            message if isinstance(message, bytes) else msgspec.json.encode(message) + b"\n"
        )

    async def read(self) -> Any:
        """The next line, decoded. Errors: EOFError."""
        return msgspec.json.decode(await self.line())

    async def line(self) -> bytes:
        """The next line as it came. Errors: EOFError."""
        with trio.fail_after(PATIENCE_S):
            while (end := self._buffer.find(b"\n")) < 0:
                data = await self.stream.receive_some(65536)
                if not data:
                    raise EOFError
                self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def request(self, method: str, **params: Any) -> int:
        """Send a request and do not wait; its id."""
        self._next_id += 1
        await self.send({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})
        return self._next_id

    async def answer(self, request_id: Any) -> Any:
        """The result of a request sent before. Errors: the refusal it was answered with."""
        while request_id not in self._answers:
            await self._sort(await self.read())
        answer = self._answers.pop(request_id)
        if "error" in answer:
            raise refusal_of(msgspec.convert(_with_raw_data(answer["error"]), Error))
        return answer["result"]

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its result. Errors: the refusal it was answered with."""
        return await self.answer(await self.request(method, **params))

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next notification: its method and params."""
        while not self._notes:
            await self._sort(await self.read())
        return self._notes.pop(0)

    async def _sort(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        else:
            self._notes.append((message["method"], message["params"]))


def _with_raw_data(error: dict[str, Any]) -> dict[str, Any]:
    return {**error, "data": msgspec.Raw(msgspec.json.encode(error.get("data", {})))}


@dataclass
class RpcServer:
    """A server that runs, and its parts."""

    path: Path
    state: State
    live: Live
    dispatcher: Dispatcher
    server: Server
    control: FakeControl
    _clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        """A new connection."""
        client = Client(await trio.open_unix_socket(str(self.path)))
        self._clients.append(client)
        return client

    async def aclose(self) -> None:
        for client in self._clients:
            await client.stream.aclose()


@asynccontextmanager
async def rpc_server(
    directory: Path,
    handlers: Iterable[Handler],
    *,
    runtime: Callable[[], Runtime] = bare_runtime,
    control: FakeControl | None = None,
    clock: Callable[[], int] = wall_clock_ms,
) -> AsyncIterator[RpcServer]:
    """Serve ``handlers`` on ``<directory>/run/kheishd.sock``, with the store in ``<directory>/state``."""
    control = control or FakeControl()
    live = Live()
    path = directory / "run" / "kheishd.sock"
    async with open_state(directory / "state", version="test", clock=clock) as state:
        dispatcher = Dispatcher(handlers, state, live, control, runtime)
        async with open_server(dispatcher) as server:
            with open_listeners(RpcListen(path), run_dir=directory / "run", environ={}) as listeners:
                async with trio.open_nursery() as nursery:
                    await nursery.start(server.listen, listeners[0])
                    running = RpcServer(path, state, live, dispatcher, server, control)
                    yield running
                    await running.aclose()
                    nursery.cancel_scope.cancel()
