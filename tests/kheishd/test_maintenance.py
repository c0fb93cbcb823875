"""Maintenance commands on the store of a stopped daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kheishd.home import Home, Lock, prepare
from kheishd.launch import FAILED, HELD, STOPPED, STORE_REFUSED
from kheishd.store.tables import RUNS
from kheishd.store.writer import Store
from protocol.rpc.catalogue import METHODS
from tests.support.histories import dump, rich_history, session_with_runs, spoil_line, update

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home whose store has a history."""
    home = Home(tmp_path / "h")
    prepare(home)
    store = open_store(home)
    rich_history(store)
    store.close()
    return home


def open_store(home: Home) -> Store:
    """Open a home's store, without a writer thread."""
    return Store.open(home.state, on_group=lambda group: None, threaded=False, version="test")


def content(home: Home) -> dict[str, list[object]]:
    """Return every row of a home's store, except the properties of the store itself."""
    store = open_store(home)
    try:
        return {name: rows for name, rows in dump(store).items() if name != "meta"}
    finally:
        store.close()


def kheishd(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a home."""
    command = [sys.executable, "-m", "kheishd", "--home", str(home.path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [["doctor"], ["compact"], ["restore", "/nowhere"]])
def test_running_daemon(home: Home, command: list[str]) -> None:
    """Each command needs the home's lock, and names the pid of its holder."""
    with Lock.take(home):
        ended = kheishd(home, *command)
    assert ended.returncode == HELD
    assert "pid" in ended.stderr


def test_doctor_on_a_healthy_store(home: Home) -> None:
    """Nothing is found, and nothing changes."""
    before = (home.state / "data.mdb").read_bytes()
    for flags in ([], ["--deep"]):
        ended = kheishd(home, "doctor", *flags)
        assert ended.returncode == STOPPED, ended.stderr
        assert ended.stdout.endswith("checked\nhealthy\n")
    assert (home.state / "data.mdb").read_bytes() == before
    repaired = kheishd(home, "doctor", "--repair")
    assert (repaired.returncode, list(home.path.glob("before-repair*"))) == (STOPPED, [])


def test_doctor_repairs(home: Home) -> None:
    """Lost records are found, and rebuilt after the store is copied."""
    before = content(home)
    store = open_store(home)
    update(store, lambda tx: [tx.delete(RUNS, *key) for key, _ in list(tx.scan(RUNS))])
    store.close()
    examined = kheishd(home, "doctor", "--json")
    assert examined.returncode == FAILED
    assert {finding["kind"] for finding in json.loads(examined.stdout)["findings"]} == {"differs"}
    repaired = kheishd(home, "doctor", "--repair")
    assert repaired.returncode == STOPPED, repaired.stderr
    assert "repaired" in repaired.stderr
    assert content(home) == before
    (copy,) = home.path.glob("before-repair-1")
    assert (copy / "data.mdb").exists()
    assert kheishd(home, "doctor", "--deep").returncode == STOPPED


def test_doctor_on_a_damaged_journal(home: Home) -> None:
    """A changed line remains a finding after a repair, and the remedy is a restore."""
    store = open_store(home)
    spoil_line(store, "ses_a", 2, lambda stored: stored[:-2] + b" }")
    store.close()
    ended = kheishd(home, "doctor", "--repair")
    assert ended.returncode == FAILED
    assert "damaged: ses_a cursor 4: " in ended.stdout
    assert "kheishd restore BACKUP" in ended.stdout


def test_doctor_without_a_store(tmp_path: Path) -> None:
    """A home without a store is refused, and no store is created."""
    home = Home(tmp_path / "h")
    prepare(home)
    ended = kheishd(home, "doctor")
    assert ended.returncode == STORE_REFUSED
    assert not (home.state / "data.mdb").exists()


@pytest.mark.parametrize("command", ["doctor", "compact"])
def test_missing_home(tmp_path: Path, command: str) -> None:
    """A home that does not exist is refused and not created."""
    ended = kheishd(Home(tmp_path / "hmoe"), command)
    assert (ended.returncode, ended.stdout) == (STORE_REFUSED, "")
    assert f"there is no home at {tmp_path / 'hmoe'}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_restore(home: Home, tmp_path: Path) -> None:
    """The content of the backup is restored; the message says where the previous store is kept."""
    store = open_store(home)
    store.backup(tmp_path / "copy")
    before = {name: rows for name, rows in dump(store).items() if name != "meta"}
    session_with_runs(store, "ses_later", "ended")
    store.close()
    ended = kheishd(home, "restore", str(tmp_path / "copy"))
    assert ended.returncode == STOPPED, ended.stderr
    assert content(home) == before
    [previous] = [file for file in home.state.iterdir() if "before-restore" in file.name]
    assert previous.name in ended.stdout
    assert f"to go back: kheishd restore {previous}" in ended.stdout
    again = json.loads(kheishd(home, "restore", str(tmp_path / "copy"), "--json").stdout)
    assert again["kept"].endswith("before-restore-2")
    assert (again["withdrawn"], again["open_work"]["running"] > 0) == ({"changes": []}, True)
    assert again["backup_at_ms"] <= again["restored_at_ms"]


def test_restore_of_a_damaged_backup(home: Home, tmp_path: Path) -> None:
    """A damaged backup replaces nothing."""
    store = open_store(home)
    store.backup(tmp_path / "copy")
    store.close()
    before = content(home)
    data = tmp_path / "copy" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 3 * 4096])
    ended = kheishd(home, "restore", str(tmp_path / "copy"))
    assert ended.returncode == STORE_REFUSED
    assert content(home) == before


def test_compact(home: Home) -> None:
    """The file shrinks, and the content is the same."""
    store = open_store(home)
    for number in range(200):
        session_with_runs(store, f"ses_{number:03}", "ended")
    store.close()
    before = content(home)
    ended = kheishd(home, "compact")
    assert ended.returncode == STOPPED, ended.stderr
    assert "compacted" in ended.stdout
    assert content(home) == before


def test_discover(home: Home) -> None:
    """The contract is printed without a daemon and a home."""
    document = json.loads(kheishd(home, "discover").stdout)
    assert {method["name"] for method in document["methods"]} == set(METHODS)


def test_closed_pipe(home: Home) -> None:
    """A reader that closes the pipe causes no error message."""
    command = f"{sys.executable} -m kheishd --home {home.path} discover | head -c 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("{", "")
