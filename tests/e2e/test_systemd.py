"""The systemd units: accepted without a word by systemd's own checks, and hardened."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kheishd import launch
from tests.support.daemons import PATIENCE_S, Client, Daemon

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"

# Out of 10, times 10. 2.8 is what is left with the namespaces, mounts and networks that tools need.
MAX_EXPOSURE = 30

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def installed(tmp_path: Path, manager: str) -> list[Path]:
    """Provide the units of a service manager, with a start program that exists on this machine."""
    source = UNITS / "user" if manager == "user" else UNITS
    copies = []
    for unit in ("kheishd.service", "kheishd.socket"):
        text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart={sys.executable}", (source / unit).read_text())
        (tmp_path / unit).write_text(text)
        copies.append(tmp_path / unit)
    return copies


@analyze
@pytest.mark.parametrize("manager", ["system", "user"])
def test_verify_says_nothing(tmp_path: Path, manager: str) -> None:
    """An unknown directive is only a word on stderr to systemd; here it is a failure."""
    units = [str(unit) for unit in installed(tmp_path, manager)]
    verified = subprocess.run(
        ["systemd-analyze", f"--{manager}", "verify", *units],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    assert (verified.returncode, verified.stderr, verified.stdout) == (0, "", "")


@analyze
def test_the_system_service_is_hardened(tmp_path: Path) -> None:
    """The score that systemd gives what a service could do stays below a threshold."""
    unit = installed(tmp_path, "system")[0]
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout + scored.stderr


@pytest.mark.parametrize("path", ["kheishd.service", "user/kheishd.service"])
def test_hopeless_exits_are_not_retried(path: str) -> None:
    """The unit knows the exit codes that trying again does not help with: those of the program."""
    line = next(line for line in (UNITS / path).read_text().splitlines() if "PreventExitStatus" in line)
    codes = {int(code) for code in line.partition("=")[2].split()}
    assert codes == {2, launch.UNUSABLE, launch.HELD, launch.STORE_REFUSED}


@pytest.mark.parametrize("path", ["kheishd.service", "user/kheishd.service"])
def test_what_confined_tools_need_stays_allowed(path: str) -> None:
    """Nothing that covers a part of /proc, and no namespace that bubblewrap makes is forbidden."""
    text = (UNITS / path).read_text()
    directives = dict(re.findall(r"(?m)^(\w+)=(.*)$", text))
    assert not {"ProtectKernelTunables", "ProtectKernelLogs", "ProcSubset"} & set(directives)
    allowed = directives.get("RestrictNamespaces", "user mnt pid net ipc uts cgroup").split()
    assert {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} <= set(allowed)
    assert "@mount" in text


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="rpc")
os.execv(sys.executable, [sys.executable, "-m", "kheishd", *sys.argv[2:]])
"""


def test_a_passed_socket_is_used(home: Path) -> None:
    """As systemd does it: the socket is there before the daemon, which binds none and removes none.

    A client that connected before the daemon was there is answered as soon as it is.
    """
    path = home.parent / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Client(path) as early:
            early.ask("rpc.ping")
            command = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), "--home", str(home)]
            with subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.PIPE) as process:
                assert early.answer(1)["version"]
                early.call("daemon.shutdown")
                process.communicate(timeout=PATIENCE_S)
                assert process.returncode == 0
    assert path.exists()
    assert not Daemon(home).socket.exists()
