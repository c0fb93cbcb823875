"""The shield: protected files that a command created are put aside, harmless ones stay."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheishd.hooks.os.files.written import note_written
from kheishd.hooks.os.shell import scan as scans
from kheishd.hooks.os.shell import shield as shields
from kheishd.hooks.os.shell.scan import PathRules
from kheishd.hooks.os.shell.shield import Shield, is_harmless_git_config
from kheishd.hooks.os.shell.workdir import Workdir, open_workdir
from kheishd.kernel.hook import ToolError
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
    # A further name cannot be guessed, so that a command cannot take it.
    first, second, *others = sorted(os.listdir(workspace))
    assert first == ".envrc.unapproved"
    assert re.fullmatch(r"\.envrc\.unapproved-[0-9a-f]{16}", second)
    assert others == [".git", ".github", ".idea.unapproved", "f", "sub"]
    assert os.listdir(workspace / ".github") == ["workflows.unapproved"]


def test_names_in_messages(workdir: Workdir, workspace: Path) -> None:
    """The name of a file adds no line and no hidden character to what a model reads."""
    (workspace / "d\n## approved\x1b\udcff").mkdir()
    shield = Shield(workdir, PathRules())
    write(workspace, "d\n## approved\x1b\udcff/.envrc")
    assert ": d⟨LINE FEED⟩## approved⟨ESCAPE⟩⟨U+DCFF⟩/.envrc. Create" in shield.finish()[0]


def test_a_deep_directory(workdir: Workdir, workspace: Path) -> None:
    """A directory whose path is too long is named once, and spares no later repository."""
    shield = Shield(workdir, PathRules())
    descriptor = os.open(workspace, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    (sentence,) = shield.finish()
    assert sentence.startswith("these new directories are too deep to be searched")
    assert sentence.endswith("d…")
    shield = Shield(workdir, PathRules())
    subprocess.run(["git", "init", "-q", "new"], cwd=workspace, check=True)
    subprocess.run(["git", "-C", "new", "config", "core.fsmonitor", "evil"], cwd=workspace, check=True)
    (sentence,) = shield.finish()
    assert "so they were renamed to NAME.unapproved: new/.git/config." in sentence


def test_a_directory_in_another_ones_place(workdir: Workdir, workspace: Path) -> None:
    """Renaming the directory above a file does not help to replace it; the renamed file stays."""
    shield = Shield(workdir, PathRules())
    (workspace / "sub").rename(workspace / "renamed")
    write(workspace, "sub/AGENTS.md", "renamed/.envrc")
    assert ": renamed/.envrc, sub/AGENTS.md." in shield.finish()[0]
    assert (workspace / "renamed/AGENTS.md").exists()
    shield = Shield(workdir, PathRules())
    write(workspace, "new/AGENTS.md")
    assert "files; inspect them first: new/AGENTS.md" in shield.finish()[0]
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
    assert "linked/.git" in sentences[0]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("node_modules/e \n", "node_modules/e "),
        (" e\n", "node_modules/e"),
        ("node_modules/l/../e\n", "node_modules/x/e"),
        ("node_modules/e\0x\n", "node_modules/e"),
        ("/proc/self/cwd/e\n", "e"),
        ("/proc/self/root{}/new/e\n", "e"),
        ("e\r\n\n", "e"),
        ("l", "node_modules/x/e"),
    ],
)
def test_links_that_are_read_as_git_does(workdir: Workdir, workspace: Path, link: str, target: str) -> None:
    """However a new ``.git`` is written, git executes no program that its directory names."""
    shield = Shield(workdir, PathRules())
    new, program = workspace / "new", workspace / "executed"
    write(new, "node_modules/x/y/z")
    for path in ("e", "node_modules/e", "node_modules/e ", "node_modules/x/e", "node_modules/ex"):
        subprocess.run(["git", "init", "-q", "--bare", new / path], check=True)
    for name, value in (("bare", "false"), ("fsmonitor", f"touch {program}; false")):
        subprocess.run(["git", "config", "-f", new / target / "config", f"core.{name}", value], check=True)
    (new / "node_modules/l").symlink_to("x/y")
    (new / " e").symlink_to("node_modules/e")
    if link == "l":
        (new / "l").symlink_to("/proc/self/cwd/node_modules/x/e")
        (new / ".git").symlink_to("l")
    else:
        write(new, ".git", text=f"gitdir: {link.format(workspace)}")
    subprocess.run(["git", "status"], cwd=new, check=False)
    assert program.exists()
    program.unlink()
    (sentence,) = shield.finish()
    assert sentence.startswith("other programs execute or obey these files, which nobody approved")
    subprocess.run(["git", "status"], cwd=new, check=False)
    assert not program.exists()


def test_links_of_repositories_that_are_led_away(workdir: Workdir, workspace: Path) -> None:
    """A command cannot change where its own ``.git`` leads, and that of a person is named."""
    subprocess.run(["git", "init", "-q", "--bare", "node_modules/a/e"], cwd=workspace, check=True)
    write(workspace, "old/.git", text="gitdir: ../node_modules/a/e\n")
    shield = Shield(workdir, PathRules())
    write(workspace, "new/.git", text="gitdir: ../node_modules/a/e\n")
    assert shield.finish() == []
    shield = Shield(workdir, PathRules())
    assert shield.finish() == []
    (workspace / "node_modules/a").rename(workspace / "node_modules/b")
    (workspace / "node_modules/a").symlink_to("/proc/self/cwd/evil")
    renamed, named = shield.finish()
    assert "NAME.unapproved: new/.git." in renamed
    assert named.endswith("inspect them first: old/.git")


def test_hooks_of_a_repository_without_any(workdir: Workdir, workspace: Path) -> None:
    """A directory of hooks that did not exist cannot be mounted, so its new hooks are put aside."""
    subprocess.run(["rm", "-r", ".git/hooks"], cwd=workspace, check=True)
    shield = Shield(workdir, PathRules())
    write(workspace, ".git/hooks/pre-commit", ".git/hooks/x.sample")
    assert ".git/hooks/pre-commit" in shield.finish()[0]
    (workspace / ".git/config.worktree").symlink_to("HEAD")
    assert ".git/config.worktree" in shield.finish()[0]


def test_large_workspaces(workdir: Workdir, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the user that were not scanned before are left alone; the result states the limit of rules."""
    write(workspace, "sub/deep/.envrc", "sub/deep/repo/.git/hooks/pre-commit")
    subprocess.run(["git", "init", "-q", "sub/deep/repo"], cwd=workspace, check=True)
    subprocess.run(["git", "-C", "sub/deep/repo", "config", "core.editor", "vi"], cwd=workspace, check=True)
    monkeypatch.setattr(scans, "MAX_ENTRIES", 1)
    shield = Shield(workdir, PathRules())
    shield._began_ns += 10**12
    assert shield.finish() == []
    shield = Shield(workdir, PathRules())
    subprocess.run(["git", "-C", "sub/deep/repo", "config", "user.name", "x"], cwd=workspace, check=True)
    write(workspace, "sub/deep/.bashrc", ".envrc")
    renamed, named = shield.finish()
    assert "NAME.unapproved: .envrc." in renamed
    assert "sub/deep/.bashrc" in named
    assert (workspace / "sub/deep/repo/.git/config").exists()
    monkeypatch.setattr(scans, "MAX_ENTRIES_WITH_RULES", 1)
    with pytest.raises(ToolError, match="sub cannot be searched: the workspace has more than 1 entries"):
        Shield(workdir, PathRules(closed=("*.env",)))
    Shield(workdir, PathRules(closed=(".env",)))


def test_more_entries_than_can_be_scanned(workdir: Workdir, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a command leaves too many entries to look for new files, the result says so."""
    shield = Shield(workdir, PathRules())
    monkeypatch.setattr(shields, "MAX_ENTRIES_AFTERWARDS", 1)
    assert "it has more than" in shield.finish()[0]


def test_new_files_behind_many_new_entries(
    workdir: Workdir, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories that existed before are searched first, so that many new ones hide nothing in them."""
    write(workspace, "sub/deep/er/x")
    shield = Shield(workdir, PathRules())
    write(workspace, *(f"many/{number}/x" for number in range(30)), "sub/deep/er/.envrc")
    monkeypatch.setattr(shields, "MAX_ENTRIES_AFTERWARDS", 30)
    renamed, limit = shield.finish()
    assert ": sub/deep/er/.envrc." in renamed
    assert "it has more than" in limit


def test_directories_that_their_owner_may_not_change(workdir: Workdir, workspace: Path) -> None:
    """A file is put aside even if its directory was made read-only."""
    shield = Shield(workdir, PathRules())
    write(workspace, "sub/.envrc")
    (workspace / "sub").chmod(0o555)
    assert ": sub/.envrc." in shield.finish()[0]
    assert (workspace / "sub").stat().st_mode & 0o777 == 0o555
    (workspace / "sub").chmod(0o755)


def test_files_that_a_tool_wrote(workdir: Workdir, workspace: Path) -> None:
    """A file that a person approved in another call stays, unless a command replaced it."""
    shield = Shield(workdir, PathRules())
    for path in (".envrc", "sub/.vscode/tasks.json", ".bashrc", ".zshrc", ".husky/pre-commit"):
        write(workspace, path)
        note_written(str(workspace), path, b"x\n")
    (workspace / ".bashrc").rename(workspace / "b")
    write(workspace, ".bashrc", text="evil\n")
    with (workspace / ".zshrc").open("a") as file:
        file.write("evil\n")
    subprocess.run(["rm", "-r", ".husky"], cwd=workspace, check=True)
    write(workspace, ".husky/pre-commit", text="evil\n")
    subprocess.run(["git", "init", "-q", "new"], cwd=workspace, check=True)
    write(workspace, "new/.git/hooks/pre-push")
    note_written(str(workspace), "new/.git/hooks/pre-push", b"x\n")
    (sentence,) = shield.finish()
    assert "NAME.unapproved: .bashrc, .husky, .zshrc." in sentence


def test_files_that_their_user_replaced(workdir: Workdir, workspace: Path) -> None:
    """A file that existed before is never renamed, in whichever version: it is named only."""
    shield = Shield(workdir, PathRules())
    subprocess.run(["git", "config", "core.editor", "vi"], cwd=workspace, check=True)
    (workspace / "sub/new").write_text("instructions\n")
    (workspace / "sub/new").rename(workspace / "sub/AGENTS.md")
    (sentence,) = shield.finish()
    assert sentence.endswith("inspect them first: .git/config, sub/AGENTS.md")
    assert "editor = vi" in (workspace / ".git/config").read_text()
    assert (workspace / "sub/AGENTS.md").read_text() == "instructions\n"


def test_files_with_another_name(workdir: Workdir, workspace: Path) -> None:
    """A mounted file that a command changed by a link that it had made before is named."""
    (workspace / "notes").hardlink_to(workspace / ".git/config")
    shield = Shield(workdir, PathRules())
    assert ".git/config" in shield.scan.mounts
    began_ns = (workspace / ".git/config").stat().st_ctime_ns
    # The clock of files ticks a few times in a hundredth of a second.
    while (workspace / ".git/config").stat().st_ctime_ns == began_ns:
        with (workspace / "notes").open("a") as file:
            file.write("[core]\n\tfsmonitor = evil\n")
    assert "inspect them first: .git/config" in shield.finish()[0]


def test_common_directories_of_git(workdir: Workdir, workspace: Path) -> None:
    """Only a worktree may name the repository above it, which is guarded itself."""
    shield = Shield(workdir, PathRules())
    for path in (".git", ".git/modules/x", ".git/worktrees/x", ".git/worktrees/y", "bare/worktrees/x"):
        write(workspace, *(f"{path}/{name}" for name in ("HEAD", "objects/x", "refs/x")))
        # A blank belongs to the path that git reads.
        write(workspace, f"{path}/commondir", text=" ../..\n" if path.endswith("y") else "../..\n")
    (sentence,) = shield.finish()
    paths = ".git/commondir, .git/modules/x/commondir, .git/worktrees/y/commondir, bare/worktrees/x/commondir"
    assert f": {paths}." in sentence
    assert (workspace / ".git/worktrees/x/commondir").exists()


def test_unfinished_operations_of_git(workdir: Workdir, workspace: Path) -> None:
    """The state of a rebase, which can name commands, is named if it changed, and stays."""
    write(workspace, ".git/rebase-merge/git-rebase-todo", text="exec vi\n")
    shield = Shield(workdir, PathRules())
    shield._began_ns += 10**12
    assert shield.finish() == []
    shield = Shield(workdir, PathRules())
    with (workspace / ".git/rebase-merge/git-rebase-todo").open("a") as file:
        file.write("exec evil\n")
    assert shield.finish()[0].endswith("inspect them first: .git/rebase-merge")
    assert (workspace / ".git/rebase-merge/git-rebase-todo").exists()


def test_more_files_than_mounts(workdir: Workdir, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protected files that are too many to be mounted are checked afterwards, and the result says so."""
    monkeypatch.setattr(scans, "MAX_PROTECTED_MOUNTS", 3)
    write(workspace, "sub/deep/.envrc")
    shield = Shield(workdir, PathRules())
    assert shield.scan.mounts == {".git": True, ".git/config": False, ".git/hooks": False}
    (workspace / "sub/deep/.envrc").unlink()
    write(workspace, "sub/deep/.envrc", text="evil\n")
    changed, unmounted = shield.finish()
    assert changed.endswith("inspect them first: sub/deep/.envrc")
    assert unmounted.endswith("the command could change sub/AGENTS.md, sub/deep/.envrc")


def test_a_hooks_directory_that_appears(workdir: Workdir, workspace: Path) -> None:
    """A directory of hooks that the configuration names, and that is new, is put aside."""
    subprocess.run(["git", "config", "core.hooksPath", ".git/h5"], cwd=workspace, check=True)
    shield = Shield(workdir, PathRules())
    write(workspace, ".git/h5/pre-commit")
    assert ".git/h5" in shield.finish()[0]
    assert (workspace / ".git/h5.unapproved").exists()


def test_links_and_their_targets(workdir: Workdir, workspace: Path) -> None:
    """A link that was replaced, or is new, is put aside; what a new one leads to is not touched."""
    write(workspace, "env/dev", "env/new", "mine", "dot/x")
    (workspace / "CLAUDE.md").symlink_to("sub/AGENTS.md")
    (workspace / ".envrc").symlink_to("env/dev")
    (workspace / ".bashrc").symlink_to("env/missing")
    (workspace / ".config").symlink_to("dot")
    shield = Shield(workdir, PathRules())
    assert "env/dev" in shield.scan.mounts
    assert shield.finish() == []
    inode = (workspace / "CLAUDE.md").lstat().st_ino
    (workspace / "CLAUDE.md").unlink()
    for number in range(100):
        # A new file often has the number of the one that was removed.
        write(workspace, f"try{number}")
        if (workspace / f"try{number}").stat().st_ino == inode:
            (workspace / f"try{number}").rename(workspace / "CLAUDE.md")
            break
    else:
        write(workspace, "CLAUDE.md")
    write(workspace, "env/missing", "dot/fish/config.fish", "c/config.toml")
    (workspace / ".cargo").symlink_to("c")
    (workspace / ".zshrc").symlink_to("mine")
    (sentence,) = shield.finish()
    assert ": .cargo, .zshrc, CLAUDE.md, dot/fish, env/missing." in sentence
    assert (workspace / "mine").exists()
    assert (workspace / ".config").is_symlink()


def test_a_git_directory_of_parts(workdir: Workdir, workspace: Path) -> None:
    """A directory that becomes one of git by ``commondir`` is seen, and another program's file stays."""
    write(workspace, "docs/a", "app/config", "x/y")
    shield = Shield(workdir, PathRules())
    write(
        workspace, "docs/HEAD", "docs/config.worktree", "docs/c/config", "docs/c/objects/x", "docs/c/refs/x"
    )
    write(workspace, "docs/commondir", text="c\n")
    write(workspace, "x/HEAD")
    write(workspace, "x/commondir", text="../app\n")
    write(workspace, "sub/.git", text="gitdir: ../app\n")
    sentence, *_ = shield.finish()
    assert ": docs/commondir, docs/config.worktree, sub/.git, x/commondir." in sentence
    assert (workspace / "app/config").exists()


def test_work_below_dependencies(workdir: Workdir, workspace: Path) -> None:
    """A directory that was moved below ``node_modules``, and is linked to, is searched as before."""
    write(workspace, "src/main.js")
    shield = Shield(workdir, PathRules())
    (workspace / "node_modules").mkdir()
    (workspace / "src").rename(workspace / "node_modules/src")
    (workspace / "src").symlink_to("node_modules/src")
    subprocess.run(["git", "init", "-q", "src"], cwd=workspace, check=True)
    subprocess.run(["git", "-C", "src", "config", "core.fsmonitor", "evil"], cwd=workspace, check=True)
    assert ": node_modules/src/.git/config." in shield.finish()[0]


CLONES = """
git init -q lib; git -C lib -c user.name=a -c user.email=b commit -q --allow-empty -m x
git init -q sup; cd sup; git -c protocol.file.allow=always submodule --quiet add ../lib lib
git -c user.name=a -c user.email=b commit -qm x; cd ..
"""


def test_clones_are_their_makers(workdir: Workdir, workspace: Path) -> None:
    """A clone stays whole, with submodules or sparse; later commands can change and remove it."""
    subprocess.run(["sh", "-ec", CLONES], cwd=workspace, check=True)
    shield = Shield(workdir, PathRules())
    clone = "git -c protocol.file.allow=always clone -q"
    script = f"{clone} --recurse-submodules sup cl; {clone} --sparse lib sp; mkdir n; echo x > n/AGENTS.md"
    subprocess.run(["sh", "-ec", script], cwd=workspace, check=True)
    (sentence,) = shield.finish()
    assert sentence.endswith("inspect them first: cl/.gitmodules, n/AGENTS.md")
    shield = Shield(workdir, PathRules())
    made = ("cl/", "sp/", "n/")
    assert not [path for path in shield.scan.mounts if path.startswith(made)]
    assert "lib/.git/config" in shield.scan.mounts
    subprocess.run(["git", "-C", "sp", "config", "user.name", "x"], cwd=workspace, check=True)
    write(workspace, "n/AGENTS.md", text="new\n")
    subprocess.run(["rm", "-r", "cl/lib"], cwd=workspace, check=True)
    (sentence,) = shield.finish()
    assert sentence.endswith("inspect them first: n/AGENTS.md")
    shield = Shield(workdir, PathRules())
    assert not [path for path in shield.scan.mounts if path.startswith(made)]
    subprocess.run(["git", "-C", "sp", "config", "core.fsmonitor", "x"], cwd=workspace, check=True)
    assert ": sp/.git/config." in shield.finish()[0]


def test_clones_that_people_change(workdir: Workdir, workspace: Path) -> None:
    """What another program has changed meanwhile is no longer that of commands, and is mounted."""
    shield = Shield(workdir, PathRules())
    subprocess.run(["git", "init", "-q", "r"], cwd=workspace, check=True)
    assert shield.finish() == []
    assert "r/.git/config" not in Shield(workdir, PathRules()).scan.mounts
    subprocess.run(["git", "-C", "r", "config", "core.editor", "vi"], cwd=workspace, check=True)
    mounts = Shield(workdir, PathRules()).scan.mounts
    assert "r/.git/config" in mounts
    assert "r/.git" in mounts
    assert "r/.git/hooks" not in mounts


def test_working_trees_of_submodules(workdir: Workdir, workspace: Path) -> None:
    """Only the working tree of a submodule may be elsewhere, and only in that of its repository."""
    write(workspace, "src/x", "new/.git/HEAD", "new/inner/x")
    shield = Shield(workdir, PathRules())
    for name, tree in (("good", "../../../inner"), ("bad", "../../../../src")):
        write(workspace, f"new/.git/modules/{name}/HEAD")
        write(workspace, f"new/.git/modules/{name}/config", text=f"[core]\n\tworktree = {tree}\n")
    write(workspace, "new/.git/config", text="[core]\n\tworktree = inner\n")
    assert ": new/.git/config, new/.git/modules/bad/config." in shield.finish()[0]


def test_a_nul_in_a_configuration(workdir: Workdir, workspace: Path) -> None:
    """A byte that no path can contain neither stops the shield nor hides other files."""
    shield = Shield(workdir, PathRules())
    write(workspace, ".envrc", ".husky/pre-commit")
    subprocess.run(["git", "init", "-q", "z"], cwd=workspace, check=True)
    write(workspace, "z/.git/config", text="[core]\nhooksPath = a\0b\n[include]\npath = a\0b\n")
    assert "NAME.unapproved: .envrc, .husky, z/.git/config." in shield.finish()[0]
    assert Shield(workdir, PathRules()).finish() == []


def test_a_pipe_that_a_command_holds(workdir: Workdir, workspace: Path) -> None:
    """A pipe without data is as an empty file."""
    os.mkfifo(workspace / "sub/.git")
    pipe = os.open(workspace / "sub/.git", os.O_RDWR)
    shield = Shield(workdir, PathRules())
    write(workspace, ".envrc")
    assert ": .envrc." in shield.finish()[0]
    os.close(pipe)


def test_a_scan_that_fails(workdir: Workdir, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the scan hides nothing that was found, stops no command, and is told."""

    def fail(*arguments: object) -> None:
        raise AttributeError

    monkeypatch.setattr(scans, "_add_configured", fail)
    shield = Shield(workdir, PathRules())
    write(workspace, ".envrc")
    renamed, failure = shield.finish()
    assert ": .envrc." in renamed
    assert failure.startswith("a part of the workspace could not be searched")
    with pytest.raises(ToolError, match="the scan has failed"):
        Shield(workdir, PathRules(closed=("*.env",)))


def test_a_name_that_is_as_long_as_possible(workdir: Workdir, workspace: Path) -> None:
    """The new name of a file is shortened, so that there is room for its end."""
    shield = Shield(workdir, PathRules())
    name = "A" * 240 + ".code-workspace"
    for content in ("one", "two"):
        (workspace / name).write_text(content)
        assert "NAME.unapproved" in shield.finish()[0]
    assert not (workspace / name).exists()
    assert len([path for path in workspace.iterdir() if path.name.startswith("A")]) == 2


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
