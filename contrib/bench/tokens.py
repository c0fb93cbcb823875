"""Cost of streaming through the daemon: to the first token, and per token."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns
from typing import Any

from contrib.bench.client import Client, Refused
from contrib.bench.model import ANSWER, Direct, config, model_server
from contrib.bench.processes import daemon
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import MESSAGE


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows."""
    turns, tokens = scale.pick(40, 3), scale.pick(1_000, 50)
    first, per_token = [], []
    with (
        model_server() as port,
        daemon(config(port)) as server,
        server.client() as client,
        Direct(port) as direct,
    ):
        time_to_text(client, "warm", ANSWER, b"word1 ")
        for number in scale.rounds:
            alone = median(direct.turn().first_ms for _ in range(turns))
            ours = median(time_to_text(client, f"first{number}", ANSWER, b"word1 ") for _ in range(turns))
            first.append(Round(ours, alone))
            long = f"chunks:{tokens}"
            alone = median(direct.turn(long).end_ms for _ in range(5))
            ours = median(time_to_text(client, f"each{number}-{n}", long, last(tokens)) for n in range(5))
            per_token.append(Round(ours / tokens * 1000, alone / tokens * 1000))
    beside = "model server called directly"
    yield Row("first token", "ms", first, at_most(2), "difference", beside)
    yield Row(f"each of {tokens} tokens", "µs", per_token, at_most(150), "difference", beside)


def last(tokens: int) -> bytes:
    """Return the content of the last piece of an answer."""
    return f"word{tokens} ".encode()


def time_to_text(client: Client, sender: str, model: str, awaited: bytes, route: str | None = None) -> float:
    """Measure the time from a send until its deltas contain these bytes, in ms; then let the turn end."""
    began = perf_counter_ns()
    send = {"sender": sender, "content": MESSAGE, "model": model, "wait": "settled", "stream": True}
    if route is not None:
        send["route"] = route
    number = client.send("conversation.send", **send)
    text, arrived, written = awaited.decode(), 0, ""
    settled = ended = False
    while not (settled and ended):
        message = client.message()
        if not arrived and message.get("method") in ("journal.delta", "journal.event"):
            written = (written + text_of(message["params"]))[-2000:]
            arrived = perf_counter_ns() if text in written else 0
        ended = ended or message.get("method") == "journal.end"
        settled = settled or message.get("id") == number
    if not arrived:
        raise Refused(f"{awaited!r} did not come")
    return (arrived - began) / 1e6


def text_of(params: dict[str, Any]) -> str:
    """Return the text of a notification: a delta, or the whole answer if it came first."""
    if "text" in params:
        return str(params["text"])
    message = params["event"].get("message", {"items": []})
    return "".join(item.get("text", "") for item in message["items"])
