"""Tests of the question whether a directory is trusted."""

import sys
from pathlib import Path

import pytest

from kheishctl import directories
from kheishctl.directories import read_untrusted, remember_untrusted
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.programs import environment
from tests.support.terminal import Terminal


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the client's state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_remembered_directories(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is remembered once, the oldest ones are forgotten, and a damaged file costs nothing."""
    assert read_untrusted() == []
    for path in ("/a", "/b\u2028", "/a"):
        remember_untrusted(path)
    assert read_untrusted() == ["/b\u2028", "/a"]
    assert (state / "kheish" / "untrusted").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(directories, "MAX_REMEMBERED", 2)
    remember_untrusted("/c")
    assert read_untrusted() == ["/a", "/c"]
    (state / "kheish" / "untrusted").write_text("no JSON\n")
    assert read_untrusted() == []


def ask(daemon: Daemon, directory: Path, sender: str, *answers: str) -> str:
    """Send a message from a terminal in a directory, answering the question; return the screen."""
    command = [
        str(Path(sys.executable).parent / "kheishctl"),
        "--home",
        str(daemon.home),
        "send",
        "default",
    ]
    with Terminal([*command, "hi", "--as", sender], environment(), cwd=str(directory)) as terminal:
        for answer in answers:
            terminal.sees("Do you trust")
            terminal.say(answer)
        assert terminal.ends() == 0
        return terminal.text


def test_a_directory_is_asked_about_once(daemon: Daemon, ctl: Ctl, tmp_path: Path, sender: str) -> None:
    """A no is remembered by the client, a yes by the daemon; the conversation works there either way."""
    shop, other = tmp_path / "shop", tmp_path / "other"
    for directory in (shop, other):
        directory.mkdir()
    ask(daemon, shop, sender, "n")
    assert read_untrusted() == [str(shop.resolve())]
    assert "trust" not in ask(daemon, shop, f"{sender}-again")
    assert ctl.json("conversation", "show", "default", "--as", sender)["workspace"] == str(shop.resolve())
    # A conversation that works elsewhere is not asked about the current directory.
    assert "trust" not in ask(daemon, other, sender)
    ask(daemon, other, f"{sender}-other", "y")
    assert ctl.json("workspace", "show", str(other))["root"] == str(other.resolve())
    assert "trust" not in ask(daemon, other, f"{sender}-third")
    ctl.json("workspace", "untrust", str(other))


def test_scripts_are_not_asked(ctl: Ctl, tmp_path: Path, sender: str) -> None:
    """A script works in its directory, which is not trusted; an explicit directory moves the conversation."""
    assert ctl("send", "default", "hi", "--as", sender, cwd=tmp_path).code == 0
    conversation = ctl.json("conversation", "show", "default", "--as", sender)
    assert conversation["workspace"] == str(tmp_path.resolve())
    (tmp_path / "sub").mkdir()
    words = ("send", "default", "hi", "--as", sender)
    assert ctl(*words, "--workspace", str(tmp_path / "sub")).code == 0
    assert ctl(*words).code == 0
    run = ctl.json("run", "list", "--limit", "1")["runs"][0]
    assert ctl.json("run", "show", run["run_id"])["pinned"]["workspace"] == str(tmp_path.resolve() / "sub")
    assert ctl(*words, "--workspace", str(tmp_path / "gone")).code == 2
    refused = ctl(*words, "--workspace", str(ctl.home))
    assert str(ctl.home) in refused.err
    assert refused.code == 1
