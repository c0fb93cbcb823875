"""Notifications to a real datagram socket in the place of systemd."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.systemd import Notifier, read_watchdog_seconds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Bind a socket at ``tmp_path/notify`` that receives states."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        yield manager


def receive(manager: socket.socket) -> dict[str, str]:
    """Return the next state, by name."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def test_states(manager: socket.socket, tmp_path: Path) -> None:
    """Ready, reloading, stopping and alive are sent as sd_notify(3) defines them."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready("Serving")
    assert receive(manager) == {"READY": "1", "STATUS": "Serving", "MAINPID": str(os.getpid())}
    notifier.reloading()
    reloading = receive(manager)
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    notifier.stopping("Stopping", 120)
    assert receive(manager) == {"STOPPING": "1", "STATUS": "Stopping", "EXTEND_TIMEOUT_USEC": "130000000"}
    notifier.starting("Checking", 60)
    assert receive(manager) == {"STATUS": "Checking", "EXTEND_TIMEOUT_USEC": "60000000"}
    notifier.alive()
    assert receive(manager) == {"WATCHDOG": "1"}


def test_abstract_socket() -> None:
    """An address that begins with @ is an abstract socket."""
    name = f"kheish-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).alive()
        assert receive(manager) == {"WATCHDOG": "1"}


def test_without_systemd(tmp_path: Path) -> None:
    """A missing variable or socket is not an error."""
    Notifier({}).ready("Serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("Serving")


def test_child_processes_do_not_inherit_the_variables() -> None:
    """The variables are removed from the environment."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    Notifier(environ)
    read_watchdog_seconds(environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], seconds: float | None) -> None:
    """An interval counts only if it is meant for this process."""
    assert read_watchdog_seconds(environ) == seconds
