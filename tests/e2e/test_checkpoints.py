"""Undo and redo of changes that agents of a real daemon make to files."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.git_repositories import make_repository
from tests.support.terminal import Terminal
from tests.support.waiting_runs import order

CONFIG = """
[permissions]
mode = "acceptEdits"

[[permissions.rules]]
tool = "bash"
decision = "allow"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon that allows edits."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG)
        with Daemon(home) as daemon:
            yield daemon


@pytest.fixture
def ctl(daemon: Daemon) -> Ctl:
    """Return a runner of commands."""
    return Ctl(daemon.home)


def call(ctl: Ctl, workspace: Path, tool: str, **arguments: Any) -> str:
    """Let the agent of the workspace's conversation call a tool; return its session."""
    words = ("send", "default", order(tool, **arguments), "--as", workspace.name)
    return str(ctl.json(*words, "--workspace", str(workspace))["session_id"])


def test_undo_and_redo(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """Changes are undone one by one, the newest first, and redone, also after a crash of the daemon."""
    (tmp_path / "a").write_text("one\n")
    call(ctl, tmp_path, "edit_file", path="a", old_text="one", new_text="two")
    session = call(ctl, tmp_path, "write_file", path="new/b", content="b\n")
    rows = ctl.json("checkpoint", "list", session)["checkpoints"]
    assert [(row["tool"], row["files"][0]["path"]) for row in rows] == [
        ("write_file", "new/b"),
        ("edit_file", "a"),
    ]
    diff = ctl("checkpoint", "diff", session, "--since", "0").out
    assert "-one\n+two\n" in diff
    assert "+b\n" in diff
    restore = ("checkpoint", "restore", session)
    assert ctl.json(*restore, "--check")["files"] == [{"path": "new/b", "action": "deleted"}]
    assert ctl.json(*restore)["files"] == [{"path": "new/b", "action": "deleted"}]
    assert not (tmp_path / "new/b").exists()
    daemon.kill()
    daemon.start()
    assert ctl.json(*restore)["files"] == [{"path": "a", "action": "written"}]
    assert (tmp_path / "a").read_text() == "one\n"
    assert "nothing to restore" in ctl(*restore).err.lower() or ctl(*restore).code == 1
    ctl.json(*restore, "--redo")
    assert (tmp_path / "a").read_text() == "two\n"
    ctl.json(*restore, "--redo")
    assert (tmp_path / "new/b").read_text() == "b\n"
    assert ctl(*restore, "--redo").code == 1
    assert ctl.json(*restore, "--since", "0")["kind"] == "undo"
    assert ((tmp_path / "a").read_text(), (tmp_path / "new/b").exists()) == ("one\n", False)


def test_a_file_that_changed_since_is_not_overwritten(ctl: Ctl, tmp_path: Path) -> None:
    """Changes by others are named, and kept unless forced; the forced undo is undone itself."""
    session = call(ctl, tmp_path, "write_file", path="a", content="agent\n")
    (tmp_path / "a").write_text("person\n")
    refused = ctl("checkpoint", "restore", session)
    assert refused.code == 1
    assert "changed since by others: a;" in refused.err
    assert (tmp_path / "a").read_text() == "person\n"
    ctl.json("checkpoint", "restore", session, "--force")
    assert not (tmp_path / "a").exists()
    ctl.json("checkpoint", "restore", session, "--redo")
    assert (tmp_path / "a").read_text() == "person\n"


def test_a_link_is_never_followed(ctl: Ctl, tmp_path: Path) -> None:
    """A file that was replaced by a link out of the workspace is neither read nor written."""
    workspace, outside = tmp_path / "w", tmp_path / "outside"
    workspace.mkdir()
    outside.write_text("secret\n")
    (workspace / "a").write_text("one\n")
    session = call(ctl, workspace, "write_file", path="a", content="two\n")
    (workspace / "a").unlink()
    (workspace / "a").symlink_to(outside)
    assert "secret" not in ctl("checkpoint", "diff", session).out
    restored = ctl.json("checkpoint", "restore", session, "--force")
    assert restored["files"][0]["action"] == "unsaved"
    assert outside.read_text() == "secret\n"


def test_contents_are_neither_journaled_nor_logged(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """A file's former content is in no event, and the store is sound."""
    (tmp_path / "a").write_text("a very private line\n")
    session = call(ctl, tmp_path, "write_file", path="a", content="x\n")
    assert "very private" not in ctl("journal", "read", "--session", session, "--all", "--json").out
    assert "very private" in ctl("checkpoint", "diff", session).out
    assert ctl.json("daemon", "doctor")["findings"] == []


def test_a_command_is_undone_where_git_can_tell(ctl: Ctl, tmp_path: Path) -> None:
    """Changes of bash in a repository are undone; elsewhere, nothing is saved."""
    make_repository(tmp_path)
    (tmp_path / "mine").write_text("mine\n")
    session = call(ctl, tmp_path, "bash", command="echo two > file; rm mine; echo x > new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "mine").exists()) == ("two\n", False)
    actions = {file["path"]: file["action"] for file in ctl.json("checkpoint", "restore", session)["files"]}
    assert actions == {"file": "written", "mine": "written", "new": "deleted"}
    assert ((tmp_path / "file").read_text(), (tmp_path / "mine").read_text()) == ("one\n", "mine\n")
    ctl.json("checkpoint", "restore", session, "--redo")
    assert ((tmp_path / "file").read_text(), (tmp_path / "new").read_text()) == ("two\n", "x\n")


def terminal(daemon: Daemon, workspace: Path, *words: str) -> Terminal:
    """Return a terminal in a workspace, with a command for the daemon; the workspace is not trusted."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), *words]
    state = workspace.parent / f"{workspace.name}-state"
    (state / "kheish").mkdir(parents=True, exist_ok=True)
    (state / "kheish/untrusted").write_text(json.dumps(str(workspace.resolve())) + "\n")
    return Terminal(command, {"XDG_STATE_HOME": str(state)}, cwd=str(workspace))


def test_a_chat_undoes_and_goes_back(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """The chat works where it was started, shows, undoes and redoes changes, and goes back to a message."""
    workspace = tmp_path / "shop"
    workspace.mkdir()
    with terminal(daemon, workspace, "chat", "default", "--as", workspace.name) as chat:
        chat.sees("works in")
        chat.say("hello")
        chat.sees("hello”")
        chat.say(order("write_file", path="a", content="new line\n"))
        chat.sees("bytes_written")
        chat.say("/diff")
        chat.sees("+new line")
        chat.say("/undo")
        chat.sees("a: deleted")
        assert not (workspace / "a").exists()
        chat.say("/redo")
        chat.sees("a: redone")
        chat.say("/rewind")
        chat.sees("2 hello")
        chat.say("/rewind 1")
        text = chat.sees("'/rewind files' restores the files")
        assert text.rindex("/help lists the commands") < text.rindex("a: made since")
        chat.press("ctrl-c")
        chat.say("/rewind files")
        chat.until(lambda text: not (workspace / "a").exists(), "the file to be gone")
        chat.say("/sessions")
        chat.sees("'/sessions NUMBER' returns to one")
        chat.say("/quit")
        assert chat.ends() == 0
    sessions = ctl.json("session", "list", "--agent", "default", "--as", workspace.name)["sessions"]
    assert sorted(bool(session.get("fork_of")) for session in sessions) == [False, True]


def test_an_earlier_session_is_resumed(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """A person chooses the session by a part of its line, and the conversation continues there."""
    words = ("default", "--as", tmp_path.name)
    first = ctl.json("send", words[0], "the first thing", *words[1:])["session_id"]
    ctl.json("conversation", "reset", *words)
    ctl.json("send", words[0], "the second thing", *words[1:])
    with terminal(daemon, tmp_path, "resume", "--as", tmp_path.name) as chat:
        chat.sees("Which session?")
        chat.say("first thing")
        chat.sees("/help lists the commands")
        chat.say("/quit")
        assert chat.ends() == 0
    assert ctl.json("conversation", "show", *words)["session_id"] == first
    with terminal(daemon, tmp_path, "resume", "--as", tmp_path.name, "--search", "second") as chat:
        chat.sees("Which session?")
        chat.say("1")
        chat.sees("/help lists the commands")
        chat.say("/quit")
        assert chat.ends() == 0
    assert ctl.json("conversation", "show", *words)["session_id"] != first
