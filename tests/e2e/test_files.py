"""Files of users, read and changed by agents of a real daemon."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, RpcError, short_home, until
from tests.support.programs import ROOT
from tests.support.waiting_runs import order

CONFIG = """
[permissions]
mode = "acceptEdits"

[[permissions.rules]]
tool = "*"
subject = "*.env"
decision = "deny"
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Provide a daemon, started under the umask 022, that denies every tool ``.env`` files."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG)
        previous = os.umask(0o022)
        try:
            with Daemon(home) as daemon:
                yield daemon
        finally:
            os.umask(previous)


@pytest.fixture
def workspace(daemon: Daemon) -> Path:
    """Provide the agent's workspace."""
    workspace = daemon.home / "workspace"
    workspace.mkdir(exist_ok=True)
    return workspace


def call(daemon: Daemon, tool: str, **arguments: Any) -> str:
    """Let the agent call a tool; return the answer, which contains the result."""
    return str(daemon.say(order(tool, **arguments))["output"])


def test_new_files_follow_the_starters_umask(daemon: Daemon, workspace: Path) -> None:
    """New files and directories have the modes of the user's other files; the daemon's own are private."""
    assert "bytes_written" in call(daemon, "write_file", path="new/file.txt", content="x\n")
    assert (workspace / "new").stat().st_mode & 0o777 == 0o755
    assert (workspace / "new/file.txt").stat().st_mode & 0o777 == 0o644
    assert daemon.home.stat().st_mode & 0o077 == 0


def test_an_edit_keeps_what_a_file_has(daemon: Daemon, workspace: Path) -> None:
    """An edit keeps mode, extended attributes, hard links and line ends."""
    file = workspace / "f"
    file.write_bytes(b"one\r\ntwo\r\n")
    file.chmod(0o751)
    os.setxattr(file, "user.origin", b"elsewhere")
    os.link(file, workspace / "other")
    assert "replacements" in call(daemon, "edit_file", path="f", old_text="two", new_text="three\nfour")
    assert (workspace / "other").read_bytes() == b"one\r\nthree\r\nfour\r\n"
    assert file.stat().st_mode & 0o7777 == 0o751
    assert os.getxattr(file, "user.origin") == b"elsewhere"


def test_a_search_shows_no_denied_file(daemon: Daemon, workspace: Path) -> None:
    """What read_file refuses, grep_search leaves out and counts."""
    (workspace / ".env").write_text("TOKEN=needle-in-env\n")
    (workspace / "notes").write_text("needle in notes\n")
    assert "needle-in-env" not in call(daemon, "read_file", path=".env")
    found = call(daemon, "grep_search", pattern="needle")
    assert "needle in notes" in found
    assert "needle-in-env" not in found
    assert '"denied_files":1' in found
    # Else its content could be found by searching for it, letter by letter.
    for pattern in ("TOKEN=n", "TOKEN=x"):
        assert '"denied_files":1' in call(daemon, "grep_search", pattern=pattern)


def test_a_workspace_that_is_gone_is_named(daemon: Daemon, workspace: Path) -> None:
    """A workspace that was moved away is named and not created anew, by file tools and commands."""
    (workspace / "notes").write_text("x\n")
    workspace.rename(workspace.with_name("moved"))
    for tool, arguments in {"list_files": {}, "write_file": {"path": "f", "content": "x"}}.items():
        assert f"the workspace {workspace} does not exist" in call(daemon, tool, **arguments)
    assert not workspace.exists()


def test_a_workspace_must_exist(daemon: Daemon, workspace: Path) -> None:
    """A workspace that is gone, or is a file, is refused by its name in every request."""
    (workspace / "file").touch()
    for name, problem in {"gone": "does not exist", "file": "is not a directory"}.items():
        for method in ("conversation.send", "session.create"):
            params = {"content": "x"} if method == "conversation.send" else {}
            with pytest.raises(RpcError, match=f"the workspace {workspace}/{name} {problem}") as refused:
                daemon.call(method, workspace=str(workspace / name), **params)
            assert (refused.value.reason, refused.value.data["field"]) == (
                "workspace_missing",
                "$.params.workspace",
            )
    assert not (workspace / "gone").exists()


def test_a_default_workspace_that_was_removed_stays_so(daemon: Daemon, workspace: Path) -> None:
    """After a restart the default workspace is still gone; the status and the tools name it."""
    workspace.rename(workspace.with_name("moved"))
    daemon.stop()
    daemon.start()
    assert f"the workspace {workspace} does not exist" in "".join(daemon.call("daemon.status")["warnings"])
    assert f"the workspace {workspace} does not exist" in call(daemon, "list_files")
    assert not workspace.exists()
    workspace.with_name("moved").rename(workspace)
    assert daemon.call("daemon.status")["warnings"] == []


def test_a_glob_can_be_escaped(daemon: Daemon, workspace: Path) -> None:
    """A backslash or a class makes a special character of a pattern literal."""
    for name in ("a[1].txt", "a1.txt", "b*.txt", "bb.txt"):
        (workspace / name).touch()
    for pattern in (r"a\[1\].txt", "a[[]1].txt"):
        listed = call(daemon, "glob_search", pattern=pattern)
        assert ("a[1].txt" in listed, '"a1.txt"' in listed) == (True, False), listed
    listed = call(daemon, "glob_search", pattern="b[*].txt")
    assert ("b*.txt" in listed, "bb.txt" in listed) == (True, False), listed


def test_a_file_that_other_programs_obey_is_asked_about(daemon: Daemon, workspace: Path) -> None:
    """In the mode acceptEdits, an edit of a git hook waits for a person."""
    sent = daemon.call("conversation.send", content=order("write_file", path=".git/config", content="x"))
    until(lambda: daemon.call("approval.list")["approvals"] != [], "a person is asked")
    (approval,) = daemon.call("approval.list")["approvals"]
    assert (approval["run_id"], approval["subject"]) == (sent["run_id"], ".git/config")
    assert "other programs execute or obey .git/config" in approval["note"], approval
    assert not (workspace / ".git").exists()


def test_git_directories_of_other_names_are_asked_about(daemon: Daemon, workspace: Path) -> None:
    """In acceptEdits, a hook waits for a person wherever git finds it, as does the target of a link."""
    for arguments in (("--separate-git-dir", "store", "wt"), ("--bare", "repo")):
        subprocess.run(["git", "init", "-q", *arguments], cwd=workspace, check=True)
    subprocess.run(["git", "-C", "wt", "config", "core.hooksPath", "githooks"], cwd=workspace, check=True)
    assert "bytes_written" in call(daemon, "write_file", path="wt/main.py", content="x")
    (workspace / ".envrc").symlink_to("env/dev")
    hooks = ("store/hooks/post-checkout", "store/config", "repo/hooks/update", "wt/githooks/pre-commit")
    for path in (*hooks, "env/dev"):
        order_text = order("write_file", path=path, content="#!/bin/sh\n")
        sent = daemon.call("conversation.send", content=order_text, sender=path)
        until(partial(is_asked, daemon, sent["run_id"], f"other programs execute or obey {path}: "), path)


def test_the_installation_is_asked_about(daemon: Daemon) -> None:
    """In the mode acceptEdits, an edit of kheish's own code in a workspace waits for a person."""
    path = "kheishd/hooks/no_such_file.py"
    text = order("write_file", path=path, content="")
    sent = daemon.call("conversation.send", content=text, workspace=str(ROOT))
    note = f"other programs execute or obey {path}: it is a part of this installation"
    until(partial(is_asked, daemon, sent["run_id"], note), path)
    assert not (ROOT / path).exists()


def is_asked(daemon: Daemon, run_id: str, note: str) -> bool:
    """Whether a run waits for a person, who is told this."""
    approvals = daemon.call("approval.list")["approvals"]
    return any(approval["run_id"] == run_id and note in approval["note"] for approval in approvals)
