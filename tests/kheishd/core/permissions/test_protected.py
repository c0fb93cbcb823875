"""Files that other programs execute or obey."""

import pytest

from kheishd.core.permissions.protected import is_protected, is_protected_pair, protected_names


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".git", "sub/.git/hooks/pre-commit", ".vscode/tasks.json", ".idea/x.xml"),
        *(".envrc", "sub/.bashrc", "AGENTS.md", "docs/agents.md", "Jenkinsfile", ".mcp.json"),
        *("a/.gitconfig", ".config/git/config", ".gdbinit", "x/.vimrc"),
        *(
            ".github/workflows/ci.yml",
            ".claude/settings.json",
            ".agents/skill.md",
            "skills/review/SKILL.md",
            ".gitlab-ci.yml",
        ),
        *(".devcontainer.json", ".gitea/workflows/ci.yml", ".woodpecker.yml", ".woodpecker.yaml"),
        *(".bash_aliases", ".zsh_aliases", "x/Team.code-workspace", ".npmrc", ".yarnrc", ".yarnrc.yml"),
        *(".pypirc", ".netrc", ".tool-versions", "mise.toml", ".Xresources", ".emacs", ".pdbrc"),
        *(".config/autostart/x.desktop", ".config/systemd/user/x.service", ".local/bin/git", ".Rprofile"),
        *(".githooks/pre-commit", ".cargo/config.toml", ".github/copilot-instructions.md", ".ssh/config"),
    ],
)
def test_a_protected_path(path: str) -> None:
    """Hooks, editor tasks, shell files, build steps and instructions are protected, at any depth."""
    assert is_protected(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "a/b.py", "git/config", ".gitignore", ".github/README.md", "workflows/.github", "x.envrc"),
        *(".rgignore", ".cargo/registry/x", ".local/share/x", ".editorconfig", ".github/dependabot.yml"),
        *("code-workspace", ".docker/Dockerfile"),
    ],
)
def test_another_path(path: str) -> None:
    """Other files are edited as the mode says, also where a part of the name is similar."""
    assert not is_protected(path)


@pytest.mark.parametrize(
    "path", [".github/Workflows", "x/.config/fish", "x/.Envrc", ".github/x", "a/b", "x/fish"]
)
def test_names_in_a_directory(path: str) -> None:
    """The names of a directory are protected as whole paths are."""
    above, _, name = path.rpartition("/")
    assert (name.casefold() in protected_names(above.rpartition("/")[2])) is is_protected(path)
    assert is_protected_pair(path) is (path in (".github/Workflows", "x/.config/fish"))
