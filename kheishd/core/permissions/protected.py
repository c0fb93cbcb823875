"""Files that other programs execute or obey: editing one is to run code outside of every sandbox.

A version control system runs hooks, a shell and an editor run what their files name, a build server runs the
steps of its file, a version or package manager chooses programs, and agents obey instructions. So a person is
asked before such a file is edited, even in the mode ``acceptEdits``. ``permissions.protected`` adds patterns.
Pure.
"""

from itertools import pairwise
from typing import Final

PROTECTED_DIRECTORIES: Final = frozenset(
    (
        *(".git", ".githooks", ".hg", ".jj", ".svn", ".bzr", ".husky", ".lefthook"),
        *(".vscode", ".idea", ".fleet", ".zed", ".helix", ".devcontainer", ".vim", ".emacs.d"),
        *(".circleci", ".buildkite", ".woodpecker", ".semaphore", ".tekton", ".teamcity", ".builds"),
        *(".claude", ".agents", ".cursor", ".codex", ".gemini", ".windsurf", ".roo", ".clinerules"),
        *(".continue", ".opencode", ".kiro", ".junie", ".amazonq", ".augment"),
        *(".ssh", ".mvn", ".kheish"),
    )
)
"""Directories whose whole content is protected. ``.git`` may also be a file that names another directory."""

PROTECTED_FILES: Final = frozenset(
    (
        *(".gitmodules", ".gitattributes", ".gitconfig", ".lfsconfig", ".hgrc", ".hgsub"),
        *(".pre-commit-config.yaml", ".pre-commit-config.yml", ".pre-commit-hooks.yaml", ".overcommit.yml"),
        *(".huskyrc", "lefthook.yml", ".lefthook.yml", "lefthook-local.yml", ".lintstagedrc"),
        *(".lintstagedrc.json", ".lintstagedrc.yaml", ".lintstagedrc.yml"),
        # Debuggers, editors and other interactive programs.
        *(".gdbinit", ".lldbinit", ".pdbrc", ".pdbrc.py", ".pythonrc", ".pythonrc.py", ".pythonstartup"),
        *(".irbrc", ".pryrc", ".rprofile", ".renviron", ".ghci", ".sqliterc", ".psqlrc", ".my.cnf"),
        *(
            ".exrc",
            ".vimrc",
            ".gvimrc",
            ".nvimrc",
            ".nvim.lua",
            ".lvimrc",
            ".ideavimrc",
            ".ycm_extra_conf.py",
        ),
        *(".emacs", ".emacs.el", ".dir-locals.el", ".dir-locals-2.el", ".nanorc", ".screenrc", ".tmux.conf"),
        *(".inputrc", ".ripgreprc", ".curlrc", ".wgetrc", ".mailcap", ".lessfilter", ".lesskey", ".netrc"),
        *(
            ".devcontainer.json",
            ".gitpod.yml",
            ".gitpod.dockerfile",
            ".replit",
            "devfile.yaml",
            ".devfile.yaml",
        ),
        # Shells, sessions, and tools that choose programs by directory.
        *(".envrc", ".profile", ".login", ".logout", ".bashrc", ".bash_profile", ".bash_login"),
        *(".bash_logout", ".bash_aliases", ".bash_functions", ".zshrc", ".zshenv", ".zprofile", ".zlogin"),
        *(".zlogout", ".zsh_aliases", ".cshrc", ".tcshrc", ".kshrc", ".mkshrc", ".shrc", ".pam_environment"),
        *(".xinitrc", ".xsession", ".xsessionrc", ".xprofile", ".xresources", ".xdefaults", ".xserverrc"),
        *(".forward", ".procmailrc", ".rhosts", ".shosts", ".crontab"),
        *(".tool-versions", ".asdfrc", "mise.toml", ".mise.toml", "mise.local.toml", ".mise.local.toml"),
        *(".rtx.toml", ".miserc.toml", ".direnvrc"),
        *("rust-toolchain", "rust-toolchain.toml"),
        # Package managers: registries and credentials, programs and hooks.
        *(".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "bunfig.toml", ".bunfig.toml", ".pypirc"),
        *("pip.conf", ".condarc", ".gemrc", ".bazelrc", ".buckconfig"),
        # Build servers.
        *(".gitlab-ci.yml", ".travis.yml", "azure-pipelines.yml", "azure-pipelines.yaml"),
        *("bitbucket-pipelines.yml", "jenkinsfile", ".drone.yml", ".drone.yaml", ".drone.star"),
        *(".drone.jsonnet", ".woodpecker.yml", ".woodpecker.yaml", "appveyor.yml", ".appveyor.yml"),
        *(".cirrus.yml", ".cirrus.star", ".build.yml", "buildspec.yml", "cloudbuild.yaml", "wercker.yml"),
        *("codemagic.yaml", "bitrise.yml"),
        # Agents.
        *("agents.md", "agents.override.md", "claude.md", "claude.local.md", "gemini.md", ".mcp.json"),
        *(".cursorrules", ".windsurfrules", ".roorules", ".goosehints", ".aider.conf.yml", "opencode.json"),
        *("opencode.jsonc", "skill.md", "kheish.yaml"),
    )
)
"""Names of protected files, in lower case: some file systems do not distinguish it."""

PROTECTED_SUFFIXES: Final = (".code-workspace", ".sublime-project")
"""Ends of names of protected files: projects of editors, with tasks and settings."""

PROTECTED_PATHS: Final = (
    *(".github/workflows", ".github/actions", ".forgejo/workflows", ".forgejo/actions"),
    *(".gitea/workflows", ".gitea/actions", ".gitlab/ci"),
    *(".github/copilot-instructions.md", ".github/instructions", ".github/prompts", ".github/agents"),
    *(".github/chatmodes", ".github/hooks"),
    *(".config/fish", ".config/git", ".config/nvim", ".config/vim", ".config/emacs", ".config/helix"),
    *(".config/zed", ".config/zsh", ".config/tmux", ".config/direnv", ".config/mise", ".config/pip"),
    *(".config/autostart", ".config/systemd", ".config/environment.d", ".config/mise.toml"),
    *(".config/i3", ".config/sway", ".config/hypr", ".config/pre-commit", ".config/lefthook.yml"),
    *(".local/bin", ".mise/config.toml", ".yarn/releases", ".yarn/plugins"),
    *(".cargo/config.toml", ".cargo/config", ".bundle/config", ".docker/config.json", ".aws/config"),
    *(".kube/config", ".gradle/init.d", ".gradle/init.gradle", ".gradle/gradle.properties"),
    *(".m2/settings.xml", ".pip/pip.conf"),
)
"""Protected directories and files of two names."""


USER_PROGRAMS: Final = ".local/bin"
"""The protected directory of a user's own programs."""

PROTECTED_NAMES: Final = PROTECTED_DIRECTORIES | PROTECTED_FILES

PAIR_DIRECTORIES: Final = frozenset(path.partition("/")[0] for path in PROTECTED_PATHS)
"""The first names of protected directories and files of two names."""

_NAMES_IN_DIRECTORY: Final = {
    first: PROTECTED_NAMES.union(
        path.removeprefix(f"{first}/") for path in PROTECTED_PATHS if path.startswith(f"{first}/")
    )
    for first in PAIR_DIRECTORIES
}


def is_protected(path: str) -> bool:
    """Whether a path of a workspace is, or lies in, a file or directory that other programs obey."""
    names = path.casefold().split("/")
    return (
        not PROTECTED_DIRECTORIES.isdisjoint(names)
        or names[-1] in PROTECTED_FILES
        or names[-1].endswith(PROTECTED_SUFFIXES)
        or any("/".join(pair) in PROTECTED_PATHS for pair in pairwise(names))
    )


def protected_names(directory: str) -> frozenset[str]:
    """Return the protected names in a directory of this name, in lower case, if nothing above is protected.

    So are names that end in one of ``PROTECTED_SUFFIXES``.

    For all entries of a directory tree, this takes a fraction of the time of ``is_protected``.
    """
    return _NAMES_IN_DIRECTORY.get(directory.casefold(), PROTECTED_NAMES)


def is_protected_pair(path: str) -> bool:
    """Whether the last two names of a path are those of a protected directory or file of two names."""
    return "/".join(path.casefold().rsplit("/", 2)[-2:]) in PROTECTED_PATHS
