"""The real daemon and providers that break HTTP: no answer is another one's, and every run ends."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemons import Daemon
from tests.support.raw_provider import RawProvider, stream

CONFIG = """
default_route = "raw"
[routes.raw]
driver = "openai"
model = "m"
base_url = "http://127.0.0.1:{port}/v1"
[runs]
backoff_s = 0.01
max_backoff_s = 0.02
"""


@contextmanager
def daemon_with(home: Path) -> Iterator[tuple[Daemon, RawProvider]]:
    """Provide a daemon whose route is a raw provider."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = RawProvider(listener)
        threading.Thread(target=provider.serve, daemon=True).start()
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(CONFIG.format(port=listener.getsockname()[1]))
        with Daemon(home) as daemon:
            yield daemon, provider


def test_a_smuggled_answer_is_never_the_next_one(home: Path) -> None:
    """Bytes behind an answer do not become the answer of the next turn."""
    with daemon_with(home) as (daemon, provider):
        provider.answers += [(stream("one") + stream("evil"), False), (stream("two"), False)]
        assert daemon.say("first")["output"] == "one"
        assert daemon.say("second")["output"] == "two"
        assert provider.connections == 2
        assert "evil" not in json.dumps(daemon.events())


def test_a_connection_is_kept_between_turns(home: Path) -> None:
    """The turns of a conversation share one connection."""
    with daemon_with(home) as (daemon, provider):
        provider.answers += [(stream(str(turn)), False) for turn in range(5)]
        assert [daemon.say("hello")["output"] for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert provider.connections == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        stream("half").partition(b"\n\n\r\n")[0],
        stream("half").partition(b"\n\n\r\n")[0] + b"\n\n\r\n",
        stream("x").replace(b"transfer-encoding: chunked", b"content-length: 5\r\ncontent-length: 9"),
        stream("x").replace(b"chunked", b"gzip, chunked"),
        stream("x").replace(b"chunked", b"chunked\r\nx: a\r\n folded"),
        stream("x").replace(b"\r\n\r\n", b"\r\n\r\nfffffffffffffffff\r\n", 1),
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
        b"\x16\x03\x01 no HTTP",
    ],
    ids=[
        "nothing",
        "half a chunk",
        "no last chunk",
        "lengths",
        "encoding",
        "folded",
        "chunk",
        "head",
        "bytes",
    ],
)
def test_a_broken_answer_is_asked_again(home: Path, broken: bytes) -> None:
    """An answer that is cut or is no HTTP is a failure of the connection; the retry has another one."""
    with daemon_with(home) as (daemon, provider):
        provider.answers += [(broken, True), (stream("fine"), False)]
        assert daemon.say("hello")["output"] == "fine"
        failures = [event for event in daemon.events() if event["type"] == "model_failed"]
        assert [event["error"]["reason"] for event in failures] == ["connection_failed"]
        assert "the connection broke: " in failures[0]["error"]["message"]
        assert provider.connections == 2
