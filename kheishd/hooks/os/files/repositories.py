"""The git repositories around a file: whether git executes or obeys the file.

The names of ``core.permissions.protected`` do not tell that ``store`` is a git directory, or that a
configuration names ``tools/hooks``. So what is above the file is inspected, before the file is changed.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from typing import Final

from kheishd.hooks.os.files.confinement import read_begin

MAX_CONFIG_FILES: Final = 32
MAX_CONFIG_BYTES: Final = 64 * 1024

# Comparing takes some ten microseconds each; a configuration with more counts as naming the file.
MAX_TARGETS: Final = 20_000

_LINK: Final = "gitdir:"
_SETTING: Final = re.compile(r"(?:^|\])[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*=[ \t]*(.+)$", re.MULTILINE)
_BETWEEN_WORDS: Final = re.compile(r"[\s\"'!;|&()]+")


def find_git_use(workspace: str, path: str) -> str | None:
    """Return why git executes or obeys a file of a workspace, or would; None if it does not.

    It does if the file is in a git directory or completes one, or if a configuration of a repository above
    names it as a hook, an included file, or in any other setting. Reads the file system.
    """
    # The workspace may itself be a part of a repository.
    names = f"{workspace}/{path}".split("/")[1:]
    for depth, name in enumerate(names):
        above = os.path.join("/", *names[:depth])
        if is_git_directory(above, name):
            return f"{os.path.relpath(above, workspace)} is a git directory, or would become one"
        git = _git_directory_of(above)
        if git is not None and _is_named(os.path.join(workspace, path), above, git):
            return "a git configuration names it"
    return None


def is_git_directory(directory: str, added: str = "") -> bool:
    """Whether git takes a directory for a repository, or for that of a worktree, if this name is added."""

    def has(name: str) -> bool:
        return name == added or os.path.lexists(f"{directory}/{name}")

    return has("HEAD") and (has("commondir") or (has("objects") and has("refs")))


def _git_directory_of(worktree: str) -> str | None:
    """Return the git directory of a working tree; it may be elsewhere, and in a link or a file."""
    git = f"{worktree}/.git"
    if os.path.isdir(git):
        return git
    link = _read(git)
    return os.path.join(worktree, link[len(_LINK) :].strip()) if link.startswith(_LINK) else None


def _is_named(file: str, worktree: str, git: str) -> bool:
    """Whether a configuration of a repository names a file, or its directory as that of the hooks."""
    for count, (name, target) in enumerate(_settings(worktree, git)):
        if target == file or count >= MAX_TARGETS:
            return True
        # Of a working tree whose hooks are its own files, the upper ones could be hooks.
        is_inside = file.startswith(f"{target}/") and not f"{worktree}/".startswith(f"{target}/")
        if name == "hookspath" and (is_inside or target == os.path.dirname(file)):
            return True
    return False


def _settings(worktree: str, git: str) -> Iterator[tuple[str, str]]:
    """Yield the settings of a repository, each with a path that it could name."""
    common = os.path.join(git, _read(f"{git}/commondir").strip())
    files = deque(
        f"{directory}/{name}" for directory in {git, common} for name in ("config", "config.worktree")
    )
    for _ in range(MAX_CONFIG_FILES):
        if not files:
            return
        file = files.popleft()
        for name, value in _SETTING.findall(_read(file).replace("\\\n", "")):
            words = {value.strip().strip('"'), *_BETWEEN_WORDS.split(value)} - {""}
            # Relative to the working tree, to the git directory, or to the file itself.
            bases = {worktree, git, common, os.path.dirname(file)}
            for target in {os.path.join(base, os.path.expanduser(word)) for base in bases for word in words}:
                yield name.casefold(), os.path.realpath(target)
                if name.casefold() == "path" and os.path.isfile(target):
                    files.append(target)


def _read(path: str) -> str:
    """Return the begin of a file; nothing if it cannot be read."""
    try:
        return os.fsdecode(read_begin(path, MAX_CONFIG_BYTES)).replace("\0", "")
    except OSError:
        return ""
