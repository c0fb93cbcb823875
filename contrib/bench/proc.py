"""Figures of the kernel about a running program."""

import time
from pathlib import Path


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Return memory in KiB: ``VmRSS`` is all resident memory, ``RssAnon`` excludes mapped files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise KeyError(field)


def cpu_ms(pid: int) -> float:
    """Return the processor time of a process, with that of threads that have ended, in milliseconds."""
    # The clock of another process, as clock_getcpuclockid(3) numbers it.
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def bytes_written(pid: int) -> int:
    """Return the bytes that a process has passed to write calls; those of sockets do not count."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))
