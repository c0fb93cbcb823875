"""From the start of the daemon to its first reply, beside the start of Python itself."""

import sys
import time
from collections.abc import Iterator
from statistics import median

from contrib.bench.client import Client
from contrib.bench.processes import BIN, Daemon, home, program, took, until_answering
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most


def measure(scale: Scale) -> Iterator[Row]:
    """Two rows: a home that is new each time, and one with many sessions."""
    times = scale.pick(10, 1)
    many = scale.pick(100_000, 200)
    empty, full = [], []
    with home() as kept:
        with kept.running(), kept.client() as client:
            fill(client, many)
        for _ in scale.rounds:
            python = median(python_start() for _ in range(times))
            empty.append(Round(median(fresh_start() for _ in range(times)), python))
            full.append(Round(median(first_reply(kept) for _ in range(times)), python))
    yield Row("daemon start to first reply, new home", "ms", empty, at_most(20), "ratio", "python -c pass")
    what = f"daemon start to first reply, {many:,} sessions"
    yield Row(what, "ms", full, at_most(20), "ratio", "python -c pass")


def python_start() -> float:
    """Measure the start and end of this environment's Python, in milliseconds."""
    return took([sys.executable, "-c", "pass"])


def fresh_start() -> float:
    """Measure the start of the daemon in a home that it must create."""
    with home() as kept:
        return first_reply(kept)


def first_reply(kept: Daemon) -> float:
    """How long after its start the daemon answers, in milliseconds."""
    began = time.perf_counter()
    with program([BIN / "kheishd", "--home", kept.home], kept.log) as process:
        return (until_answering(kept.socket, process, kept.log) - began) * 1000


def fill(client: Client, sessions: int) -> None:
    """Create many sessions."""
    client.many([("session.create", {"title": f"Session {number}"}) for number in range(sessions)])
