"""A whole turn beyond the model server's time, many conversations at once, and a long conversation."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import Client, Refused, result_of
from contrib.bench.model import Direct, config, direct_per_second, model_server
from contrib.bench.processes import daemon, scratch
from contrib.bench.scale import Scale
from contrib.bench.store_update import bare_commits
from contrib.bench.table import Round, Row, at_least, at_most
from contrib.bench.table import number as number_of

AT_ONCE = 50
MESSAGE = "What is the weather like in the mountains today?"


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    with model_server() as port, daemon(config(port)) as server, server.client() as client:
        with Direct(port) as direct:
            yield from one_conversation(scale, client, direct)
        yield many_conversations(scale, client, port)


def one_conversation(scale: Scale, client: Client, direct: Direct) -> Iterator[Row]:
    """Measure consecutive turns, in a new conversation for each round."""
    turns = scale.pick(100, 20)
    whole, flat = [], []
    with scratch() as directory, bare_commits(directory / "bare") as commits:
        commit = median(islice(commits, turns)) / 1000
    for number in scale.rounds:
        alone = [direct.turn().end_ms for _ in range(turns)]
        took = [turn(client, f"round{number}") for _ in range(turns)]
        whole.append(Round(median(took), median(alone)))
        flat.append(Round(median(took[-10:]), median(took[:10])))
    beside = "model server called directly"
    note = f"three commits are part of it; a bare LMDB commit took {number_of(commit)} ms on this disk"
    yield Row("a turn of 50 pieces", "ms", whole, at_most(3), "difference", beside, note)
    yield Row(f"last ten turns of {turns}", "ms", flat, at_most(1.2), "ratio", "first ten turns")


def turn(client: Client, sender: str, **params: str) -> float:
    """Measure one turn, in milliseconds."""
    began = perf_counter_ns()
    result = client.call("conversation.send", sender=sender, content=MESSAGE, wait="settled", **params)
    took = (perf_counter_ns() - began) / 1e6
    require_completed(result)
    return took


def require_completed(result: dict[str, object]) -> None:
    """Require that a run completed. Errors: Refused."""
    if result["status"] != "completed":
        raise Refused(result)


def many_conversations(scale: Scale, client: Client, port: int) -> Row:
    """Measure fifty conversations that always have one turn in progress."""
    times = scale.pick(20, 2)
    rounds = []
    with ExitStack() as stack:
        connections = [stack.enter_context(Direct(port)) for _ in range(AT_ONCE)]
        for number in scale.rounds:
            figure = turns_per_second(client, f"many{number}", times)
            rounds.append(Round(figure, direct_per_second(connections, times)))
    beside = "model server called directly"
    return Row(f"{AT_ONCE} conversations at once", "turns/s", rounds, at_least(300), "figure", beside)


def turns_per_second(client: Client, name: str, times: int) -> float:
    """Measure turns per second over conversations that each send again once they are answered."""
    began = perf_counter_ns()
    remaining = {number: times - 1 for number in range(AT_ONCE)}
    waiting = {send(client, name, number): number for number in remaining}
    while waiting:
        message = client.message()
        if "method" in message:
            continue
        require_completed(result_of(message))
        number = waiting.pop(message["id"])
        if remaining[number]:
            remaining[number] -= 1
            waiting[send(client, name, number)] = number
    return AT_ONCE * times / (perf_counter_ns() - began) * 1e9


def send(client: Client, name: str, number: int) -> int:
    """Send to one of the conversations; return the request's id."""
    return client.send("conversation.send", sender=f"{name}-{number}", content=MESSAGE, wait="settled")
