"""Peers on TCP that connect and say nothing, or too little, keep nobody from the daemon."""

import json
import math
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
import trio
from trio_websocket import open_websocket_url

from kheishd.server.handshakes import HANDSHAKE_S
from tests.support.daemons import PATIENCE_S, Daemon, short_home

DESCRIPTORS = 256
SILENT_PEERS = 2000


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon with a TCP listener and few descriptors."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
        with Daemon(home, before=("prlimit", f"--nofile={DESCRIPTORS}")) as daemon:
            yield daemon


def address(daemon: Daemon) -> tuple[str, int]:
    """Return host and port of the TCP listener."""
    host, _, port = (daemon.home / "run" / "tcp").read_text().strip().rpartition(":")
    return host, int(port)


def cpu_s(daemon: Daemon) -> float:
    """Return the processor time that the daemon has used."""
    with open(f"/proc/{daemon.pid}/stat") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_half_open_handshake_is_closed_within_seconds(daemon: Daemon) -> None:
    """Silence and single bytes end in a closed connection; the peer's bytes do not extend its time."""
    peers = [socket.create_connection(address(daemon), PATIENCE_S) for _ in range(2)]
    silent, slow = peers
    began = time.monotonic()
    slow.settimeout(0.1)
    slow.sendall(b"GET /rpc HTTP/1.1\r\nX: ")
    while True:
        try:
            slow.sendall(b"x")
            if slow.recv(1) == b"":
                break
        except TimeoutError:
            assert time.monotonic() - began < PATIENCE_S, "bytes one by one keep a connection open"
        except OSError:
            break
    assert silent.recv(1) == b""
    assert HANDSHAKE_S - 1 < time.monotonic() - began < HANDSHAKE_S + 5
    for peer in peers:
        peer.close()


def test_thousands_of_silent_peers_delay_nobody(daemon: Daemon) -> None:
    """With 256 descriptors, the daemon's own user and a client with a token are served at once."""
    secret = daemon.call("token.create", scopes=["read"])["secret"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        # The usual soft limit of this process is less.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * SILENT_PEERS)), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(SILENT_PEERS):
            stack.enter_context(closing(socket.create_connection(address(daemon), PATIENCE_S)))
        began = time.monotonic()
        for _ in range(20):
            with daemon.connect() as client:
                assert client.call("rpc.ping")["version"]
        assert time.monotonic() - began < 2
        began = time.monotonic()
        assert trio.run(ping_with_token, address(daemon), secret)["version"]
        assert time.monotonic() - began < 2
    assert "descriptors are running out" not in daemon.read_log()


async def ping_with_token(where: tuple[str, int], secret: str) -> dict[str, str]:
    """Return the answer to a ping over the WebSocket."""
    url = f"ws://{where[0]}:{where[1]}/rpc"
    headers = [(b"Authorization", b"Bearer " + secret.encode())]
    with trio.fail_after(PATIENCE_S):
        async with open_websocket_url(url, extra_headers=headers, disconnect_timeout=math.inf) as peer:
            await peer.send_message('{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}')
            result: dict[str, str] = json.loads(await peer.get_message())["result"]
            return result


def test_without_descriptors_accepting_waits_and_recovers(daemon: Daemon) -> None:
    """When all descriptors are in use, the next client waits, at no cost, until one is free."""
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(DESCRIPTORS)]
        waiting = clients[-1]
        waiting.ask("rpc.ping")
        waiting.socket.settimeout(1)
        used_s = cpu_s(daemon)
        with pytest.raises(TimeoutError):
            waiting.receive()
        assert cpu_s(daemon) - used_s < 0.3
        for client in clients[: DESCRIPTORS // 2]:
            client.close()
        with closing(socket.fromfd(waiting.socket.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)) as again:
            again.settimeout(PATIENCE_S)
            assert b'"version"' in again.recv(65536)
