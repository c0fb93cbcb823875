"""The keeper by itself: its messages, its signals, and that it ends with nothing below it."""

import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.keeper import descendants, send_signal, start_ticks_of, stat_of, sweep
from kheishd.hooks.os.shell.process import ROOT
from tests.support.commands import running_with, wait_ended, wait_for_processes

KEEPER = """
import os, sys
sys.path.append(sys.argv[1])
from kheishd.hooks.os.shell.keeper import keep
from kheishd.hooks.os.shell.runner import Orders, Runner
control = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDWR), 0)
_, _, manner, limits, workspace, *argv = sys.argv
keep(control, manner, workspace, Runner(control), Orders(argv, dict(os.environb), limits))
"""


class Kept:
    """A keeper, and our end of its socket."""

    def __init__(self, argv: list[str], manner: str, limits: str = "", workspace: str = "/") -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)
        self.lines = self.socket.makefile("r")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", KEEPER, str(ROOT), manner, limits, workspace, *argv],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
            )

    def line(self) -> list[str]:
        """Return the keeper's next line; empty at the end."""
        return self.lines.readline().split()

    def output(self) -> bytes:
        """Return the command's whole output."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def hang_up(self) -> None:
        """Close our end, as the daemon's death does."""
        self.lines.close()
        self.socket.close()


@contextmanager
def kept(command: str, manner: str = "bare", *original: str, limits: str = "") -> Iterator[Kept]:
    """Provide a command under its keeper; a command that does not end is killed."""
    keeper = Kept([*original, "/bin/sh", "-c", command], manner, limits)
    try:
        yield keeper
    finally:
        keeper.hang_up()
        with keeper.process as process:
            try:
                process.wait(20)
            finally:
                process.kill()


def test_a_command_from_its_beginning_to_its_end() -> None:
    """The keeper reports start, exit code and end; the output is the command's own."""
    with kept("echo $$; exit 5") as keeper:
        action, pid, started = keeper.line()
        assert action == "began"
        assert int(started) > 0
        assert [keeper.line(), keeper.line(), keeper.line()] == [["ended", "5"], ["gone"], []]
        assert keeper.output() == f"{pid}\n".encode()


def test_what_cannot_be_executed() -> None:
    """The keeper reports the reason for which a program cannot be executed."""
    with kept("", "bare", "/bin/nothing-like-it") as keeper:
        assert keeper.line() == ["failed", *"No such file or directory".split()]
        assert keeper.line() == []


def test_a_command_finds_itself_as_usual() -> None:
    """A command has a session, default signals and three descriptors, and is first to go without memory."""
    look = "ls /proc/self/fd | wc -l; ps -o sid= -p $$; cd /proc/self; cat oom_score_adj; grep SigIgn status"
    with kept(look) as keeper:
        _, pid, _ = keeper.line()
        descriptors, session, score, _, ignored = keeper.output().split()
    # The fourth is the one that ls reads the directory with.
    assert (int(descriptors), session.decode(), int(score)) == (4, pid, 500)
    # The C library has signals 32 and 33 for itself, and ignores them in programs that it starts.
    assert int(ignored, 16) & ~(0b11 << 31) == 0


def test_signals_do_not_end_it() -> None:
    """Common signals end neither the keeper nor its duty."""
    with kept("kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; kill -QUIT $PPID; echo here") as keeper:
        assert keeper.line()[0] == "began"
        assert keeper.line() == ["ended", "0"]
        assert keeper.output() == b"here\n"


def test_leftovers_go_with_the_command() -> None:
    """No process outlives its command, however it hides."""
    with kept("setsid sleep 7001.1 & setsid sh -c 'sleep 7001.1 & exit' & exit") as keeper:
        assert [keeper.line()[0] for _ in range(3)] == ["began", "ended", "gone"]
        assert running_with("7001.1") == []


def test_stopping() -> None:
    """Stopping sends SIGTERM, and SIGKILL after the grace time."""
    command = (
        "setsid sh -c 'trap \"echo asked; exit\" TERM; echo ready; while :; do :; done' & trap '' TERM; wait"
    )
    with kept(command) as keeper:
        assert keeper.line()[0] == "began"
        assert keeper.process.stdout is not None
        assert keeper.process.stdout.readline() == b"ready\n"
        keeper.socket.sendall(b"stop 0.2\n")
        # Who traps nothing and waits for nobody any more ends by itself.
        assert keeper.line()[0] == "ended"
        assert keeper.line() == ["gone"]
        assert keeper.output() == b"asked\n"


def test_stopping_what_does_not_listen() -> None:
    """A command that ignores SIGTERM has the exit code of SIGKILL."""
    with kept("trap '' TERM; echo ready; while :; do sleep 7002.1; done") as keeper:
        assert keeper.line()[0] == "began"
        assert keeper.process.stdout is not None
        assert keeper.process.stdout.readline() == b"ready\n"
        keeper.socket.sendall(b"stop 0.1\n")
        assert [keeper.line(), keeper.line()] == [["ended", "137"], ["gone"]]
        assert running_with("7002.1") == []


def test_the_end_of_the_socket_is_the_end() -> None:
    """At the end of the socket everything is killed at once."""
    with kept("trap '' TERM; setsid sleep 7003.1 & setsid sleep 7003.1 & sleep 7003.1") as keeper:
        assert keeper.line()[0] == "began"
        remaining = wait_for_processes("7003.1", 3)
        keeper.hang_up()
        assert wait_ended([*remaining, keeper.process.pid])


def test_the_command_dies_with_its_keeper() -> None:
    """The kernel kills the command with its keeper; the mark finds its other processes."""
    with kept("exec sleep 7004.1") as keeper:
        assert keeper.line()[0] == "began"
        remaining = wait_for_processes("7004.1", 1)
        keeper.process.kill()
        assert wait_ended(remaining)


@pytest.mark.usefixtures("bubblewrap")
@pytest.mark.parametrize(
    ("options", "last"),
    [
        (["--ro-bind", "/", "/", "--"], ["ended", "5"]),
        (["--ro-bind", "/", "/", "--bind", "/nothing-like-it", "/mnt", "--"], ["unboxed"]),
    ],
)
def test_a_sandbox_that_fails_is_no_command_that_fails(options: list[str], last: list[str]) -> None:
    """A failure of Bubblewrap differs from the command's own exit code."""
    with kept("exit 5", "boxed", "/usr/bin/bwrap", *options) as keeper:
        assert keeper.line()[0] == "began"
        assert keeper.line() == last
        assert keeper.line() == ["gone"]


def test_which_process_it_is() -> None:
    """A pid and a start identify a process, whatever its program is called."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print(); sys.stdin.read()"], stdin=subprocess.PIPE
    ) as child:
        parent, started = stat_of(child.pid) or (0, 0)
        assert parent == os.getpid()
        assert start_ticks_of(child.pid) == started
        assert (child.pid, started) in descendants(os.getpid())
        send_signal((child.pid, started + 1), signal.SIGKILL)
        assert child.poll() is None, "that was another process of this number"
        send_signal((child.pid, started), signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert stat_of(child.pid) is None
    send_signal((child.pid, started), signal.SIGKILL)


def test_a_name_that_looks_like_more(tmp_path: Path) -> None:
    """A program's name may contain parentheses and blanks."""
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "7005.1"]) as child:
        wait_for_processes("7005.1", 1)
        result = stat_of(child.pid)
        child.kill()
    assert result is not None
    assert result[0] == os.getpid()


def test_sweeping() -> None:
    """A sweep kills everything below a process, stopped ones included, but not the process itself."""
    tree = "sleep 7006.1 & sh -c 'sleep 7006.1 & sleep 7006.1' & sleep 7006.1; read -r end"
    with subprocess.Popen(["/bin/sh", "-c", tree], stdin=subprocess.PIPE) as root:
        remaining = wait_for_processes("7006.1", 4)
        os.kill(remaining[0], signal.SIGSTOP)
        sweep(root.pid)
        assert root.poll() is None
        root.communicate()
    assert wait_ended(remaining)


# Limits.


@pytest.mark.parametrize("manner", ["bare", "boxed"])
def test_a_command_beyond_a_limit(manner: str, bubblewrap: None) -> None:
    """The keeper names the limit, and stops the command and everything below it."""
    options = ("--ro-bind", "/", "/", "--dev", "/dev", "--unshare-pid", "--die-with-parent")
    original = (shutil.which("bwrap") or "bwrap", *options) if manner == "boxed" else ()
    script = "for i in 1 2 3 4 5 6; do sleep 8123.5 & done; wait"
    with kept(script, manner, *original, limits="processes=4") as keeper:
        lines = [keeper.line() for _ in range(4)]
        assert [line[0] for line in lines] == ["began", "exceeded", "ended", "gone"]
        assert lines[1:3] == [["exceeded", "processes"], ["ended", "137"]]
        assert running_with("8123.5") == []


def test_limits_of_each_process() -> None:
    """The kernel's own limits apply, no core is dumped, and lower limits stay."""
    with kept("ulimit -f; ulimit -n; ulimit -c", limits="file=1048576,descriptors=1000000000") as keeper:
        keeper.line()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert keeper.output().split() == [b"2048", str(hard).encode(), b"0"]


def test_a_session_keyring_of_its_own() -> None:
    """The session keyring is not the daemon's, so a command neither sees nor leaves keys there."""
    script = "import ctypes, sys; print(ctypes.CDLL(None).syscall(int(sys.argv[1]), 0, -3, 0))"
    number = {"x86_64": "250", "aarch64": "219"}.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of keyctl is unknown here")
    argv = [sys.executable, "-c", script, number]
    own = subprocess.run(argv, capture_output=True, check=True).stdout
    if own.startswith(b"-"):
        pytest.skip("this kernel has no keyrings")
    with kept(shlex.join(argv)) as keeper:
        keeper.line()
        assert keeper.output() not in (own, b"-1\n")
