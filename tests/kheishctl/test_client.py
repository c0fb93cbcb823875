"""The blocking client."""

import json
import os
import select
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from kheishctl import exit_codes
from kheishctl.client import (
    MAX_SOCKET_PATH_BYTES,
    Client,
    ConnectionLost,
    NoDaemon,
    NotADaemon,
    RequestRefused,
    SocketForbidden,
    StreamFailed,
    TimedOut,
    dial,
    resolve_home,
    resolve_socket,
)
from protocol import __version__
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.scripted import Peer, serve_scripts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the socket path of a scripted daemon."""
    return tmp_path / "s"


def test_call_answers(daemon: Daemon) -> None:
    """A call returns its result."""
    with Client.dial(str(daemon.socket)) as client:
        assert client.call("rpc.ping")["version"] == __version__


def test_call_refused(daemon: Daemon) -> None:
    """An error becomes an exception with its reason, its field and its exit code."""
    with Client.dial(str(daemon.socket)) as client, pytest.raises(RequestRefused) as caught:
        client.call("session.get", {"session_id": "none"})
    assert caught.value.reason == "session_not_found"
    assert caught.value.exit_code == exit_codes.FAILED
    assert not caught.value.retryable
    assert caught.value.text == "there is no session 'none'"
    assert str(caught.value) == "there is no session 'none' (see: kheishctl session list)"
    assert caught.value.describe()["data"]["field"] == "$.params.session_id"
    assert caught.value.describe()["code"] == 1404


def test_an_error_without_an_id(daemon: Daemon) -> None:
    """An error about an unreadable request has no id and still answers the open request."""
    with Client.dial(str(daemon.socket)) as client:
        with pytest.raises(RequestRefused) as caught:
            client.call("session.get", {"session_id": "\udcff"})
        assert caught.value.reason == "parse_error"
        with pytest.raises(RequestRefused):
            list(client.exchange("session.get", {"session_id": "\udcff"}))


def test_notifications_in_between_are_kept(path: Path) -> None:
    """Notifications before an answer are kept in order."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.notify("journal.event", cursor=1)
        peer.notify("journal.event", cursor=2)
        peer.answer(request, {"cursor": 0})
        peer.notify("journal.event", cursor=3)

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        assert client.call("journal.subscribe") == {"cursor": 0}
        notes = client.notifications()
        assert [next(notes)[1]["cursor"] for _ in range(3)] == [1, 2, 3]
        with pytest.raises(ConnectionLost):
            next(notes)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("line", [b"HTTP/1.1 400\r\n", DEEP + b"\n", b'{"id": null, "error": "no"}\n'])
def test_malformed_answers(path: Path, line: bytes) -> None:
    """Any answer that is not JSON-RPC ends the connection with a message."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.raw(line)
        assert peer.has_hung_up()

    with serve_scripts(path, script), Client.dial(str(path)) as client, pytest.raises(NotADaemon):
        client.call("rpc.ping")


@pytest.mark.parametrize("endless", [b"x" * 4096, b'{"method": "journal.event", "params": {}}\n' * 64])
def test_endless_messages(path: Path, monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    """An endless line, and endless notifications before an answer, end the connection."""
    monkeypatch.setattr("kheishctl.client.MAX_MESSAGE_BYTES", 1 << 20)

    def script(peer: Peer) -> None:
        peer.request()
        with suppress(OSError):
            while True:
                peer.raw(endless)

    with serve_scripts(path, script), Client.dial(str(path)) as client, pytest.raises(NotADaemon):
        client.call("rpc.ping")


def test_exchange(path: Path) -> None:
    """An exchange yields notifications before and after the answer."""

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.notify("journal.delta", text="a")
        peer.answer(request, {"status": "completed"})
        peer.notify("journal.end", reason="settled")

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        seen = []
        for name, _ in client.exchange("conversation.send", {}):
            seen.append(name)
            if name == "journal.end":
                break
    assert seen == ["journal.delta", "result", "journal.end"]


def test_a_failed_stream(path: Path) -> None:
    """A stream that the daemon could not continue is a failure, after all that it sent."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.notify("journal.delta", text="a")
        peer.notify("journal.end", reason="failed")

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        stream = client.exchange("conversation.send", {})
        assert next(stream) == ("journal.delta", {"text": "a"})
        with pytest.raises(StreamFailed, match="could not continue the stream"):
            next(stream)


def test_waiting_for_the_socket(path: Path) -> None:
    """The socket becomes readable for new messages; earlier ones are known without it."""

    def serve(peer: Peer) -> None:
        request = peer.request()
        peer.notify("a", n=1)
        peer.answer(request, "ok")
        peer.notify("b", n=2)

    with serve_scripts(path, serve), Client.dial(str(path)) as client:
        assert not client.has_pending
        assert client.call("rpc.ping") == "ok"
        assert client.has_pending
        assert next(client.notifications()) == ("a", {"n": 1})
        if not client.has_pending:
            assert select.select([client], [], [], PATIENCE_S)[0] == [client]
        assert next(client.notifications()) == ("b", {"n": 2})


def test_a_message_in_pieces(path: Path) -> None:
    """A message may arrive in pieces, split anywhere."""

    def script(peer: Peer) -> None:
        request = peer.request()
        line = json.dumps(
            {"jsonrpc": "2.0", "id": request["id"], "result": "日本"}, ensure_ascii=False
        ).encode()
        for byte in line + b"\n":
            peer.raw(bytes([byte]))

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        assert client.call("rpc.ping") == "日本"


def test_lost_before_the_answer(path: Path) -> None:
    """A connection that ends before the answer is lost."""
    with serve_scripts(path, lambda peer: peer.request()), Client.dial(str(path)) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.call("rpc.ping")
    assert caught.value.exit_code == exit_codes.NO_DAEMON


def test_timed_out(path: Path) -> None:
    """A daemon that does not answer in time has its own exit code."""

    def script(peer: Peer) -> None:
        peer.request()
        assert peer.has_hung_up()

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        with pytest.raises(TimedOut) as caught:
            client.call("rpc.ping", timeout_s=0.01)
        client.close()
    assert caught.value.exit_code == exit_codes.TIMED_OUT


def test_another_program_at_the_socket(path: Path) -> None:
    """Another program on the socket is reported as such."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        with pytest.raises(ConnectionLost, match="not a kheish daemon"):
            client.call("rpc.ping")


@pytest.mark.parametrize(("version", "named"), [("9.9.9", True), (__version__, False)])
def test_another_version_is_named(path: Path, version: str, named: bool) -> None:
    """If a method is unknown, the message names the versions of daemon and client."""

    def script(peer: Peer) -> None:
        peer.refuse(peer.request(), -32601, "there is no method 'new.thing'", reason="method_not_found")
        peer.answer(peer.request(), {"version": version})

    with serve_scripts(path, script), Client.dial(str(path)) as client:
        with pytest.raises(RequestRefused) as caught:
            client.call("new.thing")
    assert ("the daemon is version 9.9.9" in str(caught.value)) is named


def test_no_daemon(path: Path) -> None:
    """Without a socket, the message says how to start a daemon."""
    with pytest.raises(NoDaemon, match="kheishctl daemon start") as caught:
        dial(str(path))
    assert caught.value.exit_code == exit_codes.NO_DAEMON


def test_a_stale_socket_is_no_daemon(path: Path) -> None:
    """A stale socket is reported like a missing one."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NoDaemon, match="daemon start"):
        dial(str(path))


def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    """A path that is not a socket is reported with the system's reason."""
    with pytest.raises(NoDaemon):
        dial(str(tmp_path))


def test_permission_denied(path: Path) -> None:
    """The message about another user's socket says how to get access."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        child = os.fork()
        if child == 0:
            os.seteuid(65534)
            try:
                dial(str(path))
            except SocketForbidden as refused:
                os._exit(0 if "listen.shared" in str(refused) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_long_path(tmp_path: Path) -> None:
    """A path that is too long for the kernel is reached through its directory."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    assert len(os.fsencode(directory / "s")) > MAX_SOCKET_PATH_BYTES
    descriptor = os.open(directory, os.O_PATH)
    try:
        with serve_scripts(
            Path(f"/proc/self/fd/{descriptor}/s"), lambda peer: peer.answer(peer.request(), "ok")
        ):
            with Client.dial(str(directory / "s")) as client:
                assert client.call("rpc.ping") == "ok"
    finally:
        os.close(descriptor)


def test_resolve_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The home is --home, $KHEISH_HOME, the first of $STATE_DIRECTORY, or ~/.kheish."""
    for name in ("KHEISH_HOME", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_home() == str(tmp_path / ".kheish")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/kheish:/other")
    assert resolve_home() == "/var/lib/kheish"
    monkeypatch.setenv("KHEISH_HOME", "~/k")
    assert resolve_home() == str(tmp_path / "k")
    assert resolve_home("/h") == "/h"


def test_resolve_socket() -> None:
    """The socket is the home's, unless another is given."""
    assert resolve_socket("/h") == "/h/run/kheishd.sock"
    assert resolve_socket("/h", "/s") == "/s"
