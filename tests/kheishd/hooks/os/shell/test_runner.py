"""The runner by itself: what it becomes, and that it ends with its keeper."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.process import ROOT
from kheishd.hooks.os.shell.runner import Orders
from tests.support.commands import wait_ended

BEGIN = """
import os, signal, sys
sys.path.append(sys.argv[1])
from kheishd.hooks.os.shell.runner import Orders, Runner
control = os.open("/dev/null", os.O_RDONLY)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
runner = Runner(control)
read, write = os.pipe()
"""

END = """
os.close(write)
sys.stderr.write(os.read(read, 1000).decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(runner.pid, 0)[1]))
"""


def become(orders: str) -> subprocess.CompletedProcess[str]:
    """Let a runner carry out orders, whose expression is given, below a process of its own."""
    code = f"{BEGIN}\nrunner.run({orders}, write)\n{END}"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, check=False
    )


def test_it_becomes_the_command() -> None:
    """The command has its arguments, variables and umask, no ignored signal, and a session of its own."""
    script = (
        "echo $1 $A; umask; ulimit -c -n; grep SigIgn /proc/self/status; ps -o sid= $$ | grep -cw $$; exit 7"
    )
    orders = f"Orders(['/bin/bash', '-c', {script!r}, 'sh', 'b'], {{b'A': b'a', b'PATH': b'/usr/bin:/bin'}}"
    done = become(f"{orders}, 'descriptors=50', umask=0o027)")
    lines = done.stdout.split("\n")
    assert lines[:2] == ["b a", "0027"]
    assert [line.split()[-1] for line in lines[2:4]] == ["0", "50"]
    # The C library has signals 32 and 33 for itself.
    assert int(lines[4].split()[1], 16) & ~(0b11 << 31) == 0
    assert (lines[5], done.returncode, done.stderr) == ("1", 7, "")


def test_its_descriptors(tmp_path: Path) -> None:
    """Output, errors, directory and further descriptors are those of the orders, under their numbers."""
    for name in ("out", "err", "data"):
        (tmp_path / name).write_text("data" if name == "data" else "")
    opened = ", ".join(
        f"os.open({str(tmp_path / name)!r}, {flags})"
        for name, flags in (("out", os.O_RDWR), ("err", os.O_RDWR), (".", os.O_PATH), ("data", os.O_RDONLY))
    )
    script = "pwd; cat <&7; echo error >&2; ls /proc/$$/fd"
    done = become(
        f"Orders(['/bin/sh', '-c', {script!r}], dict(os.environb), '', [7], descriptors=[{opened}])"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "err").read_text() == "error\n"
    assert (tmp_path / "out").read_text().split("\n") == [str(tmp_path), "data0", "1", "2", "7", ""]


def test_a_program_that_cannot_be_executed() -> None:
    """The reason is reported."""
    done = become("Orders(['/bin/nothing-like-it'], {})")
    assert (done.returncode, done.stderr) == (127, "No such file or directory")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit()"])
def test_it_ends_with_its_keeper(end: str) -> None:
    """Without orders, a runner ends when its keeper does, however that ends."""
    code = f"{BEGIN}\nprint(runner.pid, flush=True)\n{end}"
    argv = [sys.executable, "-I", "-S", "-c", code, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert wait_ended([int(done.stdout)])


def test_options_with_descriptors() -> None:
    """A descriptor that is added gets the next number, and its option comes first."""
    orders = Orders(["bwrap", "--", "true"], {}, numbers=[9])
    first, second = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    orders.add("--one", first)
    orders.add("--two", second)
    assert orders.argv == ["bwrap", "--two", "11", "--one", "10", "--", "true"]
    assert (orders.numbers, orders.descriptors) == ([9, 10, 11], [first, second])
    orders.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
