"""Ten thousand connections that say nothing: the memory of each, the processor's time, a ping beside them."""

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
    """Three rows."""
    wanted = scale.pick(10_000, 50)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    connections = min(wanted, allowed - SPARE_FILES) if allowed != resource.RLIM_INFINITY else wanted
    note = f"only {connections:,}: this machine allows {allowed:,} open files" if connections < wanted else ""
    each, spent, pings = [], [], []
    for _ in range(scale.pick(3, 1)):
        with on_core(), daemon() as kept:
            memory, processor, ping = idle(kept, connections, scale.pick(3.0, 0.2))
            each.append(Round(memory))
            spent.append(Round(processor))
            pings.append(ping)
    beside = f"{connections:,} idle connections"
    yield Row(beside, "KiB each", each, at_most(8), note=note)
    yield Row(f"processor's time, {beside}", "ms/s", spent, at_most(1))
    yield Row(f"rpc.ping p50, one core, {beside}", "µs", pings, at_most(1.1), "ratio", "none")


def idle(kept: Daemon, connections: int, seconds: float) -> tuple[float, float, Round]:
    """KiB a connection, milliseconds of processor a second, and the ping's round trip with and without."""
    with ExitStack() as stack:
        asking = stack.enter_context(kept.dial())
        without = median(round_trips(asking, PING, 1_000)) / 1000
        before = memory_kib(kept.pid, "RssAnon")
        kept.clients(connections, stack)
        beside = median(round_trips(asking, PING, 1_000)) / 1000
        each = (memory_kib(kept.pid, "RssAnon") - before) / connections
        spent = cpu_ms(kept.pid)
        time.sleep(seconds)
        return each, (cpu_ms(kept.pid) - spent) / seconds, Round(beside, without)
