"""Working on a store while no daemon runs, by the program's own commands."""

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
    """A home whose store has a past."""
    home = Home(tmp_path / "h")
    prepare(home)
    store = opened(home)
    rich_history(store)
    store.close()
    return home


def opened(home: Home) -> Store:
    """The store of a home, with its writer inline."""
    return Store.open(home.state, on_group=lambda group: None, threaded=False, version="test")


def content(home: Home) -> dict[str, list[object]]:
    """Every row of a home's store."""
    store = opened(home)
    try:
        return dump(store)
    finally:
        store.close()


def kheishd(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a home."""
    command = [sys.executable, "-m", "kheishd", "--home", str(home.path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", [["doctor"], ["compact"], ["restore", "/nowhere"]])
def test_never_beside_a_daemon(home: Home, command: list[str]) -> None:
    """Each needs the home's lock, and says who has it."""
    with Lock.take(home):
        ended = kheishd(home, *command)
    assert ended.returncode == HELD
    assert "pid" in ended.stderr


def test_doctor_on_a_healthy_store(home: Home) -> None:
    """Nothing is wrong, nothing is changed."""
    before = (home.state / "data.mdb").read_bytes()
    for flags in ([], ["--deep"]):
        ended = kheishd(home, "doctor", *flags)
        assert ended.returncode == STOPPED, ended.stderr
        assert ended.stdout.endswith("examined\nhealthy\n")
    assert (home.state / "data.mdb").read_bytes() == before
    repaired = kheishd(home, "doctor", "--repair")
    assert (repaired.returncode, list(home.path.glob("before-repair*"))) == (STOPPED, [])


def test_doctor_finds_and_repairs(home: Home) -> None:
    """Lost records: found with code 1, mended after a copy was made, found no more."""
    before = content(home)
    store = opened(home)
    update(store, lambda tx: [tx.delete(RUNS, *key) for key, _ in list(tx.scan(RUNS))])
    store.close()
    found = kheishd(home, "doctor", "--json")
    assert found.returncode == FAILED
    assert {finding["kind"] for finding in json.loads(found.stdout)["findings"]} == {"differs"}
    repaired = kheishd(home, "doctor", "--repair")
    assert repaired.returncode == STOPPED, repaired.stderr
    assert "mended" in repaired.stderr
    assert content(home) == before
    (copy,) = home.path.glob("before-repair-1")
    assert (copy / "data.mdb").exists()
    assert kheishd(home, "doctor", "--deep").returncode == STOPPED


def test_doctor_names_what_only_a_backup_mends(home: Home) -> None:
    """A changed line stays a finding after a repair, and the remedy is a restore."""
    store = opened(home)
    spoil_line(store, "ses_a", 2, lambda stored: stored[:-2] + b" }")
    store.close()
    ended = kheishd(home, "doctor", "--repair")
    assert ended.returncode == FAILED
    assert "damaged: ses_a cursor 4: " in ended.stdout
    assert "kheishd restore BACKUP" in ended.stdout


def test_doctor_without_a_store(tmp_path: Path) -> None:
    """There is nothing to examine, and it makes nothing."""
    home = Home(tmp_path / "h")
    prepare(home)
    ended = kheishd(home, "doctor")
    assert ended.returncode == STORE_REFUSED
    assert not (home.state / "data.mdb").exists()


@pytest.mark.parametrize("command", ["doctor", "compact"])
def test_a_home_that_was_mistyped(tmp_path: Path, command: str) -> None:
    """It is said that there is none, and none is made."""
    ended = kheishd(Home(tmp_path / "hmoe"), command)
    assert (ended.returncode, ended.stdout) == (STORE_REFUSED, "")
    assert f"there is no home at {tmp_path / 'hmoe'}" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_restore(home: Home, tmp_path: Path) -> None:
    """The backup's content is back, what was there is kept, and the message says where."""
    store = opened(home)
    store.backup(tmp_path / "copy")
    before = dump(store)
    session_with_runs(store, "ses_later", "ended")
    store.close()
    ended = kheishd(home, "restore", str(tmp_path / "copy"))
    assert ended.returncode == STOPPED, ended.stderr
    assert content(home) == before
    kept = [file for file in home.state.iterdir() if "before-restore" in file.name]
    assert kept
    assert kept[0].name in ended.stdout
    again = kheishd(home, "restore", str(tmp_path / "copy"), "--json")
    assert json.loads(again.stdout)["bytes"] == (tmp_path / "copy" / "data.mdb").stat().st_size


def test_restore_refuses_a_damaged_backup(home: Home, tmp_path: Path) -> None:
    """It is verified before it replaces anything."""
    store = opened(home)
    store.backup(tmp_path / "copy")
    store.close()
    before = content(home)
    data = tmp_path / "copy" / "data.mdb"
    data.write_bytes(data.read_bytes()[: 3 * 4096])
    ended = kheishd(home, "restore", str(tmp_path / "copy"))
    assert ended.returncode == STORE_REFUSED
    assert content(home) == before


def test_compact(home: Home) -> None:
    """The file shrinks, the content is the same."""
    store = opened(home)
    for number in range(200):
        session_with_runs(store, f"ses_{number:03}", "ended")
    store.close()
    before = content(home)
    ended = kheishd(home, "compact")
    assert ended.returncode == STOPPED, ended.stderr
    assert "compacted" in ended.stdout
    assert content(home) == before


def test_discover(home: Home) -> None:
    """The whole contract, with no daemon and no home needed."""
    document = json.loads(kheishd(home, "discover").stdout)
    assert {method["name"] for method in document["methods"]} == set(METHODS)


def test_a_reader_that_has_enough(home: Home) -> None:
    """Who reads only the beginning is no fault to complain of."""
    command = f"{sys.executable} -m kheishd --home {home.path} discover | head -c 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("{", "")
