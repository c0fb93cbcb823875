"""The home directory: which one is meant, who may look in, and that it is one daemon's."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kheishd.home import Home, HomeHeld, HomeUnusable, Lock, find_home, prepare


def test_the_option_wins_then_the_variable_then_systemd_then_the_user() -> None:
    """The order of resolution, each in turn."""
    everything = {"KHEISH_HOME": "/b", "STATE_DIRECTORY": "/c:/d", "HOME": "/home/me"}
    assert find_home("/a", everything).path == Path("/a")
    assert find_home(None, everything).path == Path("/b")
    assert find_home(None, {"STATE_DIRECTORY": "/c:/d"}).path == Path("/c")
    assert find_home(None, {}).path == Path.home() / ".kheish"


def test_a_relative_home_is_made_absolute() -> None:
    """What follows never depends on the working directory."""
    assert find_home("here/../there", {}).path == Path.cwd() / "there"
    assert find_home("~/x", {}).path == Path.home() / "x"


def test_preparing_makes_private_directories(tmp_path: Path) -> None:
    """All that the daemon writes to is readable by its user only, whatever was there before."""
    (tmp_path / "deep").mkdir(mode=0o755)
    home = Home(tmp_path / "deep" / "home")
    prepare(home)
    home.path.chmod(0o755)
    prepare(home)
    for directory in (home.path, home.state, home.run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert home.socket == home.path / "run" / "kheishd.sock"


def test_a_file_in_the_place_of_the_home(tmp_path: Path) -> None:
    """The message names it and the reason."""
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeUnusable, match=r"home.*(File exists|Not a directory)"):
        prepare(Home(tmp_path / "home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_home(tmp_path: Path) -> None:
    """A daemon run as the wrong user does not take over what belongs to another."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(HomeUnusable, match="belongs to the user with uid 65534"):
        prepare(Home(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_that_somebody_else_made(tmp_path: Path) -> None:
    """It could lead anywhere of ours; one of our own may."""
    (tmp_path / "ours").mkdir(mode=0o755)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    prepare(Home(link))
    os.chown(link, 65534, 65534, follow_symlinks=False)
    (tmp_path / "ours").chmod(0o755)
    with pytest.raises(HomeUnusable, match="is a link that the user with uid 65534 made"):
        prepare(Home(link))
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    "left", ["config.toml", "agents/default.md", "agents", "state/data.mdb", "run/kheishd.lock"]
)
def test_what_others_left_in_an_open_home(tmp_path: Path, left: str) -> None:
    """A configuration or an agent that somebody else put there is not obeyed, at no start."""
    home = Home(tmp_path / "home")
    path = home.path / left
    for directory in (home.path, home.agents, home.state, home.run):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
    prepare(home)
    if path != home.agents:
        path.write_text("")
    os.chown(path, 65534, 65534)
    prepare(home)  # Whoever that is, it was put there by us, or with our consent.
    for directory in (home.path, home.agents, home.state, home.run):
        directory.chmod(0o777)
    for _ in range(2):
        with pytest.raises(HomeUnusable, match=f"{left} was left there by the user with uid 65534"):
            prepare(home)


HOLD = """
import sys
from pathlib import Path
from kheishd.home import Home, Lock
with Lock.take(Home(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_daemon_learns_whose_pid_it_is(tmp_path: Path) -> None:
    """Held by a living process: refused, with its pid. The process killed: free at once."""
    home = Home(tmp_path)
    prepare(home)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(HomeHeld, match=f"pid {other.pid} holds") as caught:
            Lock.take(home)
        assert caught.value.pid == other.pid
        other.kill()
    with Lock.take(home):
        assert home.lock.read_text() == f"{os.getpid()}\n"


def test_a_released_lock_names_nobody(tmp_path: Path) -> None:
    """The file stays and is empty; whoever comes next may take it."""
    home = Home(tmp_path)
    prepare(home)
    Lock.take(home).release()
    assert home.lock.read_bytes() == b""
    with Lock.take(home), pytest.raises(HomeHeld):
        Lock.take(home)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """A lock that points elsewhere would truncate somebody's file."""
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
