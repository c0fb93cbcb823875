"""The local model server, behind a route of the daemon or called directly."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING

from contrib.bench.processes import MAX_START_SECONDS, Broken, program, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNKS = 50
ANSWER = f"chunks:{CHUNKS}"
"""The model whose answers have fifty pieces and no delay."""
FIRST = b"word1 "
END = b"0\r\n\r\n"


def config(port: int, more: str = "") -> str:
    """Return a ``config.toml`` whose default route is the model server."""
    return f'default_route = "bench"\n{make_route(port, "bench")}[daemon]\ndrain_s = 0\n{more}'


def make_route(port: int, name: str, driver: str = "openai") -> str:
    """Return the section of a route to the model server."""
    version = "v1beta" if driver == "google" else "v1"
    base_url = f"http://127.0.0.1:{port}/{version}"
    return f'[routes.{name}]\ndriver = "{driver}"\nmodel = "{ANSWER}"\nbase_url = "{base_url}"\n'


@contextmanager
def model_server() -> Iterator[int]:
    """Provide a model server on a free port, and the port."""
    with scratch() as directory:
        log = directory / "log"
        with program([sys.executable, "-m", "tests.support.model_server"], log) as process:
            deadline = time.perf_counter() + MAX_START_SECONDS
            while not (output := log.read_text()).endswith("\n"):
                if process.poll() is not None or time.perf_counter() > deadline:
                    raise Broken(f"the model server does not start:\n{output}")
                time.sleep(0.01)
            yield int(output.split()[0])


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """The times of the first piece and of the end of an answer, in milliseconds after the request."""

    first_ms: float
    end_ms: float


def newest_request(port: int) -> bytes:
    """Return the newest request that the model server got, byte for byte."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/requests/newest")
    response = connection.getresponse()
    request = response.read()
    connection.close()
    if response.status != 200:
        raise Broken("the model server has no request yet")
    return request


class Direct:
    """A kept-alive connection that repeats a captured request: the cheapest possible client."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def ask(self) -> None:
        """Send the request."""
        self.socket.sendall(self.request)

    def read(self) -> int:
        """Read to the end of the answer; return the clock's reading at its first piece."""
        first, tail = 0, b""
        while not tail.endswith(END):
            received = self.socket.recv(1 << 16)
            if not received:
                raise Broken("the model server closed the connection")
            if not first and FIRST in tail + received:
                first = perf_counter_ns()
            tail = (tail + received)[-200:]
        return first

    def turn(self) -> AnswerTimes:
        """Request and read one whole answer."""
        began = perf_counter_ns()
        self.ask()
        first = self.read()
        return AnswerTimes((first - began) / 1e6, (perf_counter_ns() - began) / 1e6)


def direct_per_second(connections: Sequence[Direct], times: int) -> float:
    """Measure answers per second, with one in progress on each connection."""
    began = perf_counter_ns()
    for _ in range(times):
        for connection in connections:
            connection.ask()
        for connection in connections:
            connection.read()
    return len(connections) * times / (perf_counter_ns() - began) * 1e9
