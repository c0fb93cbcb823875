"""A turn of a route with two keys and two fallbacks, whose first key answers, beside a single route."""

from collections.abc import Iterator
from statistics import median

from contrib.bench.client import Client
from contrib.bench.model import config, make_route, model_server
from contrib.bench.processes import daemon, on_core
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import turn

SLOTS = ("one", "two")
TURNS_BEFORE = 10


def measure(scale: Scale) -> Iterator[Row]:
    """Measure turns of both routes in the same rounds, on one core."""
    turns, rounds = scale.pick(50, 5), []
    with on_core(), model_server() as port:
        keys = [f"slot:{name}" for name in SLOTS]
        single = f"{make_route(port, 'spare')}{make_route(port, 'single')}auth_ref = {keys[0]!r}\n"
        chain = f"{make_route(port, 'chain')}auth_refs = {keys}\nfallback = ['spare', 'single']\n"
        with daemon(config(port, single + chain)) as server, server.client() as client:
            for name in SLOTS:
                client.call("secret.put", slot_id=name, value="sk-of-the-measurement")
            measure_round(client, TURNS_BEFORE, "warm")
            for number in range(scale.pick(10, 2)):
                rounds.append(measure_round(client, turns, f"round{number}"))
    yield Row(
        "a turn of a route with two keys and two fallbacks",
        "ms",
        rounds,
        at_most(1.1),
        "ratio",
        "a single route",
        "the first key answers",
    )


def measure_round(client: Client, turns: int, name: str) -> Round:
    """Return the median time of a turn of both routes, which take turns, because machines vary."""
    chain, single = [], []
    for _ in range(turns):
        chain.append(turn(client, f"{name}-chain", route="chain"))
        single.append(turn(client, f"{name}-single", route="single"))
    return Round(median(chain), median(single))
