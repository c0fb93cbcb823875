"""Git repositories: which files git executes or obeys.

The names of ``core.permissions.protected`` do not tell that ``store`` is a git directory, or that a
configuration names ``tools/hooks``. For a file tool, what is above the file is inspected before the file is
changed. The sandbox's scan of a workspace (``shell.scan``) reads configurations by this file, too.
"""

import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final

from kheishd.hooks.os.files.confinement import read_begin
from protocol.structs import Value

MAX_CONFIG_FILES: Final = 32
MAX_CONFIG_BYTES: Final = 64 * 1024

# Comparing takes some ten microseconds each; a configuration with more counts as naming the file.
MAX_TARGETS: Final = 20_000

# The names and links of a path that does not exist.
MAX_RESOLVED_NAMES: Final = 100

CONFIG_FILES: Final = ("config", "config.worktree")

GUARDED_IN_GIT: Final = ("config", "config.worktree", "hooks", "commondir")
"""The parts of a git directory that name programs, or another directory with such parts."""

_LINK: Final = "gitdir: "
_SETTING: Final = re.compile(r"(?:^|\])[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*=[ \t]*(.+)$", re.MULTILINE)
_VALUE_PART: Final = re.compile(r'"((?:[^"\\]|\\.)*)"?|([^"#;]+)|[#;].*')
_BETWEEN_WORDS: Final = re.compile(r"[\s\"'!;|&()\0]+")

Read = Callable[[str], str]
"""A function that returns the text of a file; an empty one if it cannot be read."""


class GitSetting(Value, frozen=True):
    """A setting of git: its name in lower case, without the section, and its value, as git reads it.

    ``text`` is the value as it is written. ``bases`` are the directories to which a path may be relative: the
    working trees, the git directory, and that of the configuration file.
    """

    name: str
    value: str
    text: str
    bases: frozenset[str]

    def paths(self, words: Collection[str]) -> set[str]:
        """Return the paths that words of the value can name."""
        return {posixpath.join(base, os.path.expanduser(word)) for base in self.bases for word in words}


def read_settings(git: str, trees: Collection[str], read: Read) -> Iterator[GitSetting]:
    """Yield the settings of a git directory, and of the configuration files that they include.

    ``trees`` are its known working trees; it names others itself, as the git directory of a worktree does.
    """
    common = find_common(git, read)
    directories = {*trees, git, common}
    if tree := cut_path(read(f"{git}/gitdir")):
        directories.add(posixpath.dirname(posixpath.join(git, tree)))
    files = deque(dict.fromkeys(f"{above}/{name}" for above in (common, git) for name in CONFIG_FILES))
    included: set[str] = set()
    settings: list[tuple[str, str, str, str]] = []
    while files and len(included) < MAX_CONFIG_FILES:
        file = posixpath.normpath(files.popleft())
        if file in included or not (content := read(file)):
            continue
        included.add(file)
        above = posixpath.dirname(file)
        for name, text in _SETTING.findall(content.replace("\\\n", "")):
            value = _plain_value(text)
            settings.append((name.casefold(), value, text, above))
            if name.casefold() == "worktree":
                directories.add(posixpath.join(git, value))
            if name.casefold() == "path" and len(files) < MAX_CONFIG_FILES:
                files.append(posixpath.join(above, os.path.expanduser(value)))
    for name, value, text, above in settings:
        yield GitSetting(name, value, text, frozenset((*directories, above)))


def find_common(git: str, read: Read) -> str:
    """Return the directory whose configuration a git directory shares; usually it is its own."""
    common = cut_path(read(f"{git}/commondir"))
    return posixpath.join(git, common) if common else git


def read_git_link(path: str, read: Read) -> str | None:
    """Return the directory that a ``.git`` file names, with the links on the way; None if it names none."""
    text = cut_path(read(path))
    if not text.startswith(_LINK):
        return None
    return posixpath.join(posixpath.dirname(path), text.removeprefix(_LINK))


def cut_path(text: str) -> str:
    """Return the path that a file consists of, as git reads it: blanks belong to it, a NUL ends it."""
    return text.rstrip("\r\n").partition("\0")[0]


def _plain_value(text: str) -> str:
    """Return the value of a setting without quotes and comments."""
    parts = []
    for part in _VALUE_PART.finditer(text):
        if part[0][0] in "#;":
            break
        parts.append(part[1] if part[1] is not None else part[2])
    return re.sub(r"\\(.)", r"\1", "".join(parts)).partition("\0")[0].strip()


def has_git_parts(has: Callable[[str], bool]) -> bool:
    """Whether git takes a directory with these names for a repository, or for that of a worktree."""
    return has("HEAD") and (has("commondir") or (has("objects") and has("refs")))


def is_git_directory(directory: str, added: str = "") -> bool:
    """Whether git takes a directory for a repository, or for that of a worktree, if this name is added."""
    return has_git_parts(lambda name: name == added or os.path.lexists(f"{directory}/{name}"))


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
        git = f"{above}/.git"
        directory = git if os.path.isdir(git) else read_git_link(git, read_text)
        if directory is not None and _is_named(os.path.join(workspace, path), above, directory):
            return "a git configuration names it"
    return None


def _is_named(file: str, worktree: str, git: str) -> bool:
    """Whether a configuration of a repository names a file, or its directory as that of the hooks."""
    count = 0
    for setting in read_settings(git, (worktree,), read_text):
        words = {setting.value, *_BETWEEN_WORDS.split(setting.text)} - {""}
        for target in map(resolve_links, setting.paths(words)):
            count += 1
            if target == file or count >= MAX_TARGETS:
                return True
            # Of a working tree whose hooks are its own files, the upper ones could be hooks.
            is_inside = file.startswith(f"{target}/") and not f"{worktree}/".startswith(f"{target}/")
            if setting.name == "hookspath" and (is_inside or target == os.path.dirname(file)):
                return True
    return False


def real_path(path: str) -> str:
    """Return an existing path without links; the kernel refuses too many. Errors: OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def resolve_links(path: str) -> str:
    """Return a path without links, whether its last names exist or not; itself if it has too many links."""
    current, rest = path, ""
    for _ in range(MAX_RESOLVED_NAMES):
        try:
            return os.path.normpath(os.path.join(real_path(current), rest))
        except FileNotFoundError:
            above, name = os.path.split(current)
            try:
                current = os.path.join(above, os.readlink(current))
            except OSError:
                current, rest = above, os.path.join(name, rest)
        except OSError:
            break
    return path


def read_text(path: str) -> str:
    """Return the begin of a file; nothing if it cannot be read."""
    try:
        return os.fsdecode(read_begin(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError):
        return ""
