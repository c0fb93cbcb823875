"""Git repositories around a file: whether git executes or obeys the file."""

import os
import subprocess
from pathlib import Path

import pytest

from kheishd.hooks.os.files import repositories
from kheishd.hooks.os.files.repositories import find_git_use, is_git_directory


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Provide a workspace with a repository, a bare one, and a worktree whose git directory is elsewhere."""
    workspace = tmp_path / "ws"
    for arguments in (("proj",), ("--bare", "bare.x"), ("--separate-git-dir", "store", "wt")):
        subprocess.run(["git", "init", "-q", *arguments], cwd=_made(workspace), check=True)
    return workspace


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def configure(repository: Path, name: str, value: str) -> None:
    """Set a setting of a repository."""
    subprocess.run(["git", "-C", str(repository), "config", name, value], check=True)


@pytest.mark.parametrize(
    "path", ["store/config", "store/hooks/post-checkout", "bare.x/hooks/update", "bare.x/objects/info/x"]
)
def test_a_git_directory_of_any_name(workspace: Path, path: str) -> None:
    """Files in a git directory are obeyed, whatever its name."""
    reason = find_git_use(str(workspace), path)
    assert reason == f"{path.partition('/')[0]} is a git directory, or would become one"
    assert find_git_use(str(workspace), "bare.y/hooks/update") is None
    assert find_git_use(str(workspace), "proj/main.py") is None
    assert find_git_use(str(workspace / "bare.x"), "x") == ". is a git directory, or would become one"


def test_the_file_that_completes_a_git_directory(tmp_path: Path) -> None:
    """A git directory cannot be made file by file: its last part is asked about."""
    for path in ("d/config", "d/objects/x", "d/refs/x"):
        assert find_git_use(str(tmp_path), path) is None
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert find_git_use(str(tmp_path), "d/HEAD") is not None
    assert is_git_directory(str(tmp_path / "d"), "HEAD")
    assert not is_git_directory(str(tmp_path / "d"), "commondir")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "HEAD").touch()
    assert find_git_use(str(tmp_path), "w/commondir") is not None


@pytest.mark.parametrize("repository", ["proj", "wt"])
@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("core.hooksPath", "githooks", "githooks/pre-commit"),
        ("core.hooksPath", "./tools/../githooks/", "githooks/lib/common.sh"),
        ("core.hooksPath", ".", "pre-commit"),
        ("include.path", "../inc.cfg", "inc.cfg"),
        ("core.fsmonitor", "tools/watch.sh --fast", "tools/watch.sh"),
        ("filter.x.clean", "'tools/clean it.sh' %f", "tools/clean"),
        ("alias.x", "!tools/x.sh", "tools/x.sh"),
        ("core.attributesFile", "attributes", "attributes"),
    ],
)
def test_what_a_configuration_names(
    workspace: Path, repository: str, name: str, value: str, path: str
) -> None:
    """Hooks, included files and programs that a configuration names are obeyed; other files are not."""
    full = f"{repository}/{path}"
    if name == "include.path" and repository == "wt":
        value = "../wt/inc.cfg"
    assert find_git_use(str(workspace), full) is None
    configure(workspace / repository, name, value)
    assert find_git_use(str(workspace), full) == "a git configuration names it"
    assert find_git_use(str(workspace), f"{repository}/src/main.py") is None
    # The workspace may be a part of the repository.
    inner, _, rest = full.rpartition("/")
    assert find_git_use(f"{workspace}/{inner}", rest) == "a git configuration names it"


def test_configurations_of_configurations(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Included files are read, links are resolved, and one that cannot be compared counts."""
    proj = workspace / "proj"
    (proj / "inc").write_text('[core]\n\tpager = "pa\\\nger"\n[core] hooksPath = link\n[x] y = a\0b\n')
    (proj / "hooks.d").mkdir()
    (proj / "link").symlink_to("hooks.d")
    assert find_git_use(str(workspace), "proj/hooks.d/pre-push") is None
    configure(proj, "include.path", "../inc")
    assert find_git_use(str(workspace), "proj/hooks.d/pre-push") is not None
    assert find_git_use(str(workspace), "proj/pager") is not None
    configure(proj, "include.path", "../.git/config")
    assert find_git_use(str(workspace), "proj/main.py") is None
    monkeypatch.setattr(repositories, "MAX_TARGETS", 3)
    assert find_git_use(str(workspace), "proj/main.py") is not None


def test_a_pipe_as_a_link(tmp_path: Path) -> None:
    """A ``.git`` that is no file, link or directory does not block."""
    os.mkfifo(tmp_path / ".git")
    assert find_git_use(str(tmp_path), "x") is None
