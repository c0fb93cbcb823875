"""The writes and flushes of a text turn, at two sizes of the store, beside the bare prototype."""

import os
import re
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from contrib.bench.client import Client
from contrib.bench.model import config, model_server, newest_request
from contrib.bench.proc import bytes_written
from contrib.bench.processes import daemon, home, scratch
from contrib.bench.prototype import pid_of, prototype, run_turn
from contrib.bench.scale import Scale
from contrib.bench.start import fill
from contrib.bench.table import Round, Row, at_most

FLUSHING = re.compile(r"(?:fdatasync|fsync|msync|sync_file_range)\(")
OPENED = re.compile(r"openat\(.*O_D?SYNC.*\) += (\d+)")
WRITTEN = re.compile(r"(?:pwrite64|write|writev|pwritev)\((\d+)")
TRACED = "fdatasync,fsync,msync,sync_file_range,openat,pwrite64,write,writev,pwritev"

Started = Callable[..., AbstractContextManager[Client]]
"""A program that runs under a command (such as strace), as a client that is connected to it."""


def measure(scale: Scale) -> Iterator[Row]:
    """Measure three rows."""
    many = scale.pick(100_000, 200)
    with model_server() as port:
        sizes: dict[str, list[Round]] = {"a new store": [], f"a store of {many:,} sessions": []}
        with daemon(config(port)) as server, server.client() as client:
            run_turn(client, "warm")
            request = newest_request(port)
            for rounds in sizes.values():
                with prototype(port, request) as path, Client(path) as bare:
                    for number in scale.rounds:
                        sender, turns = f"round{number}", scale.pick(20, 5)
                        rounds.append(
                            Round(written_kib(client, sender, turns), written_kib(bare, sender, turns))
                        )
                if rounds is sizes["a new store"]:
                    fill(client, many)
        note = "all bytes passed to write calls, as wchar in /proc/PID/io counts them; sockets do not count"
        for name, rounds in sizes.items():
            full_name = f"written for each text turn, {name}"
            yield Row(full_name, "KiB", rounds, at_most(5), "ratio", "bare prototype (new store)", note)
        name = "flushes for each text turn"
        if shutil.which("strace"):
            pair = Round(flushes(run_daemon(port), scale), flushes(run_prototype(port, request), scale))
            note = "calls of fdatasync, fsync and msync and writes to files opened with O_DSYNC, by strace"
            yield Row(name, "", [pair], at_most(1), "ratio", "bare prototype", note)
        else:
            yield Row(name, "", [], at_most(1), "ratio", note="left out: strace is missing")


def written_kib(client: Client, sender: str, turns: int) -> float:
    """Measure the bytes written for each of the first turns of a conversation."""
    pid = pid_of(client)
    before = bytes_written(pid)
    for _ in range(turns):
        run_turn(client, sender)
    return (bytes_written(pid) - before) / turns / 1024


def run_daemon(port: int) -> Started:
    """Return the daemon as a program to count."""

    @contextmanager
    def start(*before: str) -> Iterator[Client]:
        with home(config(port)) as server, server.running(*before), server.client() as client:
            yield client

    return start


def run_prototype(port: int, request: bytes) -> Started:
    """Return the prototype as a program to count."""

    @contextmanager
    def start(*before: str) -> Iterator[Client]:
        with prototype(port, request, *before) as path, Client(path) as client:
            yield client

    return start


def flushes(started: Started, scale: Scale) -> float:
    """Count the flushes of each turn, without those of start and stop."""
    turns = scale.pick(50, 5)
    return (count_flushes(started, 5 + turns) - count_flushes(started, 5)) / turns


def count_flushes(started: Started, turns: int) -> int:
    """Count the flushes of a program with this many turns."""
    with scratch() as directory:
        log = directory / "strace"
        with started("strace", "-f", "-qq", "-e", f"trace={TRACED}", "-o", str(log)) as client:
            for number in range(turns):
                run_turn(client, f"sender{number % 5}")
            # A stopped strace would detach from the program. Instead stop the program: strace ends with it.
            pid = pid_of(client)
            os.kill(pid, signal.SIGTERM)
            wait_until_gone(pid)
        return sum(is_flush(line, log_descriptors(log)) for line in log.read_text().splitlines())


def log_descriptors(log: Path) -> frozenset[str]:
    """Return the descriptors of files that are flushed by each write to them."""
    return frozenset(OPENED.findall(log.read_text()))


def is_flush(line: str, synchronous: frozenset[str]) -> bool:
    """Whether a line of strace is a flush, or a write to a file that is opened for synchronous writes."""
    if FLUSHING.search(line):
        return True
    match = WRITTEN.search(line)
    return match is not None and match[1] in synchronous


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        select.select([descriptor], [], [], 30)
        os.close(descriptor)
