"""The real daemon on a full disk: everything starts and reads, writes are refused, and space can be freed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from kheishd.store.tables import CHECKPOINTS
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, run_kheishd
from tests.support.disks import fill_disk, small_disk
from tests.support.stores import fill, open_inline, update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 2**20
SAID = "before the disk was full"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provide a stopped home on a full disk, whose store has some megabytes of free pages."""
    with small_disk(tmp_path_factory.mktemp("full") / "disk", "24m") as disk:
        home = disk / "home"
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text('[listen.tcp]\naddress = "127.0.0.1:0"\n')
        with Daemon(home) as daemon:
            daemon.log = disk.parent / "log"
            assert daemon.say(SAID)["status"] == "completed"
            assert daemon.stop() == 0
        store = open_inline(home / "state")
        for number in range(20):
            fill(store, number, 200_000)
        update(store, lambda tx: [tx.delete(CHECKPOINTS, "s", number) for number in range(20)])
        store.close()
        # As an older version left it: nothing here has a block of the disk any more.
        os.truncate(home / "run" / "kheishd.lock", 0)
        (home / "state" / "checked").unlink()
        with (disk / "filler").open("wb") as file:
            fill_disk(file.fileno())
        assert os.statvfs(home).f_bavail == 0
        yield home


def test_everything_works_on_a_full_disk(full: Path) -> None:
    """Start, status, reads, the doctor and stop work; a change is refused and names the disk."""
    ctl = Ctl(full)
    assert run_kheishd(full, "doctor").returncode == 0
    for _ in range(2):
        # In a process of its own, because the daemon is its child.
        command = [sys.executable, "-m", "kheishctl", "--home", str(full), "daemon", "start"]
        started = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert started.returncode == 0, started.stderr
        status = ctl.json("status")
        assert status["disk"]["free_bytes"] == 0
        assert any("disk" in warning for warning in status["warnings"])
        assert any(listener.startswith("tcp:") for listener in status["listeners"])
        assert SAID in ctl("conversation", "history", "default").out
        assert ctl.json("daemon", "doctor", "--deep")["findings"] == []
        assert ctl("daemon", "stop").code == 0


def test_after_a_kill_it_starts_too(full: Path) -> None:
    """The check after an unclean stop needs no space."""
    with Daemon(full) as daemon:
        daemon.log = full.parent.parent / "log"
        daemon.kill()
        daemon.restart()
        assert daemon.call("daemon.status")["counts"]["runs"] == 1
        assert daemon.stop() == 0


def test_compact_frees_space_where_there_is_none(full: Path) -> None:
    """Free pages are given back to the disk in place, and then the file is shortened; writes work again."""
    compacted = run_kheishd(full, "compact", "--json")
    assert compacted.returncode == 0, compacted.stderr
    result = json.loads(compacted.stdout)
    assert result["freed_bytes"] > 3 * MIB
    assert result["after_bytes"] < result["before_bytes"] // 4
    assert os.statvfs(full).f_bavail * os.statvfs(full).f_frsize > 3 * MIB
    with Daemon(full) as daemon:
        daemon.log = full.parent.parent / "log"
        assert daemon.say("after the compaction")["status"] == "completed"
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_a_new_home_on_a_full_disk(tmp_path: Path) -> None:
    """In the background as in the foreground, the start of a new home ends with code 5 and asks for space."""
    with small_disk(tmp_path / "disk", "1m") as disk:
        with (disk / "filler").open("wb") as file:
            fill_disk(file.fileno())
        command = [sys.executable, "-m", "kheishctl", "--home", str(disk / "home"), "daemon", "start"]
        for options in ((), ("--foreground",)):
            ended = subprocess.run(
                [*command, *options], capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 5
            assert "bytes more to be opened" in ended.stderr


def order(tool: str, **arguments: object) -> str:
    """Return a message that makes the model call a tool."""
    return f"/call {tool} {json.dumps(arguments)}"


def test_tools_leave_the_rest_of_the_disk_to_the_store(tmp_path: Path) -> None:
    """Below the reserve a tool writes no file and a command is stopped, and both name the setting."""
    with small_disk(tmp_path / "disk", "40m") as disk:
        home = disk / "home"
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text('[permissions]\nmode = "bypassPermissions"\n')
        with Daemon(home) as daemon:
            daemon.log = tmp_path / "log"
            daemon.say("hello")
            status = os.statvfs(home)
            with (disk / "filler").open("wb") as file:
                file.write(bytes(status.f_bavail * status.f_frsize - 2 * MIB - 256 * 1024))
            daemon.say(order("write_file", path="small", content="x" * 1000))
            assert (home / "workspace" / "small").exists()
            for number in range(4):
                daemon.say(order("write_file", path=f"large-{number}", content="x" * 100_000))
            assert not (home / "workspace" / "large-3").exists()
            command = "for i in $(seq 400); do head -c 10000 /dev/zero >> grown; sleep 0.02; done"
            daemon.say(order("bash", command=command))
            results = [json.dumps(event) for event in daemon.events(types=["tool_returned"])]
            assert "daemon.reserve_bytes" in results[-2]
            assert "daemon.reserve_bytes" in results[-1], results[-1]
            assert daemon.say("the store still writes")["status"] == "completed"
