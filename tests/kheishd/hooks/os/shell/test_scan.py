"""The scan of a workspace: protected, closed and pinned paths, links, and bounds."""

import os
import subprocess
from collections.abc import Callable
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
    # The tools that read do not follow a link; a command would.
    assert found.masked == {
        **{".env": False, "a/.env": False, "link-target": False},
        **{"keys": True, "deep/er/keys": True},
    }
    # Whatever the directories of a file are called, "*.env" closes it.
    assert found.pinned == {"deep", "deep/er", ".git"}
    assert scan(workspace, ".git/*").masked == {".git": True}


@pytest.mark.parametrize(
    ("pattern", "path", "pinned"),
    [
        ("*.env", "a/b/.env", set()),
        ("*/.env", "a/b/.env", set()),
        ("*/config/prod.json", "a/config/prod.json", {"a", "a/config"}),
        ("*sec*ret", "a/sec/ret", {"a", "a/sec"}),
        ("*keys/*", "a/keys/x", set()),
        ("*/a/keys/*", "b/a/keys/x", {"b", "b/a"}),
    ],
)
def test_directories_that_keep_their_names(
    workspace: Path, pattern: str, path: str, pinned: set[str]
) -> None:
    """A directory is pinned if a closed path below it is closed by the name of the directory."""
    write(workspace, path)
    found = scan(workspace, pattern)
    assert len(found.masked) == 1
    assert found.pinned == pinned


def test_links_that_a_rule_closes(workspace: Path) -> None:
    """The target of a closed link is masked if it is in the workspace; a mask is stronger than a mount."""
    write(workspace, "cfg/real", "keys/x", ".git/HEAD", ".git/config", "own")
    for link, target in (
        (".env", "cfg/real"),
        ("a.env", "/etc/passwd"),
        ("b.env", "missing"),
        ("c.env", "."),
    ):
        (workspace / link).symlink_to(target)
    (workspace / "d.env").symlink_to(workspace / ".git/config")
    (workspace / "e.env").symlink_to("keys/x")
    found = scan(workspace, "*.env", "keys/*")
    assert found.masked == {"cfg/real": False, ".git/config": False, "keys": True, "keys/x": False}
    assert found.mounts.keys() == {".git"}
    (workspace / "f.env").symlink_to("f.env")
    assert scan(workspace, "*.env", "keys/*").masked == found.masked


def test_decoys(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More protected paths than mounts make the directories of the deepest ones read-only."""
    monkeypatch.setattr(scans, "MAX_PROTECTED_MOUNTS", 12)
    for name in (".git", *(f".a{number}/.git" for number in range(8))):
        write(workspace / name, "HEAD", "config", "hooks/pre-commit")
    mounts = scan(workspace).mounts
    assert mounts == {
        **{".git": True, ".git/config": False, ".git/hooks": False},
        **{f".a{number}/.git": False for number in range(8)},
    }
    monkeypatch.setattr(scans, "MAX_PROTECTED_MOUNTS", 8)
    assert "" in scan(workspace).mounts


def test_many_git_directories(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of git directories, they are protected as a whole and not inspected."""
    monkeypatch.setattr(scans, "MAX_GIT_DIRECTORIES", 4)
    git = workspace / ".git"
    write(git, "HEAD", "config", *(f"worktrees/{name}/HEAD" for name in "abcdef"))
    write(git, *(f"modules/{name}/sub/HEAD" for name in "abcdef"))
    found = scan(workspace)
    assert found.git == {".git"}
    assert found.protected.keys() == {".git/config", ".git/modules", ".git/worktrees"}
    monkeypatch.setattr(scans, "MAX_GIT_DIRECTORIES", 6)
    assert sum(path.startswith(".git/worktrees/") for path in scan(workspace).protected) == 1


def test_configuration_that_includes_more(workspace: Path) -> None:
    """Included files are followed, also inside of the git directory, by absolute paths and conditions."""
    config = f"[include] path = extra.cfg # more\n[core]\n\thooksPath = {workspace}/hooks\n"
    write(workspace, ".git/HEAD", ".git/h5/x", "hooks/x", "last.cfg", "tree/attributes")
    write(workspace, ".git/config", text=config)
    write(workspace, ".git/extra.cfg", text='[includeIf "gitdir:x"]\n\tpath = "sub/more.cfg"\n')
    write(
        workspace, ".git/sub/more.cfg", text="[core]\n\thooksPath = .git/h5\n[include]\npath=../../last.cfg"
    )
    write(workspace, "last.cfg", text="[core]\nattributesFile=tree/attributes\n[include]\npath = last.cfg\n")
    assert set(scan(workspace).protected) == {
        *(".git/config", ".git/extra.cfg", ".git/sub/more.cfg", ".git/h5"),
        *("hooks", "last.cfg", "tree/attributes"),
    }
    # A closed path in it does not make a directory of hooks writable.
    mounts = scan(workspace, "hooks/x", ".git/sub/y").mounts
    assert (mounts["hooks"], mounts[".git"], mounts[".git/sub"], mounts[".git/h5"]) == (
        False,
        True,
        True,
        False,
    )
    (workspace / "link").symlink_to("tree")
    write(workspace, ".git/config", text="[core]\nattributesFile = link/attributes\nhooksPath = link\n")
    assert set(scan(workspace).protected) == {".git/config", "tree/attributes", "tree", "link"}
    write(workspace, ".git/config", text="[core]\nhooksPath = .\n")
    assert set(scan(workspace).protected) == {".git/config"}


def as_nobody(workspace: Path, check: Callable[[], bool]) -> bool:
    """Return whether a check holds in a child without root's rights, which owns the workspace."""
    if os.geteuid():
        os.chdir(workspace)
        return check()
    for directory, names, files in os.walk(workspace):
        for name in (".", *names, *files):
            os.lchown(f"{directory}/{name}", 65534, 65534)
    # Python 3.13 examines a path from the root on.
    for parent in workspace.parents:
        parent.chmod(parent.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        try:
            os.chdir(workspace)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("mode", [0o300, 0o600, 0o000])
@pytest.mark.parametrize(
    ("shut", "path"), [("deep/er", "deep/er/.env"), (".", ".env"), (".git", ".git/config")]
)
def test_directories_that_were_shut(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, mode: int, shut: str, path: str
) -> None:
    """A directory of which the owner took his rights away is opened again, and hides nothing."""
    monkeypatch.chdir(workspace)
    write(workspace, path)

    def finds() -> bool:
        if shut != ".":
            os.chmod(shut, mode)
        else:
            os.chmod(".", mode | 0o100)
        found = scan_workspace(".", ".", PathRules((), ("deep/er/.env", ".env")))
        return path in found.masked.keys() | found.protected.keys() and found.obstacle is None

    assert as_nobody(workspace, finds)


def test_hooks_below_a_directory_that_was_shut(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of hooks is protected even if a directory above it could not be entered."""
    monkeypatch.chdir(workspace)
    write(workspace, ".git/HEAD", "tools/hooks/pre-commit")
    write(workspace, ".git/config", text="[core]\n\thooksPath = tools/hooks\n")

    def finds() -> bool:
        os.chmod("tools", 0)
        found = scan_workspace(".", ".", PathRules())
        return "tools/hooks" in found.protected and "tools" in found.pinned

    assert as_nobody(workspace, finds)


def test_what_cannot_be_searched(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a part of the workspace may have closed paths and cannot be searched, the scan names it."""
    write(workspace, "many/1", "many/2", "zz/.env", "other/.env", ".envrc")
    monkeypatch.setattr(scans, "MAX_ENTRIES", 1)
    monkeypatch.setattr(scans, "MAX_ENTRIES_WITH_RULES", 5)
    obstacle = scan(workspace, "*.env").obstacle
    assert obstacle is not None
    assert obstacle.endswith("cannot be searched: the workspace has more than 5 entries")
    # A rule that begins with the name of a directory is about this one.
    found = scan(workspace, "zz/*env")
    assert (found.obstacle, found.masked, found.complete) == (None, {"zz/.env": False}, False)


def test_paths_that_are_too_long(workspace: Path) -> None:
    """A directory whose path is longer than the system allows is no place to hide a file."""
    names = ["d" * 200] * 25
    descriptor = os.open(workspace, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    found = scan(workspace, "sub/.env", "*.pem")
    assert found.obstacle is not None
    assert found.obstacle.endswith("… cannot be searched: File name too long")
    assert scan(workspace, "sub/.env").obstacle is None


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
