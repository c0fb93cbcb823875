"""The home directory: its location, its privacy and its lock."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kheishd.home import Home, HomeHeld, HomeUnusable, Lock, find_home, prepare


def test_precedence() -> None:
    """The option wins, then the variable, then systemd, then the user's home."""
    everything = {"KHEISH_HOME": "/b", "STATE_DIRECTORY": "/c:/d", "HOME": "/home/me"}
    assert find_home("/a", everything).path == Path("/a")
    assert find_home(None, everything).path == Path("/b")
    assert find_home(None, {"STATE_DIRECTORY": "/c:/d"}).path == Path("/c")
    assert find_home(None, {}).path == Path.home() / ".kheish"


def test_relative_path() -> None:
    """A relative path becomes absolute, so that it does not depend on later working directories."""
    assert find_home("here/../there", {}).path == Path.cwd() / "there"
    assert find_home("~/x", {}).path == Path.home() / "x"


def test_directories_are_private(tmp_path: Path) -> None:
    """All directories of the daemon are closed to other users, whatever their mode was."""
    (tmp_path / "deep").mkdir(mode=0o755)
    home = Home(tmp_path / "deep" / "home")
    prepare(home)
    home.path.chmod(0o755)
    prepare(home)
    for directory in (home.path, home.state, home.run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert home.socket == home.path / "run" / "kheishd.sock"


def test_file_in_the_place_of_the_home(tmp_path: Path) -> None:
    """A file is refused with its path and the reason."""
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeUnusable, match=r"home.*(File exists|Not a directory)"):
        prepare(Home(tmp_path / "home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_home_of_another_user(tmp_path: Path) -> None:
    """A home that belongs to another user is refused."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(HomeUnusable, match="belongs to the user with uid 65534"):
        prepare(Home(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_link_of_another_user(tmp_path: Path) -> None:
    """A link made by another user is refused; one of this user is followed."""
    (tmp_path / "ours").mkdir(mode=0o755)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    prepare(Home(link))
    os.chown(link, 65534, 65534, follow_symlinks=False)
    (tmp_path / "ours").chmod(0o755)
    with pytest.raises(HomeUnusable, match="is a link made by the user with uid 65534"):
        prepare(Home(link))
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    "name", ["config.toml", "agents/default.md", "agents", "state/data.mdb", "run/kheishd.lock"]
)
def test_files_of_other_users(tmp_path: Path, name: str) -> None:
    """Files that other users put into an open home are refused at every start."""
    home = Home(tmp_path / "home")
    path = home.path / name
    for directory in (home.path, home.agents, home.state, home.run):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
    prepare(home)
    if path != home.agents:
        path.write_text("")
    os.chown(path, 65534, 65534)
    prepare(home)  # The directories were closed, so this user put it there or agreed to it.
    for directory in (home.path, home.agents, home.state, home.run):
        directory.chmod(0o777)
    for _ in range(2):
        with pytest.raises(HomeUnusable, match=f"{name} was made by the user with uid 65534"):
            prepare(home)


HOLD = """
import sys
from pathlib import Path
from kheishd.home import Home, Lock
with Lock.take(Home(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_daemon(tmp_path: Path) -> None:
    """A lock held by a living process is refused with its pid; a killed process holds no lock."""
    home = Home(tmp_path)
    prepare(home)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeHeld, match=f"pid {holder.pid}") as caught:
            Lock.take(home)
        assert caught.value.pid == holder.pid
        holder.kill()
    with Lock.take(home):
        assert home.lock.read_text().split() == [str(os.getpid())]


def test_released_lock(tmp_path: Path) -> None:
    """The file of a released lock names nobody and keeps its blocks, and the lock can be taken again."""
    home = Home(tmp_path)
    prepare(home)
    with Lock.take(home):
        held = home.lock.stat()
    assert home.lock.read_text().split() == []
    assert (home.lock.stat().st_size, home.lock.stat().st_blocks) == (held.st_size, held.st_blocks)
    with Lock.take(home), pytest.raises(HomeHeld):
        Lock.take(home)


def test_lock_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid that cannot be written does not prevent the lock, nor its release."""
    home = Home(tmp_path)
    prepare(home)

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kheishd.home.os.pwrite", pwrite)
    with Lock.take(home), pytest.raises(HomeHeld) as caught:
        Lock.take(home)
    assert caught.value.pid is None


def test_link_in_the_place_of_the_lock(tmp_path: Path) -> None:
    """A link is not followed, as its target would be truncated."""
    home = Home(tmp_path)
    prepare(home)
    precious = tmp_path / "precious"
    precious.write_text("x")
    home.lock.symlink_to(precious)
    with pytest.raises(HomeUnusable, match=r"kheishd\.lock"):
        Lock.take(home)
    assert precious.read_text() == "x"


def test_resolve_configured_paths(tmp_path: Path) -> None:
    """A relative path begins at the home, ``~`` is the user's home, an absolute path stays."""
    home = Home(tmp_path)
    assert home.resolve("a/b") == tmp_path / "a" / "b"
    assert home.resolve("~/x") == Path.home() / "x"
    assert home.resolve("/x") == Path("/x")


def test_the_default_workspace_is_created_once(tmp_path: Path) -> None:
    """A home that exists gets no new workspace in place of one that was moved away."""
    home = Home(tmp_path / "home")
    prepare(home)
    home.workspace.rename(tmp_path / "moved")
    prepare(home)
    assert not home.workspace.exists()
    # A link to a disk that is not mounted does not keep the daemon from starting.
    home.workspace.symlink_to(tmp_path / "disk")
    prepare(home)


def test_a_new_home_is_synced_into_its_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the first start does not lose the home's own name, nor those of its new parents."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr("kheishd.home.os.fsync", note)
    home = Home(tmp_path / "a" / "b")
    prepare(home)
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    synced.clear()
    prepare(home)
    assert synced == []
