"""A command line made ready: the shell that reads it, and what it is given."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kheishd.hooks.os.shell.command import (
    DEFAULT_PATH,
    Workdir,
    clean_environment,
    open_workdir,
    prepare_command,
    shell_argv,
)
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.kernel.hook import ToolError

ENVIRON = {"PATH": "/usr/bin", "OPENAI_API_KEY": "canary"}


def test_the_shell_greets_nobody() -> None:
    """It is there, and takes the line as its last argument."""
    program, *options = shell_argv()
    assert os.access(program, os.X_OK)
    assert options[-1] == "-c"


def test_without_a_sandbox(workspace: Path) -> None:
    """The shell itself, in the open directory, with little of the daemon's environment and what is added."""
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepare_command("echo x", workdir, ENVIRON, "mark-1", None, {"TASK": "t"})
        assert command.argv == (*shell_argv(), "echo x")
        assert (command.workdir, command.mark, command.boxed) == (workdir.inner, "mark-1", False)
        assert command.environ == {**clean_environment(ENVIRON, str(workspace)), "TASK": "t"}
        assert "canary" not in repr(command)
    finally:
        workdir.close()


async def test_in_a_sandbox(home: Path, workspace: Path, bubblewrap: None) -> None:
    """The sandbox comes first, the shell last."""
    sandbox = Sandbox([str(home)])
    assert await sandbox.choose("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepare_command("echo x", workdir, ENVIRON, "mark-1", sandbox)
        assert command.boxed
        assert command.argv[0].endswith("bwrap")
        assert command.argv[-len(shell_argv()) - 1 :] == (*shell_argv(), "echo x")
    finally:
        workdir.close()


async def test_what_cannot_be_confined_to(workspace: Path, bubblewrap: None) -> None:
    """A workspace that is itself to be hidden is refused."""
    sandbox = Sandbox([str(workspace)])
    assert await sandbox.choose("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        with pytest.raises(ToolError):
            prepare_command("echo x", workdir, ENVIRON, "mark-1", sandbox)
    finally:
        workdir.close()


# The environment of a command: what passes, and that nothing else does.


def test_little_passes() -> None:
    """Where programs are, how to speak, what time it is; no credential under any name."""
    environ = {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "HOME": "/home/ada",
        "ANTHROPIC_API_KEY": "canary",
        "MY_LANG": "canary",
        "https_proxy": "http://ada:canary@proxy",
        "LD_PRELOAD": "canary.so",
        "BASH_FUNC_ls%%": "() { canary; }",
        "KHEISH_CALL": "canary",
        "TERM": "xterm-canary",
    }
    passed = clean_environment(environ, "/srv/project")
    assert "canary" not in repr(passed)
    assert passed == {
        "PATH": "/opt/bin:/usr/bin",
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "HOME": "/srv/project",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }


def test_a_bare_environment_is_enough() -> None:
    """Started by nobody in particular, a command still finds its programs and writes UTF-8."""
    assert clean_environment({}, "/w")["PATH"] == DEFAULT_PATH
    assert clean_environment({}, "/w")["LANG"] == "C.UTF-8"


# Where a command runs: inside the workspace, whatever the name says.


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
