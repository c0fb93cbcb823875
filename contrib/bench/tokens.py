"""Cost of streaming through the daemon: to the first token, and per token."""

from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns
from typing import Any

from contrib.bench.client import Client, Refused
from contrib.bench.model import ANSWER, Direct, newest_request
from contrib.bench.processes import on_core
from contrib.bench.prototype import MESSAGE, Rivals, prototype, rivals
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows, on one core. The daemon, the prototype and the model server take turns."""
    with on_core(), rivals() as world:
        yield first_token(scale, world)
        yield each_token(scale, world)


def first_token(scale: Scale, world: Rivals) -> Row:
    """Measure the time from a send to the first text of the answer."""
    rounds = []
    for number in scale.rounds:
        alone, bare, ours = [], [], []
        for _ in range(scale.pick(20, 3)):
            alone.append(world.direct.turn().first_ms)
            bare.append(time_to_text(world.prototype, f"first{number}", ANSWER, b"word1 "))
            ours.append(time_to_text(world.client, f"first{number}", ANSWER, b"word1 "))
        model = median(alone)
        rounds.append(Round(median(ours) - model, median(bare) - model))
    name = "first token, beyond the model's time"
    return Row(name, "ms", rounds, at_most(2), yardstick="bare prototype", is_headline=True)


def each_token(scale: Scale, world: Rivals) -> Row:
    """Measure the time that a token of a long answer takes beyond the model's time."""
    tokens = scale.pick(1_000, 50)
    long, rounds = f"chunks:{tokens}", []
    time_to_text(world.client, "each-warm", long, last(tokens))
    request = newest_request(world.port)
    with (
        Direct(world.port, request) as direct,
        prototype(world.port, request) as path,
        Client(path) as bare,
    ):
        for number in scale.rounds:
            times: dict[str, list[float]] = {"direct": [], "bare": [], "ours": []}
            for turn in range(scale.pick(5, 2)):
                sender = f"each{number}-{turn}"
                times["direct"].append(direct.turn().end_ms)
                times["bare"].append(time_to_text(bare, sender, long, last(tokens)))
                times["ours"].append(time_to_text(world.client, sender, long, last(tokens)))
            model = median(times["direct"])
            rounds.append(
                Round(
                    (median(times["ours"]) - model) / tokens * 1000,
                    (median(times["bare"]) - model) / tokens * 1000,
                )
            )
    name = f"each of {tokens} tokens, beyond the model's time"
    return Row(name, "µs", rounds, at_most(3), "ratio", "bare prototype")


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
