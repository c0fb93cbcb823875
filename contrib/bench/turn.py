"""A whole turn beyond the model server's time, and many conversations at once, beside the bare prototype."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from statistics import median
from time import perf_counter_ns

from contrib.bench.client import Client, result_of
from contrib.bench.model import Direct, direct_per_second
from contrib.bench.proc import cpu_ms
from contrib.bench.processes import on_core, scratch
from contrib.bench.prototype import MESSAGE, Rivals, pid_of, require_completed, rivals, run_turn
from contrib.bench.scale import Scale
from contrib.bench.store_update import bare_commits
from contrib.bench.table import Round, Row, at_least, at_most
from contrib.bench.table import number as number_of

AT_ONCE = 50
TURNS = 20


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    with on_core(), rivals() as world:
        yield from one_conversation(scale, world)
    with rivals() as world:
        yield many_conversations(scale, world)


def one_conversation(scale: Scale, world: Rivals) -> Iterator[Row]:
    """Measure the first turns of conversations, on one core: a wake-up across cores costs more than a step.

    The daemon, the prototype and the model server take turns, because machines vary.
    """
    turns, whole, spent, models = scale.pick(TURNS, 5), [], [], []
    with scratch() as directory, bare_commits(directory / "bare") as commits:
        commit = median(islice(commits, scale.pick(100, 10))) / 1000
    for number in range(scale.pick(10, 2)):
        direct, bare, ours = [], [], []
        before = cpu_ms(world.server.pid), cpu_ms(pid_of(world.prototype))
        for _ in range(turns):
            direct.append(world.direct.turn().end_ms)
            bare.append(turn(world.prototype, f"round{number}"))
            ours.append(turn(world.client, f"round{number}"))
        alone = median(direct)
        models.append(alone)
        whole.append(Round(median(ours) - alone, median(bare) - alone))
        spent.append(
            Round(
                (cpu_ms(world.server.pid) - before[0]) / turns,
                (cpu_ms(pid_of(world.prototype)) - before[1]) / turns,
            )
        )
    model = number_of(median(models))
    note = f"the model server itself took {model} ms, a bare LMDB commit {number_of(commit)} ms"
    name, beside = "a turn of 50 pieces, beyond the model's time", "bare prototype"
    yield Row(name, "ms", whole, at_most(2), "ratio", beside, note, is_headline=True)
    yield Row("processor time of a turn of 50 pieces", "ms", spent, at_most(2), "ratio", beside)


def turn(client: Client, sender: str, **params: str) -> float:
    """Measure one turn, in milliseconds."""
    began = perf_counter_ns()
    run_turn(client, sender, **params)
    return (perf_counter_ns() - began) / 1e6


def many_conversations(scale: Scale, world: Rivals) -> Row:
    """Measure fifty conversations that always have one turn in progress."""
    times = scale.pick(20, 2)
    rounds, direct = [], []
    with ExitStack() as stack:
        connections = [stack.enter_context(Direct(world.port, world.request)) for _ in range(AT_ONCE)]
        for number in scale.rounds:
            direct.append(direct_per_second(connections, times))
            bare = turns_per_second(world.prototype, f"many{number}", times)
            rounds.append(Round(turns_per_second(world.client, f"many{number}", times), bare))
    name = f"{AT_ONCE} conversations at once"
    note = f"the model server called directly gave {number_of(median(direct))} answers/s"
    return Row(name, "turns/s", rounds, at_least(0.7), "ratio", "bare prototype", note, is_headline=True)


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
