"""``conversation.send`` over the socket, durably accepted: 1, 10 and 100 callers, runs held."""

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from time import perf_counter_ns

from contrib.bench.client import request
from contrib.bench.processes import ROOT, Daemon, daemon
from contrib.bench.scale import Scale
from contrib.bench.store_update import percentile
from contrib.bench.table import Round, Row, at_least, at_most

# The only active run takes ten minutes, so all other runs stay queued.
CONFIG = "[runs]\nmax_active = 1\n[daemon]\ndrain_s = 0\n"
HOLD = "/slow 1 600000"
CALLERS = {1: None, 10: at_least(2.5), 100: at_least(4)}


def measure(scale: Scale) -> Iterator[Row]:
    """Measure each crowd beside the single caller, and a ping on another connection meanwhile."""
    sessions, sends = scale.pick(1_000, 20), scale.pick({1: 1_000, 10: 4_000, 100: 8_000}, {})
    figures: dict[int, list[float]] = {callers: [] for callers in CALLERS}
    stalls: dict[int, list[float]] = {callers: [] for callers in CALLERS}
    for _ in scale.rounds:
        with daemon(CONFIG) as server, server.client() as client:
            client.call("conversation.send", sender="holder", content=HOLD)
            sends_per_second(server, 20, sessions, sessions)
            for callers in CALLERS:
                with pinger(server) as waits:
                    figures[callers].append(
                        sends_per_second(server, callers, sends.get(callers, 100), sessions)
                    )
                stalls[callers].append(percentile(waits, 0.99))
    for callers, goal in CALLERS.items():
        pairs = [Round(*pair) for pair in zip(figures[callers], figures[1], strict=True)]
        name = f"conversation.send accepted, {callers} callers"
        if goal is None:
            yield Row("conversation.send accepted, 1 caller", "/s", [Round(pair.figure) for pair in pairs])
        else:
            yield Row(name, "/s", pairs, goal, "ratio", "1 caller")
            waited = [Round(stall) for stall in stalls[callers]]
            note = "ping time on another connection, p99: an upper bound of the loop's stall"
            yield Row(f"ping p99 beside {callers} callers", "ms", waited, at_most(5), note=note)


def sends_per_second(server: Daemon, callers: int, sends: int, sessions: int) -> float:
    """Return accepted sends per second, from callers that each send again as soon as they are answered."""
    numbers = count()
    with ExitStack() as stack, selectors.EpollSelector() as selector:
        connections = server.clients(callers, stack)
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
def pinger(server: Daemon) -> Iterator[list[float]]:
    """Run a process that pings every millisecond; provide its waits, in ms, at the end."""
    waits: list[float] = []
    command = [sys.executable, "-m", "contrib.bench.pinger", str(server.socket)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdout.readline()
        try:
            yield waits
        finally:
            process.stdin.close()
            waits += json.loads(process.stdout.read())
