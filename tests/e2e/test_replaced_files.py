"""Files of kheish that are broken, removed or replaced: no run pays for it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import kheishd
from contrib.bench.model import config, model_server
from kheishd.launch import UNUSABLE
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until
from tests.support.waiting_runs import order

BROKEN = "def broken(:\n"

CONFIG = """[workspace]
sandbox = "off"
unsandboxed = "allow"
[[permissions.rules]]
tool = "*"
decision = "allow"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with a copy of the packages."""
    source = Path(kheishd.__file__).parents[1]
    for package in ("kheishd", "kheishctl", "protocol"):
        shutil.copytree(source / package, tmp_path / package)
    return tmp_path


def daemon_of(tree: Path, home: Path, **environ: str) -> Daemon:
    """Return a daemon that imports the copy."""
    return Daemon(home, before=("env", "-C", str(tree)), environ=environ)


def test_a_broken_installation_costs_no_run(home: Path, tree: Path) -> None:
    """A start whose code cannot be imported ends with a permanent code; after a repair, all runs complete."""
    with daemon_of(tree, home) as daemon:
        first, queued = (daemon.call("conversation.send", content=f"/slow {n} 500") for n in (2, 6))
        # On a busy disk, it may have ended when the second message is acknowledged.
        until(lambda: daemon.call("run.get", run_id=first["run_id"])["status"] != "queued", "it runs")
        daemon.kill()
        module = tree / "kheishd/hooks/web/tools.py"
        sound = module.read_text()
        module.write_text(BROKEN)
        for _ in range(4):
            daemon.start(wait=False)
            assert daemon.wait() == UNUSABLE
        log = daemon.read_log()
        assert "kheishd: the installation is damaged (SyntaxError" in log
        assert log.count("kheishd.daemon: ready") == 1, "it was ready again"
        module.write_text(sound)
        daemon.start()
        for run in (first, queued):
            ended = daemon.call("run.wait", run_id=run["run_id"])
            assert ended["status"] == "completed", ended


def test_daemon_start_reports_a_broken_installation(home: Path, tree: Path) -> None:
    """``daemon start`` reports success only once the code of runs is imported, also without open work."""
    (tree / "kheishd/hooks/web/tools.py").write_text(BROKEN)
    command = [sys.executable, "-m", "kheishctl", "--home", str(home), "daemon", "start"]
    started = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    assert (started.returncode, "the installation is damaged" in started.stderr) == (UNUSABLE, True), started
    assert Ctl(home)("status").code == 3


def test_a_running_daemon_survives_the_removal_of_its_files(home: Path, tree: Path) -> None:
    """A daemon that has started calls models and tools from memory, whatever an upgrade does to the files."""
    home.mkdir()
    with model_server() as port:
        (home / "config.toml").write_text(config(port, CONFIG))
        with daemon_of(tree, home) as daemon:
            until(lambda: not daemon.call("daemon.status").get("starting"), "the code of runs is imported")
            for package in ("kheishd", "protocol"):
                shutil.rmtree(tree / package)
            assert daemon.say("hello")["status"] == "completed"
            for call in (order("bash", command="echo one"), order("web_fetch", url="http://192.0.2.1/")):
                assert daemon.say(call, sender="offline", route="offline")["status"] == "completed"
            assert "SyntaxError" not in daemon.read_log()


def test_systemd_is_told_of_a_broken_installation(home: Path, tree: Path) -> None:
    """A daemon without open work is not ready for systemd either before the code of runs is imported."""
    (tree / "kheishd/hooks/web/tools.py").write_text(BROKEN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home.parent / "notify"))
        manager.setblocking(False)
        daemon = daemon_of(tree, home, NOTIFY_SOCKET=str(home.parent / "notify"))
        daemon.start(wait=False)
        assert daemon.wait() == UNUSABLE
        messages = b""
        with suppress(BlockingIOError):
            while message := manager.recv(4096):
                messages += message
    assert b"READY=1" not in messages
