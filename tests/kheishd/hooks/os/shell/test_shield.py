"""The shield: protected files that a command created are put aside, harmless ones stay."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.shell import scan as scans
from kheishd.hooks.os.shell.scan import PathRules
from kheishd.hooks.os.shell.shield import Shield, is_harmless_git_config
from kheishd.hooks.os.shell.workdir import Workdir, open_workdir
from tests.kheishd.hooks.os.shell.test_scan import write


@pytest.fixture
def workdir(workspace: Path) -> Iterator[Workdir]:
    """Provide the workspace, open, with a repository and a directory."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    write(workspace, "sub/AGENTS.md")
    workdir = open_workdir(str(workspace), ".")
    yield workdir
    workdir.close()


def test_new_files_are_put_aside(workdir: Workdir, workspace: Path) -> None:
    """A protected file, directory or link that is new in an existing directory is renamed, and named."""
    shield = Shield(workdir, PathRules())
    assert shield.finish() == []
    write(workspace, ".envrc", "sub/.vscode/tasks.json", ".github/workflows/ci.yml", ".envrc.unapproved", "f")
    (workspace / ".idea").symlink_to("sub")
    (sentence,) = shield.finish()
    assert sentence.startswith("other programs execute or obey these files, which nobody approved")
    assert ".envrc, .github/workflows, .idea, sub/.vscode" in sentence
    assert sorted(os.listdir(workspace)) == [
        *(".envrc.unapproved", ".envrc.unapproved-2", ".git", ".github", ".idea.unapproved", "f", "sub"),
    ]
    assert os.listdir(workspace / ".github") == ["workflows.unapproved"]


def test_a_directory_in_another_ones_place(workdir: Workdir, workspace: Path) -> None:
    """Renaming the directory above a file does not help to replace it; the renamed file stays."""
    shield = Shield(workdir, PathRules())
    (workspace / "sub").rename(workspace / "renamed")
    write(workspace, "sub/AGENTS.md", "renamed/.envrc")
    assert ": renamed/.envrc, sub/AGENTS.md." in shield.finish()[0]
    assert (workspace / "renamed/AGENTS.md").exists()
    shield = Shield(workdir, PathRules())
    write(workspace, "new/AGENTS.md")
    assert "inspect them first: new/AGENTS.md" in shield.finish()[0]
    shield = Shield(workdir, PathRules())
    (workspace / "sub").rename(workspace / "old")
    (workspace / "new").rename(workspace / "sub")
    assert ": sub/AGENTS.md." in shield.finish()[0]


def test_new_repositories(workdir: Workdir, workspace: Path) -> None:
    """A clone, a worktree and a new repository stay; their hooks and dangerous settings do not."""
    subprocess.run(
        "git -c user.name=a -c user.email=b commit -q --allow-empty -m x",
        shell=True,
        cwd=workspace,
        check=True,
    )
    shield = Shield(workdir, PathRules())
    script = "git init -q new; git clone -q . copy; git worktree add -q tree; git init -q --bare bare"
    subprocess.run(script, shell=True, cwd=workspace, check=True)
    assert shield.finish() == []
    subprocess.run(["git", "-C", "copy", "config", "core.fsmonitor", "evil"], cwd=workspace, check=True)
    write(
        workspace,
        "new/.git/hooks/pre-commit",
        ".git/hooks/post-checkout",
        "bare/hooks/update",
        "copy/.git/commondir",
    )
    write(workspace, "linked/.git", text="gitdir: /elsewhere\n")
    sentences = shield.finish()
    for path in ("new/.git/hooks/pre-commit", "bare/hooks/update", "copy/.git/config", "copy/.git/commondir"):
        assert path in sentences[0]
        assert (workspace / f"{path}.unapproved").exists()
    # Mounts protect the hooks of an existing repository, where a mount can be made.
    assert (workspace / ".git/hooks/post-checkout").exists()
    assert "linked/.git" in sentences[1]


def test_hooks_of_a_repository_without_any(workdir: Workdir, workspace: Path) -> None:
    """A directory of hooks that did not exist cannot be mounted, so its new hooks are put aside."""
    subprocess.run(["rm", "-r", ".git/hooks"], cwd=workspace, check=True)
    shield = Shield(workdir, PathRules())
    write(workspace, ".git/hooks/pre-commit", ".git/hooks/x.sample")
    assert ".git/hooks/pre-commit" in shield.finish()[0]
    (workspace / ".git/config.worktree").symlink_to("HEAD")
    assert ".git/config.worktree" in shield.finish()[0]


def test_large_workspaces(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many entries for the rules about paths, the result says so."""
    monkeypatch.setattr(scans, "MAX_ENTRIES_WITH_RULES", 1)
    assert "rules about paths hold for its upper levels only" in Shield(
        workdir, PathRules(closed=("*.env",))
    ).finish()[0].replace("\n", "")
    monkeypatch.setattr(scans, "MAX_ENTRIES", 1)
    assert Shield(workdir, PathRules()).finish() == []


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ('[core]\n\tbare = false\n[remote "origin"]\n\turl = https://example.org/x\n# note\n', True),
        ('[branch "main"]\n\tremote = origin\n\tmerge = refs/heads/main\n', True),
        ("[core]\n\tfsmonitor = evil\n", False),
        ("[core]\n\tsshCommand = evil\n", False),
        ("[alias]\n\tst = !evil\n", False),
        ("[include]\n\tpath = evil\n", False),
        ('[remote "o"]\n\turl = ext::sh -c evil\n', False),
        ("[core] fsmonitor = evil\n", False),
        ("[core]\n\tbare = false\\\n[core]\n", False),
        ('[filter "x"]\n\tclean = evil\n', False),
        ("[core]\r\n\tfsmonitor=evil\r\n", False),
        ("?", False),
    ],
)
def test_configurations_of_git(text: str, harmless: bool) -> None:
    """Only settings that are known to name no program are harmless."""
    assert is_harmless_git_config(text) is harmless
