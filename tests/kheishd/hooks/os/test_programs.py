"""The programs that the daemon executes outside of every sandbox."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.os import programs
from kheishd.hooks.os.programs import find_program, is_own_code, is_trusted


def test_a_program_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the system is found whatever ``PATH`` says, also through the links of the system."""
    (tmp_path / "env").write_text("#!/bin/sh\n")
    (tmp_path / "env").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("env") == "/usr/bin/env"
    assert is_trusted("/bin/../bin/env")
    assert find_program("no-such-program") is None
    assert not is_trusted("/usr/bin")


def test_the_own_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The installation counts if the workspace contains it, and not if it contains the workspace."""
    root, package = str(programs.PACKAGES), "kheishd/hooks/os/programs.py"
    assert is_own_code(root, package)
    assert not is_own_code(root, "README.md")
    assert not is_own_code(f"{root}/kheishd", "hooks/os/programs.py")
    monkeypatch.setattr(programs, "INSTALLATION", (f"{tmp_path}/.venv",))
    assert is_own_code(str(tmp_path), ".venv/bin/python")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a directory that is searched first, with a program."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "env").write_text("#!/bin/sh\n")
    (directory / "env").chmod(0o755)
    monkeypatch.setattr(programs, "DIRECTORIES", (str(directory), "/usr/bin"))
    return directory


def test_what_another_user_can_change(directory: Path) -> None:
    """A program that another user can change, or replace in a directory on the way, is not found."""
    if os.geteuid() != 0:
        pytest.skip("root only: an ordinary user trusts no file of its own")
    assert find_program("env") == f"{directory}/env"
    for path in (directory, directory / "env"):
        path.chmod(0o777)
        assert find_program("env") == "/usr/bin/env"
        path.chmod(0o755)
        os.chown(path, 65534, -1)
        assert find_program("env") == "/usr/bin/env"
        os.chown(path, 0, -1)
    (directory / "env").chmod(0o644)
    assert find_program("env") == "/usr/bin/env"


def test_what_the_daemon_can_change(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user's own program is not found, nor one behind a link through such a directory."""
    if os.geteuid() == 0:
        os.chown(directory, 65534, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        monkeypatch.setattr(os, "access", lambda path, mode: mode == os.X_OK)
    assert find_program("env") == "/usr/bin/env"
    (directory / "env").unlink()
    (directory / "env").symlink_to("/usr/bin/env")
    assert find_program("env") == "/usr/bin/env"
    (directory / "env").unlink()
    (directory / "env").symlink_to("env")
    assert not is_trusted(str(directory / "env"))
