"""One call of ``bash`` beside the same command alone, with and without the sandbox."""

import shutil
from collections.abc import Iterator
from statistics import median

from contrib.bench.model import Direct, model_server, newest_request
from contrib.bench.processes import daemon, measure_duration
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.tools import PERMITTED, order_config, run

COMMAND = "true"
LINE = f'/call bash {{"command": "{COMMAND}"}}'
STEPS = 8
GOAL = at_most(5)


def measure(scale: Scale) -> Iterator[Row]:
    """Measure two rows."""
    for name, sandbox in (("in the sandbox", "required"), ("without a sandbox", "off")):
        full_name = f"one bash call {name}, and answer, beyond the model's time"
        if sandbox == "required" and shutil.which("bwrap") is None:
            yield Row(full_name, "ms", [], GOAL, note="left out: bubblewrap is missing", is_headline=True)
            continue
        setting = f'[workspace]\nsandbox = "{sandbox}"\nunsandboxed = "allow"\n{PERMITTED}'
        rounds = calls(scale, setting)
        yield Row(full_name, "ms", rounds, GOAL, "ratio", f"bash -c {COMMAND} alone", is_headline=True)


def calls(scale: Scale, setting: str) -> list[Round]:
    """Measure one more call of a run, in milliseconds."""
    rounds, steps = [], scale.pick(STEPS, 2)
    with (
        model_server() as port,
        daemon(order_config(port, setting)) as server,
        server.client() as client,
    ):
        run(client, "warm", 1, LINE)
        with Direct(port, newest_request(port)) as direct:
            for number in scale.rounds:
                alone, model, short, long = [], [], [], []
                for n in range(scale.pick(10, 1)):
                    alone.append(measure_duration(["bash", "-c", COMMAND]))
                    model.append(direct.turn().end_ms)
                    short.append(run(client, f"short{number}-{n}", 1, LINE))
                    long.append(run(client, f"long{number}-{n}", 1 + steps, LINE))
                figure = (median(long) - median(short)) / steps - median(model)
                rounds.append(Round(figure, median(alone)))
    return rounds
