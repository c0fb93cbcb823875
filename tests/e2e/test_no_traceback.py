"""``kheishctl`` prints no traceback, whatever closes or interrupts it."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kheishctl import exit_codes
from tests.support.daemons import Daemon

COMMANDS = (
    ("status",),
    ("journal", "read", "--all"),
    ("conversation", "history", "--json"),
    ("send", "default", "hello"),
    ("call", "rpc.discover"),
    ("daemon", "logs"),
)

STARTS = 60
"""Starts with a signal at a random moment: about six seconds."""


def start(home: Path, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    """Start ``kheishctl``."""
    return subprocess.Popen(
        [sys.executable, "-m", "kheishctl", "--home", str(home), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )


def require_clean(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end; return the messages, which contain no traceback of the program.

    Python's own start, before the program's first line, is not the program.
    """
    _, errors = process.communicate(timeout=60)
    text = errors.decode(errors="replace")
    assert "kheishctl/" not in text or "Traceback" not in text, text
    assert "Exception ignored" not in text, text
    return text


def test_a_signal_at_any_moment(shared_daemon: Daemon) -> None:
    """SIGINT, SIGTERM and SIGHUP end every command without a traceback."""
    chance = random.Random(22)
    for _ in range(STARTS):
        process = start(shared_daemon.home, *chance.choice(COMMANDS))
        number = chance.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        timer = threading.Timer(chance.random() * 0.3, process.send_signal, (number,))
        timer.start()
        require_clean(process)
        timer.cancel()
        assert process.returncode in (-number, 0, 1, 2, exit_codes.INTERRUPTED), process.args


@pytest.mark.parametrize("lines", [1, 2])
def test_a_reader_that_goes_away(shared_daemon: Daemon, lines: int) -> None:
    """A pipe that its reader closes ends the command quietly."""
    for command in COMMANDS:
        process = start(shared_daemon.home, *command)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        require_clean(process)


@pytest.mark.parametrize(
    "environ",
    [
        {"LANG": "xx_YY.bogus", "LC_ALL": "xx"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"HOME": "/nonexistent", "XDG_STATE_HOME": "/proc/x", "COLUMNS": "0", "TERM": "", "TZ": "Bogus/Zone"},
    ],
    ids=lambda environ: "-".join(environ),
)
def test_a_strange_environment(shared_daemon: Daemon, environ: dict[str, str]) -> None:
    """Locales, encodings and directories that do not exist change no exit code."""
    process = start(shared_daemon.home, "send", "default", "häß ☃", "--as", "ünï", **environ)
    require_clean(process)
    assert process.returncode == exit_codes.OK


def serve(listening: socket.socket, reply: bytes) -> None:
    """Answer each connection with the same bytes."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(reply)


@pytest.mark.parametrize(
    "reply",
    [
        b"hello\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"jsonrpc":"2.0","id":1,"result":[]}\n',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":{},"data":7}}\n',
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b'{"jsonrpc":"2.0","id":1,"resu',
    ],
    ids=["text", "bytes", "deep", "shape", "error", "http", "half"],
)
def test_another_program_on_the_socket(tmp_path: Path, reply: bytes) -> None:
    """Answers that are not the daemon's, or end in the middle, are one line on standard error."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        thread = threading.Thread(target=serve, args=(listening, reply))
        thread.start()
        for command in (("status",), ("run", "list"), ("conversation", "show")):
            process = start(tmp_path, "--socket", str(tmp_path / "s"), *command)
            assert require_clean(process).startswith("kheishctl: ")
            assert process.returncode in (exit_codes.FAILED, exit_codes.NO_DAEMON)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_daemon_that_is_killed_in_mid_answer(home: Path) -> None:
    """A daemon that dies while a command waits is named."""
    with Daemon(home) as daemon:
        process = start(home, "run", "wait", daemon.call("conversation.send", content="/call x {}")["run_id"])
        follower = start(home, "conversation", "history", "--all")
        daemon.kill()
        for command in (process, follower):
            require_clean(command)
            assert command.returncode in (0, exit_codes.NO_DAEMON, exit_codes.FAILED, exit_codes.RUN_FAILED)
