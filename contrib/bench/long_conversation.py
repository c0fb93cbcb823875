"""A conversation that grows: the processor time and the duration of its late turns beside its first ones."""

from collections.abc import Iterator
from statistics import mean, median

from contrib.bench.model import config, model_server
from contrib.bench.proc import cpu_ms
from contrib.bench.processes import daemon
from contrib.bench.prototype import run_turn
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import turn

TURNS = 240
COMPARED = 40
CONTENT = "A sentence of a long message, again and again. " * 87
"""About 4 KB."""
ROOM = "context_tokens = 2000000\n"
"""The model's context window: large enough that nothing is summarized."""
CONTEXT = "[context]\ncompact_tokens = 1500000\nsnip_tokens = 1500000\n"


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows."""
    turns, compared = scale.pick((TURNS, COMPARED), (12, 4))
    spent, flat = [], []
    with model_server() as port:
        setting = config(port, CONTEXT).replace("[daemon]", f"{ROOM}[daemon]", 1)
        for number in range(scale.pick(3, 1)):
            with daemon(setting) as server, server.client() as client:
                run_turn(client, "warm")
                took = []
                for _ in range(turns):
                    before = cpu_ms(server.pid)
                    run_turn(client, "long", CONTENT)
                    took.append(cpu_ms(server.pid) - before)
                spent.append(Round(mean(took[-compared:]), mean(took[:compared])))
                short = [turn(client, f"short{number}") for _ in range(scale.pick(100, 12))]
                flat.append(Round(median(short[-10:]), median(short[:10])))
    first, last = f"turns 1 to {compared}", f"turns {turns - compared + 1} to {turns}"
    name = f"processor time of {last} of 4 KB"
    yield Row(name, "ms", spent, at_most(1.2), "ratio", first, is_headline=True)
    yield Row(
        f"last ten turns of {scale.pick(100, 12)}", "ms", flat, at_most(1.2), "ratio", "first ten turns"
    )
