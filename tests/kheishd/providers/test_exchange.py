"""One exchange with a provider: timeouts, early exit, all kinds of bodies, and its failures."""

from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.runs import RunsSection
from kheishd.core.text.sse import MAX_EVENT_BYTES
from kheishd.kernel.runtime import ModelEvent, ModelFailure, TextDelta
from kheishd.providers import anthropic, google, openai
from kheishd.providers.driver import Driver, HttpRequest
from kheishd.providers.exchange import (
    MAX_WHOLE_BYTES,
    AnswerBody,
    CallTimeouts,
    ConnectionPools,
    Exchange,
)
from kheishd.providers.failures import FailureFactory
from kheishd.providers.http_pool import MAX_PIECES
from protocol.transcript import Text
from tests.support.http_calls import HEAD, RawServer
from tests.support.model_calls import RecordedCall, inline, make_request
from tests.support.model_server import ModelServer

REFUSING = FailureFactory("api.test", "sk-secret")


class ExchangeFactory:
    """A maker of exchanges with the model server, with its own pools."""

    def __init__(self, server: ModelServer, pools: ConnectionPools) -> None:
        self.server = server
        self.pools = pools

    def __call__(self, model: str, reader: openai.ChatReader | None = None) -> Exchange:
        """Return an exchange with this model."""
        post = openai.post(make_request("hello", model=model), self.server.base_url, "sk-secret")
        timeouts = CallTimeouts(RunsSection())
        return Exchange(self.pools, post, reader or openai.reader(REFUSING), REFUSING, timeouts)


@pytest.fixture
async def exchange(server: ModelServer) -> AsyncIterator[ExchangeFactory]:
    """Provide a maker of exchanges; the connections that it keeps are closed at the end."""
    pools = ConnectionPools(10, inline)
    yield ExchangeFactory(server, pools)
    await pools.aclose()


async def hear(exchange: Exchange) -> RecordedCall:
    """Return all events of an exchange."""
    call = RecordedCall()
    try:
        async with exchange as events:
            async for event in events:
                call.take(event)
    except ModelFailure as failure:
        call.failure = failure
    return call


# Timeouts.


async def test_events_in_time_pass_the_timeouts(autojump_clock: MockClock) -> None:
    """Events in time pass; the idle timeout limits each wait and the total timeout all waits."""
    timeouts = CallTimeouts(RunsSection(stream_timeout_s=10, inactivity_timeout_s=4))

    async def after(seconds: float) -> float:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(seconds):
            await trio.sleep_forever()
        return seconds

    assert await timeouts.wait(lambda: after(3)) == 3
    assert await timeouts.wait(lambda: after(3)) == 3
    with pytest.raises(ModelFailure, match="sent nothing for 4 s") as quiet:
        await CallTimeouts(RunsSection(inactivity_timeout_s=4)).wait(lambda: after(5))
    with pytest.raises(ModelFailure, match="not complete after 10 s") as total:
        await timeouts.wait(lambda: after(5))
    for raised in (quiet, total):
        assert (raised.value.reason, raised.value.retryable) == ("timed_out", True)


async def test_a_server_that_never_answers(
    server: ModelServer, exchange: ExchangeFactory, mock_clock: MockClock
) -> None:
    """An exchange with a silent server times out and closes its connection."""
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            silent = exchange("hang")
            calls: list[RecordedCall] = []
            nursery.start_soon(collect, silent, calls)
            recorded = await server.request()
            await recorded.streaming.wait()
            mock_clock.jump(121)
            await recorded.disconnected.wait()
    assert calls[0].require_failure().reason == "timed_out"


async def test_a_server_that_stops_in_the_middle(
    server: ModelServer, exchange: ExchangeFactory, mock_clock: MockClock
) -> None:
    """A stalled stream times out after the idle timeout; earlier pieces have been yielded."""
    call = RecordedCall()
    is_streaming = trio.Event()

    async def listen() -> None:
        try:
            async with exchange("hang-mid") as events:
                async for event in events:
                    call.take(event)
                    is_streaming.set()
        except ModelFailure as failure:
            call.failure = failure

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await is_streaming.wait()
        mock_clock.jump(121)
    assert call.text == "so far "
    assert "sent nothing for 120 s" in call.require_failure().message


@pytest.mark.parametrize("driver", [openai, anthropic, google])
async def test_an_open_connection_does_not_hold_up_an_answer(
    server: ModelServer, mock_clock: MockClock, driver: Driver
) -> None:
    """An answer with its finish reason is complete within two seconds, though the server closes nothing."""
    pools = ConnectionPools(10, inline)
    post = driver.post(make_request("hello", model="stays-open"), server.base_url, None)
    exchange = Exchange(pools, post, driver.reader(REFUSING), REFUSING, CallTimeouts(RunsSection()))
    call, is_streaming = RecordedCall(), trio.Event()

    async def listen() -> None:
        async with exchange as events:
            async for event in events:
                call.take(event)
                is_streaming.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await is_streaming.wait()
        await wait_all_tasks_blocked()
        mock_clock.jump(2)
    assert call.require_answer().items == [Text("fine")]
    await pools.aclose()


async def collect(exchange: Exchange, calls: list[RecordedCall]) -> None:
    """Collect the events of an exchange; runs as a task."""
    calls.append(await hear(exchange))


# Early exit.


async def test_leaving_early_closes_the_connection(server: ModelServer, exchange: ExchangeFactory) -> None:
    """Leaving an exchange closes the connection, which the server notices at once."""
    async with exchange("hang-mid") as events:
        assert await anext(events) == TextDelta("so far ")
    with trio.fail_after(5):
        await server.requests[0].disconnected.wait()


async def test_an_error_of_the_block_is_not_wrapped(server: ModelServer, exchange: ExchangeFactory) -> None:
    """An error raised inside the block is not wrapped, and the connection is closed."""

    async def listen() -> None:
        async with exchange("hang-mid") as events:
            await anext(events)
            raise KeyError

    with pytest.raises(KeyError):
        await listen()
    with trio.fail_after(5):
        await server.requests[0].disconnected.wait()


@pytest.mark.parametrize("model", ["hang", "hang-mid"])
async def test_a_cancellation_is_not_wrapped(
    server: ModelServer, exchange: ExchangeFactory, model: str
) -> None:
    """A cancellation reaches the exchange at every wait and leaves it as a cancellation."""
    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            try:
                await hear(exchange(model))
            except BaseException as error:
                errors.append(error)
                raise

        nursery.start_soon(listen)
        recorded = await server.request()
        await recorded.streaming.wait()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in errors] == [trio.Cancelled]
    with trio.fail_after(5):
        await recorded.disconnected.wait()


async def test_a_whole_answer_keeps_the_connection(server: ModelServer, exchange: ExchangeFactory) -> None:
    """The connection is reused after a complete answer and after an error that was read."""
    for _ in range(3):
        assert (await hear(exchange("echo"))).text == "echo: hello"
    await hear(exchange("status:500"))
    await hear(exchange("nonstream"))
    assert server.connections == 1
    await hear(exchange("long:9000000"))
    await hear(exchange("echo"))
    assert server.connections == 2, "what is over the limit is not read"


async def test_an_answer_over_the_limit_is_closed(server: ModelServer, exchange: ExchangeFactory) -> None:
    """The connection is closed once the answer is full, even if the server would continue."""
    call = await hear(exchange("long:9000000"))
    assert call.require_answer().stop_reason == "length"
    with trio.fail_after(5):
        await server.requests[0].disconnected.wait()


# Events.


async def test_pieces_of_one_read_are_joined(exchange: ExchangeFactory) -> None:
    """Fifty pieces from one read become two deltas: the first words, and the rest."""
    call = await hear(exchange("chunks:50:60"))
    assert len(call.deltas) == 2
    assert call.text.split()[-1] == "word50"


async def test_a_piece_precedes_the_failure(exchange: ExchangeFactory) -> None:
    """A piece that arrives together with an error is yielded before the error."""
    call = await hear(exchange("error-event"))
    assert call.text == "fine "
    assert call.require_failure().reason == "overloaded"
    assert "sk-secret" not in call.require_failure().message


async def test_compression_is_refused(nursery: trio.Nursery) -> None:
    """A compressed answer fails with a note about the compression."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b"
        )

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
    timeouts = CallTimeouts(RunsSection())
    exchange = Exchange(
        ConnectionPools(1, inline),
        HttpRequest(url, {}, (b"{}",)),
        openai.reader(REFUSING),
        REFUSING,
        timeouts,
    )
    call = await hear(exchange)
    assert call.require_failure().reason == "bad_response"
    assert "compressed (gzip)" in call.require_failure().message


async def hear_raw(
    answer: bytes, heard: Callable[[ModelEvent], None] = lambda event: None
) -> ModelFailure | None:
    """Return the failure of an exchange with a server that sends these bytes; pass on each event."""
    server = RawServer(answer)
    async with server.serving():
        pools = ConnectionPools(1, inline)
        post = HttpRequest(f"{server.url}/", {}, (b"{}",))
        try:
            async with Exchange(
                pools, post, openai.reader(REFUSING), REFUSING, CallTimeouts(RunsSection())
            ) as events:
                async for event in events:
                    heard(event)
        except ModelFailure as failure:
            return failure
        finally:
            await pools.aclose()
    return None


@pytest.mark.parametrize("encoding", [b"Identity", b" identity ", b""])
async def test_no_compression_is_accepted(encoding: bytes) -> None:
    """An answer that names the encoding without compression, or an empty one, is read."""
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: " + encoding + b"\r\ncontent-length: %d\r\n\r\n"
    body = b'{"choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}'
    assert await hear_raw(head % len(body) + body) is None


async def test_other_tasks_run_between_the_parts_of_one_read(nursery: trio.Nursery) -> None:
    """A thousand pieces in one network read do not keep other tasks waiting."""
    words, counts = 0, []

    async def count() -> None:
        while True:
            counts.append(words)
            await trio.lowlevel.checkpoint()

    def hear_event(event: ModelEvent) -> None:
        nonlocal words
        words += event.text.count("word") if isinstance(event, TextDelta) else 0

    nursery.start_soon(count)
    data = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
    piece = b"%x\r\n%b\r\n" % (len(data), data)
    assert await hear_raw(HEAD + piece * 3000 + b"0\r\n\r\n", hear_event) is not None
    nursery.cancel_scope.cancel()
    assert words == 3000
    # Of two tasks that are ready, one may run twice before the other does.
    assert max(later - earlier for earlier, later in pairwise(counts)) <= 2 * MAX_PIECES


async def test_our_exceptions_are_raised_unchanged(exchange: ExchangeFactory) -> None:
    """An exception of a reader is raised unchanged, not turned into a provider failure."""

    class Faulty(openai.ChatReader):
        def events(self, batch: list[bytes]) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await hear(exchange("echo", Faulty(REFUSING)))


# Bodies.


def body_of(*reads: bytes) -> openai.ChatReader:
    """Return a reader that processed a body in these reads, to its end."""
    reader = openai.reader(REFUSING)
    body = AnswerBody(reader)
    for read in reads:
        body.feed(read)
    body.finish()
    return reader


WHOLE = msgspec.json.encode({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})


@pytest.mark.parametrize("reads", [(WHOLE,), (b" \n", WHOLE), (b"", WHOLE[:1], WHOLE[1:]), (WHOLE, b"\n")])
def test_a_body_that_is_one_object(reads: tuple[bytes, ...]) -> None:
    """The first character distinguishes a JSON object from an event stream."""
    answer = body_of(*reads).end()
    assert answer is not None
    assert answer.items == [Text("hi")]


@pytest.mark.parametrize("body", [b"<html></html>", b"hello", b"  x", b"event: x\n\n"])
def test_a_body_that_is_no_stream(body: bytes) -> None:
    """A body that is HTML or plain text fails with a note that names the requested path."""
    content = "a web page" if body.startswith(b"<") else "no event stream"
    with pytest.raises(ModelFailure, match=f"sent {content}; the request went to /: check the route's"):
        body_of(body)


@pytest.mark.parametrize(
    "reads", [(), (b"",), (b"\n\n",), (b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"cho',)]
)
def test_a_body_that_is_cut(reads: tuple[bytes, ...]) -> None:
    """An empty body and a truncated last event count as cut, not as malformed."""
    assert body_of(*reads).end() is None


def test_events_without_data_are_ignored() -> None:
    """Heartbeats without data are no part of the answer."""
    text = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    answer = body_of(b"data:\n\n" + text + b"data: \n\ndata: [DONE]\n\n").end()
    assert answer is not None
    assert answer.items == [Text("x")]


def test_events_after_the_end_are_ignored() -> None:
    """Events after the last one are ignored."""
    text = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    reader = body_of(text + b"data: [DONE]\n\ndata: nonsense\n\n")
    assert reader.done
    assert reader.end() is not None


@pytest.mark.parametrize("read", [b"data: " + b"x" * MAX_EVENT_BYTES + b"x", b"{" + b" " * MAX_WHOLE_BYTES])
def test_bodies_without_end(read: bytes) -> None:
    """The size of an event and of a whole object is limited."""
    with pytest.raises(ModelFailure, match="of more than") as raised:
        body_of(read)
    assert raised.value.reason == "bad_response"


# Connection pools.


async def test_a_pool_is_made_once(server: ModelServer) -> None:
    """Concurrent first calls make one pool for a server, in the thread that was passed."""
    pool_arguments: list[Any] = []

    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        pool_arguments.append(args)
        await trio.lowlevel.checkpoint()
        return function(*args)

    exchange = ExchangeFactory(server, ConnectionPools(7, in_thread))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hear, exchange("echo"))
    assert pool_arguments == [(server.base_url.removesuffix("/v1"), None, 7)]
    await exchange.pools.aclose()
    await hear(exchange("echo"))
    await exchange.pools.aclose()
    assert len(pool_arguments) == 2, "after closing, a new pool is made"


async def test_in_a_thread(server: ModelServer) -> None:
    """A slow operation runs in a thread by default."""
    pools = ConnectionPools(7)
    assert (await hear(ExchangeFactory(server, pools)("echo"))).text == "echo: hello"
    await pools.aclose()
