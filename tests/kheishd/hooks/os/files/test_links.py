"""Links to files that other programs execute or obey."""

from pathlib import Path

import pytest

from kheishd.hooks.os.files import links
from kheishd.hooks.os.files.links import find_link_use, find_links

LINKS = (
    (".envrc", "env/dev"),
    (".zshrc", "env/missing"),
    (".cargo", "c"),
    (".vscode/tasks.json", "../tasks"),
    (".git/hooks/pre-commit", "../../tools/pre-commit"),
    ("r/.git/hooks", "../../hk"),
    ("deep/er/.idea", "../../idea"),
    ("own/.claude", ".."),
    (".fleet", "/"),
    ("a.code-workspace", "project"),
    ("plain", "data"),
    ("node_modules/.npmrc", "../data"),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Provide a workspace with links."""
    for name in ("env", "c", "tools", "hk", "idea", "data"):
        (tmp_path / name).mkdir()
    for link, target in LINKS:
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(target)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("env/dev", ".envrc"),
        ("env/missing", ".zshrc"),
        ("c/config.toml", ".cargo/config.toml"),
        ("tasks", ".vscode/tasks.json"),
        ("tools/pre-commit", ".git/hooks/pre-commit"),
        ("hk/pre-push", "r/.git/hooks"),
        ("idea/workspace.xml", "deep/er/.idea"),
        ("project", "a.code-workspace"),
        *((path, None) for path in ("env/other", "c/other", "data/x", "own/x", "tools/other")),
    ],
)
def test_files_to_which_a_protected_link_leads(workspace: Path, path: str, link: str | None) -> None:
    """The link is found wherever it is; what is above it, and what other links lead to, is not meant."""
    assert find_link_use(str(workspace), ["x", path]) == (None if link is None else (path, link))


def test_bounds(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large directories are searched at their beginning."""
    monkeypatch.setattr(links, "MAX_ENTRIES", 1)
    assert find_link_use(str(workspace), ["idea/x"]) is None
    monkeypatch.setattr(links, "MAX_LINK_ENTRIES", 2)
    for number in range(3):
        (workspace / f"hk/{number}").symlink_to("x")
    assert len(list(find_links(str(workspace / "hk")))) == 2


def test_links_without_end(workspace: Path) -> None:
    """The kernel follows few links, so neither thousands nor an exponential number keep the search busy."""
    for number in range(1500):
        (workspace / f"l{number}").symlink_to(f"l{number + 1}")
    (workspace / ".profile").symlink_to("l0")
    for number in range(40):
        (workspace / f"d{number}").symlink_to(f"d{number + 1}/../d{number + 1}")
    (workspace / "d40").mkdir()
    (workspace / ".bashrc").symlink_to("d0")
    assert find_link_use(str(workspace), ["l1500", "d40"]) is None
