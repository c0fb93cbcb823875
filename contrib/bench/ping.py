"""The round trip of ``rpc.ping``: one client, pipelined, and fifty clients."""

from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from contrib.bench.client import PING, dial, pipelined_per_second, round_trips, sweeps_per_second
from contrib.bench.processes import daemon, on_core, yardstick
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_least, at_most

DEEP = 100
CLIENTS = 50


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    yield measure_one(scale)
    yield from measure_many(scale)


def measure_one(scale: Scale) -> Row:
    """Measure client and server on one core: a wake-up across cores costs more than the request."""
    count = scale.pick(5_000, 100)
    rounds = []
    with (
        on_core(),
        daemon() as server,
        yardstick("echo") as path,
        server.dial() as ours,
        dial(path) as theirs,
    ):
        for connection in (ours, theirs):
            round_trips(connection, PING, count // 5)
        for _ in scale.rounds:
            figure = median(round_trips(ours, PING, count)) / 1000
            rounds.append(Round(figure, median(round_trips(theirs, PING, count)) / 1000))
    return Row("rpc.ping p50, one core", "µs", rounds, at_most(1.6), "ratio", "raw trio echo")


def measure_many(scale: Scale) -> Iterator[Row]:
    """Measure client and server on separate cores, if there are two."""
    times = scale.pick(400, 5)
    deep, wide = [], []
    with ExitStack() as stack:
        server, path = stack.enter_context(daemon()), stack.enter_context(yardstick("echo"))
        ours = server.clients(CLIENTS, stack)
        theirs = [stack.enter_context(dial(path)) for _ in range(CLIENTS)]
        for _ in scale.rounds:
            figure = pipelined_per_second(ours[0], PING, DEEP, times)
            deep.append(Round(figure, pipelined_per_second(theirs[0], PING, DEEP, times)))
            figure = sweeps_per_second(ours, PING, times)
            wide.append(Round(figure, sweeps_per_second(theirs, PING, times)))
    yield Row("rpc.ping, pipelined 100 deep", "/s", deep, at_least(0.05), "ratio", "raw trio echo")
    yield Row("rpc.ping, 50 clients", "/s", wide, at_least(0.6), "ratio", "raw trio echo")
