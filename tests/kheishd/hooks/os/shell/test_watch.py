"""The watch over a command: what it counts, and what belongs to others."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.watch import (
    BYTES,
    BYTES_PER_FILE,
    FILES,
    ControlGroup,
    Limits,
    Watch,
    find_changed_files,
    find_deleted_files,
    tree,
)
from protocol.limits.units import MIB


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Provide a child that holds 40 MiB and has a child of its own."""
    script = "x = b'x' * (40 << 20); import subprocess; subprocess.Popen(['cat']); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.stdin.close()


def test_limits_are_read() -> None:
    """Limits that are not named do not exist."""
    limits = Limits("memory=5,processes=6,file=7,descriptors=8,growth=9,reserve=10,group=/sys/fs/x")
    assert (limits.memory, limits.processes, limits.file) == (5, 6, 7)
    assert (limits.descriptors, limits.growth, limits.reserve, limits.group) == (8, 9, 10, "/sys/fs/x")
    assert vars(Limits()) == vars(Limits(",".join(f"{name}=0" for name in ("memory", "file"))))


def test_processes_and_memory(child: subprocess.Popen[bytes], workspace: Path) -> None:
    """All processes below count, with their threads and their own memory."""
    pids = set(tree(os.getpid()))
    assert child.pid in pids
    number = len(pids)
    assert number >= 2
    for text, exceeded in (
        (f"processes={number - 1}", "processes"),
        (f"processes={number + 1000}", None),
        (f"memory={30 * MIB}", "memory"),
        (f"memory={4000 * MIB}", None),
        ("", None),
    ):
        assert Watch(Limits(text), str(workspace)).look() == exceeded, text


def fill(path: Path, mib: int) -> None:
    """Write a file that takes space on the disk."""
    path.write_bytes(b"x" * (mib * MIB))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def test_growth(workspace: Path) -> None:
    """Files written since the beginning count, at any depth, and deleted ones while they are open."""
    fill(workspace / "old", 3)
    os.utime(workspace / "old", (0, 0))
    (workspace / "deep").mkdir()
    watch = Watch(Limits(f"growth={2 * MIB}"), str(workspace))
    # The free space as it was before: others on this disk write as well.
    watch._free[BYTES] += 64 * MIB
    watch._began_ns = os.stat(workspace / "old").st_ctime_ns + 20_000_000
    assert watch.look() is None
    watch = Watch(Limits(f"growth={2 * MIB}"), str(workspace))
    watch._free[BYTES] += 64 * MIB
    fill(workspace / "deep" / "new", 3)
    assert watch.look() == "growth"
    script = f"f = open('{workspace}/gone', 'wb'); f.write(b'x' * (3 << 20)); f.flush()"
    script += "; print(flush=True); input()"
    (workspace / "deep" / "new").unlink()
    (workspace / "old").unlink()
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        (workspace / "gone").unlink()
        watch._next_search[BYTES] = watch._searched_at[BYTES] = 0
        assert watch.look() == "growth"
        process.stdin.close()


HOLD = """
import ctypes, os, socket, sys, threading
path, way = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT)
os.unlink(path)
os.write(file, b"x" * (3 << 20))
def hold():
    if way == "thread":
        assert libc.unshare(0x400) == 0
    ready.set()
    sys.stdin.read()
ready = threading.Event()
libc = ctypes.CDLL(None)
if way == "map":
    libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file, ctypes.c_long(0))
if way == "socket":
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [file])
threading.Thread(target=hold).start()
ready.wait()
os.close(file)
print(flush=True)
"""


@pytest.mark.parametrize("way", ["thread", "map", "socket"])
def test_deleted_files(workspace: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted files count if only a map, a thread with descriptors of its own, or a buffer keeps them."""
    watch = Watch(Limits(f"growth={2 * MIB}"), str(workspace), boxed=True)
    watch._free[BYTES] += 64 * MIB
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{workspace}/gone", way], stdin=-1, stdout=-1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert not (workspace / "gone").exists()
        if way == "socket":
            # The file itself cannot be found, but its bytes were written by some process.
            for _ in range(2):
                watch._next_search[BYTES] = 0
                assert watch.look() is None
            assert watch._unexplained == 2
            watch._next_search[BYTES] = 0
        assert watch.look() == "growth"
        if way == "map":
            read_status = os.stat

            def refuse(path: str, **options: bool) -> os.stat_result:
                if "map_files" in str(path):
                    raise PermissionError
                return read_status(path, **options)

            with monkeypatch.context() as context:
                context.setattr(os, "stat", refuse)
                statuses = list(find_deleted_files(str(workspace), math.inf))
            assert None in statuses
            assert list(find_deleted_files(str(workspace), 0)) == [None]
        process.stdin.close()


def test_empty_files(workspace: Path) -> None:
    """Files count as well as their bytes, because a disk may have only so many; and so does the reserve."""
    watch = Watch(Limits(f"growth={20 * BYTES_PER_FILE}"), str(workspace))
    for number in range(15):
        (workspace / str(number)).touch()
    watch._free[FILES] += 1000 * BYTES_PER_FILE
    assert watch.look() is None
    for number in range(30):
        (workspace / str(number)).touch()
    watch._free[FILES] += 1000 * BYTES_PER_FILE
    watch._next_search = [0, 0]
    assert watch.look() == "files"
    watch = Watch(Limits("growth=0"), str(workspace))
    watch._limits.reserve = watch._read_free()[FILES] + 1000 * BYTES_PER_FILE
    watch._free[FILES] += 1000 * BYTES_PER_FILE
    (workspace / "another").touch()
    assert watch.look() == "reserve"


def test_growth_of_others(workspace: Path, tmp_path: Path) -> None:
    """Space that others take is not the command's, and is not searched for again and again."""
    watch = Watch(Limits(f"growth={2 * MIB}"), str(workspace))
    watch._free[BYTES] += 64 * MIB
    fill(tmp_path / "elsewhere", 3)
    assert watch.look() is None
    assert watch._searched_at[BYTES] > 60 * MIB
    fill(workspace / "own", 3)
    watch._next_search = [0, 0]
    watch._free[BYTES] += 64 * MIB
    assert watch.look() == "growth"


def test_directories_that_cannot_be_searched(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command cannot hide its files in directories that it closed."""
    (workspace / "closed").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_changed_files(str(workspace), 1 << 62, math.inf)) == [None]
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    assert list(find_changed_files(str(workspace), 1 << 62, math.inf)) == []
    assert list(find_changed_files(str(workspace / "missing"), 0, math.inf)) == []


def test_a_search_that_takes_too_long(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the files cannot be searched in time, all that the disk lost counts as the command's."""
    monkeypatch.setattr("kheishd.hooks.os.shell.watch.MAX_SEARCH_SECONDS", -1.0)
    watch = Watch(Limits(f"growth={2 * MIB}"), str(workspace))
    watch._free[BYTES] += 64 * MIB
    assert watch.look() == "growth"


def test_the_reserve(workspace: Path) -> None:
    """Below the reserve of the disk, only a command that writes is stopped."""
    watch = Watch(Limits(f"reserve={1 << 62}"), str(workspace))
    watch._free[BYTES] += 64 * MIB
    watch._began_ns += 10**12
    assert watch.look() is None
    watch = Watch(Limits(f"reserve={1 << 62}"), str(workspace))
    watch._free[BYTES] += 64 * MIB
    fill(workspace / "own", 1)
    assert watch.look() == "reserve"


def test_looks_become_rarer(workspace: Path) -> None:
    """The first look comes soon; a command that takes long is looked at twice a second."""
    watch = Watch(Limits("processes=100000"), str(workspace))
    assert watch.next_look - watch._began < 0.1
    watch._began -= 1000
    watch.look()
    assert 1000.4 < watch.next_look - watch._began < 1001


def test_a_workspace_that_is_gone(tmp_path: Path) -> None:
    """A workspace that was removed is no reason to fail."""
    watch = Watch(Limits("growth=1,memory=1"), str(tmp_path / "gone"))
    assert watch.look() in (None, "memory")


# Control groups.


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a group; making its directory makes its files, as the kernel does."""
    path = tmp_path / "group"
    make_directory = os.mkdir

    def mkdir(name: str) -> None:
        make_directory(name)
        for file in ("memory.max", "memory.oom.group", "pids.max", "cgroup.procs", "cgroup.kill"):
            Path(name, file).touch()

    monkeypatch.setattr(os, "mkdir", mkdir)
    return path


def test_a_group_has_the_limits(group: Path) -> None:
    """The kernel gets the limits, the command joins, and an excess is found in the group's events."""
    limits = Limits(f"memory={90 * MIB},processes=7,group={group}")
    opened = ControlGroup(limits)
    assert opened.is_open
    opened.add(7)
    opened.kill()
    files = {file.name: file.read_text() for file in group.iterdir()}
    assert files == {
        **{"memory.max": str(90 * MIB), "memory.oom.group": "1", "pids.max": "7"},
        **{"cgroup.procs": "7", "cgroup.kill": "1"},
    }
    assert opened.find_excess() is None
    (group / "pids.events").write_text("max 3\n")
    assert opened.find_excess() == "processes"
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    assert opened.find_excess() == "memory"
    opened.remove()
    assert not opened.is_open


def test_a_group_without_limits(group: Path) -> None:
    """A group may be there only to kill the command: the kernel gets no limit then."""
    for _ in range(2):
        # That of a command whose keeper was killed may still be there.
        opened = ControlGroup(Limits(f"group={group}"))
        opened.add(7)
        assert (opened.is_open, (group / "cgroup.procs").read_text()) == (True, "7")
    assert ((group / "memory.max").read_text(), (group / "pids.max").read_text()) == ("", "")


def test_a_group_that_cannot_be_made(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    """Without a group, or without its files, the keeper watches."""
    for path in (tmp_path / "missing/group", tmp_path / "plain"):
        watch = Watch(Limits(f"processes=1,group={path}"), str(tmp_path))
        assert not watch.group.is_open
        watch.group.add(child.pid)
        watch.group.kill()
        assert watch.look() == "processes"
        assert not path.exists()


def test_without_limits(workspace: Path) -> None:
    """A command without any limit is never looked at, unless it is in a sandbox."""
    assert Watch(Limits(), str(workspace)).next_look == float("inf")
    assert Watch(Limits(), str(workspace), boxed=True).next_look < float("inf")
    assert Watch(Limits("memory=1"), str(workspace)).next_look < float("inf")
