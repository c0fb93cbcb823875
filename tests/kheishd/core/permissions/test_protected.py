"""Files that other programs execute or obey."""

import pytest

from kheishd.core.permissions.protected import is_protected


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".git", "sub/.git/hooks/pre-commit", ".vscode/tasks.json", ".idea/x.xml"),
        *(".envrc", "sub/.bashrc", "AGENTS.md", "docs/agents.md", "Jenkinsfile", ".mcp.json"),
        *(".github/workflows/ci.yml", ".claude/settings.json", ".agents/skill.md", ".gitlab-ci.yml"),
    ],
)
def test_a_protected_path(path: str) -> None:
    """Hooks, editor tasks, shell files, build steps and instructions are protected, at any depth."""
    assert is_protected(path)


@pytest.mark.parametrize(
    "path",
    ["", ".", "a/b.py", "git/config", ".gitignore", ".github/README.md", "workflows/.github", "x.envrc"],
)
def test_another_path(path: str) -> None:
    """Other files are edited as the mode says, also where a part of the name is similar."""
    assert not is_protected(path)
