"""Connections to a server: how reads are grouped, when connections are kept or closed, hostile servers."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.providers.driver import HttpRequest
from kheishd.providers.http_errors import ConnectFailed, ConnectionBroken, UnsendableRequest
from kheishd.providers.http_pool import (
    MAX_FIRST_PIECES,
    MAX_IDLE_SECONDS,
    MAX_PART_BYTES,
    MAX_PIECES,
    ConnectionPool,
    ServerAddress,
)
from tests.support.http_calls import HEAD, RawServer, model_request, pool_to, read_all, serve
from tests.support.model_server import ModelServer


async def test_one_write_is_the_first_words_and_the_rest(server: ModelServer) -> None:
    """Fifty pieces that arrive together are read in two parts: the first few, then the others."""
    async with pool_to(server.base_url) as pool:
        reads = await read_all(await pool.send(model_request(server, "chunks:50:60")))
    assert [read.count(b"word") for read in reads] == [MAX_FIRST_PIECES - 1, 51 - MAX_FIRST_PIECES]
    assert reads[-1].endswith(b"data: [DONE]\n\n")


async def test_received_bytes_need_no_waiting() -> None:
    """What came with earlier bytes is taken without waiting; nothing is taken if nothing came."""
    server = RawServer(HEAD + b"1\r\nx\r\n" * 6 + b"0\r\n\r\n")
    async with server.serving() as pool:
        reply = await pool.send(HttpRequest(f"{server.url}/", {}, (b"{}",)))
        assert await reply.read() == b"xxxx"
        assert not reply.ended
        assert [reply.take(), reply.take()] == [b"xx", b""]
        assert reply.ended
        await reply.aclose()


async def test_a_read_is_limited(server: ModelServer) -> None:
    """The size of a read is limited, so that other tasks run between two reads."""
    async with pool_to(server.base_url) as pool:
        reads = await read_all(await pool.send(model_request(server, "chunks:2000:2010")))
    assert max(read.count(b"data: ") for read in reads) <= MAX_PIECES
    assert sum(read.count(b"word") for read in reads) == 2000


async def test_a_part_of_a_long_piece_is_limited() -> None:
    """A piece of thousands of tiny events is returned in parts, in order and completely."""
    body = b"".join(b"data: %d\n\n" % index for index in range(MAX_PART_BYTES // 2))
    server = RawServer(OK + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    async with server.serving() as pool:
        reads = await read_all(await pool.send(HttpRequest(f"{server.url}/", {}, (b"{}",))))
    assert b"".join(reads) == body
    assert max(map(len, reads)) == MAX_PART_BYTES


async def test_bytes_are_returned_at_once(nursery: trio.Nursery) -> None:
    """A piece is returned when it arrives, even if it ends inside an HTTP chunk."""
    give, get = trio.open_memory_channel[bytes](1)

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        async for data in get:
            await stream.send_all(data)

    port = await serve(handler, nursery)
    async with pool_to(f"http://127.0.0.1:{port}") as pool:
        await give.send(HEAD + b"3\r\none\r\n3\r\ntwo\r\n5\r\nth")
        reply = await pool.send(HttpRequest(f"http://127.0.0.1:{port}/", {}, (b"{}",)))
        assert await reply.read() == b"onetwoth"
        await give.send(b"ree\r\n0\r\n\r\n")
        assert await reply.read() == b"ree"
        assert await reply.read() == b""
        assert reply.ended
        await reply.aclose()


async def test_a_request_goes_out_in_one_write(nursery: trio.Nursery) -> None:
    """Head and body of a request are sent in one write, so that the server wakes once."""
    reads: list[bytes] = []

    async def handler(stream: trio.SocketStream) -> None:
        reads.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    port = await serve(handler, nursery)
    url = f"http://127.0.0.1:{port}/v1"
    async with pool_to(url) as pool:
        await read_all(await pool.send(HttpRequest(f"{url}/chat/completions", {}, (b'{"model": "m"}',))))
    nursery.cancel_scope.cancel()
    [whole] = reads
    assert whole.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert whole.endswith(b'\r\n\r\n{"model": "m"}')


async def test_an_answer_before_the_request_was_read(nursery: trio.Nursery) -> None:
    """A response is read even if the server closed before it had read the request."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(1024)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await stream.send_eof()
        while await stream.receive_some():
            pass

    port = await serve(handler, nursery)
    url = f"http://127.0.0.1:{port}/v1"
    async with pool_to(url) as pool:
        reply = await pool.send(HttpRequest(f"{url}/chat/completions", {}, (b"x" * 4_000_000,)))
        assert reply.status == 413
        assert b"".join(await read_all(reply)) == b"no"
    nursery.cancel_scope.cancel()


async def test_connections_are_kept(server: ModelServer) -> None:
    """A connection is reused after its body was read to the end."""
    async with pool_to(server.base_url) as pool:
        for _ in range(3):
            await read_all(await pool.send(model_request(server, "echo")))
    assert server.connections == 1


async def test_leaving_a_body_closes_the_connection(server: ModelServer) -> None:
    """Leaving a body before its end closes the connection."""
    async with pool_to(server.base_url) as pool:
        reply = await pool.send(model_request(server, "hang-mid"))
        assert b"so far" in await reply.read()
        for _ in range(2):
            await reply.aclose()
        with trio.fail_after(5):
            await server.requests[0].disconnected.wait()
        await read_all(await pool.send(model_request(server, "echo")))
    assert server.connections == 2


async def test_a_read_that_is_cancelled_closes_the_connection(server: ModelServer) -> None:
    """A cancelled read closes the connection."""
    async with pool_to(server.base_url) as pool:
        reply = await pool.send(model_request(server, "hang-mid"))
        await reply.read()
        with trio.move_on_after(0) as scope:
            await reply.read()
        assert scope.cancelled_caught
        await reply.aclose()
        with trio.fail_after(5):
            await server.requests[0].disconnected.wait()


async def test_bytes_before_a_break_are_returned_first(nursery: trio.Nursery) -> None:
    """Good bytes are returned first; invalid bytes after them are an error of the next read."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"3\r\none\r\nthis is no chunk\r\n")

    port = await serve(handler, nursery)
    async with pool_to(f"http://127.0.0.1:{port}") as pool:
        reply = await pool.send(HttpRequest(f"http://127.0.0.1:{port}/", {}, (b"{}",)))
        assert await reply.read() == b"one"
        with pytest.raises(ConnectionBroken):
            await reply.read()
        await reply.aclose()


async def test_a_break_alone_is_an_error(server: ModelServer) -> None:
    """A connection that ends inside the body is an error of the read that reaches the end."""
    async with pool_to(server.base_url) as pool:
        reply = await pool.send(model_request(server, "cut"))
        with pytest.raises(ConnectionBroken):
            await read_all(reply)
        await reply.aclose()


async def test_the_head(server: ModelServer) -> None:
    """A request has its host and headers; header names of a response are in lower case."""
    async with pool_to(server.base_url) as pool:
        reply = await pool.send(model_request(server, "status:429:retry=7"))
        await read_all(reply)
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    headers = server.requests[0].headers
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept"] == "text/event-stream, application/json"
    assert (headers["accept-encoding"], headers["x-test"]) == ("identity", "1")


OK = b"HTTP/1.1 200 OK\r\n"
FINE = OK + b"content-length: 4\r\n\r\nfine"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 2\r\n\r\nok" + OK + b"content-length: 4\r\n\r\nevil",
        OK + b"content-length: 2\r\n\r\nokHTTP/1.1 200",
        OK + b"content-length: 2\r\n\r\nok garbage",
        HEAD + b"2\r\nok\r\n0\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_bytes_after_an_answer_are_never_the_next_one(answer: bytes) -> None:
    """A connection with bytes after the answer, or an answer of doubtful length, is not used again."""
    server = RawServer(answer, FINE)
    async with server.serving() as pool:
        assert await server.ask(pool) == (200, b"ok")
        assert await server.ask(pool) == (200, b"fine")
    assert len(server.streams) == 2


async def test_bytes_that_come_unasked_are_never_the_next_answer() -> None:
    """A connection on which the server sent something while it was idle is closed."""
    server = RawServer(FINE, FINE)
    async with server.serving() as pool:
        await server.ask(pool)
        await wait_all_tasks_blocked()
        await server.streams[0].send_all(OK + b"content-length: 4\r\n\r\nevil")
        assert await server.ask(pool) == (200, b"fine")
        assert len(server.streams) == 2


@pytest.mark.parametrize("early", [OK + b"content-length: 4\r\n\r\nevil", b""])
async def test_bytes_before_the_request_are_never_its_answer(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, early: bytes
) -> None:
    """A new connection on which the server sent something, or which it closed, gets no request."""
    connect = trio.open_tcp_stream

    async def connect_late(host: str, port: int) -> trio.SocketStream:
        stream = await connect(host, port)
        await wait_all_tasks_blocked()
        return stream

    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(early)
        # A client closes a connection with bytes that it has not read.
        with suppress(trio.BrokenResourceError):
            received.append(bytes(await stream.receive_some()) if early else b"")

    monkeypatch.setattr(trio, "open_tcp_stream", connect_late)
    received: list[bytes] = []
    url = f"http://127.0.0.1:{await serve(handler, nursery)}"
    async with pool_to(url) as pool:
        with pytest.raises(ConnectFailed, match="before the request"):
            await pool.send(HttpRequest(f"{url}/v1", {}, (b"{}",)))
        await wait_all_tasks_blocked()
    assert not any(received)


@pytest.mark.parametrize(
    ("status", "body"), [(b"204 No Content", b""), (b"304 Not Modified", b"content-length: 5\r\n")]
)
async def test_answers_without_body(status: bytes, body: bytes) -> None:
    """An answer whose status has no body ends with its head, and its connection is used again."""
    server = RawServer(b"HTTP/1.1 " + status + b"\r\n" + body + b"\r\n", FINE)
    async with server.serving() as pool:
        assert await server.ask(pool) == (int(status[:3]), b"")
        assert await server.ask(pool) == (200, b"fine")
        assert len(server.streams) == 1


async def test_answers_before_the_final_one() -> None:
    """Answers with status 1xx are skipped, and their headers with them."""
    server = RawServer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\ncontent-length: 1\r\n\r\n" + FINE)
    async with server.serving() as pool:
        assert await server.ask(pool) == (200, b"fine")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_without_length(version: bytes) -> None:
    """An answer without length ends with its connection."""
    server = RawServer(b"HTTP/" + version + b" 200 OK\r\n\r\nfine", is_closing=True)
    async with server.serving() as pool:
        assert await server.ask(pool) == (200, b"fine")


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 2\r\ncontent-length: 4\r\n\r\nfine",
        OK + b"content-length: 4, 4\r\n\r\nfine",
        OK + b"content-length: -1\r\n\r\nfine",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        OK + b"x: a\r\n folded\r\ncontent-length: 4\r\n\r\nfine",
        HEAD + b"fffffffffffffffff\r\nfine\r\n",
        b"no HTTP at all",
        OK + b"x: " + b"y" * 200_000,
        HEAD + b"4;" + b"y" * 200_000,
        b"HTTP/1.1 103 Hints\r\n\r\n" * 10_000,
    ],
)
async def test_an_answer_that_is_no_http(answer: bytes) -> None:
    """An invalid answer breaks the connection, and the next request has another one."""
    server = RawServer(answer, FINE)
    async with server.serving() as pool:
        with pytest.raises(ConnectionBroken):
            await server.ask(pool)
        assert await server.ask(pool) == (200, b"fine")
        assert len(server.streams) == 2


@pytest.mark.parametrize(
    "answer", [b"", OK, FINE[:-1], HEAD + b"4\r\nfine\r\n", HEAD + b"ffffffffffffff\r\nfine"]
)
async def test_an_answer_that_is_cut(answer: bytes) -> None:
    """A connection that ends early is broken, never the end of the answer; nothing is sent twice."""
    server = RawServer(answer, is_closing=True)
    async with server.serving() as pool:
        with pytest.raises(ConnectionBroken, match="the server closed it"):
            await server.ask(pool)
        assert len(server.requests) == 1


async def test_a_connection_that_the_server_closed_is_not_used() -> None:
    """The closed connections of a server that restarted are replaced, not failures."""
    server = RawServer(FINE, FINE, FINE, is_closing=True)
    async with server.serving() as pool:
        for _ in range(3):
            assert await server.ask(pool) == (200, b"fine")
            # Until the server has closed its side.
            await wait_all_tasks_blocked()
        assert len(server.streams) == 3


async def test_a_request_that_would_be_split_is_not_sent() -> None:
    """A header that contains another one is refused before anything is sent."""
    server = RawServer(FINE)
    async with server.serving() as pool:
        with pytest.raises(UnsendableRequest):
            await server.ask(pool, {"x": "y\r\n\r\nGET / HTTP/1.1"})
        assert not server.streams


async def test_the_newest_connection_is_used_first(server: ModelServer) -> None:
    """Of several idle connections only the newest is used, so that the others expire."""
    address = ServerAddress("127.0.0.1", server.port, f"127.0.0.1:{server.port}")
    pool = ConnectionPool(address, 3, None)
    replies = [await pool.send(model_request(server, "echo")) for _ in range(3)]
    for reply in replies:
        await read_all(reply)
    newest = pool._idle[-1][1]
    for _ in range(3):
        reply = await pool.send(model_request(server, "echo"))
        assert reply._stream is newest
        await read_all(reply)
    assert server.connections == 3
    await pool.aclose()


async def test_idle_connections_expire(server: ModelServer, mock_clock: MockClock) -> None:
    """Connections that were idle too long are closed at the next request, unused."""
    async with pool_to(server.base_url) as pool:
        replies = [await pool.send(model_request(server, "echo")) for _ in range(3)]
        for reply in replies:
            await read_all(reply)
        mock_clock.jump(MAX_IDLE_SECONDS + 1)
        await read_all(await pool.send(model_request(server, "echo")))
        assert isinstance(pool, ConnectionPool)
        assert len(pool._idle) == 1
    assert server.connections == 4


async def test_connections_are_limited(server: ModelServer) -> None:
    """A request beyond the maximum waits until another one has ended; a failure frees its place, too."""
    address = ServerAddress("127.0.0.1", server.port, f"127.0.0.1:{server.port}")
    pool = ConnectionPool(address, 1, None)
    answered = trio.Event()

    async def ask() -> None:
        await read_all(await pool.send(model_request(server, "echo")))
        answered.set()

    async with trio.open_nursery() as nursery:
        reply = await pool.send(model_request(server, "hang-mid"))
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert not answered.is_set()
        await reply.aclose()
        await answered.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.send(model_request(server, "hang"))
    await ask()
    await pool.aclose()


async def test_a_closed_pool_keeps_nothing(server: ModelServer) -> None:
    """An answer that ends after its pool was closed closes its connection."""
    address = ServerAddress("127.0.0.1", server.port, f"127.0.0.1:{server.port}")
    pool = ConnectionPool(address, 2, None)
    await read_all(await pool.send(model_request(server, "echo")))
    reply = await pool.send(model_request(server, "echo"))
    await pool.aclose()
    await read_all(reply)
    assert not pool._idle
