"""``kheishctl journal``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kheishctl import exit_codes
from kheishctl.commands.journal import EventType
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.scripted import Peer, serve_scripts


@pytest.fixture
def sent(ctl: Ctl, sender: str) -> dict[str, str]:
    """Return the result of one message in a new conversation."""
    result: dict[str, str] = ctl.json("send", "default", "hello", "--as", sender)
    return result


def test_read(ctl: Ctl, sent: dict[str, str]) -> None:
    """The events of a session are printed oldest first, tab-separated for a pipe."""
    rows = ctl("journal", "read", "--session", sent["session_id"]).rows
    kinds = [row[3] for row in rows]
    assert {"session_created", "input_received", "run_accepted", "run_ended"} <= set(kinds)
    assert [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)


def test_read_as_json(ctl: Ctl, sent: dict[str, str]) -> None:
    """With --json, each event is one line; runs and types filter them."""
    done = ctl("journal", "read", "--run", sent["run_id"], "--type", "run_ended", "--json")
    assert done.json["outcome"] == "completed"


def test_read_pages(ctl: Ctl, sent: dict[str, str]) -> None:
    """One page ends with the option for the next page; --all prints every page."""
    page = ctl("journal", "read", "--limit", "2")
    assert len(page.rows) == 2
    assert "--after" in page.err
    every = ctl("journal", "read", "--session", sent["session_id"], "--limit", "2", "--all")
    whole = ctl("journal", "read", "--session", sent["session_id"], "--limit", "500")
    assert every.out == whole.out
    newest = ctl("journal", "read", "--session", sent["session_id"], "--newest", "--limit", "1")
    assert newest.rows == whole.rows[-1:]


def test_read_of_no_session(ctl: Ctl) -> None:
    """An unknown session is refused."""
    assert ctl("journal", "read", "--session", "none").code == exit_codes.FAILED


def test_follow_survives_a_restart(daemon: Daemon, tmp_path: Path) -> None:
    """Following survives a restart of the daemon: no event is lost or repeated."""
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)

    def event(peer: Peer, cursor: int) -> None:
        line = {"type": "run_started", "cursor": cursor, "at_ms": 1, "starts": 1}
        peer.notify("journal.event", subscription="s", cursor=cursor, event=line)

    def first(peer: Peer) -> None:
        request = peer.request()
        assert "after" not in request["params"]
        peer.answer(request, {"subscription": "s", "cursor": 4})
        event(peer, 5)
        peer.notify("journal.synced", subscription="s", cursor=7)

    def second(peer: Peer) -> None:
        request = peer.request()
        assert request["params"] == {"after": 7, "deltas": True, "types": ["run_started"]}
        peer.answer(request, {"subscription": "s", "cursor": 7})
        event(peer, 8)
        peer.notify("journal.gap", subscription="s", **{"from": 8, "to": 9})
        delta = {"run_id": "r", "item_id": "i", "attempt": 1, "offset": 0, "kind": "text", "text": "t"}
        peer.notify("journal.delta", subscription="s", **delta)
        peer.notify("journal.end", subscription="s", reason="revoked")

    with serve_scripts(home / "run" / "kheishd.sock", first, second):
        done = Ctl(home)("journal", "follow", "--deltas", "--type", "run_started", "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line.get("cursor") for line in lines] == [5, 8, None, None]
    assert lines[2] == {"gap": {"from": 8, "to": 9}}
    assert lines[3]["delta"]["text"] == "t"


def test_a_stream_that_cannot_continue(tmp_path: Path) -> None:
    """Following ends with the reason when the daemon cannot continue."""
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), {"subscription": "s", "cursor": 4})
        peer.notify("journal.end", subscription="s", reason="failed")

    with serve_scripts(home / "run" / "kheishd.sock", script):
        done = Ctl(home)("journal", "follow")
    assert done.code == exit_codes.FAILED
    assert "could not continue the stream of events" in done.err


def test_follow_from_a_cursor(daemon: Daemon, ctl: Ctl, sender: str, sent: dict[str, str]) -> None:
    """Following from a cursor prints past events and then new ones."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "journal", "follow"]
    command += ["--after", "0", "--session", sent["session_id"], "--type", "run_ended", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["run_id"] == sent["run_id"]
        again = ctl.json("send", "default", "again", "--as", sender)
        assert json.loads(child.stdout.readline())["run_id"] == again["run_id"]
        child.terminate()


def test_follow_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, following fails at once."""
    assert Ctl(tmp_path)("journal", "follow").code == exit_codes.NO_DAEMON


def test_an_unknown_type(ctl: Ctl) -> None:
    """An unknown type of events is a usage error with similar types, not an empty result."""
    done = ctl("journal", "read", "--type", "run_end")
    assert (done.code, "no events of the type 'run_end'; did you mean run_ended" in done.err) == (2, True)
    assert ctl("journal", "follow", "--type", "").code == 2
    names = [item.value for item in EventType().shell_complete(None, None, "run_e")]  # type: ignore[arg-type]
    assert names == ["run_ended"]
