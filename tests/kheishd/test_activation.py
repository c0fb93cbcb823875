"""Answers to clients while the daemon cannot start."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd import activation
from kheishd.activation import PassedSockets
from tests.support.daemons import PATIENCE_S

REQUEST = b'{"jsonrpc":"2.0","id":7,"method":"rpc.ping"}'


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(activation, "CLIENT_SECONDS", 0.3)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """Provide a listening Unix socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        yield listening


def passed(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket, **environ: str) -> PassedSockets:
    """Return the sockets as if systemd had passed them."""
    monkeypatch.setattr("kheishd.server.listeners.LISTEN_FD_FIRST", sockets[0].fileno())
    return PassedSockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), **environ})


def answer(kept: PassedSockets, stamp: object = None) -> None:
    """Answer the clients in this thread."""
    kept.answer("config.toml:3: nonsense", lambda: stamp)
    kept.close()


def connect(listening: socket.socket, content: bytes) -> socket.socket:
    """Return a client that has sent its requests already."""
    client = socket.socket(listening.family)
    client.settimeout(PATIENCE_S)
    client.connect(listening.getsockname())
    client.sendall(content)
    return client


def test_each_request_is_answered_by_its_id(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests, batches and frames with headers are answered with the reason, in the client's framing."""
    with connect(listening, REQUEST + b"\n[" + REQUEST + b"]\nno json\n") as client:
        framed = b"Content-Length: %d\r\n\r\n%b" % (len(REQUEST), REQUEST)
        with connect(listening, framed) as editor:
            answer(passed(monkeypatch, listening))
            lines = client.makefile("rb").read().splitlines()
            single, batch, malformed = (json.loads(line) for line in lines)
            assert (single["id"], single["error"]["data"]["reason"]) == (7, "not_started")
            assert single["error"]["message"] == "the daemon cannot start: config.toml:3: nonsense"
            assert batch == [single]
            assert malformed["id"] is None
            assert editor.recv(65536).startswith(b"Content-Length: ")


def test_a_client_on_tcp_learns_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP request is answered with 503 and no detail of the configuration; other bytes end at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with (
            connect(listening, b"GET /rpc HTTP/1.1\r\nHost: x\r\n\r\n") as client,
            connect(listening, b"\x16\x03\x01") as tls,
        ):
            answer(passed(monkeypatch, listening))
            reply = client.makefile("rb").read()
            assert reply.startswith(b"HTTP/1.1 503 ")
            assert b"not_started" in reply
            assert b"nonsense" not in reply
            try:
                assert tls.recv(1) == b""
            except ConnectionResetError:
                pass


def test_a_client_that_says_nothing_holds_nothing_up(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent client is left after a moment."""
    monkeypatch.setattr(activation, "CLIENT_SECONDS", 0.05)
    with connect(listening, b"") as silent:
        answer(passed(monkeypatch, listening))
        assert silent.recv(1) == b""


def test_without_clients_the_end_comes_at_once(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nobody waits, the daemon ends at once; systemd shows the reason in any case."""
    monkeypatch.setattr(activation, "ANSWER_SECONDS", 3600.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        name = "@" + manager.getsockname()[1:].decode()
        answer(passed(monkeypatch, listening, NOTIFY_SOCKET=name))
        assert manager.recv(1024) == b"STATUS=Cannot start: config.toml:3: nonsense"


def test_a_changed_configuration_ends_the_answers(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that connects after the configuration has changed is left to the next daemon."""
    monkeypatch.setattr(activation, "ANSWER_SECONDS", 3600.0)
    stamp = ["before"]
    second: list[socket.socket] = []

    def change() -> None:
        """Wait for the answer to the first client, change the configuration, and connect once more."""
        assert b"not_started" in first.recv(65536)
        stamp[0] = "after"
        second.append(connect(listening, REQUEST + b"\n"))

    kept = passed(monkeypatch, listening)
    with connect(listening, REQUEST + b"\n") as first:
        thread = threading.Thread(target=change)
        thread.start()
        kept.answer("bad", lambda: stamp[0])
        thread.join(PATIENCE_S)
    kept.close()
    # The second client still waits in the queue of the socket.
    listening.settimeout(PATIENCE_S)
    with listening.accept()[0] as left, second[0]:
        assert left.recv(1024) == REQUEST + b"\n"


def test_sockets_of_another_process_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a parent process left are ignored."""
    kept = PassedSockets({"LISTEN_PID": "1", "LISTEN_FDS": "2"})
    kept.answer("bad", lambda: None)
    kept.close()
