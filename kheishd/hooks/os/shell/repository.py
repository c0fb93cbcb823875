"""The repository of an agent's worktree, in the sandbox of the agent's commands.

The worktree is the workspace, and the git directory is outside of it. A command sees that directory, at its
own path and read-only, and writes only where git needs it to commit on the agent's own branches:

- loose objects, but neither packs nor ``objects/info``, which may name other repositories;
- the references below ``refs/heads/kheish/<agent id>``, and their logs;
- the record of this worktree (``HEAD``, the index), but not its parts that git obeys.

So a command can change neither configuration nor hooks, nor other branches, nor other worktrees.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kheishd.hooks.os.files.confinement import Root, open_root
from kheishd.hooks.os.files.links import GIT
from kheishd.hooks.os.shell.scan import make_matcher
from kheishd.kernel.hook import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

OBEYED_IN_RECORD: Final = ("commondir", "gitdir", "config.worktree", "modules")
"""The parts of a worktree's record that git obeys. The last two are empty files, made to be mounted."""

PLACEHOLDER: Final = ".kheish"
"""A file that keeps git from removing an empty directory, on which there may be a mount. Git ignores it."""


def own_directories(agent_id: str) -> tuple[str, str]:
    """Return the directories of an agent's branches and of their logs, in the git directory."""
    branches = f"refs/heads/kheish/{agent_id}"
    return branches, f"logs/{branches}"


def closes_repository(pattern: str) -> bool:
    """Whether a rule that closes paths may close parts of a git directory: a command sees none of it then."""
    begin, star, _ = pattern.partition("*")
    is_inside = begin == GIT or begin.startswith(f"{GIT}/")
    return is_inside or bool(star and begin and f"{GIT}/".startswith(begin)) or make_matcher(pattern)(GIT)


def write_new(root: Root, path: str, content: bytes = b"") -> None:
    """Write a file, and make the directories above it, unless it exists. Errors: OSError, ToolError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with root.parent(path, make=True) as (directory, name), suppress(FileExistsError):
        with open(os.open(name, flags, 0o644, dir_fd=directory), "wb") as file:
            file.write(content)


def prepare_record(source_root: str, agent_id: str) -> None:
    """Make what the sandbox mounts and git does not make. Errors: OSError, ToolError."""
    with open_root(f"{source_root}/{GIT}") as root:
        # A file where git would make a directory of repositories: with a directory, git removes no worktree.
        for name in ("config.worktree", "modules"):
            write_new(root, f"worktrees/{agent_id}/{name}")
        for path in own_directories(agent_id):
            write_new(root, f"{path}/{PLACEHOLDER}")


def remove_placeholders(source_root: str, agent_id: str) -> None:
    """Remove the placeholders of an agent's branches, and the directories if these are empty."""
    with suppress(OSError, ToolError), open_root(f"{source_root}/{GIT}") as root:
        for path in own_directories(agent_id):
            with suppress(OSError, ToolError), root.parent(f"{path}/{PLACEHOLDER}") as (directory, name):
                os.unlink(name, dir_fd=directory)
            with suppress(OSError, ToolError), root.parent(path) as (directory, name):
                os.rmdir(name, dir_fd=directory)


def bind_repository(
    source_root: str, agent_id: str, bind: Callable[..., tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the mounts of a repository; none if a part is missing or a link: git does not work then.

    ``bind`` takes an open descriptor, its path, and whether it is writable.
    """
    git, record = f"{source_root}/{GIT}", f"worktrees/{agent_id}"
    branches, logs = own_directories(agent_id)
    writable = {"objects", record, branches, logs}
    parts = [*writable, "objects/info", "objects/pack", *(f"{record}/{name}" for name in OBEYED_IN_RECORD)]
    opened: dict[str, int] = {}
    try:
        with open_root(git) as root:
            opened[""] = os.dup(root.descriptor)
            for path in parts:
                with root.parent(path) as (directory, name):
                    opened[path] = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                if stat.S_ISLNK(os.fstat(opened[path]).st_mode):
                    raise ToolError(f"{path} is a link")
    except (OSError, ToolError):
        for descriptor in opened.values():
            os.close(descriptor)
        return {}
    return {
        f"{git}/{path}".rstrip("/"): bind(descriptor, f"{git}/{path}".rstrip("/"), writable=path in writable)
        for path, descriptor in opened.items()
    }
