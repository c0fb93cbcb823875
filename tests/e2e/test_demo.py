"""Tests of ``contrib/demo``: every step succeeds, and nothing remains."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support.programs import ROOT, environment

DEMO = ROOT / "contrib" / "demo"


def find_remains(temporary: Path) -> list[str]:
    """Return the demo's files, and its processes that do not end."""
    running = [command for pid, command in commands() if str(temporary) in command and still_exists(pid)]
    return [*(str(path) for path in temporary.iterdir()), *running]


def commands() -> Iterator[tuple[int, str]]:
    """Return the command line of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def still_exists(pid: int) -> bool:
    """Whether a process still exists after a while; an interrupted one may take a moment to end."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    ended, _, _ = select.select([process], [], [], 10)
    os.close(process)
    return not ended


def test_the_demo_continues_the_conversation_after_a_kill(tmp_path: Path) -> None:
    """Every step succeeds, and the temporary home is removed."""
    done = subprocess.run(
        [DEMO],
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -KILL" in done.stdout
    assert (
        "This is message 3 of our conversation; before it you said: “Tell me about the sea.”" in done.stdout
    )
    assert "each once and in order" in done.stdout
    assert find_remains(tmp_path) == []


def test_the_demo_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C during the demo removes the home and ends every process."""
    with subprocess.Popen(
        [DEMO],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("3."):
                break
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(60) == 130
        demo.stdout.read()
    assert find_remains(tmp_path) == []
