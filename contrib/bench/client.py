"""A cheap blocking client, so that the measurements show the daemon."""

from __future__ import annotations

import itertools
import socket
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PING = b'{"jsonrpc":"2.0","id":"01K0BENCH000000000000000000","method":"rpc.ping","params":{}}\n'
"""The request whose round trip is measured; the yardstick echoes the same line."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """The daemon answered with an error."""


def dial(path: Path, seconds: float = 120) -> socket.socket:
    """Connect to a Unix socket. Errors: OSError; TimeoutError later if nothing arrives."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    while True:
        try:
            connection.connect(str(path))
        except BlockingIOError:
            # The listener's queue is full: with a timeout set, the kernel says so instead of waiting.
            sleep(0.001)
        except OSError:
            connection.close()
            raise
        else:
            return connection


def request(number: int, method: str, params: dict[str, Any]) -> bytes:
    """Return the line of one request."""
    return _encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + b"\n"


class Client:
    """One connection. Notifications received meanwhile are kept in ``notes``."""

    def __init__(self, path: Path) -> None:
        self.socket = dial(path)
        self.notes: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._rest = b""
        self._lines: list[bytes] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of one call. Errors: Refused."""
        number = self.send(method, **params)
        while True:
            message = self.message()
            if "method" in message:
                self.notes.append(message)
            elif message["id"] == number:
                return result_of(message)

    def send(self, method: str, **params: Any) -> int:
        """Send a request without waiting; return its id."""
        number = next(self._numbers)
        self.socket.sendall(request(number, method, params))
        return number

    def many(self, calls: Sequence[tuple[str, dict[str, Any]]], deep: int = 50) -> list[Any]:
        """Return the results of many calls, with ``deep`` of them open at once, in the order of the calls."""
        results: dict[int, Any] = {}
        numbers: list[int] = []
        for method, params in calls:
            if len(numbers) - len(results) >= deep:
                self._take(results)
            numbers.append(self.send(method, **params))
        while len(results) < len(numbers):
            self._take(results)
        return [results[number] for number in numbers]

    def message(self) -> dict[str, Any]:
        """Return the next message of any kind."""
        while not self._lines:
            received = self.socket.recv(1 << 18)
            if not received:
                raise ConnectionError("the daemon closed the connection")
            *self._lines, self._rest = (self._rest + received).split(b"\n")
            self._lines.reverse()
        decoded: dict[str, Any] = _decode(self._lines.pop())
        return decoded

    def _take(self, results: dict[int, Any]) -> None:
        message = self.message()
        if "method" in message:
            self.notes.append(message)
        else:
            results[message["id"]] = result_of(message)


def result_of(message: dict[str, Any]) -> Any:
    """Return the result in an answer. Errors: Refused."""
    if "error" in message:
        raise Refused(message["error"])
    return message["result"]


def round_trips(connection: socket.socket, line: bytes, count: int) -> list[int]:
    """Return the duration of each of ``count`` sequential requests, in nanoseconds."""
    took = []
    for _ in range(count):
        began = perf_counter_ns()
        connection.sendall(line)
        received = connection.recv(65536)
        while not received.endswith(b"\n"):
            received += connection.recv(65536)
        took.append(perf_counter_ns() - began)
    return took


def pipelined_per_second(connection: socket.socket, line: bytes, deep: int, times: int) -> float:
    """Measure answers per second with ``deep`` requests sent at once before their answers are read."""
    burst = line * deep
    began = perf_counter_ns()
    for _ in range(times):
        connection.sendall(burst)
        waiting = deep
        while waiting:
            waiting -= connection.recv(1 << 18).count(b"\n")
    return deep * times / (perf_counter_ns() - began) * 1e9


def sweeps_per_second(connections: Sequence[socket.socket], line: bytes, times: int) -> float:
    """Measure answers per second over many connections, each with one open request."""
    began = perf_counter_ns()
    for _ in range(times):
        for connection in connections:
            connection.sendall(line)
        for connection in connections:
            while not connection.recv(65536).endswith(b"\n"):
                pass
    return len(connections) * times / (perf_counter_ns() - began) * 1e9
