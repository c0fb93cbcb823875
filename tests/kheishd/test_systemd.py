"""Talking to systemd: a real datagram socket stands where its notification socket would."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.systemd import Notifier, watchdog_seconds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket at ``tmp_path/notify`` that hears what is said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        yield manager


def heard(manager: socket.socket) -> dict[str, str]:
    """The next state, by name."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def test_every_state_is_said(manager: socket.socket, tmp_path: Path) -> None:
    """Ready, reloading with its time, stopping, alive: as sd_notify(3) spells them."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready("Serving")
    assert heard(manager) == {"READY": "1", "STATUS": "Serving", "MAINPID": str(os.getpid())}
    notifier.reloading()
    reloading = heard(manager)
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    notifier.stopping("Stopping", 120)
    assert heard(manager) == {"STOPPING": "1", "STATUS": "Stopping", "EXTEND_TIMEOUT_USEC": "130000000"}
    notifier.alive()
    assert heard(manager) == {"WATCHDOG": "1"}


def test_an_abstract_socket() -> None:
    """The manager may name its socket with an @ for the zero byte."""
    name = f"kheish-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).alive()
        assert heard(manager) == {"WATCHDOG": "1"}


def test_without_systemd_nothing_is_said(tmp_path: Path) -> None:
    """No variable, or a socket that is gone: neither is an error."""
    Notifier({}).ready("Serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("Serving")


def test_children_do_not_inherit_the_right_to_speak() -> None:
    """The variables are taken out of the environment."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    Notifier(environ)
    watchdog_seconds(environ)
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
def test_the_watchdog_interval(environ: dict[str, str], seconds: float | None) -> None:
    """Only one that is meant for this process counts."""
    assert watchdog_seconds(environ) == seconds
