"""The measured programs, each in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.bench.client import PING, Client, dial

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MAX_START_SECONDS = 60.0


class Broken(Exception):
    """A measured program does not work; the message has its output."""


@contextmanager
def on_core(core: int = 0) -> Iterator[None]:
    """Run this process and its new children on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[core % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def scratch() -> Iterator[Path]:
    """Provide a directory for a measurement, on the disk of TMPDIR."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as directory:
        yield Path(directory)


@contextmanager
def program(arguments: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background, in its own process group."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a program, and kill it if it does not end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_answering(path: Path, process: subprocess.Popen[bytes], log: Path) -> float:
    """Wait until the first ping is answered; return the clock's reading. Errors: Broken."""
    deadline = time.perf_counter() + MAX_START_SECONDS
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            break
        try:
            with dial(path, MAX_START_SECONDS) as connection:
                connection.sendall(PING)
                if connection.recv(4096):
                    return time.perf_counter()
        except OSError:
            time.sleep(0.0005)
    raise Broken(f"nothing answers at {path}:\n{log.read_text(errors='replace')[-4000:]}")


class Daemon:
    """The real daemon in its own home."""

    def __init__(self, home: Path, module: str = "kheishd") -> None:
        self.home = home
        self.module = module
        self.socket = home / "run" / "kheishd.sock"
        self.log = home.parent / f"{home.name}.log"
        self.pid = 0

    @contextmanager
    def running(self, *before: str) -> Iterator[Daemon]:
        """Run the daemon until it answers and beyond; ``before`` precedes its command (such as strace)."""
        arguments = [*before, sys.executable, "-m", self.module, "--home", str(self.home)]
        with program(arguments, self.log) as process:
            wait_until_answering(self.socket, process, self.log)
            with Client(self.socket) as client:
                self.pid = client.call("daemon.status")["pid"]
            yield self

    def client(self) -> Client:
        """Return a new connection."""
        return Client(self.socket)

    def dial(self) -> socket.socket:
        """Return a new bare connection."""
        return dial(self.socket)

    def clients(self, count: int, stack: ExitStack) -> list[socket.socket]:
        """Return that many bare connections, which are closed with the stack."""
        return [stack.enter_context(self.dial()) for _ in range(count)]


@contextmanager
def home(config: str = "") -> Iterator[Daemon]:
    """Provide a stopped daemon in a new home with this configuration."""
    with scratch() as directory:
        path = directory / "home"
        path.mkdir(mode=0o700)
        if config:
            (path / "config.toml").write_text(config)
        yield Daemon(path)


@contextmanager
def daemon(config: str = "") -> Iterator[Daemon]:
    """Provide a running daemon in a new home with this configuration."""
    with home(config) as server, server.running():
        yield server


@contextmanager
def yardstick(name: str, *arguments: str, before: Sequence[str] = ()) -> Iterator[Path]:
    """Provide the socket of a running server of ``contrib/bench/yardsticks``."""
    with scratch() as directory:
        path, log = directory / "socket", directory / "log"
        module = f"contrib.bench.yardsticks.{name}"
        with program([*before, sys.executable, "-m", module, str(path), *arguments], log) as process:
            deadline = time.perf_counter() + MAX_START_SECONDS
            while not listens(path):
                if process.poll() is not None or time.perf_counter() > deadline:
                    raise Broken(f"the yardstick {name} does not start:\n{log.read_text()[-4000:]}")
                time.sleep(0.005)
            yield path


def listens(path: Path) -> bool:
    """Whether a server accepts connections; the socket file exists a moment earlier."""
    try:
        dial(path).close()
    except OSError:
        return False
    return True


def measure_duration(arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> float:
    """Measure the duration of a program, in milliseconds. Errors: Broken if it fails."""
    command = [str(argument) for argument in arguments]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    passed = time.perf_counter() - began
    if done.returncode:
        raise Broken(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return passed * 1000
