"""The newest page of a very long session, beside that of a short one."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns
from typing import Any

from contrib.bench.client import Client
from contrib.bench.processes import daemon
from contrib.bench.prototype import require_completed
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

TURNS = 25
"""The turns at the end of both sessions; with 25 the short one has over a hundred events."""
PAGES = {
    "journal.read": {"order": "newest", "limit": 50},
    "session.history": {"order": "newest", "limit": 50},
}


def measure(scale: Scale) -> Iterator[Row]:
    """Measure one row per method."""
    events, times = scale.pick(100_000, 300), scale.pick(300, 10)
    with daemon() as server, server.client() as client:
        short, long = session(client, 0), session(client, events)
        for method, params in PAGES.items():
            pairs = [pages(client, method, params, short, long, times) for _ in scale.rounds]
            name = f"last page of {events:,} events, {method}"
            yield Row(name, "µs", pairs, at_most(1.5), "ratio", "of about 100 events")


def session(client: Client, events: int) -> str:
    """Create a session that begins with many events and ends with a few turns."""
    session_id: str = client.call("session.create")["session_id"]
    client.many(
        [
            ("session.rename", {"session_id": session_id, "title": f"Title {number}"})
            for number in range(events)
        ]
    )
    for number in range(TURNS):
        message = {"session_id": session_id, "content": f"Sentence {number}", "wait": "settled"}
        require_completed(client.call("session.send", **message))
    return session_id


def pages(client: Client, method: str, params: dict[str, Any], short: str, long: str, times: int) -> Round:
    """Return the median time of a page of each session, measured in turn, in microseconds."""
    took: dict[str, list[float]] = {short: [], long: []}
    for _ in range(times):
        for session_id, times_of in took.items():
            began = perf_counter_ns()
            client.call(method, session_id=session_id, **params)
            times_of.append((perf_counter_ns() - began) / 1000)
    return Round(median(took[long]), median(took[short]))
