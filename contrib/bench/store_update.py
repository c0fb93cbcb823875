"""``State.update`` of one event, with 1, 10, 100 and 1,000 callers, beside a bare LMDB commit."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import lmdb
import trio

from contrib.bench.processes import on_core, scratch
from contrib.bench.scale import Scale
from contrib.bench.table import Goal, Round, Row, at_least, at_most
from kheishd.kernel.state import State, open_state
from kheishd.store.environment import Transaction
from protocol.events.run import InputReceived
from protocol.transcript import Text

VERSION = "bench"
MAX_STALL_MS = 5.0
BEAT_SECONDS = 0.001
ENTRY_BYTES = 300
SWITCH_SECONDS = 0.0005
COMMITS_IN_TURN = 50


@dataclass(slots=True)
class Load:
    """The load of some callers: updates per second, the duration of each, and the delays of the loop."""

    per_second: float
    took_us: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)


def measure(scale: Scale) -> Iterator[Row]:
    """Measure a single caller beside LMDB, then each crowd beside the single caller."""
    latencies: list[Round] = []
    rounds: dict[int, list[Load]] = {callers: [] for callers in (1, 10, 100, 1_000)}
    apart: list[Load] = []
    # The value of the daemon, where the loop and the writer share one interpreter.
    sys.setswitchinterval(SWITCH_SECONDS)
    for _ in scale.rounds:
        with scratch() as directory:
            with on_core():
                latencies.append(trio.run(latency, directory, scale.pick(40, 2)))
            for callers, loads in rounds.items():
                updates = scale.pick({1: 2_000, 10: 20_000}.get(callers, 60_000), 2 * callers)
                loads.append(trio.run(crowd, directory / str(callers), callers, updates, 1))
            updates = scale.pick(60_000, 2_000)
            apart.append(trio.run(crowd, directory / "apart", 1_000, updates, 1_000))
    name = "store.update p50, 1 caller, one core"
    yield Row(name, "µs", latencies, at_most(1.3), "ratio", "bare LMDB commit")
    yield from crowds(rounds, apart)


def crowds(rounds: dict[int, list[Load]], apart: list[Load]) -> Iterator[Row]:
    """Yield the rows of many callers."""
    alone = rounds[1]
    goals: dict[int, Goal] = {10: at_least(6), 100: at_least(30), 1_000: at_least(50)}
    for callers, goal in goals.items():
        name = f"store.update, {callers:,} callers"
        yield Row(name, "/s", beside(rounds[callers], alone), goal, "ratio", "1 caller")
    name = "store.update, 1,000 callers, 1,000 sessions"
    note = "every update of a group touches a page of its own, which the commit writes"
    yield Row(name, "/s", beside(apart, alone), None, "ratio", "1 caller", note)
    for callers in (100, 1_000):
        stalls = [Round(percentile(load.late_ms, 0.99)) for load in rounds[callers]]
        yield Row(f"loop stall p99, {callers:,} callers", "ms", stalls, at_most(MAX_STALL_MS))
    waits = [
        Round(median(many.took_us), median(single.took_us))
        for many, single in zip(rounds[100], alone, strict=True)
    ]
    yield Row("store.update p50, 100 callers", "µs", waits, at_most(3), "ratio", "1 caller")


def beside(crowd: list[Load], alone: list[Load]) -> list[Round]:
    """Return updates per second of many callers, beside those of one."""
    return [Round(many.per_second, single.per_second) for many, single in zip(crowd, alone, strict=True)]


async def latency(directory: Path, turns: int) -> Round:
    """Return the median time of an update and of a bare commit, measured in turn because disks vary."""
    ours: list[float] = []
    with bare_commits(directory / "bare") as commits:
        async with open_state(directory / "latency", version=VERSION) as state:
            theirs: list[float] = []
            for _ in range(turns):
                load = Load(0.0)
                await caller(state, 0, COMMITS_IN_TURN, load)
                ours += load.took_us
                theirs += islice(commits, COMMITS_IN_TURN)
    return Round(median(ours), median(theirs))


@contextmanager
def bare_commits(directory: Path) -> Iterator[Iterator[float]]:
    """Measure repeated commits of one entry of the same size in LMDB, in microseconds."""
    directory.mkdir()
    with lmdb.open(str(directory), map_size=1 << 30, max_dbs=2, readahead=False) as environment:
        yield _commits(environment)


def _commits(environment: lmdb.Environment) -> Iterator[float]:
    table = environment.open_db(b"journal")
    entry = b"x" * ENTRY_BYTES
    for number in count():
        began = perf_counter_ns()
        with environment.begin(write=True, db=table) as transaction:
            transaction.put(number.to_bytes(8, "big"), entry, append=True)
        yield (perf_counter_ns() - began) / 1000


async def crowd(directory: Path, callers: int, updates: int, sessions: int) -> Load:
    """Run callers that each wait for one update after another, spread over the sessions."""
    load = Load(0.0)
    async with open_state(directory, version=VERSION) as state:
        began = perf_counter_ns()
        async with trio.open_nursery() as beating:
            beating.start_soon(heartbeat, load)
            async with trio.open_nursery() as nursery:
                for number in range(callers):
                    nursery.start_soon(caller, state, number % sessions, ceil(updates / callers), load)
            beating.cancel_scope.cancel()
        load.per_second = len(load.took_us) / (perf_counter_ns() - began) * 1e9
    return load


async def caller(state: State, number: int, updates: int, load: Load) -> None:
    """Make sequential updates, each of one event in the session with this number."""
    stream = f"session_{number:026d}"
    event = InputReceived(input_id=f"input_{number:026d}", items=[Text("word " * 20)], sender="user")

    def append(transaction: Transaction) -> None:
        transaction.append(stream, event, session_id=stream, actor="uid:1000")

    for _ in range(updates):
        began = perf_counter_ns()
        await state.update(append)
        load.took_us.append((perf_counter_ns() - began) / 1000)


async def heartbeat(load: Load) -> None:
    """Sleep a millisecond repeatedly, and record the delay of each wake-up."""
    while True:
        due = trio.current_time() + BEAT_SECONDS
        await trio.sleep_until(due)
        load.late_ms.append((trio.current_time() - due) * 1000)


def percentile(values: list[float], share: float) -> float:
    """Return the value that a share of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
