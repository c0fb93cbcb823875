"""Files that other programs execute or obey: editing one is to run code outside of every sandbox.

A version control system runs hooks, a shell and an editor run what their files name, a build server runs the
steps of its file, and agents obey instructions. So a person is asked before such a file is edited, even in
the mode ``acceptEdits``. ``permissions.protected`` adds patterns. Pure.
"""

from itertools import pairwise
from typing import Final

PROTECTED_DIRECTORIES: Final = frozenset(
    (
        *(".git", ".hg", ".svn", ".husky"),
        *(".vscode", ".idea", ".devcontainer"),
        *(".circleci", ".buildkite", ".woodpecker"),
        *(".claude", ".agents", ".cursor", ".codex", ".gemini"),
    )
)
"""Directories whose whole content is protected. ``.git`` may also be a file that names another directory."""

PROTECTED_FILES: Final = frozenset(
    (
        *(".gitmodules", ".gitattributes", ".gitconfig", ".pre-commit-config.yaml"),
        *(".gdbinit", ".exrc", ".vimrc", ".nvimrc", ".inputrc", ".ripgreprc", ".curlrc", ".wgetrc"),
        *(".envrc", ".profile", ".login", ".logout", ".bashrc", ".bash_profile", ".bash_login"),
        *(".bash_logout", ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".cshrc", ".tcshrc"),
        *(".gitlab-ci.yml", ".travis.yml", "azure-pipelines.yml", "bitbucket-pipelines.yml"),
        *("jenkinsfile", ".drone.yml", "appveyor.yml", ".cirrus.yml"),
        *("agents.md", "claude.md", "gemini.md", ".mcp.json", ".cursorrules"),
    )
)
"""Names of protected files, in lower case: some file systems do not distinguish it."""

PROTECTED_PATHS: Final = (
    *(".github/workflows", ".github/actions", ".forgejo/workflows"),
    *(".config/fish", ".config/git", ".config/nvim"),
)
"""Protected directories of two names."""


PROTECTED_NAMES: Final = PROTECTED_DIRECTORIES | PROTECTED_FILES


def is_protected(path: str) -> bool:
    """Whether a path of a workspace is, or lies in, a file or directory that other programs obey."""
    names = path.casefold().split("/")
    return (
        not PROTECTED_DIRECTORIES.isdisjoint(names)
        or names[-1] in PROTECTED_FILES
        or any("/".join(pair) in PROTECTED_PATHS for pair in pairwise(names))
    )


def protected_names(directory: str) -> frozenset[str]:
    """Return the protected names in a directory of this name, in lower case, if nothing above is protected.

    For all entries of a directory tree, this takes a fraction of the time of ``is_protected``.
    """
    above = f"{directory.casefold()}/"
    pairs = [path.removeprefix(above) for path in PROTECTED_PATHS if path.startswith(above)]
    return PROTECTED_NAMES.union(pairs) if pairs else PROTECTED_NAMES


def is_protected_pair(path: str) -> bool:
    """Whether the last two names of a path are those of a protected directory of two names."""
    return "/".join(path.casefold().rsplit("/", 2)[-2:]) in PROTECTED_PATHS
