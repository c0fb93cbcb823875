"""``kheishctl top``, against a real daemon."""

import os
import pty
import subprocess
import sys

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon


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
