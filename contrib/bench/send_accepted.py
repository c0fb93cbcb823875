"""``conversation.send`` over the socket, durably accepted: one send, and 1, 10 and 100 callers, runs held."""

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import dial, request
from contrib.bench.processes import ROOT, daemon, on_core, scratch
from contrib.bench.prototype import prototype
from contrib.bench.scale import Scale
from contrib.bench.store_update import bare_commits, percentile
from contrib.bench.table import Round, Row, at_least, at_most

# The only active run takes ten minutes, so all other runs stay queued.
CONFIG = "[runs]\nmax_active = 1\n[daemon]\ndrain_s = 0\n"
HOLD = "/slow 1 600000"
NO_MODEL = b'POST / HTTP/1.1\r\n\r\n{"messages":[{},{"role":"user","content":""}]}'
"""A request for the prototype, whose inputs are only stored."""
CALLERS = {1: None, 10: at_least(2.5), 100: at_least(4)}


def measure(scale: Scale) -> Iterator[Row]:
    """Measure one send beside a bare commit, crowds beside one caller, and a ping beside each crowd."""
    yield one_send(scale)
    yield from crowds(scale)


def one_send(scale: Scale) -> Row:
    """Measure the median time of a send, on one core; sends and bare commits take turns."""
    rounds, numbers, sessions = [], count(), scale.pick(200, 5)
    with on_core(), daemon(CONFIG) as server, server.client() as client, scratch() as directory:
        client.call("conversation.send", sender="holder", content=HOLD)
        with bare_commits(directory / "bare") as commits, server.dial() as connection:
            for _ in scale.rounds:
                ours, bare = [], []
                for _ in range(scale.pick(400, 10)):
                    bare.append(next(commits))
                    began = perf_counter_ns()
                    send(connection, next(numbers), sessions)
                    read_answer(connection)
                    ours.append((perf_counter_ns() - began) / 1000)
                rounds.append(Round(median(ours), median(bare)))
    name = "one durable send (conversation.send, the run queued)"
    return Row(name, "µs", rounds, at_most(5), "ratio", "bare LMDB commit", is_headline=True)


def crowds(scale: Scale) -> Iterator[Row]:
    """Measure callers that each send again as soon as they are answered."""
    sessions, sends = scale.pick(1_000, 20), scale.pick({1: 1_000, 10: 4_000, 100: 8_000}, {})
    figures: dict[int, list[float]] = {callers: [] for callers in CALLERS}
    stalls: dict[int, list[Round]] = {callers: [] for callers in CALLERS}
    for _ in scale.rounds:
        with daemon(CONFIG) as server, server.client() as client, prototype(0, NO_MODEL) as path:
            client.call("conversation.send", sender="holder", content=HOLD)
            for socket_path in (server.socket, path):
                sends_per_second(socket_path, 20, sessions, sessions)
            for callers in CALLERS:
                times = sends.get(callers, 100)
                with pinger(server.socket) as waits:
                    figures[callers].append(sends_per_second(server.socket, callers, times, sessions))
                with pinger(path) as bare:
                    sends_per_second(path, callers, times, sessions)
                stalls[callers].append(Round(percentile(waits, 0.99), percentile(bare, 0.99)))
    yield Row("conversation.send accepted, 1 caller", "/s", [Round(figure) for figure in figures[1]])
    for callers, goal in CALLERS.items():
        if goal is not None:
            pairs = [Round(*pair) for pair in zip(figures[callers], figures[1], strict=True)]
            name = f"conversation.send accepted, {callers} callers"
            yield Row(name, "/s", pairs, goal, "ratio", "1 caller")
            name, note = f"ping p99 beside {callers} senders", "on another connection, from another process"
            beside, is_headline = "bare prototype", callers == max(CALLERS)
            yield Row(name, "ms", stalls[callers], at_most(5), "figure", beside, note, is_headline)


def sends_per_second(path: Path, callers: int, sends: int, sessions: int) -> float:
    """Return accepted sends per second, from callers that each send again as soon as they are answered."""
    numbers = count()
    with ExitStack() as stack, selectors.EpollSelector() as selector:
        connections = [stack.enter_context(dial(path)) for _ in range(callers)]
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        began = perf_counter_ns()
        for connection in connections:
            send(connection, next(numbers), sessions)
        answered = 0
        while answered < sends:
            for key, _ in selector.select():
                connection = key.fileobj  # type: ignore[assignment]
                answered += read_answer(connection)
                send(connection, next(numbers), sessions)
        return answered / (perf_counter_ns() - began) * 1e9


def send(connection: socket.socket, number: int, sessions: int) -> None:
    """Send to the next of the conversations."""
    params = {"sender": f"sender-{number % sessions}", "content": "Good morning, what is new today?"}
    connection.sendall(request(number, "conversation.send", params))


def read_answer(connection: socket.socket) -> int:
    """Read one answer; return 1. Errors: ConnectionError unless the input is queued."""
    received = connection.recv(65536)
    while not received.endswith(b"\n"):
        received += connection.recv(65536)
    if b'"queued"' not in received:
        raise ConnectionError(f"not accepted: {received.decode()}")
    return 1


@contextmanager
def pinger(path: Path) -> Iterator[list[float]]:
    """Run a process that pings every millisecond; provide its waits, in ms, at the end."""
    waits: list[float] = []
    command = [sys.executable, "-m", "contrib.bench.pinger", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdout.readline()
        try:
            yield waits
        finally:
            process.stdin.close()
            waits += json.loads(process.stdout.read())
