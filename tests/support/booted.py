"""A booted systemd: a container on a copy-on-write view of this machine's files.

The container has its own processes, mounts and network. Its writes go to memory and end with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemons import PATIENCE_S, Client, until
from tests.support.programs import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PROGRAMS = ("systemd-nspawn", "setpriv", "unshare", "nsenter", "mount", "ldconfig", "setfacl")

# The view is mounted in a mount namespace of its own, so that the mounts end with the container, however it
# ends. Nothing that this machine starts at boot starts in the container, and its disks are not mounted.
# nspawn ends with status 133 when the container reboots. If the tests are killed, it is killed, too.
START = """
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
rm -rf etc/systemd/system etc/systemd/user etc/fstab var/log/journal usr/bin/kheishd
mkdir -p etc/systemd/system etc/systemd/user
cp -a "$2/." .
shift 2
status=133
while [ "$status" = 133 ]; do
    status=0
    setpriv --pdeathsig KILL systemd-nspawn --quiet --directory=. --register=no --keep-unit \
        --link-journal=no --private-network --resolv-conf=off --timezone=off "$@" \
        --boot systemd.unit=multi-user.target || status=$?
done
exit "$status"
"""

# A container lacks two things of a machine. nspawn covers parts of /proc, and then it cannot be mounted
# in a user namespace. The loader must know the interpreter's own library, if it has one.
MACHINE_UNIT = """
[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount -t proc proc /proc
ExecStart=ldconfig
[Install]
WantedBy=sysinit.target
"""

PROGRAM = """#!/opt/kheish/bin/python
import sys
from {name}.__main__ import main
sys.exit(main())
"""


class CannotBoot(Exception):
    """This machine cannot boot a container; the message has the reason."""


def find_obstacle() -> str | None:
    """Return why no container can be booted here; None if nothing is known."""
    if os.geteuid() != 0:
        return "booting a container needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"missing: {', '.join(missing)}" if missing else None


class Booted:
    """A booted container in which kheish is installed from a wheel, for the interpreter of this process."""

    def __init__(self, wheel: Path, directory: Path) -> None:
        self._directory = directory
        self._log = self._directory / "log"
        files = self._directory / "files"
        self._add_program(files, wheel)
        unit = files / "etc/systemd/system/machine.service"
        unit.parent.mkdir(parents=True)
        unit.write_text(MACHINE_UNIT)
        wants = unit.parent / "sysinit.target.wants"
        wants.mkdir()
        (wants / unit.name).symlink_to(f"../{unit.name}")
        (self._directory / "mounts").mkdir()
        site_packages = sysconfig.get_path("purelib")
        options = [f"--bind-ro={sys.base_prefix}:/opt/python", f"--bind-ro={site_packages}:/opt/dependencies"]
        arguments = [str(self._directory / "mounts"), str(files), *options]
        with self._log.open("wb") as log:
            self._shell = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "unshare",
                    "--mount",
                    "--propagation=private",
                    "sh",
                    "-c",
                    START,
                    "sh",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # One tree of control groups, as on current systems; not this machine's.
                env=environment(SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1"),
            )

    @staticmethod
    def _add_program(files: Path, wheel: Path) -> None:
        """Lay out an environment with the wheel, whose dependencies are those of this process."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = files / "opt/kheish/lib" / version / "site-packages"
        packages.mkdir(parents=True)
        shutil.unpack_archive(wheel, packages, "zip")
        (packages / "dependencies.pth").write_text("/opt/dependencies\n")
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", str(packages)], check=True, env=environment()
        )
        (files / "opt/kheish/pyvenv.cfg").write_text("home = /opt/python/bin\n")
        (files / "opt/kheish/bin").mkdir()
        (files / "opt/kheish/bin/python").symlink_to(f"/opt/python/bin/{version}")
        # The interpreter's own library, if it has one, is in a directory that the loader does not know.
        loader = files / "etc/ld.so.conf.d/0-kheish.conf"
        loader.parent.mkdir(parents=True)
        loader.write_text("/opt/python/lib\n")
        (files / "usr/bin").mkdir(parents=True, exist_ok=True)
        for name in ("kheishd", "kheishctl"):
            program = files / "usr/bin" / name
            program.write_text(PROGRAM.format(name=name))
            program.chmod(0o755)

    def wait_booted(self) -> None:
        """Wait until systemd has started everything. Errors: CannotBoot."""

        def has_booted() -> bool:
            if self._shell.poll() is not None:
                return True
            with suppress(LookupError):
                state = self.run("systemctl", "is-system-running", "--wait", check=False)
                return state.stdout.strip() in ("running", "degraded")
            return False

        with suppress(AssertionError):
            until(has_booted, "the boot")
            if self._shell.poll() is None:
                return
        raise CannotBoot(f"systemd-nspawn did not boot: {self.log[-500:]}")

    @property
    def log(self) -> str:
        """The console's output so far."""
        return self._log.read_text(errors="replace").strip()

    @property
    def init(self) -> int:
        """The id of the container's first process. Errors: LookupError between two boots."""
        for nspawn in _find_children(self._shell.pid, "systemd-nspawn"):
            for init in _find_children(nspawn, "systemd"):
                return init
        raise LookupError("no process 1")

    @property
    def root(self) -> Path:
        """The container's files."""
        return Path(f"/proc/{self.init}/root")

    def run(self, *command: str, user: str = "root", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the container to its end. Errors: AssertionError with its output if it fails."""
        enter = ["nsenter", f"--target={self.init}", "--all", "--wd=/"]
        if user != "root":
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
            enter += ["env", f"HOME=/home/{user}", f"XDG_RUNTIME_DIR=/run/user/{self.uid_of(user)}"]
        done = subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=90, check=False, env=environment()
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def uid_of(self, user: str) -> int:
        """Return the number of a user of the container."""
        rows = (line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines())
        return next(int(row[2]) for row in rows if row[0] == user)

    def show(self, unit: str, name: str, *options: str, user: str = "root") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", *options, "show", "--value", "-p", name, unit, user=user).stdout.strip()

    def journal(self, unit: str) -> str:
        """Return the log of a unit."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit).stdout

    def connect(self, path: str = "/run/kheishd.sock") -> Client:
        """Return a connection of root to a socket in the container."""
        return Client(self.root / path.removeprefix("/"))

    def reboot(self) -> None:
        """Reboot, and wait until systemd has started everything."""
        before = self.init
        self.run("systemctl", "reboot", check=False)

        def has_rebooted() -> bool:
            with suppress(LookupError):
                return self.init != before
            return False

        until(has_rebooted, "the reboot")
        self.wait_booted()

    def __enter__(self) -> Booted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for nspawn in _find_children(self._shell.pid, "systemd-nspawn"):
            os.kill(nspawn, signal.SIGTERM)
        try:
            self._shell.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            for nspawn in _find_children(self._shell.pid, "systemd-nspawn"):
                os.kill(nspawn, signal.SIGKILL)
            self._shell.wait()


def _find_children(pid: int, name: str) -> Iterator[int]:
    """Yield the children of a process that run a program."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            # The kernel cuts names to 15 characters.
            if Path(f"/proc/{child}/comm").read_text().strip() == name[:15]:
                yield int(child)


def build_wheel(target: Path) -> Path:
    """Build the wheel of this source tree and return its path. Needs no network."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=environment(),
    )
    (wheel,) = target.glob("kheish-*.whl")
    return wheel
