"""What the daemon holds in memory, idle and for each conversation, and what a text turn writes."""

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
from contrib.bench.turn import SAID, completed


def measure(scale: Scale) -> Iterator[Row]:
    """Four rows."""
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
    with daemon() as kept:
        return memory_kib(kept.pid) / 1024


def growth_kib(port: int, conversations: int) -> float:
    """Measure the memory that a conversation of one turn leaves behind; mapped store pages do not count."""
    with daemon(config(port)) as kept, kept.client() as client:
        speak(client, "warm", 100)
        before = memory_kib(kept.pid, "RssAnon")
        speak(client, "many", conversations)
        return (memory_kib(kept.pid, "RssAnon") - before) / conversations


def speak(client: Client, name: str, conversations: int) -> None:
    """One turn in each of many conversations."""
    send = {"content": SAID, "wait": "settled"}
    calls = [("conversation.send", {"sender": f"{name}-{n}", **send}) for n in range(conversations)]
    for result in client.many(calls):
        completed(result)


def written_kib(port: int, turns: int) -> float:
    """Measure the bytes written per turn of one conversation, as the kernel counts them."""
    with daemon(config(port)) as kept, kept.client() as client:
        one_by_one(client, 5)
        before = bytes_written(kept.pid)
        one_by_one(client, turns)
        return (bytes_written(kept.pid) - before) / turns / 1024


def one_by_one(client: Client, turns: int) -> None:
    """Return turns in one conversation."""
    for _ in range(turns):
        completed(client.call("conversation.send", content=SAID, wait="settled"))


def commits(port: int, turns: int) -> float:
    """Count the calls of fdatasync per turn (one per commit of LMDB), without those of start and stop."""
    few = synced(port, 5)
    return (synced(port, 5 + turns) - few) / turns


def synced(port: int, turns: int) -> int:
    """Count the calls of fdatasync of a daemon with this many turns."""
    with scratch() as directory, home(config(port)) as kept:
        log = directory / "strace"
        with kept.running("strace", "-f", "-qq", "-e", "trace=fdatasync,fsync,msync", "-o", str(log)):
            with kept.client() as client:
                one_by_one(client, turns)
            # strace, asked to stop, would let go of the daemon; the daemon is asked, and strace ends with it.
            os.kill(kept.pid, signal.SIGTERM)
            gone(kept.pid)
        return sum("sync(" in line for line in Path(log).read_text().splitlines())


def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    descriptor = os.pidfd_open(pid)
    select.select([descriptor], [], [], 30)
    os.close(descriptor)
