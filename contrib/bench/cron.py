"""Ten thousand cron entries: the memory that their timers take, and how late a burst of firings is.

The yardstick of the memory is the same daemon without entries; that of a burst of firings is the time in
which the daemon accepts as many messages of clients.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import perf_counter, sleep, time

from contrib.bench.client import Client, result_of
from contrib.bench.proc import memory_kib
from contrib.bench.processes import daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

WINDOW = 60
"""Open requests, of the 64 that a connection may have."""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows over the same rounds."""
    number, burst = scale.pick((10_000, 200), (100, 5))
    memory, lags = [], []
    for _ in range(scale.pick(2, 1)):
        mib, empty_mib, lag_ms, sends_ms = measure_entries(number, burst)
        memory.append(Round(mib, empty_mib))
        lags.append(Round(lag_ms, sends_ms))
    name = f"idle daemon with {number:,} cron entries"
    yield Row(name, "MiB", memory, at_most(10), judged="difference", yardstick="without entries")
    name, beside = f"lag of {burst} firings at one time, the last", "as many messages accepted"
    yield Row(name, "ms", lags, at_most(3), judged="ratio", yardstick=beside)


def measure_entries(number: int, burst: int) -> tuple[float, float, float, float]:
    """Return the memory with and without entries, the lag of a burst, and the time of as many messages."""
    with daemon() as server, Client(server.socket) as client:
        # A first entry imports what entries need.
        create(client, 0, "@yearly")
        empty = memory_kib(server.pid, "RssAnon") / 1024
        create_many(client, range(1, number - burst), "@yearly")
        full = memory_kib(server.pid, "RssAnon") / 1024
        lag_ms = measure_lag(client, range(number, number + burst))
        start = perf_counter()
        sends = ({"sender": f"sender{number}", "content": "tidy up"} for number in range(burst))
        client.many([("conversation.send", params) for params in sends])
        return full, empty, lag_ms, (perf_counter() - start) * 1000


def measure_lag(client: Client, numbers: range) -> float:
    """Return how late the last of some entries fires that are due at one time."""
    due = int(time()) + 2 + len(numbers) // 200
    create_many(client, numbers, f"at {datetime.fromtimestamp(due, UTC).isoformat()}")
    rows: list[dict[str, int]] = []
    while len(rows) < len(numbers):
        sleep(0.2)
        shown = (client.call("cron.get", cron_id=f"c{number}", count=0) for number in numbers)
        rows = [entry["recent"][0] for entry in shown if entry.get("recent")]
    return float(max(row["at_ms"] for row in rows) - due * 1000)


def create_many(client: Client, numbers: range, schedule: str) -> None:
    """Create entries, many at a time."""
    for first in range(0, len(numbers), WINDOW):
        sent = [create_later(client, number, schedule) for number in numbers[first : first + WINDOW]]
        for _ in sent:
            result_of(client.message())


def create(client: Client, number: int, schedule: str) -> None:
    """Create one entry."""
    create_later(client, number, schedule)
    result_of(client.message())


def create_later(client: Client, number: int, schedule: str) -> int:
    """Send the creation of an entry; return the id of the request."""
    target = {"agent": "default", "sender": f"user{number}", "prompt": "tidy up"}
    return client.send("cron.create", cron_id=f"c{number}", schedule=schedule, target=target)
