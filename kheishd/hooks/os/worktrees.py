"""The git worktrees of agents: make one, and remove one that holds no work.

A worktree is never made over anything that exists, and never removed by force. Only one that was not handed
to its agent yet, which a crash or an error left half made, is deleted with what is in it: its directory and
its part of the repository bear the agent's id, and each names the other.
"""

from __future__ import annotations

import os
import posixpath
import shutil
from typing import TYPE_CHECKING

import trio

from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.repositories import cut_path, read_text
from kheishd.hooks.os.files.written import forget_directory, note_directory, note_written
from kheishd.hooks.os.git import GitDirectory, GitFailed
from kheishd.hooks.os.shell.repository import prepare_record, remove_placeholders, write_new
from kheishd.kernel.hook import ToolError
from kheishd.objects.agents.worktree import DIRECTORY, require_repository
from protocol.errors.agent import WorktreeUnavailable
from protocol.structs import Value

if TYPE_CHECKING:
    from protocol.objects.agent import AgentWorktree

OWN, _ = posixpath.split(DIRECTORY)
IGNORE_ALL = b"# Worktrees of kheish's agents.\n*\n"


class KeptWork(Value, frozen=True):
    """What stays of a worktree: its directory, its branch, and why."""

    path: str | None = None
    branch: str | None = None
    note: str = ""


async def make_worktree(worktree: AgentWorktree) -> str:
    """Make a worktree with the files of the repository's ``HEAD``, on a new branch; return the commit.

    Errors: GitFailed; WorktreeUnavailable.
    """
    root = worktree.source_root
    await trio.to_thread.run_sync(_make_place, worktree)
    repository = GitDirectory(f"{root}/.git", root)
    commit = (await repository.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", codes=(0, 1))).strip()
    if not commit:
        raise GitFailed("the repository has no commit yet")
    await repository.run("worktree", "add", "--quiet", "-B", worktree.branch, "--", worktree.path, commit)
    try:
        await trio.to_thread.run_sync(prepare_record, root, posixpath.basename(worktree.path))
    except (OSError, ToolError) as error:
        raise GitFailed(f"the record of the worktree is not complete: {error}") from None
    return commit


def _make_place(worktree: AgentWorktree) -> None:
    """Make the directory of worktrees, which git ignores. Errors: GitFailed, WorktreeUnavailable."""
    root = worktree.source_root
    require_repository(root)
    _delete_half_made(worktree)
    note_directory(worktree.path)
    note_written(root, f"{OWN}/.gitignore", IGNORE_ALL)
    try:
        with open_root(root) as opened:
            write_new(opened, f"{OWN}/.gitignore", IGNORE_ALL)
            # Git removes the directory above with its last worktree, and a mount on it would be lost.
            write_new(opened, ".git/worktrees/.kheish/locked", b"keeps the directory\n")
            with opened.directory(DIRECTORY, make=True):
                pass
    except (OSError, ToolError) as error:
        raise GitFailed(f"the directory of worktrees cannot be made: {error}") from None


def _delete_half_made(worktree: AgentWorktree) -> None:
    """Delete a worktree that was not handed to its agent. Errors: GitFailed for any other directory."""
    path = worktree.path
    record = f"{worktree.source_root}/.git/worktrees/{posixpath.basename(path)}"
    is_own = os.path.isdir(record) and not os.path.islink(record)
    is_own = is_own and cut_path(read_text(f"{record}/gitdir")) in ("", f"{path}/.git")
    if os.path.lexists(path) and (not is_own or os.path.realpath(path) != path):
        raise GitFailed(f"{path} exists already, and is not the worktree of this agent")
    try:
        if os.path.lexists(path):
            shutil.rmtree(path)
        if is_own:
            shutil.rmtree(record)
    except OSError as error:
        raise GitFailed(f"a worktree that was half made cannot be deleted: {error}") from None


async def undo_worktree(worktree: AgentWorktree) -> None:
    """Delete what exists of a worktree that was not handed to its agent. Errors: GitFailed."""
    await trio.to_thread.run_sync(_delete_half_made, worktree)
    forget_directory(worktree.path)
    root, ref = worktree.source_root, f"refs/heads/{worktree.branch}"
    if await trio.Path(root, ".git").is_dir():
        await trio.to_thread.run_sync(remove_placeholders, root, posixpath.basename(worktree.path))
        await GitDirectory(f"{root}/.git", root).run("update-ref", "--no-deref", "-d", ref)


async def remove_worktree(worktree: AgentWorktree) -> KeptWork:
    """Remove a worktree, and its branch if that has no commit of its own; return what stays.

    It stays if it has changes, files that are neither committed nor ignored, or commits that are on no
    branch, and wherever git does not remove it.
    """
    path, branch, root = worktree.path, worktree.branch, worktree.source_root
    try:
        if worktree.base_commit is None:
            await undo_worktree(worktree)
            return KeptWork()
        require_repository(root)
        repository = GitDirectory(f"{root}/.git", root)
        ref = f"refs/heads/{branch}"
        tip = (await repository.run("rev-parse", "--verify", "--quiet", ref, codes=(0, 1))).strip()
        await _remove(worktree, repository, tip)
        forget_directory(path)
        if tip == worktree.base_commit:
            # An agent may have made its branch a symbolic reference to another one.
            await repository.run("update-ref", "--no-deref", "-d", ref, tip)
            tip = ""
        await trio.to_thread.run_sync(remove_placeholders, root, posixpath.basename(path))
    except (GitFailed, WorktreeUnavailable) as error:
        message = error.message if isinstance(error, WorktreeUnavailable) else str(error)
        if await trio.to_thread.run_sync(os.path.lexists, path):
            return KeptWork(path, branch, f"its worktree {path} stays: {message}")
        return KeptWork(None, None, f"its branch {branch} may have stayed: {message}")
    return KeptWork(None, branch, f"its branch {branch} has its commits") if tip else KeptWork()


async def _remove(worktree: AgentWorktree, repository: GitDirectory, tip: str) -> None:
    """Remove a worktree that holds no work. Errors: GitFailed if it stays."""
    root, path = worktree.source_root, worktree.path
    record = f"{root}/.git/worktrees/{posixpath.basename(path)}"
    if not await trio.to_thread.run_sync(os.path.lexists, path):
        # A person has removed it. Git removes its record, unless that is gone, too.
        if await trio.Path(record).is_dir():
            await repository.run("worktree", "remove", "--", path)
        return
    # The worktree's own configuration may have filters, too.
    directory = GitDirectory(record, path, start=root)
    head = (await directory.run("rev-parse", "--verify", "--quiet", "HEAD", codes=(0, 1))).strip()
    if head not in ("", tip, worktree.base_commit):
        on = await repository.run("for-each-ref", "--count=1", "--contains", head, "--", "refs/heads")
        if not on:
            raise GitFailed(f"its HEAD, {head[:12]}, is on no branch")
    await directory.run("worktree", "remove", "--", path)
