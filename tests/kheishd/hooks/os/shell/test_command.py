"""The preparation of a command: its shell, its environment and its confinement."""

import os
import subprocess
from pathlib import Path

import pytest

from kheishd.config.sections.tools import LimitsSection
from kheishd.hooks.os.shell.command import (
    DEFAULT_PATH,
    clean_environment,
    prepare_command,
    shell_argv,
)
from kheishd.hooks.os.shell.sandbox import Sandbox
from kheishd.hooks.os.shell.workdir import open_workdir
from kheishd.kernel.hook import ToolError

ENVIRON = {"PATH": "/usr/bin", "OPENAI_API_KEY": "canary"}


def test_the_shell_greets_nobody() -> None:
    """The shell exists, skips its startup files, and takes its last argument as a line, even after a dash."""
    program, *options = shell_argv()
    assert os.access(program, os.X_OK)
    assert options[-2:] == ["-c", "--"]
    line = "-c 'touch /nowhere/made'"
    done = subprocess.run([program, *options, line], capture_output=True, check=False)
    assert b"-c: command not found" in done.stderr or b"-c: not found" in done.stderr


def test_without_a_sandbox(workspace: Path) -> None:
    """Without a sandbox the shell runs in the open directory, with a cleaned environment."""
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepare_command(
            "echo x", workdir, ENVIRON, "mark-1", None, LimitsSection(), variables={"TASK": "t"}
        )
        assert command.argv == (*shell_argv(), "echo x")
        assert (command.workdir, command.mark, command.boxed) == (workdir.inner, "mark-1", False)
        assert command.environ == {**clean_environment(ENVIRON, str(workspace)), "TASK": "t"}
        assert "canary" not in repr(command)
    finally:
        workdir.close()


async def test_in_a_sandbox(home: Path, workspace: Path, bubblewrap: None) -> None:
    """In a sandbox the argv begins with the sandbox's and ends with the shell's."""
    sandbox = Sandbox([str(home)])
    assert await sandbox.choose("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        command = prepare_command("echo x", workdir, ENVIRON, "mark-1", sandbox, LimitsSection())
        command.close()
        assert command.boxed
        assert command.argv[0].endswith("bwrap")
        assert command.argv[-len(shell_argv()) - 1 :] == (*shell_argv(), "echo x")
    finally:
        workdir.close()


async def test_what_cannot_be_confined_to(workspace: Path, bubblewrap: None) -> None:
    """A workspace that must itself be hidden is rejected."""
    sandbox = Sandbox([str(workspace)])
    assert await sandbox.choose("required")
    workdir = open_workdir(str(workspace), ".")
    try:
        with pytest.raises(ToolError):
            prepare_command("echo x", workdir, ENVIRON, "mark-1", sandbox, LimitsSection())
    finally:
        workdir.close()


# The environment of a command.


def test_little_passes() -> None:
    """Only PATH, language and time zone pass; no credential does, under any name."""
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
    """With an empty environment a command still finds its programs and writes UTF-8."""
    assert clean_environment({}, "/w")["PATH"] == DEFAULT_PATH
    assert clean_environment({}, "/w")["LANG"] == "C.UTF-8"
