"""Start times of ``kheishctl``: its help, a one-shot command, and the prompt of ``chat``."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from contrib.bench.processes import BIN, Broken, daemon, measure_duration
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

PROMPT = b"user >"
MAX_PROMPT_SECONDS = 20.0


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    times = scale.pick(15, 1)
    kheishctl = BIN / "kheishctl"
    helped, status, chat = [], [], []
    with daemon() as server:
        ask: list[str | Path] = [kheishctl, "--home", server.home]
        for _ in scale.rounds:
            python = median(measure_duration([sys.executable, "-c", "pass"]) for _ in range(times))
            helped.append(
                Round(median(measure_duration([kheishctl, "--help"]) for _ in range(times)), python)
            )
            status.append(Round(median(measure_duration([*ask, "status"]) for _ in range(times)), python))
            chat.append(Round(median(time_to_prompt([*ask, "chat"]) for _ in range(times)), python))
    beside = "python -c pass"
    yield Row("kheishctl --help", "ms", helped, at_most(6), "ratio", beside)
    yield Row("kheishctl status", "ms", status, at_most(8), "ratio", beside)
    yield Row("kheishctl chat, to its prompt", "ms", chat, at_most(25), "ratio", beside)


def time_to_prompt(arguments: list[str | Path]) -> float:
    """Measure the time until a program on its own terminal shows its prompt, in milliseconds."""
    command = [str(argument) for argument in arguments]
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        # A directory in which no conversation works, so that the chat asks nothing about it.
        os.chdir("/")
        environment = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        os.execve(command[0], command, environment)
    try:
        read_until_prompt(terminal, began + MAX_PROMPT_SECONDS)
        return (time.perf_counter() - began) * 1000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until_prompt(terminal: int, deadline: float) -> None:
    """Read until the prompt is shown. Errors: Broken."""
    output = b""
    while PROMPT not in output:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.perf_counter()))
        try:
            output += os.read(terminal, 4096) if ready else b""
        except OSError:
            ready = []
        if not ready:
            raise Broken(f"no prompt appears; the terminal shows: {output.decode(errors='replace')}")
