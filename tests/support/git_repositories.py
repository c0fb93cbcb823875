"""Real git repositories, and hostile ones: every program that their configuration names leaves a mark."""

import os
import subprocess
from pathlib import Path

PROGRAMS = (
    "[core]\n\thooksPath = {tools}\n\tfsmonitor = {tools}/mark\n\tsshCommand = {tools}/mark\n"
    '[filter "evil"]\n\tclean = {tools}/mark\n\tsmudge = {tools}/mark\n\tprocess = {tools}/mark\n'
    "\trequired = true\n[status]\n\tshowUntrackedFiles = no\n[gc]\n\tauto = 1\n"
)


def git(directory: Path, *arguments: str) -> str:
    """Run git in a directory, as a person; return its output."""
    identity = ("-c", "user.name=a", "-c", "user.email=b")
    completed = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, check=True, capture_output=True, text=True
    )
    return completed.stdout.strip()


def make_repository(directory: Path) -> Path:
    """Make a repository with one commit."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q", "-b", "main")
    (directory / "file").write_text("one\n")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "first")
    return directory


def make_hostile(repository: Path, tools: Path) -> Path:
    """Let the repository's configuration name programs wherever it can; return the mark that they leave."""
    mark = tools / "marked"
    (repository / ".gitattributes").write_text("* filter=evil\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "attributes")
    tools.mkdir()
    for name in ("mark", "post-checkout", "reference-transaction", "pre-auto-gc", "post-index-change"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>'{mark}'\n")
        (tools / name).chmod(0o755)
    with (repository / ".git/config").open("a") as config:
        config.write(PROGRAMS.format(tools=tools))
    return mark


def exists(path: str | Path) -> bool:
    """Whether something exists at a path, be it a broken link."""
    return os.path.lexists(path)
