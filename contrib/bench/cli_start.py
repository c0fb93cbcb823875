"""How fast ``kheishctl`` is there: its help, a one-shot command, and the prompt of ``chat``."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from contrib.bench.processes import BIN, ROOT, Broken, daemon, took
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most

PROMPT = b"user >"
MAX_PROMPT_SECONDS = 20.0


def measure(scale: Scale) -> Iterator[Row]:
    """Three rows."""
    times = scale.pick(15, 1)
    kheishctl = BIN / "kheishctl"
    helped, status, chat = [], [], []
    with daemon() as kept:
        ask: list[str | Path] = [kheishctl, "--home", kept.home]
        for _ in scale.rounds:
            python = median(took([sys.executable, "-c", "pass"]) for _ in range(times))
            helped.append(Round(median(took([kheishctl, "--help"]) for _ in range(times)), python))
            status.append(Round(median(took([*ask, "status"]) for _ in range(times)), python))
            chat.append(Round(median(prompted([*ask, "chat"]) for _ in range(times)), python))
    beside = "python -c pass"
    yield Row("kheishctl --help", "ms", helped, at_most(6), "ratio", beside)
    yield Row("kheishctl status", "ms", status, at_most(8), "ratio", beside)
    yield Row("kheishctl chat, to its prompt", "ms", chat, at_most(25), "ratio", beside)


def prompted(arguments: list[str | Path]) -> float:
    """How long until a program on a terminal of its own shows its prompt, in milliseconds."""
    command = [str(argument) for argument in arguments]
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        environment = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
        os.execve(command[0], command, environment)
    try:
        until_shown(terminal, began + MAX_PROMPT_SECONDS)
        return (time.perf_counter() - began) * 1000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def until_shown(terminal: int, deadline: float) -> None:
    """Read until the prompt is there. Errors: Broken."""
    shown = b""
    while PROMPT not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.perf_counter()))
        try:
            shown += os.read(terminal, 4096) if ready else b""
        except OSError:
            ready = []
        if not ready:
            raise Broken(f"no prompt appears; on the terminal: {shown.decode(errors='replace')}")
