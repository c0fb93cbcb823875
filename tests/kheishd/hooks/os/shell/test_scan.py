"""The scan of a workspace: protected, closed and pinned paths, links, and bounds."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kheishd.core.permissions.claims import matches_subject
from kheishd.hooks.os.shell import scan as scans
from kheishd.hooks.os.shell.scan import PathRules, Scan, locate, make_matcher, scan_workspace


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
        "a",
    }
    assert found.links == {".idea"}
    assert found.targets == {"a": ".idea"}
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
    assert found.git == {
        git: {"repo"},
        **{
            path: set() for path in (f"{git}/modules/lib", f"{git}/modules/a/b", f"{git}/worktrees/w", "bare")
        },
    }


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
    """Of more protected paths than mounts, the upper ones are mounted; no number stops all commands."""
    monkeypatch.setattr(scans, "MAX_PROTECTED_MOUNTS", 12)
    for name in (".git", *(f".a{number}/.git" for number in range(8))):
        write(workspace / name, "HEAD", "config", "hooks/pre-commit")
    write(workspace, "deep/er/keys/x")
    found = scan(workspace, "deep/er/keys/*")
    assert found.mounts == {
        **{"deep": True, "deep/er": True, ".git": True, ".git/config": False, ".git/hooks": False},
        **{".a0/.git": True, ".a0/.git/config": False, ".a0/.git/hooks": False, ".a1/.git": True},
        **{".a1/.git/config": False, ".a1/.git/hooks": False, ".a2/.git": True},
    }
    assert len(found.unmounted) == 12
    assert ".a7/.git/config" in found.unmounted
    monkeypatch.setattr(scans, "MAX_PROTECTED_MOUNTS", 40)
    assert scan(workspace).unmounted == []


def test_many_git_directories(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of git directories, they are protected as a whole and not inspected."""
    monkeypatch.setattr(scans, "MAX_GIT_DIRECTORIES", 4)
    git = workspace / ".git"
    write(git, "HEAD", "config", *(f"worktrees/{name}/HEAD" for name in "abcdef"))
    write(git, *(f"modules/{name}/sub/HEAD" for name in "abcdef"))
    found = scan(workspace)
    assert found.git.keys() == {".git"}
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
    ("path", "target"),
    [("lib/../.git/x", ".git/x"), ("/elsewhere", None), ("lib/../../out", None), ("..x/.", "..x"), (".", "")],
)
def test_paths_of_other_places(path: str, target: str | None) -> None:
    """A path may be absolute; only one inside the workspace counts."""
    assert locate("/place", path) == target
    assert locate("/place", "/place/lib") == "lib"


def test_targets_of_protected_links(workspace: Path) -> None:
    """What a protected link leads to is protected, also of a link in a directory of hooks."""
    write(workspace, "env/dev", "tools/pre-commit", "hk/pre-push", "c/config.toml", "c/other", "AGENTS.md")
    write(workspace, ".git/HEAD", ".git/hooks/x.sample", "r/.git/HEAD", ".husky/_/x", "tools/husky", "own/x")
    for link, target in (
        (".envrc", "env/dev"),
        (".git/hooks/pre-commit", "../../tools/pre-commit"),
        (".husky/_/h", "../../tools/husky"),
        ("r/.git/hooks", "../../hk"),
        ("CLAUDE.md", "AGENTS.md"),
        (".cargo", "c"),
        (".config", "missing"),
        ("own/.vscode", ".."),
        (".idea", "/"),
        ("gone", "own"),
        (".zed", ".zed"),
    ):
        (workspace / link).symlink_to(target)
    found = scan(workspace)
    assert found.targets == {
        **{"env/dev": ".envrc", "tools/pre-commit": ".git/hooks", "tools/husky": ".husky"},
        **{"hk": "r/.git/hooks", "c/config.toml": ".cargo"},
    }
    assert found.mounts.keys() >= {*found.targets, "AGENTS.md"}
    assert found.links == {
        *(".envrc", "r/.git/hooks", "CLAUDE.md", ".cargo", ".config", "own/.vscode", ".idea", ".zed")
    }


def test_long_chains(workspace: Path) -> None:
    """Neither many links that lead on, nor many common directories, are too deep."""
    count = 400
    for number in range(count):
        write(workspace, f"r{number}/.git/HEAD", f"r{number}/.git/hooks/x", f"c{number}/HEAD")
        (workspace / f"r{number}/.git/hooks/next").symlink_to(f"../../../r{number + 1}/.git/hooks/next")
        write(workspace, f"c{number}/commondir", text=f"../c{number + 1}\n")
    for number in range(1500):
        (workspace / f"l{number}").symlink_to(f"l{number + 1}")
    (workspace / ".profile").symlink_to("l0")
    for number in range(40):
        (workspace / f"d{number}").symlink_to(f"d{number + 1}/../d{number + 1}")
    (workspace / "d40").mkdir()
    (workspace / ".bashrc").symlink_to("d0")
    found = scan(workspace)
    assert not found.has_failed
    assert len(found.git) == 2 * count


def test_git_directories_in_themselves(workspace: Path) -> None:
    """A container of git directories that is a link is protected, and is not entered again and again."""
    write(workspace, ".git/HEAD", ".git/a/HEAD", ".git/b/HEAD", ".git/config", "lib/.git/HEAD")
    (workspace / ".git/worktrees").symlink_to(".")
    (workspace / ".git/modules").symlink_to("..")
    (workspace / "up").symlink_to(".")
    write(workspace, "sub/.git", text="gitdir: ../up/up/lib/.git\n")
    write(workspace, "lib/.git/objects/x", "lib/.git/refs/x", "lib/.git/config")
    found = scan(workspace)
    assert found.git.keys() == {".git", "lib/.git"}
    assert {".git/worktrees", ".git/modules"} <= found.links


def test_links_of_repositories(workspace: Path) -> None:
    """A link named ``.git`` leads to a git directory, whose parts are protected."""
    write(workspace, "store/HEAD", "store/objects/x", "store/refs/x", "store/hooks/x", "p/hk/x")
    write(workspace, "store/config", text="[core]\nhooksPath = hk\n")
    (workspace / "p/.git").symlink_to("../store")
    assert set(scan(workspace).protected) == {"p/.git", "store/config", "store/hooks", "p/hk"}


def test_links_into_dependencies(workspace: Path) -> None:
    """Where a link from elsewhere leads, people work, also below ``node_modules``."""
    write(workspace, "node_modules/src/.git/HEAD", "node_modules/src/.git/config", "node_modules/a/.envrc")
    write(workspace, "node_modules/src/node_modules/x/.envrc", "p/node_modules/x")
    assert scan(workspace).protected == {}
    (workspace / "p/link").symlink_to("../node_modules/src")
    (workspace / "node_modules/src/loop").symlink_to("../../node_modules/src")
    (workspace / "node_modules/b").symlink_to("../node_modules/a")
    assert set(scan(workspace).protected) == {"node_modules/src/.git/config"}
    assert set(scan(workspace, "*.env").protected) == {"node_modules/src/.git/config"}


def test_git_directories_with_a_common_one(workspace: Path) -> None:
    """A directory with ``HEAD`` and ``commondir`` is one of git, wherever the common one is."""
    write(workspace, "docs/HEAD", "docs/config.worktree", "c/objects/x", "c/config", "c/hooks/x")
    write(workspace, "docs/commondir", text="../c\n")
    found = scan(workspace)
    assert set(found.protected) == {"docs/commondir", "docs/config.worktree", "c/config", "c/hooks"}
    assert found.targets == dict.fromkeys(("c/config", "c/hooks"), "docs/commondir")


def test_hooks_of_other_working_trees(workspace: Path) -> None:
    """A relative directory of hooks is one of each working tree, wherever its git directory is."""
    script = """
    git init -q main; git -C main config core.hooksPath tools/hooks
    git -C main -c user.name=a -c user.email=b commit -q --allow-empty -m x
    git -C main worktree add -q ../wt
    git init -q --separate-git-dir=gd sg; git -C sg config core.hooksPath hk
    git init -q q; git -C q config core.hooksPath 'a#b'
    git -C main -c protocol.file.allow=always submodule --quiet add ../main sub
    git -C main/sub config core.hooksPath hk
    """
    subprocess.run(["sh", "-ec", script], cwd=workspace, check=True)
    hooks = ("main/tools/hooks", "wt/tools/hooks", "sg/hk", "q/a#b", "main/sub/hk")
    write(workspace, *(f"{path}/pre-commit" for path in hooks))
    assert scan(workspace).protected.keys() >= set(hooks)


def test_programs_of_a_user(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.local/bin`` is protected if it is in the daemon's ``PATH``, or that of the user's home."""
    write(workspace, ".local/bin/x")
    assert scan(workspace).protected == {}
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"/bin:{workspace}/.local/bin")
        assert set(scan(workspace).protected) == {".local/bin"}
    monkeypatch.setenv("HOME", str(workspace))
    assert set(scan(workspace).protected) == {".local/bin"}


@pytest.mark.parametrize("pattern", ["a", "*a", "a*", "*", "a*b", "*a*", "", "a*b*c"])
@pytest.mark.parametrize("path", ["a", "aa", "ab", "ba", "", "axbxc", "a*b"])
def test_matchers(pattern: str, path: str) -> None:
    """The fast tests agree with the rules."""
    assert make_matcher(pattern)(path) is matches_subject(pattern, path)
