"""From the start of the daemon to its first reply, beside the start of Python itself."""

import sys
import time
from collections.abc import Iterator
from statistics import median

from contrib.bench.client import Client
from contrib.bench.processes import BIN, Daemon, home, measure_duration, program, wait_until_answering
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows: a new home each time, and a home with many sessions."""
    times = scale.pick(10, 1)
    many = scale.pick(100_000, 200)
    empty, full = [], []
    with home() as server:
        with server.running(), server.client() as client:
            fill(client, many)
        for _ in scale.rounds:
            python = median(python_start() for _ in range(times))
            empty.append(Round(median(fresh_start() for _ in range(times)), python))
            full.append(Round(median(first_reply(server) for _ in range(times)), python))
    name = "daemon start to first reply, new home"
    yield Row(name, "ms", empty, at_most(18), "ratio", "python -c pass", is_headline=True)
    name = f"daemon start to first reply, {many:,} sessions"
    yield Row(name, "ms", full, at_most(18), "ratio", "python -c pass")


def python_start() -> float:
    """Measure the start and end of this environment's Python, in milliseconds."""
    return measure_duration([sys.executable, "-c", "pass"])


def fresh_start() -> float:
    """Measure the start of the daemon in a home that it must create."""
    with home() as server:
        return first_reply(server)


def first_reply(server: Daemon) -> float:
    """Measure the time from the daemon's start to its first answer, in milliseconds."""
    began = time.perf_counter()
    with program([BIN / "kheishd", "--home", server.home], server.log) as process:
        return (wait_until_answering(server.socket, process, server.log) - began) * 1000


def fill(client: Client, sessions: int) -> None:
    """Create many sessions."""
    client.many([("session.create", {"title": f"Session {number}"}) for number in range(sessions)])
