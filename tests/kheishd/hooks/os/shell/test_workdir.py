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
    """Provide a workdir."""
    workdir = open_workdir(str(workspace), name)
    yield workdir
    workdir.close()


@pytest.mark.parametrize("name", ["", ".", "sub/.."])
def test_the_workspace_itself(workspace: Path, name: str) -> None:
    """The default directory is the workspace."""
    with opened(workspace, name) as workdir:
        assert (workdir.path, workdir.workspace) == (str(workspace), str(workspace))


def test_a_directory_inside(workspace: Path) -> None:
    """A directory may be given by its relative or absolute path."""
    (workspace / "a" / "b").mkdir(parents=True)
    for name in ("a/b", "./a//b/", str(workspace / "a" / "b"), "a/../a/b"):
        with opened(workspace, name) as workdir:
            assert workdir.path == str(workspace / "a" / "b")
            assert os.path.sameopenfile(workdir.inner, workdir.outer) is False


def test_a_workspace_that_is_a_link(tmp_path: Path) -> None:
    """A workspace that becomes a link after acceptance is rejected."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ToolError, match="link"):
        open_workdir(str(tmp_path / "link"), ".")


def test_a_missing_workspace_is_refused(tmp_path: Path) -> None:
    """A missing workspace is not created, as with the file tools."""
    with (
        pytest.raises(ToolError, match="does not exist; it was moved or removed"),
        opened(tmp_path / "new", "."),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_a_workspace_that_is_no_directory(tmp_path: Path) -> None:
    """An invalid workspace is reported as such, not as an invalid workdir."""
    (tmp_path / "file").touch()
    with pytest.raises(ToolError, match="the workspace"):
        open_workdir(str(tmp_path / "file"), ".")


@pytest.mark.parametrize(
    ("name", "reason"),
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
def test_nothing_else(workspace: Path, tmp_path: Path, name: str, reason: str) -> None:
    """A path outside, by a link, or to a file is rejected, and nothing stays open."""
    (workspace / "sub").mkdir()
    (workspace / "file").touch()
    (workspace / "out").symlink_to("/")
    (tmp_path / "workspace-2").mkdir()
    original = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ToolError, match=reason):
        open_workdir(str(workspace), name)
    assert len(os.listdir("/proc/self/fd")) == original


def test_exchanging_it_changes_nothing(workspace: Path) -> None:
    """The opened directory stays the same, whatever has its name afterwards."""
    (workspace / "sub").mkdir()
    (workspace / "sub" / "here").touch()
    with opened(workspace, "sub") as workdir:
        (workspace / "sub").rename(workspace / "old")
        (workspace / "sub").symlink_to("/usr")
        assert os.listdir(f"/proc/self/fd/{workdir.inner}") == ["here"]
