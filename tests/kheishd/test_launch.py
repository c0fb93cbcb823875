"""From a command line to a daemon: what can be foreseen ends with a message and a code, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kheishd.home import Home, Lock, prepare
from kheishd.launch import FAILED, HELD, STORE_REFUSED, UNUSABLE, Exit, explain, locked, usable_home
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


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    """A file in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Exit, match="cannot use") as caught:
        usable_home(str(tmp_path / "file"), {})
    assert caught.value.code == UNUSABLE


def test_a_home_that_is_held(tmp_path: Path) -> None:
    """Another daemon's pid is in the message."""
    home = Home(tmp_path)
    prepare(home)
    with Lock.take(home), pytest.raises(Exit, match=f"pid {os.getpid()}") as caught:
        locked(home)
    assert caught.value.code == HELD


def test_a_lock_that_cannot_be(tmp_path: Path) -> None:
    """A directory in its place."""
    home = Home(tmp_path)
    prepare(home)
    home.lock.mkdir()
    with pytest.raises(Exit, match=r"kheishd\.lock") as caught:
        locked(home)
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
def test_what_can_be_foreseen(error: Exception, code: int) -> None:
    """Its own code, and its own words, however deep in groups it comes."""
    end = explain(error)
    assert (end.code, str(end)) == (code, "no")


@pytest.mark.parametrize("others", [[], [StorageFailed("no")]])
def test_what_cannot_be_foreseen(others: list[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the program is logged with all that is known about it."""
    end = explain(ExceptionGroup("g", [KeyError("k"), *others]))
    assert (end.code, "the log above" in str(end)) == (FAILED, True)
    assert "KeyError: 'k'" in caplog.text


@pytest.mark.parametrize("arguments", [["--zebra"], ["zebra"], ["restore"], ["--log-level", "loud"]])
def test_usage(arguments: list[str]) -> None:
    """What it does not know: code 2 and how it is called."""
    ended = kheishd(*arguments)
    assert ended.returncode == 2
    assert "usage: kheishd" in ended.stderr


def test_help_names_every_command() -> None:
    """One screen that says all it can do."""
    text = kheishd("--help").stdout
    assert all(word in text for word in ("restore", "doctor", "compact", "discover", "--home", "--config"))


def test_a_damaged_store_refuses_to_start(tmp_path: Path) -> None:
    """The way to repair it is in the message, nothing is overwritten, and the lock is free again."""
    home = Home(tmp_path / "h")
    prepare(home)
    (home.state / "data.mdb").write_bytes(b"not a store" * 1000)
    ended = kheishd("--home", str(home.path))
    assert ended.returncode == STORE_REFUSED
    assert "restore" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (home.state / "data.mdb").read_bytes() == b"not a store" * 1000
    locked(home).release()


def test_an_early_signal_is_held_back(tmp_path: Path) -> None:
    """Between the first instruction and the loop a signal waits; it is obeyed once there is somebody to."""
    code = (
        "import os, signal, sys\n"
        "from kheishd import launch\n"
        "held = lambda home: os.kill(os.getpid(), signal.SIGTERM) or original(home)\n"
        "original, launch.locked = launch.locked, held\n"
        "sys.exit(launch.launch(launch.Options(home=sys.argv[1]), os.environ))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "h")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "stopped" in ended.stderr
    assert "SIGTERM" in ended.stderr


def test_signals_of_other_programs_are_as_they_were() -> None:
    """Importing it changes nothing for whoever imports."""
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
