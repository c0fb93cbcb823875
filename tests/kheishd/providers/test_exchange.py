"""One exchange: both timeouts, early leaving, bodies of every kind, and no error but its own."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from kheishd.config.sections.runs import RunsSection
from kheishd.core.text.sse import MAX_EVENT_BYTES
from kheishd.kernel.runtime import ModelFailure, TextDelta
from kheishd.providers import openai
from kheishd.providers.driver import HttpRequest
from kheishd.providers.exchange import (
    MAX_WHOLE_BYTES,
    AnswerBody,
    CallTimeouts,
    ConnectionPools,
    Exchange,
    host_of,
)
from kheishd.providers.failures import FailureFactory
from protocol.transcript import Text
from tests.support.model_asking import Heard, asking, inline
from tests.support.model_server import ModelServer

REFUSING = FailureFactory("api.test", "sk-secret")


class Asker:
    """Makes exchanges with the model server, over connections of their own."""

    def __init__(self, server: ModelServer, places: ConnectionPools) -> None:
        self.server = server
        self.places = places

    def __call__(self, model: str, reader: openai.ChatReader | None = None) -> Exchange:
        """Return an exchange with this model."""
        post = openai.post(asking("hello", model=model), self.server.base_url, "sk-secret")
        patience = CallTimeouts(RunsSection())
        return Exchange(self.places, post, reader or openai.reader(REFUSING), REFUSING, patience)


@pytest.fixture
async def exchange(server: ModelServer) -> AsyncIterator[Asker]:
    """Exchanges with the model server; connections that they keep are closed at the end."""
    places = ConnectionPools(10, inline)
    yield Asker(server, places)
    await places.aclose()


async def hear(asked: Exchange) -> Heard:
    """All that an exchange gives."""
    heard = Heard()
    try:
        async with asked as events:
            async for event in events:
                heard.take(event)
    except ModelFailure as failure:
        heard.failure = failure
    return heard


# Timeouts.


async def test_patience_lets_through_what_comes_in_time(autojump_clock: MockClock) -> None:
    """What comes in time is given; each wait has its own time, all of them together have theirs."""
    patience = CallTimeouts(RunsSection(stream_timeout_s=10, inactivity_timeout_s=4))

    async def after(seconds: float) -> float:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(seconds):
            await trio.sleep_forever()
        return seconds

    assert await patience.wait(lambda: after(3)) == 3
    assert await patience.wait(lambda: after(3)) == 3
    with pytest.raises(ModelFailure, match="sent nothing for 4 s") as quiet:
        await CallTimeouts(RunsSection(inactivity_timeout_s=4)).wait(lambda: after(5))
    with pytest.raises(ModelFailure, match="not complete after 10 s") as total:
        await patience.wait(lambda: after(5))
    for raised in (quiet, total):
        assert (raised.value.reason, raised.value.retryable) == ("timed_out", True)


async def test_a_server_that_never_answers(
    server: ModelServer, exchange: Asker, mock_clock: MockClock
) -> None:
    """A server that takes the request and says nothing is given up, and its connection closed."""
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            asked = exchange("hang")
            heard: list[Heard] = []
            nursery.start_soon(collect, asked, heard)
            recorded = await server.request()
            await recorded.begun.wait()
            mock_clock.jump(121)
            await recorded.left.wait()
    assert heard[0].failed().reason == "timed_out"


async def test_a_server_that_stops_in_the_middle(
    server: ModelServer, exchange: Asker, mock_clock: MockClock
) -> None:
    """A server that goes quiet is given up after the time without activity; what came was told."""
    heard = Heard()
    told = trio.Event()

    async def listen() -> None:
        try:
            async with exchange("hang-mid") as events:
                async for event in events:
                    heard.take(event)
                    told.set()
        except ModelFailure as failure:
            heard.failure = failure

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await told.wait()
        mock_clock.jump(121)
    assert heard.text == "so far "
    assert "sent nothing for 120 s" in heard.failed().message


async def collect(asked: Exchange, into: list[Heard]) -> None:
    """Hear an exchange, in a task."""
    into.append(await hear(asked))


# Leaving.


async def test_leaving_early_closes_the_connection(server: ModelServer, exchange: Asker) -> None:
    """The server sees at once that nobody listens any more."""
    async with exchange("hang-mid") as events:
        assert await anext(events) == TextDelta("so far ")
    with trio.fail_after(5):
        await server.requests[0].left.wait()


async def test_an_error_of_the_block_stays_what_it_is(server: ModelServer, exchange: Asker) -> None:
    """An error raised while listening is not wrapped, and closes the connection."""

    async def listen() -> None:
        async with exchange("hang-mid") as events:
            await anext(events)
            raise KeyError

    with pytest.raises(KeyError):
        await listen()
    with trio.fail_after(5):
        await server.requests[0].left.wait()


@pytest.mark.parametrize("model", ["hang", "hang-mid"])
async def test_a_cancellation_stays_what_it_is(server: ModelServer, exchange: Asker, model: str) -> None:
    """A cancellation reaches the exchange wherever it waits, and comes out as one."""
    seen: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            try:
                await hear(exchange(model))
            except BaseException as error:
                seen.append(error)
                raise

        nursery.start_soon(listen)
        recorded = await server.request()
        await recorded.begun.wait()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in seen] == [trio.Cancelled]
    with trio.fail_after(5):
        await recorded.left.wait()


async def test_a_whole_answer_keeps_the_connection(server: ModelServer, exchange: Asker) -> None:
    """After a whole answer, or an error that was read, the connection serves the next call."""
    for _ in range(3):
        assert (await hear(exchange("echo"))).text == "echo: hello"
    await hear(exchange("status:500"))
    await hear(exchange("nonstream"))
    assert server.connections == 1
    await hear(exchange("long:9000000"))
    await hear(exchange("echo"))
    assert server.connections == 2, "what is over the limit is not read"


async def test_an_answer_over_the_limit_is_closed(server: ModelServer, exchange: Asker) -> None:
    """Once no more is kept the connection is closed, though the server would go on."""
    heard = await hear(exchange("long:9000000"))
    assert heard.answered().stop_reason == "length"
    with trio.fail_after(5):
        await server.requests[0].left.wait()


# What comes.


async def test_what_came_together_is_told_together(exchange: Asker) -> None:
    """Fifty pieces that arrived in one read are two deltas: the first words, and the rest."""
    heard = await hear(exchange("chunks:50:60"))
    assert len(heard.deltas) == 2
    assert heard.text.split()[-1] == "word50"


async def test_what_came_is_told_before_a_failure(exchange: Asker) -> None:
    """A piece that arrived with the error is told, then the error."""
    heard = await hear(exchange("error-event"))
    assert heard.text == "fine "
    assert heard.failed().reason == "overloaded"
    assert "sk-secret" not in heard.failed().message


async def test_compression_is_refused(nursery: trio.Nursery) -> None:
    """A server that compresses without being asked is said to."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b"
        )

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
    patience = CallTimeouts(RunsSection())
    asked = Exchange(
        ConnectionPools(1, inline), HttpRequest(url, {}, b"{}"), openai.reader(REFUSING), REFUSING, patience
    )
    heard = await hear(asked)
    assert heard.failed().reason == "bad_response"
    assert "compressed (gzip)" in heard.failed().message


async def test_our_own_faults_come_out_as_they_are(exchange: Asker) -> None:
    """A fault in a reader is neither hidden nor made a failure of the provider."""

    class Faulty(openai.ChatReader):
        def event(self, data: bytes) -> None:
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
    """A JSON object is told from a stream by its first character."""
    answer = body_of(*reads).end()
    assert answer is not None
    assert answer.items == [Text("hi")]


@pytest.mark.parametrize("body", [b"<html></html>", b"hello", b"  x", b"event: x\n\n"])
def test_a_body_that_is_no_stream(body: bytes) -> None:
    """A page, or a text, is no event stream and is said to be none."""
    with pytest.raises(ModelFailure, match="no event stream"):
        body_of(body)


@pytest.mark.parametrize(
    "reads", [(), (b"",), (b"\n\n",), (b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: {"cho',)]
)
def test_a_body_that_is_cut(reads: tuple[bytes, ...]) -> None:
    """Nothing, or a stream whose last event is a torso, is not malformed_answer but cut."""
    assert body_of(*reads).end() is None


def test_what_follows_the_end_is_passed_over() -> None:
    """Events after the last are not read, whatever they are."""
    reader = body_of(b"data: [DONE]\n\ndata: nonsense\n\n")
    assert reader.done
    assert reader.end() is not None


@pytest.mark.parametrize("read", [b"data: " + b"x" * MAX_EVENT_BYTES + b"x", b"{" + b" " * MAX_WHOLE_BYTES])
def test_bodies_without_end(read: bytes) -> None:
    """Neither an event nor an object is gathered without end."""
    with pytest.raises(ModelFailure, match="of more than") as raised:
        body_of(read)
    assert raised.value.reason == "bad_response"


# ConnectionPools.


async def test_a_place_is_made_once(server: ModelServer) -> None:
    """Many first calls at once make one pool, in the thread they are given."""
    made: list[Any] = []

    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        made.append(args)
        await trio.lowlevel.checkpoint()
        return function(*args)

    exchange = Asker(server, ConnectionPools(7, in_thread))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hear, exchange("echo"))
    assert made == [(f"{server.base_url}/chat/completions", 7)]
    await exchange.places.aclose()
    await hear(exchange("echo"))
    await exchange.places.aclose()
    assert len(made) == 2, "after closing, a place is made anew"


async def test_in_a_thread(server: ModelServer) -> None:
    """By default what takes long is done in a thread."""
    places = ConnectionPools(7)
    assert (await hear(Asker(server, places)("echo"))).text == "echo: hello"
    await places.aclose()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.test/v1", "api.test"),
        ("http://user:secret@127.0.0.1:8080/v1", "127.0.0.1:8080"),
        ("nonsense", "the provider"),
        ("http://[::1", "the provider"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    """Messages name the host, and never what else may stand in a URL."""
    assert host_of(url) == host
