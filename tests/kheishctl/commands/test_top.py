"""``kheishctl top``, against a real daemon."""

import json
import os
import pty
import subprocess
import sys

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home


def test_once(ctl: Ctl) -> None:
    """Once, the table and its data as JSON are printed without a terminal."""
    assert "RUN" in ctl("top", "--once").out
    assert set(ctl("top", "--once", "--json").json) >= {"status", "runs", "waits", "crons", "servers"}


def test_a_terminal_is_left_as_it_was(daemon: Daemon) -> None:
    """On a terminal the table is drawn on a second screen, which q leaves."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "top"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=os.environ | {"COLUMNS": "80", "LINES": "24"},
    ) as process:
        os.close(child)
        output = b""
        while b"IDLE" not in output:
            output += os.read(parent, 4096)
        os.write(parent, b"tq")
        while b"\x1b[?1049l" not in output:
            output += os.read(parent, 4096)
        assert process.wait(30) == 0
    os.close(parent)
    assert b"\x1b[?1049h" in output


def test_a_restart_is_waited_for() -> None:
    """The table goes on with the next daemon."""
    arguments = ["top", "--json", "--interval", "0.2"]
    with short_home() as home, Daemon(home) as own:
        command = [sys.executable, "-m", "kheishctl", "--home", str(home), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())["status"]["pid"]
            own.stop()
            own.restart()
            samples = (json.loads(line) for line in process.stdout)
            last = next(sample for sample in samples if sample["status"]["pid"] != first)
            assert last["status"]["pid"] == own.pid
            process.kill()
