"""A real local HTTP/1.1 server with the published protocols of providers, scripted by the model's name.

``POST .../chat/completions`` and ``POST .../responses`` are OpenAI's protocols, ``POST .../v1/messages`` is
Anthropic's, and ``POST .../models/MODEL:streamGenerateContent`` Google's. The requested model chooses the
behavior (see ``model_behaviors``). ``GET /requests`` returns the requests so far,
``GET /requests/newest`` the bytes of the newest one, and ``DELETE /requests`` forgets them.

The server is also the yardstick of the benchmarks and therefore cheap: no HTTP library, plain non-blocking
sockets on trio's readiness calls, and answers that only count pieces are encoded once.

    python -m tests.support.model_server --port 0        # prints the port, serves until it is killed
"""

from __future__ import annotations

import argparse
import socket
from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kheishd.core.context.situation import SITUATION_NOTE
from tests.support import model_behaviors as behaviors
from tests.support import strict_providers
from tests.support.google_wire import METHOD, Google, read_contents, read_model
from tests.support.model_behaviors import Cut, Head, Pause, Piece, Pieces, Prompt, Raw, Step
from tests.support.model_wire import Anthropic, OpenAI, Wire
from tests.support.responses_wire import Responses, read_input

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

REQUESTS_KEPT = 1_000
WIRES: dict[str, Callable[[], Wire]] = {
    "/chat/completions": OpenAI,
    "/responses": Responses,
    "/v1/messages": Anthropic,
    METHOD: Google,
}
"""The protocol of each path, whatever precedes it."""


def _find_wire(path: str) -> Callable[[], Wire] | None:
    path = path.partition("?")[0]
    return next((wire for end, wire in WIRES.items() if path.endswith(end)), None)


@dataclass(slots=True)
class RecordedRequest:
    """One request. ``disconnected`` is set once the client closed before the answer was complete."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    head: bytes = b""
    disconnected: trio.Event = field(default_factory=trio.Event)
    streaming: trio.Event = field(default_factory=trio.Event)

    @property
    def json(self) -> dict[str, Any]:
        """The decoded body."""
        decoded: dict[str, Any] = msgspec.json.decode(self.body)
        return decoded

    def to_json(self) -> dict[str, Any]:
        """Return the request as ``/requests`` returns it."""
        body = self.json if self.body else None
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": body,
            "disconnected": self.disconnected.is_set(),
        }


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class _Model(msgspec.Struct):
    model: str = ""


class _Messages(msgspec.Struct):
    messages: list[_Message] = []
    input: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []


class _Disconnected(Exception):
    """The client closed its side."""


class ModelServer:
    """The server. ``requests`` are the newest requests, oldest first."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._ready: dict[tuple[str, str], list[bytes]] = {}
        self._failures: Counter[str] = Counter()
        self._arrived = trio.Event()
        self.connections = 0
        self.requests: deque[RecordedRequest] = deque(maxlen=REQUESTS_KEPT)

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """The ``base_url`` of a route to it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def request(self, number: int = 1) -> RecordedRequest:
        """Return the n-th request since the start, waiting for it."""
        while len(self.requests) < number:
            await self._arrived.wait()
        return self.requests[number - 1]

    async def serve(self) -> None:
        """Accept and serve until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                nursery.start_soon(self._connection, connection)

    async def _connection(self, connection: socket.socket) -> None:
        buffer = bytearray()
        try:
            with connection:
                while (recorded := await _read_request(connection, buffer)) is not None:
                    if not await self._answer(connection, recorded):
                        break
        except (OSError, _Disconnected):
            pass

    async def _answer(self, connection: socket.socket, recorded: RecordedRequest) -> bool:
        """Answer one request; return whether the connection stays open."""
        wire = _find_wire(recorded.path)
        if wire is None or recorded.method != "POST":
            return await self._serve_own(connection, recorded)
        self.requests.append(recorded)
        self._arrived.set()
        self._arrived = trio.Event()
        model = msgspec.json.decode(recorded.body, type=_Model).model or read_model(recorded.path)
        try:
            if model.startswith("chunks:"):
                for data in self._prepare_writes(recorded.path, model, wire()):
                    await _write(connection, data)
                return True
            return await _perform(connection, recorded, self._steps(recorded, model, wire()))
        except (OSError, _Disconnected):
            recorded.disconnected.set()
            raise

    async def _serve_own(self, connection: socket.socket, recorded: RecordedRequest) -> bool:
        if recorded.path == "/requests/newest" and self.requests:
            newest = self.requests[-1]
            whole = newest.head + newest.body
            await _write(connection, _head(Head(200, "application/octet-stream", {}, len(whole))) + whole)
            return True
        status, result = 200, [request.to_json() for request in self.requests]
        if recorded.path != "/requests":
            status = 404
        elif recorded.method == "DELETE":
            self.requests.clear()
        body = msgspec.json.encode(result)
        await _write(connection, _head(Head(status, "application/json", {}, len(body))) + body)
        return True

    def _prepare_writes(self, path: str, model: str, wire: Wire) -> list[bytes]:
        writes = self._ready.get((path, model))
        if writes is None:
            prompt = Prompt(model, "", False, "", wire, self._failures)
            writes = self._ready[path, model] = _writes(behaviors.steps(prompt))
        return writes

    def _steps(self, recorded: RecordedRequest, model: str, wire: Wire) -> Iterator[Step]:
        sent = msgspec.json.decode(recorded.body, type=_Messages)
        items = [*read_input(sent.input), *read_contents(sent.contents)]
        messages = sent.messages or msgspec.convert(items, list[_Message])
        text, answered = _newest_text(messages)
        last = messages[-1] if messages else _Message()
        results = isinstance(last.content, list) and any(
            part.get("type") == "tool_result" for part in last.content
        )
        headers = recorded.headers
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        secret = bearer or headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")
        has_result = results or last.role == "tool"
        prompt = Prompt(
            model, text, has_result, secret, wire, self._failures, answered, recorded.body, headers
        )
        return strict_providers.answer(prompt) if model.startswith("strict-") else behaviors.steps(prompt)


NOTES = ("The background shell ", "About an earlier call ")
"""The first words of the notices that the daemon adds to a user message."""


def _newest_text(messages: list[_Message]) -> tuple[str, int]:
    """Return the user's newest text and the number of later answers; messages of the daemon do not count."""
    answered = 0
    for message in reversed(messages):
        written = _text(message.content).partition(SITUATION_NOTE)[0] if message.role == "user" else ""
        paragraphs = written.strip().split("\n\n") if written.strip() else []
        if text := "\n\n".join(paragraph for paragraph in paragraphs if not paragraph.startswith(NOTES)):
            return text, answered
        answered += message.role == "assistant"
    return "", answered


@asynccontextmanager
async def running_model_server() -> AsyncIterator[ModelServer]:
    """Provide a server on a free port of 127.0.0.1."""
    with open_listener(0) as listener:
        server = ModelServer(listener)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            yield server
            nursery.cancel_scope.cancel()


def open_listener(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    listener.setblocking(False)
    return listener


async def _perform(connection: socket.socket, recorded: RecordedRequest, steps: Iterable[Step]) -> bool:
    """Perform the steps; return whether the connection can take another request."""
    chunked, head = False, b""
    for step in steps:
        match step:
            case Head():
                head, chunked = _head(step), step.length is None
            case Pause(seconds):
                await _write(connection, head)
                head = b""
                recorded.streaming.set()
                await _pause(connection, seconds)
            case Cut():
                await _write(connection, head)
                return False
            case Raw(data):
                await _write(connection, data)
            case Piece() | Pieces():
                data = _body(step, chunked=chunked)
                await _write(connection, head + data)
                head = b""
                recorded.streaming.set()
    await _write(connection, head + (b"0\r\n\r\n" if chunked else b""))
    return True


def _writes(steps: Iterable[Step]) -> list[bytes]:
    """Yield the bytes of steps that only write; the head joins the first write, the end the last."""
    writes, head = [], b""
    for step in steps:
        if isinstance(step, Head):
            head = _head(step)
        elif isinstance(step, Piece | Pieces):
            writes.append(head + _body(step, chunked=True))
            head = b""
    writes[-1] += b"0\r\n\r\n"
    return writes


def _body(step: Piece | Pieces, *, chunked: bool) -> bytes:
    parts = (step.data,) if isinstance(step, Piece) else step.data
    # An empty chunk would end the body.
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) if part and chunked else part for part in parts)


def _head(head: Head) -> bytes:
    framing = "transfer-encoding: chunked" if head.length is None else f"content-length: {head.length}"
    lines = [f"HTTP/1.1 {head.status} Scripted", f"content-type: {head.content_type}", framing]
    lines += [f"{name}: {value}" for name, value in head.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read_request(connection: socket.socket, buffer: bytearray) -> RecordedRequest | None:
    """Return the next request, or None if the client disconnected."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not await _read(connection, buffer):
            return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    whole = end + 4 + int(headers.get("content-length", 0))
    while len(buffer) < whole:
        if not await _read(connection, buffer):
            return None
    head, body = bytes(buffer[: end + 4]), bytes(buffer[end + 4 : whole])
    del buffer[:whole]
    return RecordedRequest(method, path, headers, body, head)


async def _read(connection: socket.socket, buffer: bytearray) -> bool:
    while True:
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(connection)
            continue
        buffer += data
        return bool(data)


async def _write(connection: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connection)


async def _pause(connection: socket.socket, seconds: float) -> None:
    """Wait until the pause or the connection ends. Clients send nothing while they are answered."""
    with trio.move_on_after(seconds):
        await trio.lowlevel.wait_readable(connection)
        raise _Disconnected


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts if part.get("type") == "text")


def main() -> None:
    """Serve until killed; print the port on a separate line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    with open_listener(parser.parse_args().port) as listener:
        server = ModelServer(listener)
        print(server.port, flush=True)
        trio.run(server.serve)


if __name__ == "__main__":
    main()
