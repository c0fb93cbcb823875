"""The listener for Prometheus: ``GET /metrics`` on an address of this machine."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import h11
import trio

from kheishd.config.sections.listen import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# A collector asks every few seconds and keeps one connection; several of them and a person fit.
MAX_CONNECTIONS = 16

# The head of a collector's request has a few hundred bytes.
MAX_HEAD_BYTES = 8 * 1024
READ_BYTES: Final = 4096

IDLE_SECONDS = 60.0
"""How long a connection may wait for its next request, or take to send one: collectors ask more often."""


async def serve_metrics(
    host: str,
    port: int,
    render: Callable[[], str],
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; start with the port. ``render`` returns the text. Errors: OSError."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    limit = trio.Semaphore(MAX_CONNECTIONS)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            limit.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
                async with stream:
                    await _converse(stream, render)
        finally:
            limit.release()

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


async def _converse(stream: trio.SocketStream, render: Callable[[], str]) -> None:
    """Answer the requests of one connection. Errors: ProtocolError of a request that is not HTTP."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    while True:
        with trio.move_on_after(IDLE_SECONDS) as idle:
            event = http.next_event()
            while event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(READ_BYTES))
                event = http.next_event()
        if idle.cancelled_caught or isinstance(event, h11.ConnectionClosed):
            return
        if isinstance(event, h11.Request):
            status, body = _answer(event, render)
            headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body)))]
            content = b"" if event.method == b"HEAD" else body
            answer = [h11.Response(status_code=status, headers=headers), h11.Data(data=content)]
            for part in (*answer, h11.EndOfMessage()):
                if sent := http.send(part):
                    await stream.send_all(sent)
        if http.our_state is h11.MUST_CLOSE:
            return
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()


def _answer(request: h11.Request, render: Callable[[], str]) -> tuple[int, bytes]:
    """Return the status and the body of the answer to a request."""
    host = next((value for name, value in request.headers if name == b"host"), b"localhost").decode("latin-1")
    name, colon, port = host.rpartition(":")
    # A page of another site can make a browser connect here, but under the name of that site.
    if not is_loopback((name if colon and port.isdecimal() else host).strip("[]")):
        return 403, b"this host name is not one of this machine\n"
    if request.method not in (b"GET", b"HEAD"):
        return 405, b"use GET\n"
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, b"see /metrics\n"
    return 200, render().encode()
