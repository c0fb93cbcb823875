"""Limits of commands in a real daemon: each excess is stopped, and its result names the limit and the key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home, until
from tests.support.waiting_runs import order

CONFIG = """
[workspace]
sandbox = "{mode}"

[tools.limits]
max_memory_bytes = 100_000_000
max_processes = 30
max_file_bytes = 4_000_000
max_open_files = 64
max_growth_bytes = 8_000_000
max_scratch_bytes = 1_048_576

[permissions]
mode = "bypassPermissions"
"""


@pytest.fixture(params=["required", "off"], scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Provide a daemon with low limits, for commands inside of a sandbox and outside."""
    if request.param == "required":
        request.getfixturevalue("bubblewrap")
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG.format(mode=request.param))
        with Daemon(home) as daemon:
            yield daemon


def run(daemon: Daemon, command: str) -> str:
    """Run a command; return the agent's answer, which contains the result."""
    return str(daemon.say(order("bash", command=command), sender=" ".join(command[:40].split()))["output"])


MAP = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
for _ in range(4):
    file = os.open("mapped", os.O_RDWR | os.O_CREAT)
    os.unlink("mapped")
    os.ftruncate(file, 4096)
    libc.mmap(None, ctypes.c_size_t(4096), 3, 1, file, ctypes.c_long(0))
    os.write(file, b"x" * 3_000_000)
    os.close(file)
signal.pause()
"""


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("python3 -c \"x = b'x' * 300_000_000; input()\" < <(sleep 60)", "max_memory_bytes"),
        ("b() { b | b & }; b; sleep 60", "max_processes"),
        ("for i in 1 2 3 4; do head -c 3M /dev/zero >grown$i; done; sync; sleep 60", "max_growth_bytes"),
        (f"python3 -c '{MAP}'", "max_growth_bytes"),
        ("touch file{1..5000}; sleep 60", "created more files than allowed, 488 (the operator can raise"),
        ("head -c 5M /dev/zero >large", "max_file_bytes"),
        ("python3 -c 'files = [open(\"/dev/null\") for _ in range(70)]'", "max_open_files"),
    ],
)
def test_an_excess_is_named(daemon: Daemon, command: str, key: str) -> None:
    """A command beyond a limit ends, and the daemon goes on."""
    result = run(daemon, command)
    assert "tools.limits." in result
    assert key in result, result
    assert '"success":false' in result
    for file in Path(daemon.home / "workspace").iterdir():
        file.unlink()
    assert '"success":true' in run(daemon, "echo fine")


def test_scratch_is_limited(daemon: Daemon) -> None:
    """Files in /tmp of a sandbox are in memory, up to the limit."""
    if daemon.call("daemon.config")["config"]["workspace"]["sandbox"] == "off":
        pytest.skip("without a sandbox, /tmp is the machine's")
    result = run(daemon, "head -c 2M /dev/zero >/tmp/large")
    assert "No space left on device" in result
    assert "tools.limits.max_scratch_bytes = 1048576" in result


def test_a_background_shell_beyond_a_limit(daemon: Daemon) -> None:
    """A shell in the background ends with the limit as its problem."""
    daemon.say(order("bash", command="b() { b | b & }; b; sleep 60", run_in_background=True))
    tasks: list[dict[str, Any]] = []

    def has_ended() -> bool:
        tasks[:] = daemon.call("task.list", status="any")["tasks"]
        return bool(tasks) and tasks[0]["status"] not in ("pending", "in_progress")

    until(has_ended, "the shell was stopped")
    assert "tools.limits.max_processes" in tasks[0]["shell"]["problem"]
