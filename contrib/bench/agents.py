"""Agents: the first token of a spawned one, and a hundred of them at once, beside plain conversations."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter_ns
from typing import Any

from contrib.bench.client import Client
from contrib.bench.model import config, model_server
from contrib.bench.processes import Daemon, daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_least, at_most

CHILDREN = 100
WINDOW = 50
"""Open requests of a connection, of the 64 that it may have."""
LIMITS = f"""
[agents]
max_children = {2 * CHILDREN}
max_descendants = {2 * CHILDREN}
max_live = 10000
max_spawns_per_minute = 100000
max_daemon_spawns_per_minute = 100000
"""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows. Each child's end is reported to its parent, which takes one more run."""
    children, times = scale.pick(CHILDREN, 10), scale.pick(20, 3)
    first, together = [], []
    with model_server() as port, daemon(config(port, LIMITS)) as server, server.client() as client:
        for number in scale.rounds:
            name = f"r{number}"
            first.append(first_tokens(server, client, name, times))
            together.append(Round(spawn_all(server, name, children), send_all(server, name, children)))
    beside = "first message of a conversation"
    yield Row("agent.spawn to the first token", "ms", first, at_most(1.5), "ratio", beside)
    beside = "as many new conversations"
    note = "until all have ended, and the parent has read their reports"
    yield Row(f"{children} children of one agent", "/s", together, at_least(0.4), "ratio", beside, note)


def first_tokens(server: Daemon, client: Client, name: str, times: int) -> Round:
    """Measure the time to the first token of children and of conversations, which take turns."""
    spawned, sent = [], []
    for number in range(times):
        root = client.call("session.create")["session_id"]
        # The report to the parent is a run, too.
        spawn = partial(client.call, "agent.spawn", parent=root, name="scout", prompt="look")
        spawned.append(first_token(server, spawn, 2))
        send = partial(client.call, "conversation.send", sender=f"{name}.{number}", content="look")
        sent.append(first_token(server, send, 1))
    return Round(median(spawned), median(sent))


def first_token(server: Daemon, begin: Callable[[], Any], runs: int) -> float:
    """Return the milliseconds to the first token, once all runs that this begins have ended."""
    with follow(server, deltas=True) as follower:
        began = perf_counter_ns()
        begin()
        took = None
        while runs:
            method = follower.message()["method"]
            if took is None and method == "journal.delta":
                took = (perf_counter_ns() - began) / 1e6
            runs -= method == "journal.event"
    assert took is not None
    return took


def follow(server: Daemon, *, deltas: bool = False) -> Client:
    """Return a connection that follows the ends of runs."""
    follower = Client(server.socket)
    follower.call("journal.subscribe", types=["run_ended"], deltas=deltas)
    while not any(note["method"] == "journal.synced" for note in follower.notes):
        follower.notes.append(follower.message())
    return follower


def spawn_all(server: Daemon, name: str, children: int) -> float:
    """Return the agents per second of one parent, until it has read that all have finished."""
    with Client(server.socket) as client:
        root = client.call("session.create", session_id=f"root-{name}")["session_id"]
        calls = [("agent.spawn", {"parent": root, "name": "scout", "prompt": "look"})] * children
        began = perf_counter_ns()
        client.many(calls, WINDOW)
        while len(client.call("mailbox.list", agent=root, state="done", limit=500)["messages"]) < children:
            pass
        return children / (perf_counter_ns() - began) * 1e9


def send_all(server: Daemon, name: str, number: int) -> float:
    """Return the new conversations per second, until all have their answer."""
    with Client(server.socket) as client, follow(server) as follower:
        calls = [
            ("conversation.send", {"sender": f"many-{name}-{index}", "content": "look"})
            for index in range(number)
        ]
        began = perf_counter_ns()
        client.many(calls, WINDOW)
        for _ in range(number):
            follower.message()
        return number / (perf_counter_ns() - began) * 1e9
