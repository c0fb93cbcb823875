"""The limits of one command where the kernel has none for a whole tree of processes.

The kernel limits a single process: the size of a file, the number of descriptors. For all processes of a
command together it needs a control group (cgroup v2), which an ordinary user has only where the service
manager delegates one. Elsewhere, the keeper watches: the number of processes and threads, and their memory;
and in any case the growth of the workspace, for which file systems rarely have quotas.

Watching is late by up to half a second, and it is honest: the command is stopped, and the limit is named.
This file is part of the keeper's process, which imports little (see ``keeper``).
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, suppress
from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# The first look comes soon, since a runaway command is fast; later ones cost a long command nothing.
FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 0.5
PAUSE_GROWTH = 20

BLOCK_BYTES = 512

# A file system has a number of files, too, often one for so many bytes: an empty file counts as many.
BYTES_PER_FILE = 16 * 1024
BYTES, FILES = 0, 1

# The time for finding the files that a command has written; beyond it, all that the disk lost is its own.
MAX_SEARCH_SECONDS = 2.0

# The time between two searches, as a multiple of the previous one's.
SEARCH_REST = 10

# The looks at which the command has written more than all its files that can be found explain: it may hide
# a deleted file, as in a socket's buffer, or have removed files while others wrote.
MAX_UNEXPLAINED = 3

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Limits:
    """The limits of a command; 0 is none. ``group`` is the directory of its control group, if it has one.

    ``memory``, ``file``, ``growth`` and ``reserve`` are bytes, ``processes`` counts threads as well.
    ``reserve`` is free space of the workspace's file system: below it, a command may not write more.
    """

    def __init__(self, text: str = "") -> None:
        values = dict(item.split("=", 1) for item in text.split(",") if item)
        self.memory = int(values.get("memory", 0))
        self.processes = int(values.get("processes", 0))
        self.file = int(values.get("file", 0))
        self.descriptors = int(values.get("descriptors", 0))
        self.growth = int(values.get("growth", 0))
        self.reserve = int(values.get("reserve", 0))
        self.group = values.get("group", "")


class ControlGroup:
    """The control group of one command; without one, ``is_open`` is false and the keeper watches instead."""

    def __init__(self, limits: Limits) -> None:
        self._path = limits.group
        self.is_open = False
        if not limits.group:
            return
        try:
            # One of an earlier command of this name has not been removed yet if its keeper was killed.
            with suppress(FileExistsError):
                os.mkdir(self._path)
            self.is_open = True
            # Memory in the swap is memory, too; and nothing that remains of a command is of use.
            limited = [("memory.max", limits.memory), ("memory.swap.max", 0), ("memory.oom.group", 1)]
            counted = [("pids.max", limits.processes)]
            for name, value in [*(limited if limits.memory else ()), *(counted if limits.processes else ())]:
                with suppress(FileNotFoundError) if name == "memory.swap.max" else nullcontext():
                    self._write(name, value)
        except OSError:
            self.remove()

    def add(self, pid: int) -> None:
        """Move a process into the group, with all that it starts from now on."""
        if self.is_open:
            self._write("cgroup.procs", pid)

    def find_excess(self) -> str | None:
        """Return the limit that the command has met; None if none."""
        if not self.is_open:
            return None
        if self._count("memory.events", b"oom_kill"):
            return "memory"
        return "processes" if self._count("pids.events", b"max") else None

    def kill(self) -> None:
        """Kill all processes of the group, if the kernel can (5.14)."""
        if self.is_open:
            with suppress(OSError):
                self._write("cgroup.kill", 1)

    def remove(self) -> None:
        """Remove the group, after the end of its processes."""
        if self.is_open:
            self.is_open = False
            with suppress(OSError):
                os.rmdir(self._path)

    def _write(self, name: str, value: int) -> None:
        # Not created: where there is no such file, there is no such limit.
        descriptor = os.open(f"{self._path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"%d" % value)
        finally:
            os.close(descriptor)

    def _count(self, name: str, event: bytes) -> int:
        with suppress(OSError, ValueError), open(f"{self._path}/{name}", "rb") as file:
            for line in file:
                if line.split()[0] == event:
                    return int(line.split()[1])
        return 0


class Watch:
    """The watch over the processes below the keeper and over the workspace, an absolute path.

    ``boxed``: the processes can write to no other place of a disk.
    """

    def __init__(self, limits: Limits, workspace: str, *, boxed: bool = False) -> None:
        self.group = ControlGroup(limits)
        self._limits = limits
        self._workspace = workspace
        self._boxed = boxed
        self._began = time.monotonic()
        self._began_ns = time.time_ns()
        self._free = self._read_free()
        self._next_search = [0.0, 0.0]
        self._searched_at = [0, 0]
        self._unexplained = 0
        self._written_before = count_written_bytes()
        # A command that may do everything, such as a server that runs for weeks, is not looked at.
        is_free = not boxed and not any(vars(limits).values())
        self.next_look = float("inf") if is_free else self._began + FIRST_PAUSE_SECONDS

    def look(self) -> str | None:
        """Return the name of a limit that is exceeded; None if none is."""
        exceeded = self.group.find_excess()
        if not self.group.is_open and (self._limits.memory or self._limits.processes):
            exceeded = self._check_processes()
        exceeded = exceeded or self._check_growth()
        now = time.monotonic()
        elapsed = now - self._began
        self.next_look = now + min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS + elapsed / PAUSE_GROWTH)
        return exceeded

    # Processes.

    def _check_processes(self) -> str | None:
        tasks = pages = 0
        pids = []
        for pid in tree(os.getpid()):
            pids.append(pid)
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{pid}/stat", "rb") as file:
                    tasks += int(file.read().rpartition(b")")[2].split()[17])
                with open(f"/proc/{pid}/statm", "rb") as file:
                    _, resident, shared, *_ = file.read().split()
                pages += int(resident) - int(shared)
            # A tree that grows faster than it can be walked.
            if self._limits.processes and tasks > self._limits.processes:
                return "processes"
        if self._limits.memory and pages * PAGE_BYTES > self._limits.memory:
            # Processes that were forked share pages, which were counted more than once so far.
            if sum(map(proportional_bytes, pids)) > self._limits.memory:
                return "memory"
        return None

    # Growth.

    def _read_free(self) -> list[int]:
        """Return the free bytes, and the free files as bytes; some file systems do not limit these."""
        try:
            status = os.statvfs(self._workspace)
        except OSError:
            return [0, 0]
        files = status.f_favail if status.f_files else 1 << 62
        return [status.f_bavail * status.f_frsize, files * BYTES_PER_FILE]

    def _check_growth(self) -> str | None:
        """Compare what is free, which is cheap; if much is gone, find out how much this command wrote."""
        free = self._read_free()
        return self._check_resource(BYTES, free[BYTES]) or self._check_resource(FILES, free[FILES])

    def _check_resource(self, resource: int, free: int) -> str | None:
        """Check one of both, bytes or files, of which so much is free."""
        lost = self._free[resource] - free
        low = bool(self._limits.reserve) and free < self._limits.reserve
        allowed = 0 if low else self._limits.growth
        if not (low or self._limits.growth) or lost <= max(allowed, self._searched_at[resource]):
            return None
        began = time.monotonic()
        if began < self._next_search[resource]:
            return None
        # A search takes a while: not before all other processes, as the keeper may run (see ``keeper``).
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        written = self._find_written(resource, allowed, began + MAX_SEARCH_SECONDS)
        self._next_search[resource] = time.monotonic() + SEARCH_REST * (time.monotonic() - began)
        if written is None or written > allowed:
            return "reserve" if low else "growth" if resource == BYTES else "files"
        if self._boxed and resource == BYTES:
            unexplained = min(lost, count_written_bytes() - self._written_before) - written
            self._unexplained = self._unexplained + 1 if unexplained > allowed else 0
            if self._unexplained:
                exceeded = "reserve" if low else "growth"
                return exceeded if self._unexplained >= MAX_UNEXPLAINED else None
        # Others wrote the rest; look again when more is gone.
        self._searched_at[resource] = lost + (allowed - written) // 2
        return None

    def _find_written(self, resource: int, enough: int, deadline: float) -> int | None:
        """Return the size of the files that changed since the beginning; None if it cannot be found in time.

        Deleted files that are still open or mapped count as well. Stops when it is more than ``enough``.
        """
        total = 0
        # The clock of files ticks a few times in a hundredth of a second.
        changed_files = find_changed_files(self._workspace, self._began_ns - 10_000_000, deadline)
        for status in chain(find_deleted_files(self._workspace, deadline), changed_files):
            if status is None:
                return None
            total += status.st_blocks * BLOCK_BYTES if resource == BYTES else BYTES_PER_FILE
            if total > enough:
                break
        return total


def find_changed_files(directory: str, since_ns: int, deadline: float) -> Iterator[os.stat_result | None]:
    """Yield the status of each file below a directory that changed since a time.

    Shape:  None where files cannot be found: the time is over, or a directory cannot be read.
    """
    directories = [directory]
    while directories:
        if time.monotonic() > deadline:
            yield None
            return
        current = directories.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(entry.path)
                        status = entry.stat(follow_symlinks=False)
                        if status.st_ctime_ns >= since_ns:
                            yield status
        except FileNotFoundError:
            pass
        except OSError:
            # A command can close its own directories, or nest them so deep that their path is too long.
            with suppress(OSError):
                if os.stat(current, follow_symlinks=False).st_uid != os.geteuid():
                    continue
            yield None


def find_deleted_files(directory: str, deadline: float) -> Iterator[os.stat_result | None]:
    """Yield the status of the deleted files on a directory's disk that the command's processes hold.

    Shape:  None where the time is over, or a file is only mapped and its size cannot be found, which is a
    privilege.
    """
    device = None
    with suppress(OSError):
        device = os.stat(directory).st_dev
    seen = set()
    mapped: dict[int, str] = {}
    for pid in tree(os.getpid()):
        paths = []
        with suppress(OSError):
            # A thread can have descriptors of its own.
            for thread in os.listdir(f"/proc/{pid}/task"):
                descriptors = f"/proc/{pid}/task/{thread}/fd"
                paths += [f"{descriptors}/{name}" for name in os.listdir(descriptors)]
        for path in paths:
            if time.monotonic() > deadline:
                yield None
                return
            with suppress(OSError):
                status = os.stat(path)
                if status.st_nlink == 0 and status.st_dev == device and status.st_ino not in seen:
                    seen.add(status.st_ino)
                    yield status
        mapped |= find_deleted_maps(pid, directory)
    for inode in mapped.keys() - seen:
        try:
            yield os.stat(mapped[inode])
        except PermissionError:
            yield None
        except OSError:
            pass


def find_deleted_maps(pid: int, directory: str) -> dict[int, str]:
    """Return the paths of a process's maps of deleted files that were below a directory, by their inodes."""
    above = os.fsencode(directory).replace(b"\n", b"\\012") + b"/"
    maps = {}
    with suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            if line.endswith(b" (deleted)\n"):
                addresses, _, _, _, inode, path = line.split(None, 5)
                if path.startswith(above):
                    maps[int(inode)] = f"/proc/{pid}/map_files/{addresses.decode()}"
    return maps


def tree(root: int) -> Iterator[int]:
    """Yield the processes below one, by the kernel's lists of children."""
    pids = [root]
    while pids:
        pid = pids.pop()
        if pid != root:
            yield pid
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    pids += map(int, file.read().split())


def count_written_bytes() -> int:
    """Return the bytes that this process and those below it wrote to disks, with those that have ended."""
    total = 0
    for pid in chain((os.getpid(),), tree(os.getpid())):
        with suppress(OSError, ValueError), open(f"/proc/{pid}/io", "rb") as file:
            counts = dict(line.split(b": ") for line in file)
            total += int(counts[b"write_bytes"]) - int(counts[b"cancelled_write_bytes"])
    return total


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, with its part of what it shares with others."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
