"""The real daemon in trouble: slow, vanished and foreign clients, a full disk, a clock that jumps."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import PATIENCE_S, Client, Daemon, RpcError, run_kheishd
from tests.support.disks import fill_disk, small_disk

MIB = 2**20
NOBODY = 65534


def memory_bytes(daemon: Daemon) -> int:
    """Return the daemon's own memory, without the store's pages, which the kernel maps and may reclaim."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def make_events(client: Client, count: int) -> str:
    """Make at least ``count`` events in one session; return its id."""
    session_id: str = client.call("session.create")["session_id"]
    for start in range(0, count, 500):
        batch = [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "session.rename",
                "params": {"session_id": session_id, "title": f"title {number} " + "x" * 200},
            }
            for number in range(start, start + 500)
        ]
        client.send(batch)
        answers = client.receive()
        assert len(answers) == 500
        assert not any("error" in answer for answer in answers)
    return session_id


def test_a_client_that_never_reads_costs_no_memory(daemon: Daemon) -> None:
    """100,000 unread events cost no memory, and the client receives them in order later."""
    with daemon.connect() as writer, daemon.connect() as lazy:
        make_events(writer, 5_000)
        lazy.call("journal.subscribe", after=0, subscription="sub_lazy")
        before = memory_bytes(daemon)
        session_id = make_events(writer, 100_000)
        grown = memory_bytes(daemon) - before
        assert grown < 24 * MIB, f"grew by {grown / MIB:.1f} MiB"
        assert writer.call("rpc.ping")
        last = writer.call("journal.read", session_id=session_id, order="newest", limit=1)["events"][0]
        cursors: list[int] = []
        while not cursors or cursors[-1] < last["cursor"]:
            note = lazy.receive()
            if note.get("method") == "journal.event":
                cursors.append(note["params"]["cursor"])
        assert cursors == list(range(1, last["cursor"] + 1))


def test_a_disconnect_does_not_stop_the_run(daemon: Daemon) -> None:
    """A run continues to its end if its client disconnects in the middle of a stream."""
    with daemon.connect() as client:
        run_id = client.call("conversation.send", content="/slow 10 30", stream=True)["run_id"]
        client.note("journal.delta")
    run = daemon.call("run.wait", run_id=run_id)
    assert run["status"] == "completed"
    assert "message 1" in run["output"]


def test_disconnected_waiters_are_freed(daemon: Daemon) -> None:
    """The daemon frees the waits of fifty disconnected clients and continues to serve."""
    with daemon.connect() as watcher:
        watcher.call("journal.subscribe", types=["run_ended"])
        for number in range(50):
            with daemon.connect() as client:
                client.ask(
                    "conversation.send",
                    content="/slow 3 10",
                    sender=f"s{number}",
                    wait="settled",
                    stream=True,
                )
        for _ in range(50):
            assert watcher.note("journal.event")["event"]["outcome"] == "completed"
    # The runs have ended; the daemon closes their connections in its next turns.
    deadline = time.monotonic() + PATIENCE_S
    while True:
        counts = daemon.call("daemon.status")["counts"]
        if counts["connections"] == 1 and counts["subscriptions"] == 0:
            break
        assert time.monotonic() < deadline, counts


def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    """The socket and pid file of a killed daemon do not prevent the next start."""
    daemon.kill()
    assert daemon.socket.is_socket()
    daemon.restart()
    assert daemon.call("rpc.ping")


def test_a_foreign_user_is_refused(daemon: Daemon) -> None:
    """A foreign user is refused by the peer's user id even if the files permit access."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    for directory in (daemon.home.parent, daemon.home, daemon.home / "run"):
        directory.chmod(0o755)
    daemon.socket.chmod(0o666)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with Client(daemon.socket) as stranger:
                answer = stranger.receive()
            os._exit(0 if answer["error"]["data"]["reason"] == "peer_unknown" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert daemon.call("rpc.ping")


def upgrade(address: str, *headers: str) -> tuple[int, str]:
    """Return the HTTP status and the body of the answer to a WebSocket upgrade request."""
    host, _, port = address.rpartition(":")
    request = [
        "GET /rpc HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *([] if any(header.startswith("Host:") for header in headers) else [f"Host: {address}"]),
        *headers,
    ]
    with socket.create_connection((host, int(port)), timeout=30) as peer:
        peer.sendall("\r\n".join([*request, "", ""]).encode())
        # A close frame may follow the head at once: a token can expire at any moment.
        answer = peer.recv(65536).decode(errors="replace")
    return int(answer.split()[1]), answer


@pytest.fixture
def on_tcp(home: Path) -> Iterator[Daemon]:
    """Provide a daemon that also listens on TCP."""
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
    with Daemon(home) as daemon:
        yield daemon


def test_invalid_upgrades_are_refused_before_any_rpc(on_tcp: Daemon) -> None:
    """An invalid token is answered with 401; a web page's Origin or a foreign Host with 403."""
    address = (on_tcp.home / "run" / "tcp").read_text().strip()
    created = on_tcp.call("token.create", scopes=["read"])
    good = f"Authorization: Bearer {created['secret']}"
    assert upgrade(address, good)[0] == 101
    assert upgrade(address)[0] == 401
    assert upgrade(address, "Authorization: Bearer kht_wrong")[0] == 401
    assert upgrade(address, "Authorization: Basic dXNlcjpwYXNz")[0] == 401
    assert upgrade(address, good, "Origin: https://example.com")[0] == 403
    assert upgrade(address, good, "Host: rebound.example.com")[0] == 403
    on_tcp.call("token.revoke", token_id=created["token"]["token_id"])
    assert upgrade(address, good)[0] == 401
    short = on_tcp.call("token.create", scopes=["read"], expires_in_s=1)
    header = f"Authorization: Bearer {short['secret']}"
    status, _ = upgrade(address, header)
    while status == 101:
        status, _ = upgrade(address, header)
    assert status == 401


def test_sigterm_under_load_loses_nothing(daemon: Daemon) -> None:
    """After SIGTERM amid 100 conversations the exit code is 0, and accepted runs are answered later."""
    accepted: list[str] = []
    with daemon.connect() as client:
        for number in range(100):
            params = {"content": "/slow 4 40", "sender": f"load {number}"}
            accepted.append(client.call("conversation.send", **params)["run_id"])
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    daemon.restart()
    for run_id in accepted:
        assert daemon.call("run.wait", run_id=run_id)["status"] == "completed"
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []
    assert not any(event.get("after_crash") for event in daemon.events(types=["daemon_started"]))


def test_a_full_disk_refuses_writes_serves_reads_and_recovers(home: Path) -> None:
    """Writes resume once there is space, and the accepted messages are complete."""
    with small_disk(home, "24m"), Daemon(home) as daemon:
        run_result = daemon.say("before the disk was full")
        filler = home / "filler"
        with filler.open("wb") as file:
            fill_disk(file.fileno())
        refused = _until_refused(daemon)
        assert refused["error"]["code"] == 1507
        assert refused["error"]["data"]["reason"] == "storage_full"
        assert f"the disk of {home / 'state'} is full" in refused["error"]["message"]
        assert refused["error"]["data"]["retryable"] is True
        assert daemon.call("run.get", run_id=run_result["run_id"])["output"] == run_result["output"]
        assert any("disk" in warning for warning in daemon.call("daemon.status")["warnings"])
        filler.unlink()
        assert daemon.say("after it")["status"] == "completed"
        for run in daemon.call("run.list", limit=500)["runs"]:
            assert daemon.call("run.wait", run_id=run["run_id"])["status"] == "completed"
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_a_removed_store_is_restored_from_a_backup(daemon: Daemon) -> None:
    """A daemon whose store was removed acknowledges nothing, and a backup from it is still complete."""
    run_result = daemon.say("before it was removed")
    shutil.rmtree(daemon.home / "state")
    with pytest.raises(RpcError) as refused:
        daemon.say("after it")
    assert refused.value.reason == "storage_failed"
    assert any("backup" in warning for warning in daemon.call("daemon.status")["warnings"])
    rescued = daemon.home.parent / "rescued"
    daemon.call("daemon.backup", path=str(rescued))
    assert daemon.stop() == 0
    assert run_kheishd(daemon.home, "restore", str(rescued)).returncode == 0
    daemon.restart()
    assert daemon.call("run.get", run_id=run_result["run_id"])["output"] == run_result["output"]
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def _until_refused(daemon: Daemon) -> dict[str, Any]:
    """Write until the first error and return it: the store may have a few free pages left."""
    with daemon.connect() as client:
        for number in range(2_000):
            params = {"content": "x" * 4_000, "sender": f"filler {number}"}
            client.send({"jsonrpc": "2.0", "id": number, "method": "conversation.send", "params": params})
            answer: dict[str, Any] = client.receive()
            if "error" in answer:
                return answer
    raise AssertionError("the disk was never full")


@pytest.fixture
def clock(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Provide a file with the wall clock, and the environment in which a program uses it."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("needs libfaketime (Debian: libfaketime)")
    file = tmp_path / "clock"
    file.write_text("+0")
    return (
        file,
        {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )


@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_a_clock_jump_delays_and_loses_nothing(
    jump: str, home: Path, clock: tuple[Path, dict[str, str]]
) -> None:
    """Deadlines use the monotonic clock, and cursors order the journal, not times."""
    file, environ = clock
    with Daemon(home, environ=environ) as daemon:
        before = daemon.say("before the jump")
        running = daemon.call("conversation.send", content="/slow 5 40", sender="other")["run_id"]
        file.write_text(jump)
        after = daemon.say("after the jump")
        assert after["session_id"] == before["session_id"]
        assert "message 2" in after["output"]
        assert daemon.call("run.wait", run_id=running, timeout_s=20)["status"] == "completed"
        events = daemon.events(session_id=after["session_id"])
        shift = events[-1]["at_ms"] - events[0]["at_ms"]
        assert abs(abs(shift) - 30 * 86_400_000) < 120_000, "the daemon did see the jump"
        assert [event["cursor"] for event in events] == sorted(event["cursor"] for event in events)
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []
        assert json.dumps(daemon.call("session.list")["sessions"])


def test_an_idle_daemon_writes_nothing(daemon: Daemon) -> None:
    """An idle daemon makes no commit."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace (Debian: strace)")
    daemon.say("something")
    command = [
        "strace",
        "-f",
        "-qq",
        "-c",
        "-e",
        "trace=fdatasync,pwrite64,writev,sendto",
        "-p",
        str(daemon.pid),
    ]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        watching.wait(2)
    watching.send_signal(signal.SIGINT)
    assert b"fdatasync" not in watching.communicate()[1]
