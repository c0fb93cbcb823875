"""Where a command runs: inside the workspace, whatever the name says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kheishd.hooks.workdir import Workdir, open_workdir
from kheishd.kernel.hook import ToolError


@contextmanager
def opened(workspace: Path, name: str) -> Iterator[Workdir]:
    """A workdir, closed afterwards."""
    workdir = open_workdir(str(workspace), name)
    yield workdir
    os.close(workdir.descriptor)


@pytest.mark.parametrize("name", ["", ".", "sub/.."])
def test_the_workspace_itself(workspace: Path, name: str) -> None:
    """It is where a command begins if nothing else is said."""
    (workspace / "sub").mkdir()
    with opened(workspace, name) as workdir:
        assert (workdir.path, workdir.workspace) == (str(workspace), str(workspace))


def test_a_directory_inside(workspace: Path) -> None:
    """By its relative or absolute name, or by a link that stays inside."""
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "link").symlink_to("a")
    for name in ("a/b", str(workspace / "a" / "b"), "link/b", "a/../link/b"):
        with opened(workspace, name) as workdir:
            assert workdir.path == str(workspace / "a" / "b")


def test_a_workspace_that_is_a_link(tmp_path: Path) -> None:
    """It is resolved when the run is accepted; what becomes a link later is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ToolError, match="link"):
        open_workdir(str(tmp_path / "link"), ".")


@pytest.mark.parametrize("name", ["..", "/", "/usr", "out", "sub/../..", "../workspace-2", "up/.."])
def test_nothing_outside(workspace: Path, tmp_path: Path, name: str) -> None:
    """Neither upwards, nor by an absolute name, nor by a link; a name that only begins alike is outside."""
    (workspace / "sub").mkdir()
    (workspace / "out").symlink_to(tmp_path)
    (workspace / "up").symlink_to(tmp_path / "workspace-2")
    (tmp_path / "workspace-2").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ToolError, match="outside of the workspace"):
        open_workdir(str(workspace), name)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "the workdir 'missing' cannot be used: No such file or directory"),
        ("file", "the workdir 'file' cannot be used: Not a directory"),
        ("a\0b", "is no name of a directory"),
        ("x" * 5_000, "File name too long"),
    ],
)
def test_what_is_no_directory(workspace: Path, name: str, why: str) -> None:
    """It is said what is wrong with it."""
    (workspace / "file").touch()
    with pytest.raises(ToolError, match=why):
        open_workdir(str(workspace), name)


def test_a_workspace_that_is_missing_is_made(tmp_path: Path) -> None:
    """For us alone, as the file tools make it."""
    workdir = open_workdir(str(tmp_path / "new"), ".")
    os.close(workdir.descriptor)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_workspace_that_is_no_directory(tmp_path: Path) -> None:
    """That is not the fault of the workdir."""
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="the workspace"):
        open_workdir(str(tmp_path / "file"), ".")


def test_exchanging_it_changes_nothing(workspace: Path, tmp_path: Path) -> None:
    """What was opened stays what it was, whatever bears its name afterwards."""
    (workspace / "sub").mkdir()
    (workspace / "sub" / "here").touch()
    with opened(workspace, "sub") as workdir:
        (workspace / "sub").rename(workspace / "old")
        (workspace / "sub").symlink_to("/usr")
        assert os.listdir(f"/proc/self/fd/{workdir.descriptor}") == ["here"]
