"""Transports of the MCP library on our own terms: a process under a keeper, and HTTP with limits.

The library starts processes itself and reads all that they write. Here a server is a command like any other:
its keeper ends all of it with the daemon, however that ends. Each line is bounded before it is decoded, and
what is no message is skipped: programs print banners, and a byte that is no UTF-8 must not end the
connection.

Importing this imports the MCP library, which takes half a second: a thread does it, when it is first needed.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpx2
import msgspec
import trio
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)

from kheishd.core.text.scrub import cut_text
from kheishd.hooks.os.shell.cgroup import GROUPS
from kheishd.hooks.os.shell.process import Command, CommandEnd, KeptCommand, running
from kheishd.kernel.mcp import KeeperKilled
from kheishd.mcp.error_output import ErrorOutput
from protocol.limits.mcp import MAX_MCP_MESSAGE_BYTES
from protocol.text import escape_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from mcp.client._transport import TransportStreams

    Send = Callable[[SessionMessage], Awaitable[None]]

log = logging.getLogger("kheishd.mcp")

# The time for a server to end by itself once its standard input is closed, and for the start of a request.
END_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 30.0
# A server may send nothing while it works: a call has a time limit of its own.
SILENCE_SECONDS: Final = 3600.0

CHUNK_BYTES: Final = 64 * 1024

# The id of a response is its first field but the version, or its last one.
_ID_FIRST: Final = re.compile(rb'\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*(\d{1,15})\s*,')
_ID_LAST: Final = re.compile(rb',\s*"id"\s*:\s*(\d{1,15})\s*\}\s*$')
EDGE_BYTES: Final = 256

# A longer line, and more lines that are no messages in a row, are no server's.
MAX_SKIPPED_BYTES: Final = 64 * MAX_MCP_MESSAGE_BYTES
MAX_GARBAGE_LINES: Final = 1_000

# Requests of a server that wait for their answers: it does not read them.
MAX_SERVER_REQUESTS: Final = 64


class ServerEnded(Exception):
    """The server's process ended, or broke the protocol beyond repair; the message says how."""


class ServerProcess:
    """A server's process, its standard streams and its error output."""

    def __init__(self, command: KeptCommand, stdin: trio.lowlevel.FdStream, errors: ErrorOutput) -> None:
        self.command = command
        self.stdin = stdin
        self.errors = errors
        self.ended = trio.Event()
        self._end: CommandEnd | None = None
        self._errors_ended = trio.Event()
        self._waiting = trio.CancelScope(shield=True)
        self._waited = trio.Event()

    async def wait_end(self) -> None:
        """Wait until nothing of the server runs, or ``stop_waiting``. Errors: KeeperKilled.

        A process that hides from its keeper may hold the standard output open, so its end is no sign.
        """
        try:
            with self._waiting:
                self._end = await self.command.wait()
                self.ended.set()
                if self._end.code is None:
                    raise KeeperKilled
        finally:
            self._waited.set()

    async def stop_waiting(self) -> None:
        """Let another task wait for the command."""
        self._waiting.cancel()
        await self._waited.wait()

    async def read_errors(self) -> None:
        """Read the error output until its end."""
        assert self.command.stderr is not None
        async for chunk in self.command.stderr:
            for line in self.errors.feed(bytes(chunk)):
                log.debug("an MCP server wrote: %s", line)
        self._errors_ended.set()

    async def describe_end(self) -> str:
        """Return how the process ended, with the reason in its error output."""
        with trio.move_on_after(END_SECONDS):
            await self.ended.wait()
            # Its last words may still be in the pipe.
            await self._errors_ended.wait()
        text = "it closed its output" if self._end is None else f"it ended with code {self._end.code}"
        cause = self.errors.find_cause()
        return text if cause is None else f"{text}: {cause}"


@asynccontextmanager
async def open_process(
    argv: list[str], environ: Mapping[str, str], cwd: str, mark: str, errors: ErrorOutput | None = None
) -> AsyncIterator[ServerProcess]:
    """Run a server under a keeper while the block runs.

    Errors: NotStarted, OSError for its directory, and KeeperKilled when that happens while the block runs.
    On leaving, its standard input is closed; after a time, it and all that it started are ended.
    """
    workdir = os.open(cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
        stdin = trio.lowlevel.FdStream(write)
        group = GROUPS.name(mark)
        limits = f"group={group}" if group else ""
        command = Command(tuple(argv), environ, workdir, mark, limits=limits, workspace="/", stdin=read)
        async with stdin, running(command) as kept:
            process = ServerProcess(kept, stdin, errors or ErrorOutput())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.read_errors)
                nursery.start_soon(process.wait_end)
                try:
                    yield process
                finally:
                    with trio.CancelScope(shield=True):
                        await stdin.aclose()
                        with trio.move_on_after(END_SECONDS):
                            await process.ended.wait()
                        await process.stop_waiting()
                        await kept.aclose()
                    nursery.cancel_scope.cancel()
    finally:
        os.close(workdir)


@asynccontextmanager
async def stdio_transport(process: ServerProcess) -> AsyncIterator[TransportStreams]:
    """Exchange messages with a process, one a line.

    Errors: ServerEnded, when it ends while the block runs.
    """
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    from_client, to_server = anyio.create_memory_object_stream[SessionMessage](0)

    requests = 0

    async def write() -> None:
        nonlocal requests
        async for message in to_server:
            if isinstance(message.message, JSONRPCResponse | JSONRPCError):
                requests -= 1
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
            try:
                await process.stdin.send_all(line + b"\n")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # The reader notices the end of the server.
                await trio.sleep_forever()

    async def pass_on(message: SessionMessage) -> None:
        nonlocal requests
        requests += isinstance(message.message, JSONRPCRequest)
        if requests > MAX_SERVER_REQUESTS:
            raise ServerEnded(f"it sent {requests} requests and read none of the answers")
        await to_client.send(message)

    async def read() -> None:
        async with to_client:
            await read_messages(process.command.stdout, pass_on, process.errors.scrub_cut)
            problem = await process.describe_end()
        raise ServerEnded(problem)

    async with to_client, from_server, from_client, to_server, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        yield from_server, from_client
        nursery.cancel_scope.cancel()


async def read_messages(
    stream: trio.abc.ReceiveStream, send: Send, scrub_cut: Callable[[bytes], bytes] = bytes
) -> None:
    """Send each message of a server's output on, until its end.

    A line that is too long is not kept; the request that it answers fails instead. ``scrub_cut`` removes
    what a cut made of a secret from a line that is logged. Errors: ServerEnded if
    that request cannot be told, or too many lines are no messages.
    """
    buffer, edges = bytearray(), _Edges()
    garbage = 0
    while chunk := await stream.receive_some(CHUNK_BYTES):
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            buffer += piece
            if edges.skip(buffer):
                await send(SessionMessage(edges.end()))
                continue
            message = parse_message(buffer)
            if message is not None:
                garbage = 0
                await send(SessionMessage(message))
            elif (request_id := _find_answered(buffer)) is not None:
                # Its request would wait for its time limit.
                await send(SessionMessage(_error(request_id, "the answer is no valid JSON-RPC message")))
            elif buffer.strip():
                garbage += 1
                if garbage == 1:
                    quoted = escape_line(cut_text(buffer[:200].decode(errors="replace"), 80, scrub_cut))
                    log.warning(
                        "an MCP server writes lines that are no messages; they are skipped: %s", quoted
                    )
                if garbage > MAX_GARBAGE_LINES:
                    raise ServerEnded(f"it wrote {garbage} lines in a row that are no messages")
            buffer.clear()
        buffer += rest
        edges.skip(buffer)


def _find_answered(line: bytearray) -> int | None:
    """Return the id of the request that an invalid line answers, as far as that can be told."""
    if b'"method"' in line[:EDGE_BYTES]:
        return None
    match = _ID_FIRST.match(line) or _ID_LAST.search(line[-EDGE_BYTES:])
    return None if match is None else int(match[1])


class _Edges:
    """The beginning and the end of a line that is too long to be kept."""

    def __init__(self) -> None:
        self._head = self._tail = b""
        self._total = 0

    def skip(self, buffer: bytearray) -> bool:
        """Take what was read of the line, if it is too long; return whether it is."""
        if not self._total and len(buffer) <= MAX_MCP_MESSAGE_BYTES:
            return False
        self._head = self._head or bytes(buffer[:EDGE_BYTES])
        self._tail = (self._tail + buffer[-EDGE_BYTES:])[-EDGE_BYTES:]
        self._total += len(buffer)
        buffer.clear()
        if self._total > MAX_SKIPPED_BYTES:
            raise ServerEnded(f"it sent a line of more than {MAX_SKIPPED_BYTES} bytes")
        return True

    def end(self) -> JSONRPCError:
        """Return the error that takes the place of the answer.

        Errors: ServerEnded if it answers no request.
        """
        match = _ID_FIRST.match(self._head) or _ID_LAST.search(self._tail)
        if match is None:
            raise ServerEnded(f"it sent a line of {self._total} bytes; the limit is {MAX_MCP_MESSAGE_BYTES}")
        message = f"the answer has {self._total} bytes, and the limit is {MAX_MCP_MESSAGE_BYTES}"
        self._head, self._tail, self._total = b"", b"", 0
        return _error(int(match[1]), message)


def _error(request_id: int, message: str) -> JSONRPCError:
    """Return an error that takes the place of an answer."""
    error = ErrorData(code=INTERNAL_ERROR, message=message)
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=error)


def parse_message(line: bytes | bytearray) -> JSONRPCMessage | None:
    """Return the message of a line; None if it is none. Bytes that are no UTF-8 are replaced."""
    try:
        decoded = msgspec.json.decode(line.decode(errors="replace"))
        # The types of its own fields; those of "params" and "result" depend on the method.
        return jsonrpc_message_adapter.validate_python(decoded, by_name=False)
    except (ValueError, RecursionError):
        return None


# HTTP.


class BearerToken(httpx2.Auth):
    """The bearer token of a server, read anew for each request: it may be replaced meanwhile."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def auth_flow(self, request: httpx2.Request) -> Any:
        """Add the token to a request."""
        request.headers["authorization"] = f"Bearer {self._read()}"
        yield request


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response, up to the limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async with aclosing(aiter(self._inner)) as chunks:
            async for chunk in chunks:
                total += len(chunk)
                if total > MAX_MCP_MESSAGE_BYTES:
                    raise httpx2.StreamError(f"the answer has more than {MAX_MCP_MESSAGE_BYTES} bytes")
                yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class _RefusedStream(_BoundedStream):
    """The body of a response in an encoding that was not requested: a small one may expand without limit."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise httpx2.StreamError("the answer is encoded, though identity was requested")
        yield b""


async def _bound(response: httpx2.Response) -> None:
    """Bound the body of a response. A stream of events is bounded event by event."""
    if response.headers.get("content-encoding", "identity") != "identity":
        response.stream = _RefusedStream(response.stream)
    elif not response.headers.get("content-type", "").startswith("text/event-stream"):
        response.stream = _BoundedStream(response.stream)


@asynccontextmanager
async def http_transport(
    url: str, headers: Mapping[str, str], auth: httpx2.Auth | None
) -> AsyncIterator[TransportStreams]:
    """Exchange messages with a URL by streamable HTTP. Errors: httpx2.HTTPError."""
    async with (
        httpx2.AsyncClient(
            headers={"accept-encoding": "identity", **headers},
            auth=auth,
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS),
            event_hooks={"response": [_bound]},
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MCP_MESSAGE_BYTES) as streams,
    ):
        yield streams
