"""The systemd units pass systemd's own checks and are hardened."""

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

# The scores of 0 to 10, times 10. The rest are namespaces, mounts and networks, which tools need; and
# systemd-analyze does not know that a user's service has no privileges.
MAX_EXPOSURE = {"system": 25, "user": 30}

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def install_units(tmp_path: Path, manager: str) -> list[Path]:
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
    """systemd-analyze reports nothing about the units, not even an unknown directive."""
    units = [str(unit) for unit in install_units(tmp_path, manager)]
    verified = subprocess.run(
        ["systemd-analyze", f"--{manager}", "--man=no", "verify", *units],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    assert (verified.returncode, verified.stderr, verified.stdout) == (0, "", "")


@analyze
@pytest.mark.parametrize("manager", ["system", "user"])
def test_the_service_is_hardened(tmp_path: Path, manager: str) -> None:
    """The exposure score of each service is below a threshold."""
    unit = install_units(tmp_path, manager)[0]
    threshold = f"--threshold={MAX_EXPOSURE[manager]}"
    scored = subprocess.run(
        ["systemd-analyze", f"--{manager}", "security", "--offline=true", threshold, str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    assert scored.returncode == 0, scored.stdout + scored.stderr


@pytest.mark.parametrize("path", ["kheishd.service", "user/kheishd.service"])
def test_permanent_failures_are_not_retried(path: str) -> None:
    """The unit does not restart after the exit codes that a restart cannot fix."""
    line = next(line for line in (UNITS / path).read_text().splitlines() if "PreventExitStatus" in line)
    codes = {int(code) for code in line.partition("=")[2].split()}
    assert codes == {2, launch.UNUSABLE, launch.HELD, launch.STORE_REFUSED}


@pytest.mark.parametrize("path", ["kheishd.service", "user/kheishd.service"])
def test_the_unit_permits_confined_tools(path: str) -> None:
    """The unit covers no part of /proc and permits the namespaces that bubblewrap creates."""
    text = (UNITS / path).read_text()
    directives = dict(re.findall(r"(?m)^(\w+)=(.*)$", text))
    assert not {"ProtectKernelTunables", "ProtectKernelLogs", "ProcSubset"} & set(directives)
    assert {"user", "mnt", "pid", "net", "ipc"} == set(directives["RestrictNamespaces"].split())
    assert "@mount" in text


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="rpc")
os.execv(sys.executable, [sys.executable, "-m", "kheishd", *sys.argv[2:]])
"""


def test_a_passed_socket_is_used(home: Path) -> None:
    """The daemon uses the socket that systemd passes, and neither binds nor removes one.

    A client that connected before the start is answered once the daemon runs.
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
