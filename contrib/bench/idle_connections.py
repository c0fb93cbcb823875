"""Ten thousand silent connections: memory per connection, processor time, and a ping beside them."""

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from contrib.bench.client import PING, round_trips
from contrib.bench.proc import cpu_ms, memory_kib
from contrib.bench.processes import Daemon, daemon, on_core
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

SPARE_FILES = 200


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    desired = scale.pick(10_000, 50)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    connections = min(desired, allowed - SPARE_FILES) if allowed != resource.RLIM_INFINITY else desired
    note = (
        f"only {connections:,}: this machine allows {allowed:,} open files" if connections < desired else ""
    )
    memories, spent, pings = [], [], []
    for _ in range(scale.pick(3, 1)):
        with on_core(), daemon() as server:
            memory, processor, ping = idle(server, connections, scale.pick(3.0, 0.2))
            memories.append(Round(memory))
            spent.append(Round(processor))
            pings.append(ping)
    beside = f"{connections:,} idle connections"
    yield Row(beside, "KiB each", memories, at_most(8), note=note)
    yield Row(f"processor time, {beside}", "ms/s", spent, at_most(1))
    yield Row(f"rpc.ping p50, one core, {beside}", "µs", pings, at_most(1.1), "ratio", "none")


def idle(server: Daemon, connections: int, seconds: float) -> tuple[float, float, Round]:
    """Return KiB per connection, processor milliseconds per second, and the ping with and without them."""
    with ExitStack() as stack:
        asking = stack.enter_context(server.dial())
        without = median(round_trips(asking, PING, 1_000)) / 1000
        before = memory_kib(server.pid, "RssAnon")
        server.clients(connections, stack)
        beside = median(round_trips(asking, PING, 1_000)) / 1000
        memory = (memory_kib(server.pid, "RssAnon") - before) / connections
        spent = cpu_ms(server.pid)
        time.sleep(seconds)
        return memory, (cpu_ms(server.pid) - spent) / seconds, Round(beside, without)
