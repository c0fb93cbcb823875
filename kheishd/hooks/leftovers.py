"""Leftovers: processes of a command whose keeper is gone, found by the mark in their environment.

A second line of defence. A keeper lets nothing of its command get away (see ``keeper``), and ends it when
the daemon dies. What may be left is what killed its keeper. It is found by the mark that it inherited, unless
it took care to lose that as well.
"""

import os
import signal
from hashlib import sha256
from pathlib import Path

import trio

from kheishd.hooks.keeper import Process, started_at, strike

MARK = "KHEISH_CALL"

MAX_HUNT_SECONDS = 5.0

# What a keeper takes to see that its daemon has died, and to end what it keeps.
KEEPER_SECONDS = 1.0
LOOK_SECONDS = 0.02

# A process that is just becoming another program has no environment for a moment, so one look may miss it.
LOOKS = 2


def home_id(home: Path) -> str:
    """What the marks of one home's processes begin with: those of other homes are not ours."""
    return sha256(os.path.realpath(home).encode()).hexdigest()[:12]


def leftovers(mark: str) -> list[Process]:
    """The processes that carry a mark. Reads ``/proc``, which takes some microseconds for each process."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and entry in _environment(int(name)):
            started = started_at(int(name))
            if started is not None:
                found.append((int(name), started))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


async def hunt(mark: str, *, patience_s: float = 0.0) -> bool:
    """Kill whatever carries a mark; whether it is all gone.

    ``patience_s`` is how long those may take that are just ending by themselves.
    """
    began = trio.current_time()
    with trio.move_on_after(patience_s + MAX_HUNT_SECONDS):
        looked_in_vain = 0
        while looked_in_vain < LOOKS:
            there = await trio.to_thread.run_sync(leftovers, mark)
            looked_in_vain = 0 if there else looked_in_vain + 1
            if trio.current_time() >= began + patience_s:
                for process in there:
                    strike(process, signal.SIGKILL)
            await trio.sleep(LOOK_SECONDS)
        return True
    return False
