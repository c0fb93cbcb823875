"""Starting the daemon's program."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishctl import exits, launch
from kheishctl.client import Failure, resolve_socket
from tests.support.daemons import Daemon, short_home


@pytest.fixture
def home() -> Iterator[Path]:
    """A home without a daemon; one started here is stopped."""
    with short_home() as home:
        yield home
        status = launch.probe(resolve_socket(str(home)))
        if status is not None:
            os.kill(status["pid"], signal.SIGKILL)
            os.waitpid(status["pid"], 0)


def test_start_waits_until_it_answers(home: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The daemon answers when start returns; it has its own session and log, and nothing of ours open."""
    status = launch.start(str(home))
    recwarn.clear()  # The process is not waited for: it outlives us, as it should.
    assert launch.probe(resolve_socket(str(home))) is not None
    assert os.getsid(status["pid"]) == status["pid"]
    assert Path(f"/proc/{status['pid']}/cwd").resolve() == Path("/")
    assert Path(f"/proc/{status['pid']}/fd/0").resolve() == Path("/dev/null")
    assert (home / "run" / "kheishd.log").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def test_start_on_a_home_that_is_taken(daemon: Daemon) -> None:
    """The second daemon's own words are passed on, and its exit code."""
    with pytest.raises(launch.StartFailed, match=f"pid {daemon.pid}") as caught:
        launch.start(str(daemon.home))
    assert caught.value.exit_code == exits.HOME_TAKEN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("given", ["", "run"])
def test_start_in_a_home_of_somebody_else(home: Path, given: str) -> None:
    """Nothing there is written to: a log could be a link to a file of ours."""
    (home / "run").mkdir(parents=True)
    (home / "precious").write_text("precious")
    (home / "run" / "kheishd.log").symlink_to(home / "precious")
    os.chown(home / given, 65534, 65534)
    with pytest.raises(launch.StartFailed, match="belongs to the user with uid 65534"):
        launch.start(str(home))
    os.chown(home / given, 0, 0)
    with pytest.raises(OSError, match="symbolic links"):
        launch.start(str(home))
    assert (home / "precious").read_text() == "precious"


def test_start_with_a_bad_configuration(home: Path) -> None:
    """Why it did not start is said, not only that."""
    home.mkdir()
    (home / "config.toml").write_text("default_agnet = 1\n")
    with pytest.raises(launch.StartFailed, match="default_agnet") as caught:
        launch.start(str(home))
    assert caught.value.exit_code == exits.FAILED


def test_a_long_log_is_begun_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log over its limit is emptied at a start; the end of an old one is never taken for the new."""
    monkeypatch.setattr(launch, "MAX_LOG_BYTES", 10)
    (home / "run").mkdir(parents=True)
    (home / "run" / "kheishd.log").write_text("an old log, too long\n")
    (home / "config.toml").write_text("nonsense")
    with pytest.raises(launch.StartFailed) as caught:
        launch.start(str(home))
    assert "an old log" not in str(caught.value)
    assert "an old log" not in (home / "run" / "kheishd.log").read_text()


def test_probe_without_a_daemon(tmp_path: Path) -> None:
    """Nobody there is an answer, too."""
    assert launch.probe(str(tmp_path / "none")) is None


def test_environment_finds_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """From any directory the same program is found, and a service's own variables stay with the service."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    environ = launch.build_environment()
    assert "NOTIFY_SOCKET" not in environ
    done = subprocess.run(
        [sys.executable, "-m", "kheishd", "--version"], cwd="/", env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_environment_without_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree that is not installed is put on the path."""
    root = str(Path(launch.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path[1:] if entry != root)])
    monkeypatch.setenv("PYTHONPATH", "/other")
    assert launch.build_environment()["PYTHONPATH"] == f"{root}{os.pathsep}/other"
    monkeypatch.setattr(sys, "path", ["", root])
    assert launch.build_environment()["PYTHONPATH"] == "/other"


def test_exec_becomes_the_program() -> None:
    """The output and the exit code are the daemon's program's."""
    code = "from kheishctl.launch import exec_daemon; exec_daemon('/nowhere', '--version')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "kheishd")


def test_offline_work(tmp_path: Path) -> None:
    """What the daemon's program printed; where it failed, its words and one of our own exit codes."""
    with pytest.raises(Failure, match="holds no store of kheish") as caught:
        launch.run_maintenance(str(tmp_path), "doctor")
    assert caught.value.exit_code == exits.FAILED
    code, said = launch.run_maintenance(str(tmp_path), "discover")
    assert (code, said[0]) == (exits.OK, "{")


def test_offline_work_beside_a_daemon(daemon: Daemon) -> None:
    """It says who holds the home, with the code for that."""
    with pytest.raises(Failure, match=f"pid {daemon.pid}") as caught:
        launch.run_maintenance(str(daemon.home), "compact")
    assert caught.value.exit_code == exits.HOME_TAKEN


def test_alive() -> None:
    """A running process is alive; one that ended is not, even before it is waited for; none is not."""
    assert launch.is_alive(os.getpid())
    child = subprocess.Popen(["true"])
    assert launch.wait_for_exit(child.pid, 10)
    child.wait()
    assert not launch.is_alive(child.pid)


def test_wait_gone_gives_up() -> None:
    """A process that stays is reported as there."""
    assert not launch.wait_for_exit(os.getpid(), 0)
