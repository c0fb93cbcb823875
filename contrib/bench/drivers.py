"""The drivers side by side: the time and the processor time that each adds to its provider's own."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from statistics import median
from typing import get_args

from contrib.bench.client import Client
from contrib.bench.model import ANSWER, Direct, config, make_route, model_server, newest_request
from contrib.bench.proc import cpu_ms
from contrib.bench.processes import Daemon, daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.tokens import last, time_to_text
from contrib.bench.turn import turn
from protocol.objects.route import Driver

DRIVERS = tuple(driver for driver in get_args(Driver) if driver != "offline")
REFERENCE = "openai"
"""The driver that the others are compared with."""

# A newer driver may be slower by a tenth.
GOALS = {"responses": at_most(1.1), "google": at_most(1.1)}

Figures = dict[str, float]
"""A figure of each driver."""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows for each driver."""
    rounds: dict[str, list[Figures]] = {"first token": [], "each token": [], "processor time of a turn": []}
    units = {"first token": "ms", "each token": "µs", "processor time of a turn": "ms"}
    with ExitStack() as stack:
        port = stack.enter_context(model_server())
        routes = "".join(make_route(port, driver, driver) for driver in DRIVERS)
        server = stack.enter_context(daemon(config(port, routes)))
        client = stack.enter_context(server.client())
        directs, long, tokens = {}, {}, scale.pick(1_000, 50)
        for driver in DRIVERS:
            time_to_text(client, f"warm-{driver}", ANSWER, b"word1 ", driver)
            directs[driver] = stack.enter_context(Direct(port, newest_request(port)))
            time_to_text(client, f"long-{driver}", f"chunks:{tokens}", last(tokens), driver)
            long[driver] = stack.enter_context(Direct(port, newest_request(port)))
        for number in scale.rounds:
            turns = scale.pick(40, 3)
            rounds["first token"].append(first_token(client, directs, f"first{number}", turns))
            rounds["each token"].append(each_token(client, long, f"each{number}", tokens))
            spent = processor_time(client, server, f"cpu{number}", turns)
            rounds["processor time of a turn"].append(spent)
    for name, figures in rounds.items():
        for driver in DRIVERS:
            pairs = [Round(round_[driver], round_[REFERENCE]) for round_ in figures]
            if driver == REFERENCE:
                yield Row(f"{name}, {driver}", units[name], [Round(pair.figure) for pair in pairs])
            else:
                goal, beside = GOALS.get(driver), f"driver {REFERENCE}"
                yield Row(f"{name}, {driver}", units[name], pairs, goal, "ratio", beside)


def first_token(client: Client, directs: Mapping[str, Direct], name: str, turns: int) -> Figures:
    """Measure the time to the first token that each driver adds, in ms. The drivers take turns."""
    added: dict[str, list[float]] = {driver: [] for driver in directs}
    for _ in range(turns):
        for driver, direct in directs.items():
            alone = direct.turn().first_ms
            ours = time_to_text(client, f"{name}-{driver}", ANSWER, b"word1 ", driver)
            added[driver].append(ours - alone)
    return {driver: median(times) for driver, times in added.items()}


def each_token(client: Client, directs: Mapping[str, Direct], name: str, tokens: int) -> Figures:
    """Measure the time that each driver adds to a token of a long answer, in µs."""
    added: dict[str, list[float]] = {driver: [] for driver in directs}
    long = f"chunks:{tokens}"
    for number in range(5):
        for driver, direct in directs.items():
            alone = direct.turn().end_ms
            ours = time_to_text(client, f"{name}-{driver}-{number}", long, last(tokens), driver)
            added[driver].append((ours - alone) / tokens * 1000)
    return {driver: median(times) for driver, times in added.items()}


def processor_time(client: Client, server: Daemon, name: str, turns: int) -> Figures:
    """Measure the daemon's processor time for a turn of fifty pieces, in ms."""
    spent: dict[str, list[float]] = {driver: [] for driver in DRIVERS}
    for _ in range(turns):
        for driver, times in spent.items():
            before = cpu_ms(server.pid)
            turn(client, f"{name}-{driver}", route=driver)
            times.append(cpu_ms(server.pid) - before)
    return {driver: median(times) for driver, times in spent.items()}
