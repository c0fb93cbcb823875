"""The directory of a command: inside the workspace, whatever its name says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.workdir import Workdir, open_workdir
from kheishd.kernel.hook import ToolError


@contextmanager
def opened(workspace: Path, name: str) -> Iterator[Workdir]:
    """A workdir, closed afterwards."""
    workdir = open_workdir(str(workspace), name)
    yield workdir
    workdir.close()


@pytest.mark.parametrize("name", ["", ".", "sub/.."])
def test_the_workspace_itself(workspace: Path, name: str) -> None:
    """It is where a command begins if nothing else is said."""
    with opened(workspace, name) as workdir:
        assert (workdir.path, workdir.workspace) == (str(workspace), str(workspace))


def test_a_directory_inside(workspace: Path) -> None:
    """By its relative or absolute name."""
    (workspace / "a" / "b").mkdir(parents=True)
    for name in ("a/b", "./a//b/", str(workspace / "a" / "b"), "a/../a/b"):
        with opened(workspace, name) as workdir:
            assert workdir.path == str(workspace / "a" / "b")
            assert os.path.sameopenfile(workdir.inner, workdir.outer) is False


def test_a_workspace_that_is_a_link(tmp_path: Path) -> None:
    """It is resolved when the run is accepted; what becomes a link later is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ToolError, match="link"):
        open_workdir(str(tmp_path / "link"), ".")


def test_a_workspace_that_is_missing_is_made(tmp_path: Path) -> None:
    """For us alone, as the file tools make it."""
    with opened(tmp_path / "new", "."):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_workspace_that_is_no_directory(tmp_path: Path) -> None:
    """That is not the fault of the workdir."""
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="the workspace"):
        open_workdir(str(tmp_path / "file"), ".")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("..", "leads out of the workspace"),
        ("/", "leads out of the workspace"),
        ("/usr", "leads out of the workspace"),
        ("sub/../..", "leads out of the workspace"),
        ("../workspace-2", "leads out of the workspace"),
        ("out", "out is a link to .*links are not followed"),
        ("out/etc", "out is a link to .*links are not followed"),
        ("missing", "missing: there is no such file or directory"),
        ("file", "file: a part of the path is not a directory"),
        ("a\0b", "all of them printable"),
        ("a\nb", "all of them printable"),
        ("x" * 5_000, "a path has at most"),
    ],
)
def test_nothing_else(workspace: Path, tmp_path: Path, name: str, why: str) -> None:
    """Neither outside nor by a link nor what is no directory; and nothing stays open."""
    (workspace / "sub").mkdir()
    (workspace / "file").touch()
    (workspace / "out").symlink_to("/")
    (tmp_path / "workspace-2").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ToolError, match=why):
        open_workdir(str(workspace), name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_exchanging_it_changes_nothing(workspace: Path) -> None:
    """What was opened stays what it was, whatever bears its name afterwards."""
    (workspace / "sub").mkdir()
    (workspace / "sub" / "here").touch()
    with opened(workspace, "sub") as workdir:
        (workspace / "sub").rename(workspace / "old")
        (workspace / "sub").symlink_to("/usr")
        assert os.listdir(f"/proc/self/fd/{workdir.inner}") == ["here"]
