"""The daemon and the bare prototype beside the same model server, with the same requests."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrib.bench.client import Client, Refused
from contrib.bench.model import Direct, config, model_server, newest_request
from contrib.bench.processes import Daemon, daemon, scratch, yardstick

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGE = "What is the weather like in the mountains today?"
TURNS_BEFORE_CAPTURE = 10
"""The captured request is of this turn of a conversation: the middle one of twenty."""
PEER = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Rivals:
    """The measured daemon and its yardsticks. ``request`` is a request that the daemon sent."""

    port: int
    request: bytes
    server: Daemon
    path: Path
    client: Client
    prototype: Client
    direct: Direct


@contextmanager
def rivals(more: str = "") -> Iterator[Rivals]:
    """Provide the daemon, the prototype and the model server, each with a client."""
    with ExitStack() as stack:
        port = stack.enter_context(model_server())
        server = stack.enter_context(daemon(config(port, more)))
        client = stack.enter_context(server.client())
        for _ in range(TURNS_BEFORE_CAPTURE):
            run_turn(client, "warm")
        request = newest_request(port)
        path = stack.enter_context(prototype(port, request))
        bare = stack.enter_context(Client(path))
        for _ in range(TURNS_BEFORE_CAPTURE):
            run_turn(bare, "warm")
        if newest_request(port) != request:
            raise Refused("the prototype sends other bytes than the daemon")
        yield Rivals(port, request, server, path, client, bare, stack.enter_context(Direct(port, request)))


@contextmanager
def prototype(port: int, request: bytes, *before: str) -> Iterator[Path]:
    """Provide the socket of a running prototype; ``before`` precedes its command (such as strace)."""
    with scratch() as directory:
        file = directory / "request"
        file.write_bytes(request)
        with yardstick("turns", str(directory / "store"), str(file), str(port), before=before) as path:
            yield path


def pid_of(client: Client) -> int:
    """Return the process at the other end of a connection."""
    options = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    pid: int = PEER.unpack(options)[0]
    return pid


def run_turn(client: Client, sender: str, content: str = MESSAGE, **params: str) -> None:
    """Run one turn to its end. Errors: Refused."""
    require_completed(
        client.call("conversation.send", sender=sender, content=content, wait="settled", **params)
    )


def require_completed(result: dict[str, object]) -> None:
    """Require that a run completed. Errors: Refused."""
    if result["status"] != "completed":
        raise Refused(result)
