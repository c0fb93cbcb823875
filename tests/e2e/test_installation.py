"""Installations: the wheel in a clean environment, and the one-file program. Neither needs the network."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.booted import build_wheel
from tests.support.daemons import Client, short_home
from tests.support.programs import BIN, ROOT, environment
from tests.support.waiting_runs import order

WHEELHOUSE = ROOT / ".ci" / "wheelhouse" / f"{sys.version_info.major}.{sys.version_info.minor}"
INSTALLED = WHEELHOUSE / "installed.lock"
LOCK = ROOT / "contrib" / "requirements.lock"
PACKAGES = {"kheishd", "kheishctl", "kheish_protocol"}
CONFIG = '[permissions]\nmode = "bypassPermissions"\n[workspace]\nunsandboxed = "allow"\n'
# Another package index or the network would make an error.
OFFLINE = {"PIP_NO_INDEX": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the one-file program."""
    path = tmp_path_factory.mktemp("onefile") / "kheish.pyz"
    run_program([sys.executable, ROOT / "contrib/onefile", path])
    return path


def run_program(command: list[str | Path], **more: str) -> str:
    """Run a program to its end and return its output. Errors: AssertionError with its messages."""
    # The one file asks for the version of Python that built it.
    more = {**OFFLINE, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment(**more)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_daemon(kheishctl: Path, home: Path, **more: str) -> None:
    """Check that an installed kheishctl starts a daemon in the background, which runs commands, and stops it.

    Commands need a second interpreter, in the foreground and in the background.
    """
    home.mkdir()
    (home / "config.toml").write_text(CONFIG)
    run_program([kheishctl, "--home", home, "daemon", "start"], **more)
    with Client(home / "run/kheishd.sock") as client:
        content = order("bash", command='echo "in front:$PYTHONPATH:"')
        assert "in front::" in client.call("conversation.send", content=content, wait="settled")["output"]
        content = order("bash", command="echo behind", run_in_background=True)
        session = client.call("conversation.send", content=content, wait="settled")["session_id"]
        (task,) = client.call("task.list", session_id=session, status="any")["tasks"]
        output = client.call("task.output", task_id=task["task_id"], wait=True)
        assert output["ready"]
        assert "behind" in output["text"]
    run_program([kheishctl, "--home", home, "daemon", "stop"], **more)


def test_the_wheel_has_only_names_of_kheish(wheel: Path) -> None:
    """Nothing that is importable from the wheel could belong to another project, nor does it import that."""
    with zipfile.ZipFile(wheel) as archive:
        modules = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert {name.partition("/")[0] for name in modules} == PACKAGES
    assert len(modules) > 300
    assert not [
        name for name, text in modules.items() if re.search(r"(?m)^\s*(from|import) protocol\b", text)
    ]


def test_the_wheel_carries_everything(wheel: Path) -> None:
    """The wheel has types, man pages, completions and units."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    (share,) = {name.partition("/share/")[0] for name in names if "/share/" in name}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    for page in (ROOT / "contrib/man").iterdir():
        assert f"{share}/share/man/man{page.suffix[1:]}/{page.name}" in names
    for path in (
        "bash-completion/completions/kheishctl",
        "zsh/site-functions/_kheishctl",
        "fish/vendor_completions.d/kheishctl.fish",
        *(
            f"kheish/systemd/{manager}/kheishd.{kind}"
            for manager in ("system", "user")
            for kind in ("service", "socket")
        ),
    ):
        assert f"{share}/share/{path}" in names


@pytest.mark.skipif(
    not WHEELHOUSE.exists(), reason="the packages that .ci/run puts into .ci/wheelhouse are missing"
)
def test_the_wheel_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed without network, the wheel starts a daemon, which runs commands; its contract is the same."""
    prefix = tmp_path / "clean"
    run_program([sys.executable, "-m", "venv", "--without-pip", prefix])
    install = [sys.executable, "-m", "pip", "--python", str(prefix / "bin/python"), "install", "--quiet"]
    run_program([*install, "--no-compile", "--find-links", WHEELHOUSE, wheel])
    for path in ("share/man/man1/kheishctl.1", "share/kheish/systemd/user/kheishd.service"):
        assert (prefix / path).exists()
    with short_home() as home:
        check_daemon(prefix / "bin/kheishctl", home)
    contract = run_program([prefix / "bin/kheishd", "discover"])
    assert json.loads(contract) == json.loads(run_program([sys.executable, "-m", "kheishd", "discover"]))
    imports = subprocess.run(
        [prefix / "bin/python", "-I", "-c", "import protocol"],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert b"ModuleNotFoundError" in imports.stderr


def test_one_file_is_daemon_and_client(program: Path, tmp_path: Path) -> None:
    """The one file starts a daemon in the background, which runs commands, and maintains its store."""
    unpacked = {"SHIV_ROOT": str(tmp_path / "unpacked")}
    (tmp_path / "kheishctl").symlink_to(program)
    (tmp_path / "kheishd").symlink_to(program)
    with short_home() as home:
        check_daemon(tmp_path / "kheishctl", home, **unpacked)
        assert "healthy" in run_program([tmp_path / "kheishd", "--home", home, "doctor"], **unpacked)
        assert "healthy" in run_program([program, "ctl", "--home", home, "daemon", "doctor"], **unpacked)
    assert run_program([program, "d", "--version"], **unpacked).startswith("kheishd ")
    (site_packages,) = (tmp_path / "unpacked").glob("*/site-packages")
    check_bytecode(site_packages)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, env=environment(**unpacked), check=False
    )
    assert (done.returncode, done.stderr.partition(" ")[0]) == (1, "usage:")


def check_bytecode(site_packages: Path) -> None:
    """Check that a start uses compiled bytecode: from source it takes twice as long."""
    done = subprocess.run(
        [sys.executable, "-v", "-c", "import kheishd.daemon"],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=site_packages,
        check=True,
    )
    loaded = [path for path in re.findall(r"# code object from '(.*)'", done.stderr) if "kheish" in path]
    assert len(loaded) > 100
    assert all(path.startswith(str(site_packages)) and path.endswith(".pyc") for path in loaded)


def test_one_file_is_reproducible(program: Path, tmp_path: Path) -> None:
    """Equal sources make equal bytes, whatever the umask."""
    previous = os.umask(0o077)
    try:
        run_program([sys.executable, ROOT / "contrib/onefile", tmp_path / "second.pyz"])
    finally:
        os.umask(previous)
    assert (tmp_path / "second.pyz").read_bytes() == program.read_bytes()
