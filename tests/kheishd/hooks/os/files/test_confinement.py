"""Paths: what they may be, and that none leads out of a workspace, by name or by link."""

import os
import socket
from pathlib import Path

import pytest

from kheishd.hooks.os.files.confinement import ROOT, explain_errors, names_of, open_root, relative_path
from kheishd.kernel.hook import ToolError
from protocol.limits.names import MAX_PATH_BYTES


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace beside a directory that is none of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (tmp_path / "ws" / "a" / "b").mkdir(parents=True)
    (tmp_path / "ws" / "a" / "file").write_text("inside")
    return tmp_path / "ws"


def read(workspace: Path, path: str) -> bytes:
    """The beginning of a file, as tools open it."""
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
    """However it is written; absolute ones, too, where they begin with the workspace."""
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
    """By dots, from the root, or with what a terminal would make something else of."""
    with pytest.raises(ToolError):
        relative_path(text, "/srv/ws")


def test_a_path_has_a_limit() -> None:
    """In bytes."""
    assert relative_path("a" * MAX_PATH_BYTES, "/srv/ws")
    with pytest.raises(ToolError, match="1024 bytes"):
        relative_path("é" * MAX_PATH_BYTES, "/srv/ws")


def test_names() -> None:
    """The root has none."""
    assert (names_of(ROOT), names_of("a/b")) == ([], ["a", "b"])


def test_a_file_is_opened(workspace: Path) -> None:
    """By the names on the way to it."""
    assert read(workspace, "a/file") == b"inside"


def test_a_missing_workspace_is_made(tmp_path: Path) -> None:
    """With what is above it, and for us alone."""
    with open_root(str(tmp_path / "new" / "ws")):
        pass
    assert (tmp_path / "new" / "ws").stat().st_mode & 0o777 == 0o700


def test_a_link_on_the_way_is_not_followed(workspace: Path) -> None:
    """Wherever it stands, and even if it stays inside; the refusal says where it leads."""
    (workspace / "out").symlink_to(workspace.parent / "outside")
    (workspace / "in").symlink_to("a")
    (workspace / "a" / "link").symlink_to("file")
    (workspace / "a" / "strange").symlink_to("a\x1b[31m")
    for path, said in (
        ("out/secret", f"out is a link to {workspace.parent}/outside"),
        ("in/file", "in is a link to a;"),
        ("a/link", "a/link is a link to file"),
        ("a/strange", "a name that cannot be printed"),
    ):
        with pytest.raises(ToolError, match=said):
            read(workspace, path)


def test_a_workspace_behind_a_link_is_not_entered(workspace: Path) -> None:
    """What was a directory when the workspace was chosen may be a link now."""
    (workspace.parent / "link").symlink_to(workspace)
    for path in ("link", "link/a"):
        with pytest.raises(ToolError, match=f"{workspace.parent}/link is a link"):
            read(workspace.parent / path, "file")


def test_what_is_no_ordinary_file_is_not_opened(workspace: Path) -> None:
    """Nobody waits for the other end of a pipe, or for a device."""
    os.mkfifo(workspace / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(workspace / "socket"))
    for path, said in (
        ("pipe", "a pipe or a device"),
        ("socket", "a socket or a device"),
        ("a", "is a directory"),
    ):
        with pytest.raises(ToolError, match=said):
            read(workspace, path)
    with pytest.raises(ToolError, match="a pipe or a device"):
        read(Path("/dev"), "null")
    with pytest.raises(ToolError, match="the workspace itself"):
        read(workspace, ROOT)


def test_what_the_system_says_is_said(workspace: Path) -> None:
    """With the path that was meant."""
    for path, said in (
        ("a/gone", "a/gone: there is no such file or directory"),
        ("a/file/x", "a part of the path is not a directory"),
        ("x" * 300, "file name too long"),
    ):
        with pytest.raises(ToolError, match=said):
            read(workspace, path)


def test_directories_are_made_where_wanted(workspace: Path) -> None:
    """Not otherwise; and a file in the place of one is told."""
    with open_root(str(workspace)) as root:
        with pytest.raises(FileNotFoundError), root.parent("x/y/z"):
            pass
        with root.parent("x/y/z", make=True) as (directory, name):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        with pytest.raises(NotADirectoryError), root.parent("a/file/z", make=True):
            pass
    assert (workspace / "x" / "y" / "z").is_file()


def test_a_workspace_that_is_moved_away_stays_the_one(workspace: Path) -> None:
    """What is held open is the directory, not its name."""
    with open_root(str(workspace)) as root:
        workspace.rename(workspace.with_name("moved"))
        workspace.symlink_to(workspace.parent / "outside")
        with root.file("a/file") as descriptor:
            assert os.read(descriptor, 100) == b"inside"
        with pytest.raises(FileNotFoundError), root.file("secret"):
            pass


def test_no_descriptor_is_left_open(workspace: Path) -> None:
    """However it ends."""
    (workspace / "in").symlink_to("a")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/file", "a/gone", "in/file", "a", "gone/x"):
        try:
            read(workspace, path)
        except ToolError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before
