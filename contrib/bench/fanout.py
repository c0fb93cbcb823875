"""Deltas of 1 KiB to a hundred subscribers, beside plain sockets and beside a channel per client."""

import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import Client, dial
from contrib.bench.model import config, model_server
from contrib.bench.processes import Daemon, daemon, yardstick
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_least

SUBSCRIBERS = 100
PIECES = 120
PIECE_BYTES = 1024
MARK = b'"type":"run_ended"'
"""A part of the line that ends one burst; a durable event follows all earlier deltas."""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows over the same rounds."""
    bursts = scale.pick(15, 2)
    ours, plain, channel = [], [], []
    for _ in scale.rounds:
        ours.append(of_daemon(bursts))
        plain.append(of_yardstick("plain", bursts))
        channel.append(of_yardstick("channel", bursts))
    name = f"deltas to {SUBSCRIBERS} subscribers"
    beside = [Round(figure, yardstick_figure) for figure, yardstick_figure in zip(ours, plain, strict=True)]
    yield Row(name, "/s", beside, at_least(0.3), "ratio", "plain-socket writer")
    beside = [Round(figure, yardstick_figure) for figure, yardstick_figure in zip(ours, channel, strict=True)]
    yield Row(name, "/s", beside, at_least(5), "ratio", "a channel per client")


def of_daemon(bursts: int) -> float:
    """Measure deliveries per second of the real daemon: all subscribers follow a model's answer."""
    with (
        model_server() as port,
        daemon(config(port)) as server,
        server.client() as client,
        ExitStack() as stack,
    ):
        answer = f"long:{PIECES * PIECE_BYTES}"
        subscribers = [subscriber(server, stack) for _ in range(SUBSCRIBERS)]

        def burst() -> None:
            client.send("conversation.send", content="tell me", model=answer)

        return deliveries(subscribers, burst, bursts)


def subscriber(server: Daemon, stack: ExitStack) -> socket.socket:
    """Return a connection that follows every delta and, of the durable events, only the end of a run."""
    client = stack.enter_context(Client(server.socket))
    client.call("journal.subscribe", deltas=True, types=["run_ended"])
    while not any(note["method"] == "journal.synced" for note in client.notes):
        client.notes.append(client.message())
    return client.socket


def of_yardstick(mode: str, bursts: int) -> float:
    """Measure deliveries per second of a server that only fans out."""
    with yardstick("fanout", mode, str(PIECES), str(PIECE_BYTES)) as path, ExitStack() as stack:
        subscribers = [stack.enter_context(dial(path)) for _ in range(SUBSCRIBERS)]
        for connection in subscribers:
            connection.sendall(b"here\n")
            connection.recv(16)
        return deliveries(subscribers, lambda: subscribers[0].sendall(b"go\n"), bursts)


def deliveries(subscribers: list[socket.socket], burst: Callable[[], None], bursts: int) -> float:
    """Measure deliveries per second; a burst lasts from its first byte to its end at the last subscriber."""
    with selectors.EpollSelector() as selector:
        for connection in subscribers:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        measure_burst(selector, burst)
        took = [measure_burst(selector, burst) for _ in range(bursts)]
    return len(subscribers) * PIECES / median(took) * 1e9


def measure_burst(selector: selectors.EpollSelector, burst: Callable[[], None]) -> int:
    """Return the nanoseconds from the first byte to the end mark on every connection."""
    tails: dict[int, bytes] = {}
    began = 0
    burst()
    waiting = len(selector.get_map())
    while waiting:
        ready = selector.select(60)
        if not ready:
            raise TimeoutError("a burst does not end")
        began = began or perf_counter_ns()
        for key, _ in ready:
            connection: socket.socket = key.fileobj  # type: ignore[assignment]
            received = connection.recv(1 << 18)
            if not received:
                raise ConnectionError("a subscriber was cut off")
            text = tails.get(key.fd, b"") + received
            waiting -= MARK in text
            tails[key.fd] = text[-len(MARK) + 1 :] if MARK not in text else b""
    return perf_counter_ns() - began
