"""Starting from the command line: expected errors exit with a message and a code, without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kheishd.home import Home, Lock, prepare
from kheishd.launch import FAILED, HELD, STORE_REFUSED, UNUSABLE, Exit, lock_home, make_exit, prepare_home
from kheishd.server.listeners import SocketInUse
from kheishd.store.opening import StoreUnusable
from protocol.errors.daemon import ConfigInvalid
from protocol.errors.store import StorageFailed

if TYPE_CHECKING:
    from pathlib import Path


def kheishd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    command = [sys.executable, "-m", "kheishd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_unprepare_home(tmp_path: Path) -> None:
    """A file in the place of the home is refused."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Exit, match="cannot use") as caught:
        prepare_home(str(tmp_path / "file"), {})
    assert caught.value.code == UNUSABLE


def test_locked_home(tmp_path: Path) -> None:
    """A home in use is refused with the pid of its daemon."""
    home = Home(tmp_path)
    prepare(home)
    with Lock.take(home), pytest.raises(Exit, match=f"pid {os.getpid()}") as caught:
        lock_home(home)
    assert caught.value.code == HELD


def test_unusable_lock(tmp_path: Path) -> None:
    """A directory in the place of the lock is refused."""
    home = Home(tmp_path)
    prepare(home)
    home.lock.mkdir()
    with pytest.raises(Exit, match=r"kheishd\.lock") as caught:
        lock_home(home)
    assert caught.value.code == UNUSABLE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigInvalid("no"), UNUSABLE),
        (StoreUnusable("no"), STORE_REFUSED),
        (SocketInUse("no"), HELD),
        (StorageFailed("no"), FAILED),
        (OSError("no"), FAILED),
        (ExceptionGroup("g", [ExceptionGroup("g", [StoreUnusable("no")])]), STORE_REFUSED),
        (ExceptionGroup("g", [StorageFailed("no"), ExceptionGroup("g", [StorageFailed("no")])]), FAILED),
    ],
)
def test_expected_errors(error: Exception, code: int) -> None:
    """An expected error has its own exit code and message, also inside groups."""
    end = make_exit(error)
    assert (end.code, str(end)) == (code, "no")


@pytest.mark.parametrize("others", [[], [StorageFailed("no")]])
def test_unexpected_errors(others: list[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged with its traceback."""
    end = make_exit(ExceptionGroup("g", [KeyError("k"), *others]))
    assert (end.code, "the log above" in str(end)) == (FAILED, True)
    assert "KeyError: 'k'" in caplog.text


@pytest.mark.parametrize("arguments", [["--zebra"], ["zebra"], ["restore"], ["--log-level", "loud"]])
def test_invalid_command_lines(arguments: list[str]) -> None:
    """An invalid command line exits with 2 and shows the usage."""
    ended = kheishd(*arguments)
    assert ended.returncode == 2
    assert "usage: kheishd" in ended.stderr


def test_help() -> None:
    """The help names every command and option."""
    text = kheishd("--help").stdout
    assert all(word in text for word in ("restore", "doctor", "compact", "discover", "--home", "--config"))


def test_damaged_store(tmp_path: Path) -> None:
    """A damaged store is refused with a remedy and not overwritten, and the lock is released."""
    home = Home(tmp_path / "h")
    prepare(home)
    (home.state / "data.mdb").write_bytes(b"not a store" * 1000)
    ended = kheishd("--home", str(home.path))
    assert ended.returncode == STORE_REFUSED
    assert "restore" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (home.state / "data.mdb").read_bytes() == b"not a store" * 1000
    lock_home(home).release()


def test_early_signal(tmp_path: Path) -> None:
    """A signal that arrives before the loop runs stops the daemon in order."""
    code = (
        "import os, signal, sys\n"
        "from kheishd import launch\n"
        "held = lambda home: os.kill(os.getpid(), signal.SIGTERM) or original(home)\n"
        "original, launch.lock_home = launch.lock_home, held\n"
        "sys.exit(launch.launch(launch.LaunchOptions(home=sys.argv[1]), os.environ))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "h")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "stopped" in ended.stderr
    assert "SIGTERM" in ended.stderr


def test_import_blocks_no_signals() -> None:
    """Importing the module blocks no signals."""
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


PROTECTED = """
import ctypes, os, subprocess
from kheishd.launch import protect_memory

def readable():
    command = ["cat", f"/proc/{os.getpid()}/environ"]
    return subprocess.run(command, capture_output=True).returncode == 0

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    # A change of the user has made the process unreadable.
    ctypes.CDLL(None).prctl(4, ctypes.c_ulong(1), 0, 0, 0)
before = readable()
protect_memory()
print(before, readable(), open("/proc/self/fd/0") is not None, os.listdir("/proc/self/fd") != [])
"""


def test_no_process_of_the_same_user_reads_the_daemons_memory() -> None:
    """The environment, with its credentials, is closed to the same user; the daemon's own /proc works."""
    command = [sys.executable, "-c", PROTECTED]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert done.stdout.split() == ["True", "False", "True", "True"]
