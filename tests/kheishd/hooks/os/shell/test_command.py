"""A command line made ready: the shell that reads it, and what it is given."""

import os
from pathlib import Path

import pytest

from kheishd.hooks.environment import cleaned
from kheishd.hooks.os.shell.command import prepared, shell
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.workdir import open_workdir
from kheishd.kernel.hook import ToolError

ENVIRON = {"PATH": "/usr/bin", "OPENAI_API_KEY": "canary"}


def test_the_shell_greets_nobody() -> None:
    """It is there, and takes the line as its last argument."""
    program, *options = shell()
    assert os.access(program, os.X_OK)
    assert options[-1] == "-c"


def test_without_a_sandbox(workspace: Path) -> None:
    """The shell itself, in the open directory, with little of the daemon's environment and what is added."""
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepared("echo x", workdir, ENVIRON, "mark-1", None, {"TASK": "t"})
        assert command.argv == (*shell(), "echo x")
        assert (command.workdir, command.mark, command.boxed) == (workdir.inner, "mark-1", False)
        assert command.environ == {**cleaned(ENVIRON, str(workspace)), "TASK": "t"}
        assert "canary" not in repr(command)
    finally:
        workdir.close()


async def test_in_a_sandbox(home: Path, workspace: Path, bubblewrap: None) -> None:
    """The sandbox comes first, the shell last."""
    sandbox = Sandbox([str(home)])
    assert await sandbox.chosen("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepared("echo x", workdir, ENVIRON, "mark-1", sandbox)
        assert command.boxed
        assert command.argv[0].endswith("bwrap")
        assert command.argv[-len(shell()) - 1 :] == (*shell(), "echo x")
    finally:
        workdir.close()


async def test_what_cannot_be_confined_to(workspace: Path, bubblewrap: None) -> None:
    """A workspace that is itself to be hidden is refused."""
    sandbox = Sandbox([str(workspace)])
    assert await sandbox.chosen("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        with pytest.raises(ToolError):
            prepared("echo x", workdir, ENVIRON, "mark-1", sandbox)
    finally:
        workdir.close()
