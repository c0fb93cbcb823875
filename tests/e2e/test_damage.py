"""The real daemon and a damaged store: found before it is written, read-only, and repaired."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, RpcError, run_kheishd, short_home
from tests.support.stores import damage_page, find_leaf, find_older_meta, point_free_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MESSAGES = 12


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """Provide a stopped home with a conversation."""
    with short_home() as home:
        with Daemon(home) as daemon:
            for number in range(MESSAGES):
                daemon.say(f"message {number} " + "x" * 500)
            assert daemon.call("daemon.doctor", deep=True)["findings"] == []
            assert daemon.stop() == 0
        yield home


@pytest.fixture
def home(template: Path) -> Iterator[Path]:
    """Provide a copy of the home, and the path of its data file."""
    with short_home() as home:
        shutil.copytree(template, home, symlinks=True)
        yield home


def data(home: Path) -> Path:
    """Return the data file of a home."""
    return home / "state" / "data.mdb"


def zero_records(home: Path) -> None:
    """Damage a page of records."""
    damage_page(data(home), find_leaf(data(home), "runs"))


def zero_journal(home: Path) -> None:
    """Damage a page in the middle of the journal."""
    damage_page(data(home), find_leaf(data(home), "journal", last=True))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "free list": lambda home: point_free_page(data(home)),
    "records": zero_records,
    "journal": zero_journal,
    "cursors": lambda home: damage_page(data(home), find_leaf(data(home), "cursors", last=True)),
}


def require_read_only(daemon: Daemon) -> dict[str, Any]:
    """Require that reads are served, changes are refused with the repair, and no run starts."""
    status: dict[str, Any] = daemon.call("daemon.status")
    assert status["damage"]
    assert any("kheishd doctor --repair" in warning for warning in status["warnings"])
    with pytest.raises(RpcError) as refused:
        daemon.call("conversation.send", content="not stored")
    assert (refused.value.code, refused.value.reason) == (1507, "store_damaged")
    assert "kheishd restore BACKUP" in refused.value.message
    assert daemon.call("rpc.ping")
    return status


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("killed", [False, True])
def test_damage_is_found_before_anything_is_written(home: Path, name: str, killed: bool) -> None:
    """The daemon starts read-only, however the previous one ended; the file stays as it is."""
    if killed:
        with Daemon(home) as daemon:
            daemon.kill()
    DAMAGES[name](home)
    before = data(home).read_bytes()
    found = run_kheishd(home, "doctor")
    assert found.returncode == 1
    assert "damaged:" in found.stdout
    with Daemon(home) as daemon:
        status = require_read_only(daemon)
        assert status["counts"]["runs_active"] == 0
        if name == "free list":
            assert len(daemon.events(types=["run_ended"])) == MESSAGES
            assert daemon.call("session.list")["sessions"]
        findings = daemon.call("daemon.doctor", deep=True)["findings"]
        assert findings[0]["kind"] == "damaged"
        assert daemon.stop() == 0
        daemon.restart()
        require_read_only(daemon)
        shown = Ctl(home)("status")
        assert "the store is damaged" in shown.out
        refused = Ctl(home)("send", "default", "not stored")
        assert refused.err.endswith(f"hint: kheishctl --home {home} daemon doctor --repair\n")
        assert daemon.stop() == 0
    assert data(home).read_bytes() == before


@pytest.mark.parametrize("name", ["free list", "records", "meta page"])
def test_repair_brings_everything_back(home: Path, name: str) -> None:
    """After doctor --repair the daemon works as before, and the damaged file is kept."""
    if name == "meta page":
        # The older one: the newest state is whole.
        damage_page(data(home), find_older_meta(data(home)))
        refused = run_kheishd(home)
        assert refused.returncode == 5
        assert "kheishd doctor --repair" in refused.stderr
    else:
        DAMAGES[name](home)
    damaged = data(home).read_bytes()
    repaired = run_kheishd(home, "doctor", "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert "healthy" in repaired.stdout
    assert data(home).with_name("data.mdb.before-repair-1").read_bytes() == damaged
    with Daemon(home) as daemon:
        assert daemon.say("after the repair")["status"] == "completed"
        assert len(daemon.events(types=["run_ended"])) == MESSAGES + 1
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []
        assert "damage" not in daemon.call("daemon.status")


def test_a_damaged_journal_asks_for_a_backup(home: Path) -> None:
    """What no copy can restore is refused by the repair, with the command that helps."""
    zero_journal(home)
    refused = run_kheishd(home, "doctor", "--repair")
    assert refused.returncode != 0
    assert "kheishd restore BACKUP" in refused.stderr


def test_damage_while_the_daemon_runs(home: Path) -> None:
    """The doctor finds it without LMDB; the daemon turns read-only, ends its workers and goes on reading."""
    with Daemon(home) as daemon:
        zero_records(home)
        findings = daemon.call("daemon.doctor", deep=True)["findings"]
        assert findings[0]["kind"] == "damaged"
        require_read_only(daemon)
        assert len(daemon.events(types=["run_ended"])) == MESSAGES
        assert daemon.stop() == 0


def test_who_waits_for_a_run_is_told(home: Path) -> None:
    """A request that waits for a run's end is refused when damage stops all runs."""
    with Daemon(home) as daemon, daemon.connect() as client:
        run_id = daemon.call("conversation.send", content="/slow 100 100")["run_id"]
        waiting = client.ask("run.wait", run_id=run_id)
        zero_records(home)
        daemon.call("daemon.doctor", deep=True)
        with pytest.raises(RpcError) as refused:
            client.answer(waiting)
        assert refused.value.reason == "store_damaged"


def test_followers_survive_events_that_cannot_be_read(home: Path) -> None:
    """A follower of events that are damaged receives none of them, and the daemon serves the others."""
    with Daemon(home) as daemon, daemon.connect() as client:
        session_id = daemon.call("session.list")["sessions"][0]["session_id"]
        client.call("journal.subscribe", session_id=session_id)
        client.note("journal.synced")
        with data(home).open("r+b") as file:
            content = bytearray(file.read())
            for page in range(2, len(content) // PAGE):
                head = content[page * PAGE : (page + 1) * PAGE]
                if b'{"format":2,' in head:
                    file.seek(page * PAGE)
                    file.write(head.replace(b'{"format":2,', b'{"format"2:,'))
        with pytest.raises(RpcError) as refused:
            daemon.call("journal.read", session_id=session_id)
        assert refused.value.reason == "store_damaged"
        assert client.call("rpc.ping")
        require_read_only(daemon)
        assert daemon.stop() == 0


def test_a_record_that_does_not_decode(home: Path) -> None:
    """A row that LMDB can read and kheish cannot turns the daemon read-only too."""
    with Daemon(home) as daemon:
        session_id = daemon.call("session.list")["sessions"][0]["session_id"]
        content = bytearray(data(home).read_bytes())
        page = find_leaf(data(home), "sessions") * PAGE
        value = content.rindex(session_id.encode(), page, page + PAGE)
        content[value - 3 : value] = b"\xc1\xc1\xc1"
        with data(home).open("r+b") as file:
            file.seek(page)
            file.write(content[page : page + PAGE])
        with pytest.raises(RpcError) as refused:
            daemon.call("session.get", session_id=session_id)
        assert refused.value.reason == "store_damaged"
        require_read_only(daemon)


def test_no_line_that_is_not_json_reaches_a_client(home: Path) -> None:
    """A journal line that is not JSON any more is a refusal, not a broken answer."""
    with Daemon(home) as daemon:
        content = data(home).read_bytes()
        page = find_leaf(data(home), "journal", last=True) * PAGE
        line = content.rindex(b'{"format":2,', page, page + PAGE)
        with data(home).open("r+b") as file:
            file.seek(line)
            file.write(b'{"format"2:,')
        with pytest.raises(RpcError) as refused:
            daemon.events()
        assert refused.value.reason == "store_damaged"
        with daemon.connect() as client:
            client.call("journal.subscribe", after=0, subscription="sub_x")
            assert client.call("rpc.ping")
        require_read_only(daemon)
