"""Instructions of a text turn, counted by valgrind: the same on a busy machine as on an idle one."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from contrib.bench.client import Client
from contrib.bench.model import config, model_server, newest_request
from contrib.bench.processes import Broken, home, scratch
from contrib.bench.prototype import pid_of, prototype, run_turn
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

NAME = "instructions of a text turn"
SMALL_MAP = "contrib.bench.small_map"
SUMMARY = re.compile(r"^summary: (\d+)", re.MULTILINE)

MAX_CONTROL_SECONDS = 60.0


class NoControl(Exception):
    """Valgrind cannot be controlled: that needs the right to trace the measured process."""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure one row: turns 4 to 23 of a conversation. Without valgrind it is left out."""
    goal = at_most(5)
    if shutil.which("callgrind_control") is None:
        yield Row(NAME, "million", [], goal, note="left out: valgrind is missing", is_headline=True)
        return
    try:
        pair = count_both(scale.pick(20, 2))
    except NoControl as error:
        yield Row(NAME, "million", [], goal, note=f"left out: {error}", is_headline=True)
        return
    note = "counted by callgrind in user space; a figure, because it does not depend on the machine's speed"
    yield Row(NAME, "million", [pair], goal, yardstick="bare prototype", note=note, is_headline=True)


def count_both(turns: int) -> Round:
    """Return the instructions of a turn of the daemon and of the prototype, in millions."""
    with model_server() as port, ExitStack() as stack:
        directory = stack.enter_context(scratch())
        server = stack.enter_context(home(config(port)))
        server.module = SMALL_MAP
        stack.enter_context(server.running(*valgrind(directory / "ours")))
        ours = count(stack.enter_context(server.client()), directory / "ours", turns)
        path = stack.enter_context(prototype(port, newest_request(port), *valgrind(directory / "bare")))
        bare = count(stack.enter_context(Client(path)), directory / "bare", turns)
    return Round(ours / 1e6, bare / 1e6)


def valgrind(output: Path) -> tuple[str, ...]:
    """Return the command that counts; counting is off until ``count`` switches it on, so starts are fast."""
    options = ("--instr-atstart=no", f"--callgrind-out-file={output}", f"--log-file={output}.log")
    return "valgrind", "--tool=callgrind", *options


def count(client: Client, output: Path, turns: int) -> float:
    """Return the instructions of a turn of the process behind a connection."""
    pid = pid_of(client)
    control("--instr=on", pid)
    for _ in range(3):
        run_turn(client, "counted")
    control("--zero", pid)
    for _ in range(turns):
        run_turn(client, "counted")
    control("--dump", pid)
    match = SUMMARY.search(Path(f"{output}.1").read_text(errors="replace"))
    if match is None:
        raise Broken("callgrind wrote no summary")
    return int(match[1]) / turns


def control(option: str, pid: int) -> None:
    """Command a process under valgrind. Errors: NoControl."""
    command = ["callgrind_control", option, str(pid)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MAX_CONTROL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoControl("callgrind_control gets no answer") from None
    if done.returncode or "OK" not in done.stdout:
        raise NoControl(f"callgrind_control {option} failed: {done.stderr.strip()}")
