"""A connection without a transport: its buffers, its limits, and the answers that are sent together."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from kheishd.kernel.call import Caller
from kheishd.objects.node import journal, rpc
from kheishd.server.connection import SLICE_S, ClientConnection, EndReason, ServerContext
from kheishd.store.environment import Transaction
from protocol.errors.daemon import DaemonDraining
from protocol.errors.journal import SubscriptionExists, SubscriptionNotFound
from protocol.limits.rpc import MAX_OPEN_REQUESTS, MAX_UNSENT_BYTES
from protocol.objects.journal import Filter
from protocol.rpc.method import SCOPES
from protocol.rpc.wire import Decoded, decode
from tests.support.rpc_server import RpcServer, rpc_server
from tests.support.toys import Toys


class Wire(ClientConnection):
    """A transport that records messages and takes as many as a test allows."""

    def __init__(self, shared: ServerContext, scopes: frozenset[Any] = frozenset(SCOPES)) -> None:
        super().__init__(shared, Caller("uid:0", scopes))
        self.sent: list[list[bytes]] = []
        self.stopped: EndReason | None = None
        self.stuck = False

    def _transmit(self, messages: list[bytes]) -> None:
        self.sent.append(messages)
        if self.stuck:
            self.unsent_bytes += sum(map(len, messages))

    def take(self) -> None:
        """Take everything that was sent."""
        self.stuck = False
        self.unsent_bytes = 0
        self.wake()

    def stop(self, reason: EndReason) -> None:
        self.stopped = reason

    def messages(self) -> list[Any]:
        """Return every sent message, decoded."""
        return [msgspec.json.decode(message) for batch in self.sent for message in batch]


def request(method: str, id_: Any = 1, **params: Any) -> Decoded:
    """Return a request as the codec returns it."""
    return decode(msgspec.json.encode({"jsonrpc": "2.0", "id": id_, "method": method, "params": params}))


def batch(*messages: Any) -> Decoded:
    """Return a batch as the codec returns it."""
    return decode(msgspec.json.encode(list(messages)))


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys) -> AsyncIterator[RpcServer]:
    """Provide a server of the toys; tests create its connections."""
    async with rpc_server(tmp_path, [*toys.handlers(), *rpc.HANDLERS, *journal.HANDLERS]) as server:
        yield server


@pytest.fixture
def wire(server: RpcServer) -> Wire:
    """Provide a connection."""
    return Wire(server.server.shared)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_answers_of_one_read_are_sent_together(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers to the requests of one read are sent in one piece, if they are ready quickly."""
    monkeypatch.setattr("kheishd.server.connection.time.monotonic", lambda: 0.0)
    await wire.receive([request("toy.read", number) for number in range(100)])
    assert [len(messages) for messages in wire.sent] == [100]
    assert [message["id"] for message in wire.messages()] == list(range(100))


async def test_answers_of_one_commit_are_sent_together(wire: Wire) -> None:
    """Answers that become ready in one turn of the loop are sent in one piece."""
    await wire.receive([request("toy.keep", number, value="x") for number in range(10)])
    await until(lambda: len(wire.messages()) == 10)
    assert len(wire.sent) < 10


async def test_a_batch_is_answered_in_one_array(wire: Wire) -> None:
    """One array answers requests, refusals, invalid messages and mutations; notifications have no answer."""
    await wire.receive(
        [
            batch(
                {"jsonrpc": "2.0", "id": 1, "method": "toy.read"},
                {"jsonrpc": "2.0", "id": 2, "method": "no.such"},
                {"jsonrpc": "2.0", "method": "toy.read"},
                {"jsonrpc": "2.0", "method": "toy.keep", "params": {"value": "silent"}},
                5,
                {"jsonrpc": "2.0", "id": 3, "method": "toy.keep", "params": {"value": "x"}},
                {"jsonrpc": "2.0", "id": 4, "result": "an answer to nobody"},
            )
        ]
    )
    await until(lambda: bool(wire.sent))
    ((answer,),) = wire.sent
    by_id = {message["id"]: message for message in msgspec.json.decode(answer)}
    assert by_id.keys() == {1, 2, None, 3}
    assert by_id[1]["result"] is True
    assert by_id[2]["error"]["code"] == -32601
    assert by_id[None]["error"]["code"] == -32600
    assert by_id[3]["result"]["number"] == 2


async def test_a_batch_that_takes_long_lets_others_run(
    wire: Wire, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long batch is processed in slices, so other connections are served meanwhile."""
    clock = iter(range(10_000))
    monkeypatch.setattr("kheishd.server.connection.time.monotonic", lambda: next(clock) * SLICE_S)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not wire.sent:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    await wire.receive([batch(*[{"jsonrpc": "2.0", "id": n, "method": "toy.read"} for n in range(100)])])
    ((answer,),) = wire.sent
    assert len(msgspec.json.decode(answer)) == 100
    assert turns > 40


async def test_a_batch_of_notifications_is_not_answered(wire: Wire, toys: Toys) -> None:
    """A batch of notifications gets no answer, not even an empty array."""
    await wire.receive([batch(*[{"jsonrpc": "2.0", "method": "update", "params": [n]} for n in range(3)])])
    assert wire.sent == []
    assert toys.heard == [[0], [1], [2]]


async def test_a_batch_cannot_hold_more_answers_than_a_message(wire: Wire) -> None:
    """Answers beyond the size of a message are refused, so a batch costs no more than a message."""
    large = {"jsonrpc": "2.0", "method": "toy.large", "params": {"size": 1 << 20}}
    await wire.receive([batch(*[{"id": number, **large} for number in range(50)])])
    ((answer,),) = wire.sent
    answers = msgspec.json.decode(answer)
    refused = [message for message in answers if "error" in message]
    assert len(answers) == 50
    assert len(refused) == 50 - 16
    assert {message["error"]["data"]["reason"] for message in refused} == {"overloaded"}


async def test_a_peer_that_takes_nothing_is_not_read(wire: Wire, nursery: trio.Nursery) -> None:
    """Dispatching stops while more than a mebibyte is unsent."""
    wire.stuck = True
    values = [request("toy.large", number, size=400 * 1024) for number in range(10)]
    nursery.start_soon(wire.receive, values)
    await trio.testing.wait_all_tasks_blocked()
    assert len(wire.messages()) == 3
    assert wire.unsent_bytes <= MAX_UNSENT_BYTES + 401 * 1024
    wire.take()
    await until(lambda: len(wire.messages()) == 10)


async def held(server: RpcServer, nursery: trio.Nursery) -> Callable[[], None]:
    """Keep the writer busy; gives what lets it go on."""
    running, go = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        running.set()
        assert go.wait(30)

    nursery.start_soon(server.state.update, hold)
    await trio.to_thread.run_sync(running.wait)
    return go.set


async def test_uncommitted_requests_are_bounded(server: RpcServer, wire: Wire, nursery: trio.Nursery) -> None:
    """Dispatching stops while 64 mutations are uncommitted."""
    release = await held(server, nursery)
    nursery.start_soon(wire.receive, [request("toy.keep", number, value="x") for number in range(200)])
    await until(lambda: len(wire.opened) == MAX_OPEN_REQUESTS)
    for _ in range(5):
        await trio.lowlevel.checkpoint()
    assert len(wire.opened) == MAX_OPEN_REQUESTS
    release()
    await until(lambda: len(wire.messages()) == 200)
    assert not wire.opened


async def test_waiting_requests_are_bounded_and_the_rest_goes_on(wire: Wire, toys: Toys) -> None:
    """The 65th waiting request is refused; reading, cancelling and other requests still work."""
    await wire.receive([request("toy.wait", number) for number in range(MAX_OPEN_REQUESTS + 1)])
    (refused,) = wire.messages()
    assert refused["error"]["data"] == {"reason": "overloaded", "retryable": True}
    await wire.receive([request("toy.read", "r"), request("rpc.cancel", "c", id=7)])
    await until(lambda: len(wire.messages()) == 4)
    assert {message["id"] for message in wire.messages()} == {MAX_OPEN_REQUESTS, "r", "c", 7}
    await wire.receive([request("toy.wait", "again")])
    toys.gate.set()
    await until(lambda: not wire.opened)
    assert wire.messages()[-1].keys() == {"jsonrpc", "id", "result"}


async def test_what_is_queued_is_cancelled_and_never_happens(
    server: RpcServer, wire: Wire, nursery: trio.Nursery
) -> None:
    """A queued mutation can be cancelled and never runs; the one before it runs."""
    release = await held(server, nursery)
    await wire.receive([request("toy.keep", 1, value="first"), request("toy.keep", 2, value="second")])
    await wire.receive([request("rpc.cancel", 3, id=2), request("rpc.cancel", 4, id=9)])
    assert [message["id"] for message in wire.messages()] == [2, 3, 4]
    assert wire.messages()[0]["error"]["code"] == 1499
    assert wire.messages()[2]["error"]["data"]["reason"] == "request_not_found"
    release()
    await until(lambda: len(wire.messages()) == 4)
    assert wire.messages()[3]["result"]["value"] == "first"


async def test_a_wait_cancelled_before_its_commit_answers_after_it(
    server: RpcServer, wire: Wire, nursery: trio.Nursery
) -> None:
    """A running transaction cannot be cancelled, but its request no longer waits."""
    release = await held(server, nursery)
    await wire.receive([request("toy.follow", 1, value="x", wait=True)])
    (opened,) = wire.opened
    assert opened.job is not None
    release()
    opened.cancel()
    await until(lambda: not wire.opened)
    assert wire.messages()[-1]["error"]["code"] == 1499


async def test_a_disconnect_between_commit_and_follow_up_begins_nothing(
    wire: Wire, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follow-up of a committed mutation does not run for a client that has gone before it began."""
    tasks: list[Callable[[], Awaitable[None]]] = []
    monkeypatch.setattr(wire, "start", tasks.append)
    await wire.receive([request("toy.follow", 1, value="x", wait=True)])
    await until(lambda: len(tasks) == 1)
    wire.finished()
    await tasks[0]()
    assert toys.followed == 0
    assert not wire.opened


async def test_an_update_that_is_not_taken_leaves_nothing_open(
    server: RpcServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutation that the store rejects is refused and does not count as open."""

    def closed(*args: Any) -> None:
        raise DaemonDraining()

    monkeypatch.setattr(server.state, "submit", closed)
    await wire.receive([request("toy.keep", 1, value="x")])
    assert wire.messages()[0]["error"]["data"]["reason"] == "daemon_draining"
    assert not wire.opened
    assert not wire.pending


async def test_long_work_lets_others_run(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of one read are processed in slices."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("kheishd.server.connection.time.monotonic", lambda: next(ticks) * 0.001)
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(neighbour)
        await wire.receive([request("toy.read", number) for number in range(30)])
        nursery.cancel_scope.cancel()
    assert turns >= 8
    assert len(wire.sent) >= 8


async def test_the_answer_comes_before_what_it_announces(server: RpcServer, wire: Wire) -> None:
    """A subscription's events come after the answer that opens it, and end before the one that closes it."""
    await server.state.update(lambda tx: None)
    await wire.receive([request("toy.keep", 1, value="x")])
    await until(lambda: len(wire.messages()) == 1)
    await wire.receive([request("journal.subscribe", 2, after=0, subscription="s")])
    await until(lambda: len(wire.messages()) == 4)
    await wire.receive([request("journal.unsubscribe", 3, subscription="s")])
    kinds = [message.get("method", message.get("id")) for message in wire.messages()]
    assert kinds == [1, 2, "journal.event", "journal.synced", "journal.end", 3]


async def test_subscriptions_have_names_of_their_own(wire: Wire) -> None:
    """A used name, an unknown name and a subscription beyond the limit are refused."""
    wire.subscribe(Filter(), None, deltas=False, subscription="s")
    with pytest.raises(SubscriptionExists):
        wire.subscribe(Filter(), None, deltas=False, subscription="s")
    wire.unsubscribe("s")
    with pytest.raises(SubscriptionNotFound):
        wire.unsubscribe("s")


async def test_stopping_answers_what_waits(wire: Wire) -> None:
    """Stopping refuses waiting requests and ends subscriptions."""
    await wire.receive([request("toy.wait", 1), request("journal.subscribe", 2, subscription="s")])
    await until(lambda: len(wire.messages()) == 2)
    assert wire.pending
    wire.give_up("shutdown")
    await until(lambda: not wire.pending)
    end, refusal = wire.messages()[2:]
    assert end["params"] == {"subscription": "s", "reason": "shutdown"}
    assert refusal["error"]["data"]["reason"] == DaemonDraining.reason


async def test_a_half_closed_peer_ends_what_has_no_end(server: RpcServer, wire: Wire) -> None:
    """A half-close ends endless subscriptions and keeps one that follows a run."""
    await wire.receive([request("journal.subscribe", 1, subscription="s")])
    assert not wire.pending
    wire.end_endless()
    assert not wire.subscriptions
    assert wire.messages()[-1]["params"] == {"subscription": "s", "reason": "unsubscribed"}


async def test_once_over_nothing_is_sent(server: RpcServer, wire: Wire, nursery: trio.Nursery) -> None:
    """After the end of a connection, its transactions still run and nothing is sent."""
    release = await held(server, nursery)
    await wire.receive([request("toy.keep", 1, value="x"), request("toy.wait", 2)])
    wire.finished()
    release()
    await until(lambda: not wire.opened)
    assert wire.sent == []
    other = Wire(server.server.shared)
    await other.receive([request("toy.keep", 1, value="y")])
    await until(lambda: len(other.messages()) == 1)
    assert other.messages()[0]["result"]["number"] == 2


async def test_a_task_that_fails_ends_its_connection(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A failing task ends only its own connection, and the log has the traceback."""

    async def fail() -> None:
        raise RuntimeError("a fault in a task")

    wire.start(fail)
    await until(lambda: wire.stopped is not None)
    assert "a fault in a task" in caplog.text
