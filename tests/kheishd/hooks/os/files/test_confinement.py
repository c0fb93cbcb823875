"""Confinement: paths are valid, and none leads out of a workspace, by name or by link."""

import os
import socket
from pathlib import Path

import pytest

from kheishd.hooks.os.files.confinement import (
    ROOT,
    explain_errors,
    names_of,
    open_root,
    read_begin,
    relative_path,
)
from kheishd.kernel.hook import ToolError
from protocol.limits.names import MAX_PATH_BYTES


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return a workspace beside a directory that is not part of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "ws" / "a" / "b").mkdir(parents=True)
    (tmp_path / "ws" / "a" / "file").write_text("inside")
    return tmp_path / "ws"


def read(workspace: Path, path: str) -> bytes:
    """Return the beginning of a file, opened as tools open it."""
    with open_root(str(workspace)) as root, explain_errors(path), root.file(path) as descriptor:
        return os.read(descriptor, 100)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("a/../b", "b"),
        ("", ROOT),
        (".", ROOT),
        ("/srv/ws/a", "a"),
        ("//srv/./ws/a", "a"),
        ("/srv/ws", ROOT),
        ("..a", "..a"),
        ("ünïcode name", "ünïcode name"),
    ],
)
def test_a_path_is_made_relative(text: str, path: str) -> None:
    """A path becomes relative in any notation, also an absolute one that begins with the workspace."""
    assert relative_path(text, "/srv/ws") == path


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "/srv/wsx",
        "/srv/ws/../x",
        "/",
        "a\nb",
        "a\0b",
        "a\u202eb",
        "\ud800",
    ],
)
def test_a_path_that_leads_out_or_cannot_be_shown_is_refused(text: str) -> None:
    """A path that leads outside, or that a terminal would show differently, is rejected."""
    with pytest.raises(ToolError):
        relative_path(text, "/srv/ws")


def test_a_path_has_a_limit() -> None:
    """The length of a path is limited in bytes."""
    assert relative_path("a" * MAX_PATH_BYTES, "/srv/ws")
    with pytest.raises(ToolError, match="1024 bytes"):
        relative_path("é" * MAX_PATH_BYTES, "/srv/ws")


def test_a_path_through_a_link_to_the_workspace(tmp_path: Path) -> None:
    """A person who names the workspace by a link may name its files by that link, too."""
    (tmp_path / "real" / "ws" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/ws")
    (tmp_path / "above").symlink_to("real")
    workspace = str(tmp_path / "real" / "ws")
    for path in (tmp_path / "link" / "a" / "f", tmp_path / "above" / "ws" / "a" / "f"):
        assert relative_path(str(path), workspace) == "a/f"
    assert relative_path(str(tmp_path / "link"), workspace) == "."
    for path in (tmp_path / "above" / "other", tmp_path / "link" / ".." / "x", tmp_path):
        with pytest.raises(ToolError, match="leads out"):
            relative_path(str(path), workspace)


def test_names() -> None:
    """A path splits into its names; the root has none."""
    assert (names_of(ROOT), names_of("a/b")) == ([], ["a", "b"])


def test_a_file_is_opened(workspace: Path) -> None:
    """A file is opened by the names on the way to it."""
    assert read(workspace, "a/file") == b"inside"


def test_a_missing_workspace_is_refused(tmp_path: Path) -> None:
    """A workspace that is gone is named, and not created anew; a file is none."""
    (tmp_path / "file").touch()
    for path, problem in {"gone/ws": "does not exist; it was moved", "file": "not a directory"}.items():
        with (
            pytest.raises(ToolError, match=f"the workspace {tmp_path}/{path}.*{problem}"),
            open_root(str(tmp_path / path)),
        ):
            pass
    assert not (tmp_path / "gone").exists()


def test_a_link_on_the_way_is_not_followed(workspace: Path) -> None:
    """No link is followed, even one that stays inside, and the error says where it leads."""
    (workspace / "out").symlink_to(workspace.parent / "outside")
    (workspace / "in").symlink_to("a")
    (workspace / "a" / "link").symlink_to("file")
    (workspace / "a" / "strange").symlink_to("a\x1b[31m")
    for path, message in (
        ("out/secret", f"out is a link to {workspace.parent}/outside"),
        ("in/file", "in is a link to a;"),
        ("a/link", "a/link is a link to file"),
        ("a/strange", "a name that cannot be printed"),
    ):
        with pytest.raises(ToolError, match=message):
            read(workspace, path)


def test_a_workspace_behind_a_link_is_not_entered(workspace: Path) -> None:
    """A workspace that has become a link since it was chosen is rejected."""
    (workspace.parent / "link").symlink_to(workspace)
    for path in ("link", "link/a"):
        with pytest.raises(ToolError, match=f"{workspace.parent}/link is a link"):
            read(workspace.parent / path, "file")


def test_what_is_no_ordinary_file_is_not_opened(workspace: Path) -> None:
    """A pipe or a device is rejected without waiting for it."""
    os.mkfifo(workspace / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(workspace / "socket"))
    for path, message in (
        ("pipe", "a pipe or a device"),
        ("socket", "a socket or a device"),
        ("a", "is a directory"),
    ):
        with pytest.raises(ToolError, match=message):
            read(workspace, path)
    with pytest.raises(ToolError, match="a pipe or a device"):
        read(Path("/dev"), "null")
    with pytest.raises(ToolError, match="the workspace itself"):
        read(workspace, ROOT)


def test_what_the_system_says_is_said(workspace: Path) -> None:
    """An error of the system is reported with the path."""
    for path, message in (
        ("a/gone", "a/gone: there is no such file or directory"),
        ("a/file/x", "a part of the path is not a directory"),
        ("x" * 300, "file name too long"),
    ):
        with pytest.raises(ToolError, match=message):
            read(workspace, path)


def test_directories_are_made_where_wanted(workspace: Path) -> None:
    """Directories are created only on request; a file in the place of one is reported."""
    with open_root(str(workspace)) as root:
        with pytest.raises(FileNotFoundError), root.parent("x/y/z"):
            pass
        with root.parent("x/y/z", make=True) as (directory, name):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        with pytest.raises(NotADirectoryError), root.parent("a/file/z", make=True):
            pass
    assert (workspace / "x" / "y" / "z").is_file()


def test_a_workspace_that_is_moved_away_stays_the_one(workspace: Path) -> None:
    """The open root stays the same directory when it is renamed."""
    with open_root(str(workspace)) as root:
        workspace.rename(workspace.with_name("moved"))
        workspace.symlink_to(workspace.parent / "outside")
        with root.file("a/file") as descriptor:
            assert os.read(descriptor, 100) == b"inside"
        with pytest.raises(FileNotFoundError), root.file("secret"):
            pass


def test_no_descriptor_is_left_open(workspace: Path) -> None:
    """No descriptor stays open, however the block ends."""
    (workspace / "in").symlink_to("a")
    original = len(os.listdir("/proc/self/fd"))
    for path in ("a/file", "a/gone", "in/file", "a", "gone/x"):
        try:
            read(workspace, path)
        except ToolError:
            continue
    assert len(os.listdir("/proc/self/fd")) == original


def test_the_begin_of_a_file(tmp_path: Path) -> None:
    """The begin of a file is read, and a pipe without a writer is empty instead of a wait."""
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_begin(str(tmp_path / "file"), 3) == b"123"
    assert read_begin(str(tmp_path / "pipe"), 3) == b""
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    assert read_begin(str(tmp_path / "pipe"), 3) == b""
    os.close(pipe)
