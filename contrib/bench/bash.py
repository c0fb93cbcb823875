"""One call of ``bash`` beside the same command alone, with and without the sandbox."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import trio

from contrib.bench.model import Direct, model_server, newest_request
from contrib.bench.processes import Broken, daemon, measure_duration
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.tools import PERMITTED, order_config, run
from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.workdir import open_workdir

COMMAND = "true"
LINE = f'/call bash {{"command": "{COMMAND}"}}'
ARGV = ("bash", "-c", COMMAND)
ALONE = f"bash -c {COMMAND} alone"
STEPS = 8
GOAL = at_most(5)


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    for name, mode in (("in the sandbox", "required"), ("without a sandbox", "off")):
        full_name = f"one bash call {name}, and answer, beyond the model's time"
        if mode == "required" and shutil.which("bwrap") is None:
            yield Row(full_name, "ms", [], GOAL, note="left out: bubblewrap is missing", is_headline=True)
            continue
        calls, boxes = measure_calls(scale, mode)
        yield Row(full_name, "ms", calls, GOAL, "ratio", ALONE, is_headline=True)
        if boxes:
            name = "of these: bubblewrap alone, with the arguments of the sandbox"
            yield Row(name, "ms", boxes, None, "ratio", ALONE, is_headline=True)


def measure_calls(scale: Scale, mode: str) -> tuple[list[Round], list[Round]]:
    """Measure one more call of a run, and its sandbox alone, in milliseconds."""
    calls, boxes, steps = [], [], scale.pick(STEPS, 2)
    setting = f'[workspace]\nsandbox = "{mode}"\nunsandboxed = "allow"\n{PERMITTED}'
    with (
        model_server() as port,
        daemon(order_config(port, setting)) as server,
        server.client() as client,
    ):
        run(client, "warm", 1, LINE)
        sandbox = Sandbox([str(server.home)])
        if mode != "off":
            trio.run(sandbox.choose, "required")
        with Direct(port, newest_request(port)) as direct:
            for number in scale.rounds:
                times: dict[str, list[float]] = {
                    key: [] for key in ("alone", "box", "model", "short", "long")
                }
                for n in range(scale.pick(10, 1)):
                    times["alone"].append(measure_duration(ARGV))
                    if mode != "off":
                        times["box"].append(measure_sandbox(sandbox, server.home / "workspace"))
                    times["model"].append(direct.turn().end_ms)
                    times["short"].append(run(client, f"short{number}-{n}", 1, LINE))
                    times["long"].append(run(client, f"long{number}-{n}", 1 + steps, LINE))
                middle = {key: median(values) for key, values in times.items() if values}
                figure = (middle["long"] - middle["short"]) / steps - middle["model"]
                calls.append(Round(figure, middle["alone"]))
                if "box" in middle:
                    boxes.append(Round(middle["box"], middle["alone"]))
    return calls, boxes


def measure_sandbox(sandbox: Sandbox, workspace: Path) -> float:
    """Measure the command under Bubblewrap, without the daemon, in milliseconds. Errors: Broken."""
    workdir = open_workdir(str(workspace), ".")
    boxed = sandbox.confine(workdir, ARGV, LimitsSection())
    try:
        began = perf_counter()
        done = subprocess.run(boxed.argv, pass_fds=boxed.descriptors, capture_output=True, check=False)
        passed = perf_counter() - began
    finally:
        boxed.close()
        workdir.close()
    if done.returncode:
        raise Broken(f"bubblewrap failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return passed * 1000
