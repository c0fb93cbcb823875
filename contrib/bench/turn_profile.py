"""Where a turn goes: the processor time of each step of a text turn, sampled in the daemon itself."""

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from contrib.bench.model import config, model_server
from contrib.bench.proc import cpu_ms
from contrib.bench.processes import ROOT, Broken, home
from contrib.bench.prototype import run_turn
from contrib.bench.table import number
from contrib.bench.writes import wait_until_gone

PROFILE = ROOT / "contrib" / "bench" / "profile.txt"
TURNS_OF_ONE = 20
FUNCTIONS = 30
MAX_SHARE = 0.15

# The calls of system functions, by the source line of the innermost frame.
OF_LINES = (
    ("the disk: commit", r"\.commit\("),
    (
        "the socket: send, receive, wait until ready",
        r"sock\w*\.(send|sendall|sendmsg|recv|recv_into|accept)\(|fn\(self\._sock|epoll\.\w+\(",
    ),
)
# The first pattern that a file matches. Functions of other libraries belong to their callers.
OF_FILES = (
    (
        "the HTTP client",
        r"/httpcore2?/|/h11/|/httptools/|kheishd/providers/(http|exchange|response_reader|proxies)",
    ),
    ("requests to and events of the model", r"kheishd/providers/"),
    ("the store: read rows", r"kheishd/store/environment.py:(Snapshot|Readers)"),
    ("the store: write rows and the journal", r"kheishd/store/"),
    ("records: folds of events", r"kheishd/records/"),
    ("text in progress", r"kheishd/kernel/live|kheishd/server/subscriptions"),
    ("requests of clients: read, dispatch, reply", r"kheishd/server/"),
    (
        "transcript and prompt",
        r"kheishd/core/context/|kheishd/workers/runs/(context|transcript)|kernel/transcripts",
    ),
    ("the run worker", r"kheishd/workers/"),
    ("the run machine", r"kheishd/core/run/"),
    ("other decisions of core", r"kheishd/core/"),
    ("methods of objects", r"kheishd/objects/"),
    ("hooks: tools and sections", r"kheishd/hooks/"),
    ("state, bells and services", r"kheishd/kernel/"),
    ("events and messages", r"/protocol/"),
    ("the rest of the daemon", r"kheishd/"),
)
LOOP = "the event loop: trio"
TASKS = re.compile(r"/trio/_core/_(run|generated_run).py:(unrolled_run|run)$")
"""The function that runs tasks: frames outside of it belong to all steps alike."""

Sample = dict[str, Any]
"""A stack, how often it was seen, and the source line of its innermost frame."""


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="contrib/bench/profile",
        description="Profile text turns of 50 pieces, each in the first twenty of its conversation, and "
        "print the processor time of each step. Waiting is not counted.",
    )
    parser.add_argument("--write", action="store_true", help="write contrib/bench/profile.txt")
    parser.add_argument("--small", action="store_true", help="only check that it works")
    return parser.parse_args()


def main() -> int:
    """Exit 0 when the profile was made, whatever it shows."""
    options = arguments()
    text = render(*profile(2 if options.small else 100))
    if options.write:
        PROFILE.write_text(text)
    print(text, end="")
    return 0


def profile(conversations: int) -> tuple[list[Sample], float]:
    """Return the samples of the daemon, and its processor time for each turn, in microseconds."""
    with model_server() as port, home(config(port)) as server:
        server.module = "contrib.bench.profiled"
        with server.running():
            with server.client() as client:
                for n in range(2 * TURNS_OF_ONE):
                    run_turn(client, f"warm{n // TURNS_OF_ONE}")
                os.kill(server.pid, signal.SIGUSR2)
                began, turns = cpu_ms(server.pid), conversations * TURNS_OF_ONE
                for n in range(turns):
                    run_turn(client, f"measured{n // TURNS_OF_ONE}")
                spent = (cpu_ms(server.pid) - began) / turns * 1000
            os.kill(server.pid, signal.SIGTERM)
            wait_until_gone(server.pid)
        written = Path(f"{server.home}.profile")
        if not written.exists():
            raise Broken(f"the daemon wrote no samples:\n{server.log.read_text()[-2000:]}")
        return json.loads(written.read_text()), spent


def step_of(sample: Sample) -> str:
    """Return the step that a sample belongs to."""
    for step, pattern in OF_LINES:
        if re.search(pattern, sample["line"]):
            return step
    for frame in sample["frames"]:
        if TASKS.search(frame):
            break
        for step, pattern in OF_FILES:
            if re.search(pattern, frame):
                return step
    return LOOP


def render(samples: list[Sample], spent: float) -> str:
    """Format the steps, and the functions that take the longest."""
    steps: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for sample in samples:
        steps[step_of(sample)] += sample["count"]
        functions[short(sample["frames"][0])] += sample["count"]
    total = steps.total()
    lines = [
        "Where a text turn goes: processor time of the daemon, without waiting.",
        f"50 pieces, turns 1 to 20 of a conversation, {total:,} samples.",
        "Written by contrib/bench/profile --write.",
        "",
        f"{'step':50} {'µs':>6} {'share':>6}",
    ]
    for step, count in steps.most_common():
        share = count / total
        mark = "  <" if share > MAX_SHARE and not step.startswith(("the disk", "the socket")) else ""
        lines.append(f"{step:50} {number(share * spent):>6} {share:6.1%}{mark}")
    lines += [f"{'sum':50} {number(spent):>6}", ""]
    lines += [f"{'function, without the functions that it calls':76} {'share':>6}"]
    lines += [f"{name[-76:]:76} {count / total:6.1%}" for name, count in functions.most_common(FUNCTIONS)]
    lines += ["", f"< : above {MAX_SHARE:.0%}, and neither the disk nor the socket"]
    return "\n".join(lines) + "\n"


def short(frame: str) -> str:
    """Return a frame without the directories of the machine."""
    frame = frame.removeprefix(f"{ROOT}/")
    return re.sub(r"^.*/(site-packages|lib/python[0-9.]+)/", "", frame)


if __name__ == "__main__":
    sys.exit(main())
