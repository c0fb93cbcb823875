"""Starting the daemon's program."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishctl import exit_codes, launch
from kheishctl.client import Failure, resolve_socket
from kheishd.launch import UNUSABLE
from tests.support.daemons import Daemon, short_home


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a home without a daemon; a daemon started here is stopped at the end."""
    with short_home() as home:
        yield home
        status = launch.probe(resolve_socket(str(home)))
        if status is not None:
            os.kill(status["pid"], signal.SIGKILL)
            os.waitpid(status["pid"], 0)


def test_start_waits_until_it_answers(home: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Start returns when the daemon answers; the daemon has its own session and log."""
    status = launch.start(str(home))
    recwarn.clear()  # The process is not waited for: it outlives us, as it should.
    assert launch.probe(resolve_socket(str(home))) is not None
    assert os.getsid(status["pid"]) == status["pid"]
    assert Path(f"/proc/{status['pid']}/cwd").resolve() == Path("/")
    assert Path(f"/proc/{status['pid']}/fd/0").resolve() == Path("/dev/null")
    assert (home / "run" / "kheishd.log").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


def test_start_on_a_home_that_is_taken(daemon: Daemon) -> None:
    """The message and the exit code of a second daemon are passed on."""
    with pytest.raises(launch.StartFailed, match=f"pid {daemon.pid}") as caught:
        launch.start(str(daemon.home))
    assert caught.value.exit_code == exit_codes.HOME_TAKEN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("foreign", ["", "run"])
def test_start_in_the_home_of_another_user(home: Path, foreign: str) -> None:
    """Nothing is written to another user's home."""
    (home / "run").mkdir(parents=True)
    (home / "precious").write_text("precious")
    (home / "run" / "kheishd.log").symlink_to(home / "precious")
    os.chown(home / foreign, 65534, 65534)
    with pytest.raises(launch.StartFailed, match="belongs to the user with uid 65534"):
        launch.start(str(home))
    os.chown(home / foreign, 0, 0)
    with pytest.raises(OSError, match="symbolic links"):
        launch.start(str(home))
    assert (home / "precious").read_text() == "precious"


def test_start_with_a_bad_configuration(home: Path) -> None:
    """The message holds the daemon's reason, and the exit code is the daemon's."""
    home.mkdir()
    (home / "config.toml").write_text("default_agnet = 1\n")
    with pytest.raises(launch.StartFailed, match=r"config\.toml:1: default_agnet") as caught:
        launch.start(str(home))
    assert caught.value.exit_code == UNUSABLE


def test_only_problems_are_shown(home: Path) -> None:
    """The reason comes without the lines of the log that report no problem, in both formats."""
    (home / "run").mkdir(parents=True)
    for log_format in ("text", "json"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            (home / "config.toml").write_text(f'[listen.tcp]\naddress = "{address}"\n')
            with pytest.raises(launch.StartFailed) as caught:
                launch.start(str(home), ["--log-format", log_format])
        log = (home / "run" / "kheishd.log").read_text()
        assert "stopped" in log
        assert str(caught.value).startswith("the daemon did not start: kheishd: ")


def test_a_long_log_is_truncated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start empties a log over its limit and never reports lines of an earlier daemon."""
    monkeypatch.setattr(launch, "MAX_LOG_BYTES", 10)
    (home / "run").mkdir(parents=True)
    (home / "run" / "kheishd.log").write_text("an old log, too long\n")
    (home / "config.toml").write_text("nonsense")
    with pytest.raises(launch.StartFailed) as caught:
        launch.start(str(home))
    assert "an old log" not in str(caught.value)
    assert "an old log" not in (home / "run" / "kheishd.log").read_text()


def test_probe_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, the probe returns None."""
    assert launch.probe(str(tmp_path / "none")) is None


def test_environment_finds_the_same_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment finds the same program anywhere and drops a service's variables."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    environ = launch.build_environment()
    assert "NOTIFY_SOCKET" not in environ
    done = subprocess.run(
        [sys.executable, "-m", "kheishd", "--version"], cwd="/", env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_environment_without_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree that is not installed is added to the path."""
    root = str(Path(launch.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path[1:] if entry != root)])
    monkeypatch.setenv("PYTHONPATH", "/other")
    assert launch.build_environment()["PYTHONPATH"] == f"{root}{os.pathsep}/other"
    monkeypatch.setattr(sys, "path", ["", root])
    assert launch.build_environment()["PYTHONPATH"] == "/other"


def test_exec_becomes_the_program() -> None:
    """The daemon's program replaces the process."""
    code = "from kheishctl.launch import exec_daemon; exec_daemon('/nowhere', '--version')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "kheishd")


def test_maintenance(tmp_path: Path) -> None:
    """Maintenance returns the program's output, or fails with its message and an exit code."""
    with pytest.raises(Failure, match="holds no store of kheish") as caught:
        launch.run_maintenance(str(tmp_path), "doctor")
    assert caught.value.exit_code == exit_codes.FAILED
    code, output = launch.run_maintenance(str(tmp_path), "discover")
    assert (code, output[0]) == (exit_codes.OK, "{")


def test_maintenance_beside_a_daemon(daemon: Daemon) -> None:
    """Maintenance fails with a code of its own while a daemon uses the home."""
    with pytest.raises(Failure, match=f"pid {daemon.pid}") as caught:
        launch.run_maintenance(str(daemon.home), "compact")
    assert caught.value.exit_code == exit_codes.HOME_TAKEN


def test_is_alive() -> None:
    """A running process is alive; an ended one is not, even as a zombie."""
    assert launch.is_alive(os.getpid())
    child = subprocess.Popen(["true"])
    assert launch.wait_for_exit(child.pid, 10)
    child.wait()
    assert not launch.is_alive(child.pid)


def test_wait_for_exit_gives_up() -> None:
    """Waiting for a process that stays ends in time."""
    assert not launch.wait_for_exit(os.getpid(), 0)


def test_start_without_room_for_a_log(
    home: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """A full disk that has no room for a new log file does not prevent the start."""
    real_open = os.open

    def open_(path: str, flags: int, mode: int = 0o777) -> int:
        if path == launch.get_log_path(str(home)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, flags, mode)

    monkeypatch.setattr("kheishctl.launch.os.open", open_)
    assert launch.start(str(home))["pid"]
    recwarn.clear()
    assert not (home / "run" / "kheishd.log").exists()


def test_a_daemon_that_could_not_log_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, the reason of a daemon that does not start, and its exit code, arrive without a log."""
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("default_agnet = 1\n")
    monkeypatch.setattr("kheishctl.launch._open_log", lambda home: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(launch.StartFailed, match=r"config\.toml:1: default_agnet") as caught:
        launch.start(str(home))
    assert caught.value.exit_code == UNUSABLE
