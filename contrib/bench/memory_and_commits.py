"""Memory of the daemon, idle and per conversation, and the writes of a text turn."""

import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from contrib.bench.client import Client
from contrib.bench.model import config, model_server
from contrib.bench.proc import bytes_written, memory_kib
from contrib.bench.processes import daemon, home, scratch
from contrib.bench.scale import Scale
from contrib.bench.table import Round, Row, at_most
from contrib.bench.turn import MESSAGE, require_completed


def measure(scale: Scale) -> Iterator[Row]:
    """Measure four rows."""
    rounds = range(scale.pick(3, 1))
    with model_server() as port:
        yield Row("idle daemon", "MiB", [Round(idle_mib()) for _ in rounds], at_most(45))
        growths = [Round(growth_kib(port, scale.pick(2_000, 20))) for _ in rounds]
        yield Row("memory for each conversation", "KiB", growths, at_most(10))
        written = [Round(written_kib(port, scale.pick(100, 5))) for _ in rounds]
        yield Row("written to disk for each text turn", "KiB", written, at_most(300))
        if shutil.which("strace"):
            counts = [Round(commits(port, scale.pick(50, 5))) for _ in rounds]
            yield Row("commits for each text turn", "", counts, at_most(3))
        else:
            yield Row("commits for each text turn", "", [], at_most(3), note="not counted: strace is missing")


def idle_mib() -> float:
    """Measure the resident memory of an idle daemon."""
    with daemon() as server:
        return memory_kib(server.pid) / 1024


def growth_kib(port: int, conversations: int) -> float:
    """Measure the memory that a conversation of one turn retains; mapped store pages do not count."""
    with daemon(config(port)) as server, server.client() as client:
        speak(client, "warm", 100)
        before = memory_kib(server.pid, "RssAnon")
        speak(client, "many", conversations)
        return (memory_kib(server.pid, "RssAnon") - before) / conversations


def speak(client: Client, name: str, conversations: int) -> None:
    """Run one turn in each of many conversations."""
    send = {"content": MESSAGE, "wait": "settled"}
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(conversations)]
    for result in client.many(calls):
        require_completed(result)


def written_kib(port: int, turns: int) -> float:
    """Measure the bytes written per turn of one conversation, as the kernel counts them."""
    with daemon(config(port)) as server, server.client() as client:
        run_turns(client, 5)
        before = bytes_written(server.pid)
        run_turns(client, turns)
        return (bytes_written(server.pid) - before) / turns / 1024


def run_turns(client: Client, turns: int) -> None:
    """Run sequential turns in one conversation."""
    for _ in range(turns):
        require_completed(client.call("conversation.send", content=MESSAGE, wait="settled"))


def commits(port: int, turns: int) -> float:
    """Count the calls of fdatasync per turn (one per commit of LMDB), without those of start and stop."""
    few = count_syncs(port, 5)
    return (count_syncs(port, 5 + turns) - few) / turns


def count_syncs(port: int, turns: int) -> int:
    """Count the calls of fdatasync of a daemon with this many turns."""
    with scratch() as directory, home(config(port)) as server:
        log = directory / "strace"
        with server.running("strace", "-f", "-qq", "-e", "trace=fdatasync,fsync,msync", "-o", str(log)):
            with server.client() as client:
                run_turns(client, turns)
            # A stopped strace would detach from the daemon. Instead stop the daemon: strace ends with it.
            os.kill(server.pid, signal.SIGTERM)
            wait_until_gone(server.pid)
        return sum("sync(" in line for line in Path(log).read_text().splitlines())


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    descriptor = os.pidfd_open(pid)
    select.select([descriptor], [], [], 30)
    os.close(descriptor)
