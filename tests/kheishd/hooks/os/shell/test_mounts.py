"""The watch over mounts: which ones of a sandbox are required, and when one is gone."""

import io
import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.shell import mounts
from kheishd.hooks.os.shell.mounts import MountWatch, escape, find_mount_points, read_mounts


@pytest.fixture
def argv(workspace: Path, bubblewrap: None) -> list[str]:
    """Return the beginning of a sandbox's argv that protects one file and covers another."""
    for name in ("a b", "covered", "sub/deep", "c\r2 3 4 5 6\v\f"):
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).touch()
    options = ["--ro-bind", "/", "/", "--proc", "/proc", "--unshare-pid", "--die-with-parent"]
    options += ["--bind", str(workspace), str(workspace), "--ro-bind", os.devnull, f"{workspace}/covered"]
    for name in ("a b", "sub/deep", "c\r2 3 4 5 6\v\f"):
        options += ["--ro-bind", f"{workspace}/{name}", f"{workspace}/{name}"]
    return [shutil.which("bwrap") or "bwrap", *options, "--"]


@pytest.fixture
def sandbox(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Provide a sandbox whose command reads lines, and executes them."""
    with subprocess.Popen([*argv, "/bin/sh"], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"echo ready\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()


@pytest.mark.parametrize("name", ["a b", "covered", "c\r2 3 4 5 6\v\f"])
def test_a_mount_that_is_gone(
    argv: list[str], sandbox: subprocess.Popen[bytes], workspace: Path, name: str
) -> None:
    """Replacing a mounted file from outside is noticed at once; other changes are nobody's business."""
    poll = select.poll()
    watch = MountWatch(argv, poll)
    assert watch.look(sandbox.pid) is None
    (workspace / "sub").rename(workspace / "renamed")
    (workspace / "new").write_text("new\n")
    assert poll.poll(0) == []
    assert watch.look(sandbox.pid) is None
    (workspace / "new").rename(workspace / name)
    assert poll.poll(10_000) != []
    assert watch.look(sandbox.pid) == "mounts"
    watch.close()


def test_a_mount_that_was_gone_before(
    argv: list[str], sandbox: subprocess.Popen[bytes], workspace: Path, tmp_path: Path
) -> None:
    """A file that was replaced before the first look is noticed, too, unless mounts are still being made."""
    (workspace / "covered").unlink()
    poll = select.poll()
    assert MountWatch(argv, poll).look(sandbox.pid) == "mounts"
    assert poll.poll(0) == []
    privileged = tmp_path / "bwrap"
    privileged.touch()
    privileged.chmod(0o4755)
    watch = MountWatch([str(privileged), *argv[1:]], select.poll())
    assert watch.look(sandbox.pid) is None
    watch._deadline -= 1000
    assert watch.look(sandbox.pid) == "mounts"


def test_a_directory_that_was_renamed_before(
    argv: list[str], sandbox: subprocess.Popen[bytes], workspace: Path
) -> None:
    """A command may rename a directory above a mount before the first look: the mount is there still."""
    (workspace / "sub").rename(workspace / "renamed")
    poll = select.poll()
    watch = MountWatch(argv, poll)
    assert watch.look(sandbox.pid) is None
    (workspace / "new").write_text("new\n")
    (workspace / "new").rename(workspace / "renamed/deep")
    assert poll.poll(10_000) != []
    assert watch.look(sandbox.pid) == "mounts"
    watch.close()


def test_mounts_that_may_go(workspace: Path) -> None:
    """Sockets may be replaced, and links are not what is mounted; without mounts nothing is required."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{workspace}/socket")
    (workspace / "link").symlink_to("elsewhere")
    options = ["--ro-bind", os.devnull, f"{workspace}/socket", "--ro-bind", "/usr", f"{workspace}/link"]
    options += ["--ro-bind-try", "/nothing", "/nothing", "--tmpfs", f"{workspace}/x"]
    assert list(find_mount_points(options)) == [f"{workspace}/socket", f"{workspace}/x"]
    assert MountWatch(["/bin/sh", *options[:6], "--"], select.poll()).look(os.getpid()) is None
    assert MountWatch((), select.poll()).look(os.getpid()) is None


def test_a_list_that_cannot_be_read(
    argv: list[str], sandbox: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command whose mounts are not known is stopped, and the keeper stays."""
    assert read_mounts(io.BytesIO(b"1 2 3 4 /a\\040b\r 5\n\n")) == {1: b"/a\\040b\r"}
    for line in (b"1 2 3\n", b"x 2 3 4 /a\n"):
        assert read_mounts(io.BytesIO(line)) == {}
    watch, later = (MountWatch(argv, select.poll()) for _ in range(2))
    assert watch.look(sandbox.pid) is None
    monkeypatch.setattr(mounts, "read_mounts", lambda file: {})
    assert watch.look(sandbox.pid) == later.look(sandbox.pid) == "mounts"
    watch.close()


def test_names_in_the_kernels_list() -> None:
    """Blanks and backslashes are escaped."""
    assert escape("/a b\t\n\\ä") == b"/a\\040b\\011\\012\\134" + "ä".encode()
