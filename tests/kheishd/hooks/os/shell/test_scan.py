"""The scan of a workspace: protected, closed and pinned paths, links, and bounds."""

import subprocess
from pathlib import Path

import pytest

from kheishd.core.permissions.claims import matches_subject
from kheishd.hooks.os.shell import scan as scans
from kheishd.hooks.os.shell.scan import PathRules, Scan, make_matcher, read_git_link, scan_workspace


def scan(
    workspace: Path, *closed: str, protected: tuple[str, ...] = (), skipped: tuple[str, ...] = ()
) -> Scan:
    """Scan a workspace."""
    return scan_workspace(str(workspace), str(workspace), PathRules(protected, closed), skipped)


def write(workspace: Path, *paths: str, text: str = "x\n") -> None:
    """Write files, with their directories."""
    for path in paths:
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(text)


def test_protected_names_at_any_depth(workspace: Path) -> None:
    """Protected files and directories are found at every level, by configuration, and by links."""
    write(workspace, ".envrc", "a/b/AGENTS.md", "a/.vscode/tasks.json", "deploy/run", "plain", "a/c/.Bashrc")
    write(workspace, ".github/workflows/ci.yml", ".github/other", ".config/fish/config.fish", ".config/x")
    write(workspace, "x/Team.Code-workspace", ".cargo/config.toml", ".cargo/registry/x")
    (workspace / ".idea").symlink_to("a")
    found = scan(workspace, protected=("deploy/*",))
    assert set(found.protected) == {
        *(".envrc", "a/b/AGENTS.md", "a/.vscode", "deploy/run", "a/c/.Bashrc"),
        *(".github/workflows", ".config/fish", ".idea", "x/Team.Code-workspace", ".cargo/config.toml"),
    }
    assert found.links == {".idea"}
    assert found.complete
    assert {"a", "a/b", "deploy", ".github", ".config"} <= found.directories.keys()


def test_dependencies_are_not_protected(workspace: Path) -> None:
    """A package manager can replace its packages, but rules about paths hold there, too."""
    write(workspace, "node_modules/x/.vscode/a", "node_modules/x/.env", "node_modules/.bashrc")
    assert scan(workspace).protected == {}
    assert scan(workspace, "*.env").masked == {"node_modules/x/.env": False}


def test_git_directories(workspace: Path) -> None:
    """Only the parts of a git directory that name programs are protected, also of submodules."""
    subprocess.run(["git", "init", "-q", str(workspace / "repo")], check=True)
    write(
        workspace / "repo/.git",
        "modules/lib/HEAD",
        "modules/lib/config",
        "modules/a/b/HEAD",
        "modules/a/b/config",
    )
    write(workspace / "repo/.git", "worktrees/w/HEAD", "worktrees/w/config.worktree", "worktrees/w/commondir")
    write(workspace, "repo/lib/.git", text="gitdir: ../.git/modules/lib\n")
    write(workspace, "away/.git", text="gitdir: /elsewhere/.git\n")
    write(workspace, "bare/HEAD", "bare/objects/x", "bare/refs/x", "bare/config", "bare/hooks/update")
    found = scan(workspace)
    git = "repo/.git"
    assert set(found.protected) == {
        *(f"{git}/config", f"{git}/hooks", f"{git}/modules/lib/config", f"{git}/modules/a/b/config"),
        *(f"{git}/worktrees/w/config.worktree", f"{git}/worktrees/w/commondir", "repo/lib/.git", "away/.git"),
        *("bare/config", "bare/hooks"),
    }
    assert found.pinned == {git}
    assert found.git == {git, f"{git}/modules/lib", f"{git}/modules/a/b", f"{git}/worktrees/w", "bare"}


def test_files_that_a_git_configuration_names(workspace: Path) -> None:
    """Hooks in the working tree and included configuration are protected as well."""
    write(workspace, ".git/HEAD", "tools/hooks/pre-commit", "common.config", ".git/extra", "origin/HEAD")
    config = "[core]\n\thooksPath = tools/hooks\n[include]\n\tpath = ../common.config\n\tpath = extra\n"
    write(
        workspace,
        ".git/config",
        text=config + '[remote "o"]\n\turl = origin\n[core]\n\tfsmonitor = ../../x\n',
    )
    assert {"tools/hooks", "common.config"} < scan(workspace).protected.keys()
    assert "origin" not in scan(workspace).protected


def test_closed_paths(workspace: Path) -> None:
    """Files are masked by their names, directories as a whole if everything in them is closed."""
    write(workspace, ".env", "a/.env", "a/keep", "keys/x", "deep/er/keys/x", ".git/config", "link-target")
    (workspace / "b.env").symlink_to("link-target")
    found = scan(workspace, "*.env", "keys/*", "deep/er/keys/*", "*", "**")
    assert found.masked == {".env": False, "a/.env": False, "keys": True, "deep/er/keys": True}
    # Whatever the directories of a file are called, "*.env" closes it.
    assert found.pinned == {"deep", "deep/er", ".git"}
    assert scan(workspace, ".git/*").masked == {".git": True}


def test_bounds(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large workspace is scanned from the top; the scan says that it is not complete."""
    monkeypatch.setattr(scans, "MAX_ENTRIES", 4)
    write(workspace, "a/1", "a/2", "a/3", "b/1", "c/deep/.envrc", ".envrc")
    found = scan(workspace)
    assert set(found.protected) == {".envrc"}
    assert not found.complete
    assert scan(workspace, skipped=(f"{workspace}/a",)).directories.keys() == {""}
    assert scan(workspace / "missing").protected == {}


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ("gitdir: ../.git/modules/x\n", ".git/modules/x"),
        ("gitdir: /elsewhere", None),
        ("gitdir: ../../out", None),
        ("other", None),
    ],
)
def test_links_of_git(workspace: Path, content: str, target: str | None) -> None:
    """A ``.git`` file names a directory; only one inside the workspace counts."""
    write(workspace, "lib/.git", text=content)
    assert read_git_link(str(workspace), str(workspace), "lib/.git") == target
    write(workspace, "lib/.git", text=f"gitdir: {workspace}/.git/modules/x")
    assert read_git_link(str(workspace), str(workspace), "lib/.git") == ".git/modules/x"
    (workspace / "lib/link").symlink_to(".git")
    assert read_git_link(str(workspace), str(workspace), "lib/link") is None


@pytest.mark.parametrize("pattern", ["a", "*a", "a*", "*", "a*b", "*a*", "", "a*b*c"])
@pytest.mark.parametrize("path", ["a", "aa", "ab", "ba", "", "axbxc", "a*b"])
def test_matchers(pattern: str, path: str) -> None:
    """The fast tests agree with the rules."""
    assert make_matcher(pattern)(path) is matches_subject(pattern, path)
