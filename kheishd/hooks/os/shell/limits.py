"""The limits of commands: what the keeper is told, and what people and models read when one is exceeded."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from kheishd.hooks.os.shell.watch import BYTES_PER_FILE
from protocol.limits.units import MIB

if TYPE_CHECKING:
    from kheishd.config.sections.tools import LimitsSection

# Below a sandbox, the kernel limits processes as well: higher than the keeper, which names the limit.
PROCESS_MARGIN: Final = 64

# The kernel's errors about a single process, as programs print them, with the key of the limit.
_ERRORS: Final = {
    "File too large": "max_file_bytes",
    "File size limit exceeded": "max_file_bytes",
    "Too many open files": "max_open_files",
    "Resource temporarily unavailable": "max_processes",
    "No space left on device": "max_scratch_bytes",
}
# A command that ended by a signal has this plus the signal's number as its exit code.
_SIGNALED: Final = 128


def write_limits(limits: LimitsSection, *, reserve_bytes: int = 0, group: str = "") -> str:
    """Return the limits as the keeper reads them."""
    values = {
        "memory": _max_memory_bytes(limits),
        "processes": limits.max_processes,
        "file": limits.max_file_bytes,
        "descriptors": limits.max_open_files,
        "growth": limits.max_growth_bytes,
        "reserve": reserve_bytes,
        "group": group,
    }
    return ",".join(f"{name}={value}" for name, value in values.items())


def explain_excess(exceeded: str, limits: LimitsSection) -> str:
    """Return the sentence about a command that was stopped because of a limit."""
    match exceeded:
        case "memory":
            used, key, value = "used more memory than allowed", "max_memory_bytes", _max_memory_bytes(limits)
        case "processes":
            used, key, value = "had more processes and threads than allowed", "max_processes", 0
        case "growth":
            used, key, value = "wrote more than allowed", "max_growth_bytes", limits.max_growth_bytes
        case "files":
            used, key = "created more files than allowed", "max_growth_bytes"
            value = limits.max_growth_bytes // BYTES_PER_FILE
            return f"stopped: it {used}, {value} (the operator can raise tools.limits.{key})"
        case "mounts":
            return (
                "stopped: another program replaced, renamed or removed a file that the command may not "
                "change or read, which made it unprotected; run the command again"
            )
        case _:
            return (
                "stopped: it wrote to a disk that is nearly full, whose last part is kept for the daemon's "
                "store (the operator can lower daemon.reserve_bytes); free some space first"
            )
    size = f"{value // MIB} MiB" if value else str(limits.max_processes)
    return f"stopped: it {used}, {size} (the operator can raise tools.limits.{key})"


def suspect_limit(code: int | None, errors: str, limits: LimitsSection) -> str | None:
    """Return a sentence about the limit that a failed command may have met; None without a sign of one.

    These limits are the kernel's, and it tells only the program: its exit code and its errors are the signs.
    """
    if code == _SIGNALED + signal.SIGXFSZ:
        return _name("max_file_bytes", limits)
    if code == _SIGNALED + signal.SIGSYS:
        return "it was killed for a system call of another architecture, which the sandbox does not allow"
    if code == 0:
        return None
    return next((_name(key, limits) for error, key in _ERRORS.items() if error in errors), None)


def _name(key: str, limits: LimitsSection) -> str:
    return (
        f"perhaps it met the limit tools.limits.{key} = {getattr(limits, key)}, which the operator can raise"
    )


def _max_memory_bytes(limits: LimitsSection) -> int:
    """Return the memory that a command may use: never more than three quarters of the machine's."""
    try:
        with open("/proc/meminfo", "rb") as file:
            machine_bytes = int(file.readline().split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        return limits.max_memory_bytes
    return min(limits.max_memory_bytes, machine_bytes * 3 // 4)
