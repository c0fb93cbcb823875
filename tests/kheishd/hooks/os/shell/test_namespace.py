"""The port in the network of a sandbox: opened there, and nowhere else."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.house.sources import ROOT

PROGRAM = """
import sys
from kheishd.hooks.os.shell.namespace import send_port
sys.exit(0 if send_port(int(sys.argv[1]), "began 1 2", int(sys.argv[2]), 808) else 1)
"""


def send_port(control: socket.socket, pid: int) -> bool:
    """Send a port, in a process with one thread, as the keeper is."""
    descriptor = control.fileno()
    argv = [sys.executable, "-c", PROGRAM, str(descriptor), str(pid)]
    return subprocess.run(argv, pass_fds=[descriptor], cwd=ROOT, check=False).returncode == 0


@pytest.fixture
def control() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Provide the two ends of the keeper's socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


@pytest.fixture(params=[[], ["--unshare-user"], ["--unshare-user", "--disable-userns"]])
def sandbox(
    request: pytest.FixtureRequest, bubblewrap: None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Provide the first process of a sandbox with a network of its own, in user namespaces of each kind."""
    read, write = os.pipe()
    probe = (
        "import socket,sys; sys.stdin.read(1); socket.create_connection(('127.0.0.1', 808)).sendall(b'hello')"
    )
    options = ["--unshare-net", "--unshare-pid", "--ro-bind", "/", "/", "--dev", "/dev", *request.param]
    argv = ["bwrap", "--info-fd", str(write), *options, "--", "/usr/bin/python3", "-c", probe]
    process = subprocess.Popen(argv, pass_fds=[write], stdin=subprocess.PIPE)
    os.close(write)
    info = b""
    while data := os.read(read, 1000):
        info += data
    os.close(read)
    yield int(info.partition(b'"child-pid": ')[2].partition(b",")[0]), process
    process.kill()
    process.communicate()


def test_a_port_in_the_sandbox(
    control: tuple[socket.socket, socket.socket], sandbox: tuple[int, subprocess.Popen[bytes]]
) -> None:
    """The port arrives with its line, and is connected to from inside only."""
    pid, process = sandbox
    ours, theirs = control
    assert send_port(theirs, pid)
    line, [descriptor], _, _ = socket.recv_fds(ours, 100, 2)
    assert line == b"began 1 2\n"
    with socket.socket(fileno=descriptor) as listening:
        listening.settimeout(10)
        assert listening.getsockname() == ("127.0.0.1", 808)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 808))
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(100) == b"hello"


def test_a_process_without_a_network_of_its_own(control: tuple[socket.socket, socket.socket]) -> None:
    """In the network of this machine, no port is opened, and nothing is sent."""
    ours, theirs = control
    for pid in (os.getpid(), 2**22 + 1):
        assert not send_port(theirs, pid)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
