"""The HTTP side of the proxy: tunnels (CONNECT), and requests for ``http://`` URLs.

A request for a URL has a connection of its own to the server, and the connection of the client ends with its
answer. So every request is judged by itself.

Importing this imports the HTTP library, which takes long: a thread does it, when it is first needed.

Source: RFC 9110, sections 7 and 9.3.6; RFC 9112, sections 3.2 and 9.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import h11
import trio

from kheishd.hooks.network.connector import HostUnknown
from kheishd.hooks.network.destination import Destination, parse_destination
from kheishd.hooks.network.gate import Refused
from kheishd.hooks.network.relay import CHUNK_BYTES, MAX_IDLE_SECONDS, EndOfStream, relay
from kheishd.kernel.hook import ToolError
from protocol.limits.network import MAX_PROXY_HEAD_BYTES

if TYPE_CHECKING:
    from kheishd.hooks.network.gate import Gate
    from kheishd.hooks.network.relay import Incoming

HOP_BY_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"upgrade"),
    )
)

HTTP_PORT: Final = 80


class ProxiedRequest:
    """A request to the proxy: its head, and the client's connection, from which its body is read."""

    def __init__(self, client: h11.Connection, head: h11.Request, destination: Destination) -> None:
        self.client = client
        self.head = head
        self.destination = destination

    @property
    def is_tunnel(self) -> bool:
        """Whether a tunnel is requested."""
        return self.head.method == b"CONNECT"


async def read_request(incoming: Incoming) -> ProxiedRequest | None:
    """Read the head of a request; None if it was rejected. Errors: EndOfStream."""
    client = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_PROXY_HEAD_BYTES)
    try:
        while (head := _receive(client, incoming)) is h11.NEED_DATA:
            await incoming.fill()
        if not isinstance(head, h11.Request):
            raise EndOfStream
        target = head.target.decode("latin-1")
        if head.method == b"CONNECT":
            destination = parse_destination(target, None)
        else:
            destination = parse_target(target)
    except (h11.RemoteProtocolError, ToolError, ValueError) as error:
        await incoming.finish(_answer(400, "Bad Request", f"kheish: not a request to a proxy: {error}"))
        return None
    return ProxiedRequest(client, head, destination)


async def serve_http(incoming: Incoming, request: ProxiedRequest, gate: Gate) -> None:
    """Connect to the destination of a request, and relay."""
    destination = request.destination
    try:
        outgoing = await gate.connect(destination)
    except Refused as refused:
        await incoming.finish(_answer(403, "Forbidden", str(refused)))
    except HostUnknown as unknown:
        await incoming.finish(_answer(502, "Bad Gateway", f"kheish: {unknown}"))
    except OSError as error:
        text = f"kheish: no connection to {destination}: {error.strerror or error}"
        await incoming.finish(_answer(502, "Bad Gateway", text))
    else:
        async with outgoing:
            if request.is_tunnel:
                incoming.buffer, _ = request.client.trailing_data
                await incoming.stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await relay(incoming, outgoing)
            else:
                await exchange(incoming, request, outgoing)


def _receive(client: h11.Connection, incoming: Incoming) -> object:
    """Return the client's next event, after the bytes that have arrived."""
    if incoming.buffer:
        data, incoming.buffer = incoming.buffer, b""
        client.receive_data(data)
    return client.next_event()


def parse_target(target: str) -> Destination:
    """Return the destination of a request for a URL. Errors: ToolError, ValueError."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise ToolError("only http:// URLs and CONNECT are served")
    authority = urlsplit(f"//{rest}").netloc
    # A user and a password in a URL are for the server, and clients send them in a header.
    return parse_destination(authority.rpartition("@")[2], HTTP_PORT)


def _answer(status: int, phrase: str, text: str) -> bytes:
    body = f"{text}\n".encode(errors="replace")
    lines = (
        f"HTTP/1.1 {status} {phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


# One request and its answer.


async def exchange(incoming: Incoming, request: ProxiedRequest, outgoing: trio.SocketStream) -> None:
    """Send a request to its server, and the answer to the client, both while they arrive."""
    server = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_PROXY_HEAD_BYTES)
    parts = urlsplit(request.head.target.decode("latin-1"))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = str(request.destination).removesuffix(f":{HTTP_PORT}")
    headers = [(b"host", host.encode()), *_end_to_end(request.head), (b"connection", b"close")]
    head = h11.Request(method=request.head.method, target=path, headers=headers)
    await outgoing.send_all(server.send(head) or b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_body, incoming, request.client, server, outgoing)
        try:
            await send_answer(incoming, request.client, server, outgoing)
        except (trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError) as error:
            # Once the answer has begun, its missing end tells the client.
            if request.client.our_state is h11.SEND_RESPONSE:
                text = f"kheish: {request.destination} gives no HTTP answer: {error}"
                await incoming.finish(_answer(502, "Bad Gateway", text))
        else:
            await incoming.finish(b"")
        nursery.cancel_scope.cancel()


async def send_body(
    incoming: Incoming, client: h11.Connection, server: h11.Connection, outgoing: trio.SocketStream
) -> None:
    """Send the body of a request as it arrives; if it cannot be sent, the server's answer tells why."""
    with suppress(EndOfStream, trio.BrokenResourceError, h11.ProtocolError):
        while True:
            event = _receive(client, incoming)
            if event is h11.NEED_DATA:
                await incoming.fill()
            elif isinstance(event, h11.Data):
                await outgoing.send_all(server.send(h11.Data(data=event.data)) or b"")
            else:
                await outgoing.send_all(server.send(h11.EndOfMessage()) or b"")
                return


async def send_answer(
    incoming: Incoming, client: h11.Connection, server: h11.Connection, outgoing: trio.SocketStream
) -> None:
    """Send the answer of a server as it arrives.

    Errors: h11.ProtocolError if it is no HTTP, BrokenResourceError, TooSlowError.
    """
    while True:
        event = server.next_event()
        if event is h11.NEED_DATA:
            with trio.fail_after(MAX_IDLE_SECONDS):
                server.receive_data(await outgoing.receive_some(CHUNK_BYTES))
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            headers = _end_to_end(event)
            if isinstance(event, h11.Response):
                headers.append((b"connection", b"close"))
            head = type(event)(status_code=event.status_code, headers=headers, reason=event.reason)
            await incoming.stream.send_all(client.send(head) or b"")
        elif isinstance(event, h11.Data):
            await incoming.stream.send_all(client.send(h11.Data(data=event.data)) or b"")
        else:
            await incoming.stream.send_all(client.send(h11.EndOfMessage()) or b"")
            return


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[bytes, bytes]]:
    """Return the headers that are not for one connection only; ``Host`` is named anew by its URL."""
    named = {
        name.strip().lower()
        for header, value in message.headers
        if header == b"connection"
        for name in value.split(b",")
    }
    # The framing of the body stays, whatever the sender says about it.
    dropped = (HOP_BY_HOP | named | {b"host"}) - {b"transfer-encoding", b"content-length"}
    return [(name, value) for name, value in message.headers if name not in dropped]
