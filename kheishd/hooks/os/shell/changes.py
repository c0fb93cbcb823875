"""The files that a command changes, where git can tell: their contents before, for a checkpoint.

Before the command, git lists the index, and the modified and untracked files, whose contents are read. After
it, git lists them again. A file that was clean before has the content that its blob in the index had. Git is
the daemon's (see ``os.git``): it runs no program that the repository names.

Only a directory ``.git`` of the workspace, or of a directory above it, and the worktree of an agent are
asked. One that leads to objects elsewhere is not: an undo would bring foreign contents into the workspace.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from kheishd.core.permissions.protected import is_protected
from kheishd.hooks.os.files.confinement import open_root
from kheishd.hooks.os.files.versions import read_version
from kheishd.hooks.os.git import GitDirectory, GitFailed
from kheishd.kernel.hook import CheckpointDraft, SavedFile, ToolError
from protocol.limits.checkpoint import (
    MAX_CHECKPOINT_CONTENT_BYTES,
    MAX_CHECKPOINT_FILE_BYTES,
    MAX_CHECKPOINT_FILES,
    MAX_GIT_INDEX_BYTES,
)
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_SECONDS: Final = 5.0
"""How long git may take before a command, and again after it."""

_BLOB_MODES: Final = ("100644", "100755")
_SUBMODULE_MODE: Final = "160000"
_LFS: Final = b"version https://git-lfs"

_CONVERSIONS: Final = ("filter", "working-tree-encoding", "ident", "eol")
"""The attributes of files whose contents git converts."""

SKIPPED: Final = "what commands change is not saved here: "


class GitPlace(Value, frozen=True):
    """A git directory and the working tree, of which a workspace is a part.

    ``common`` is the git directory with the objects. ``problem`` is why git is not asked.
    """

    directory: str
    tree: str
    common: str
    problem: str = ""


class FilesBefore(Value, frozen=True):
    """The files of a workspace before a command.

    ``tracked`` are the modes and blobs of the index by path, ``dirty`` the contents of modified and untracked
    files, ``unread`` those of them that were too many or too large to read, ``nested`` the directories of
    other repositories. ``index`` and ``ignores`` tell whether the index and the rules of ignored files
    change.
    """

    place: GitPlace
    tracked: dict[str, tuple[str, str]]
    dirty: dict[str, SavedFile]
    unread: frozenset[str]
    nested: tuple[str, ...]
    index: tuple[int, ...]
    ignores: tuple[int, ...]


def find_place(workspace: str, repository: str | None) -> GitPlace | None:
    """Return the repository of a workspace; None if there is none. Reads the file system.

    ``repository`` is the top of the repository, if the workspace is the worktree of an agent.
    """
    if repository is not None:
        record = f"{repository}/.git/worktrees/{posixpath.basename(workspace)}"
        common = f"{repository}/.git"
        return GitPlace(record, workspace, common, _find_problem(common, record))
    tree = workspace
    while not os.path.lexists(f"{tree}/.git"):
        if tree == "/":
            return None
        tree = posixpath.dirname(tree)
    git = f"{tree}/.git"
    if os.path.islink(git) or not os.path.isdir(git) or os.path.lexists(f"{git}/commondir"):
        return GitPlace(git, tree, git, ".git leads to a repository elsewhere")
    return GitPlace(git, tree, git, _find_foreign(tree, git) or _find_problem(git, git))


def _find_foreign(tree: str, git: str) -> str:
    """Return why a repository may be somebody else's; empty if it is the user's own.

    Git does not check that of a repository that it is given. Everybody may make a ``.git`` in ``/tmp``, above
    the workspaces there. Its configuration would not need to be the same each time that it is read.
    """
    try:
        if any(os.lstat(path).st_uid != os.geteuid() for path in (tree, git)):
            return ".git belongs to another user"
        if not stat.S_ISREG(os.stat(f"{git}/config").st_mode):
            return "the configuration of the repository is no file"
    except OSError as error:
        return f"the repository cannot be read: {error.strerror}"
    return ""


def _find_problem(common: str, directory: str) -> str:
    """Return why a git directory is not asked; empty if it is."""
    objects = f"{common}/objects"
    if os.path.lexists(f"{objects}/info/alternates") or os.path.islink(common):
        return "the repository has objects elsewhere"
    try:
        for above in (objects, f"{objects}/pack"):
            with os.scandir(above) as entries:
                if os.path.islink(above) or any(entry.is_symlink() for entry in entries):
                    return "the repository has objects elsewhere"
        if os.lstat(f"{directory}/index").st_size > MAX_GIT_INDEX_BYTES:
            return "the repository has too many files"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"the repository cannot be read: {error.strerror}"
    return ""


def _stamp(path: str) -> tuple[int, ...]:
    """Return values that change with a file."""
    with suppress(OSError):
        status = os.lstat(path)
        return (status.st_ino, status.st_size, status.st_mtime_ns)
    return ()


async def look_before(workspace: str, place: GitPlace) -> FilesBefore | str:
    """Return the files before a command, or why git cannot tell them."""
    git = GitDirectory(place.directory, place.tree, start=workspace)
    try:
        with trio.fail_after(LOOK_SECONDS):
            tracked = await _list_index(git)
            dirty, nested = await _list_dirty(git)
            saved = await trio.to_thread.run_sync(_read, workspace, dirty, abandon_on_cancel=True)
    except (GitFailed, ToolError) as error:
        return str(error)
    except trio.TooSlowError:
        return "the repository is too large"
    unread = frozenset(dirty).difference(saved)
    # Git lists no file of a submodule until it is one no longer.
    nested += tuple(f"{path}/" for path, (mode, _) in tracked.items() if mode == _SUBMODULE_MODE)
    index, ignores = _stamp(f"{place.directory}/index"), _stamp(_excludes(place))
    return FilesBefore(place, tracked, saved, unread, nested, index, ignores)


async def find_changes_since(workspace: str, before: FilesBefore) -> CheckpointDraft | str | None:
    """Return the files that have changed since, as they were before; or why git cannot tell them."""
    git = GitDirectory(before.place.directory, before.place.tree, start=workspace)
    try:
        with trio.fail_after(LOOK_SECONDS):
            paths, _ = await _list_dirty(git)
            moved: set[str] = set()
            if _stamp(f"{before.place.directory}/index") != before.index:
                current = await _list_index(git)
                moved = {
                    path
                    for path in current.keys() | before.tracked.keys()
                    if current.get(path) != before.tracked.get(path)
                }
            candidates = sorted({*paths, *before.dirty, *moved})
            now = await trio.to_thread.run_sync(_read, workspace, candidates, abandon_on_cancel=True)
            return await _compare(git, workspace, before, now, len(candidates) - len(now))
    except (GitFailed, ToolError) as error:
        return str(error)
    except trio.TooSlowError:
        return "the repository is too large"


async def _compare(
    git: GitDirectory, workspace: str, before: FilesBefore, now: dict[str, SavedFile], more: int
) -> CheckpointDraft | None:
    """Return the changed files as they were before. Errors: GitFailed."""
    clean = {
        path: before.tracked[path][1]
        for path in now
        if path not in before.dirty
        and path not in before.unread
        and before.tracked.get(path, ("", ""))[0] in _BLOB_MODES
    }
    contents = await _read_blobs(git, before.place, clean.values())
    converted = await _find_converted(git, clean) if clean else frozenset()
    has_new_ignores = _stamp(_excludes(before.place)) != before.ignores or any(
        posixpath.basename(path) == ".gitignore" for path in now
    )
    files = []
    for path, current in now.items():
        if path in before.dirty:
            saved = before.dirty[path]
        elif path in before.unread:
            # Its blob, or its deletion, would take somebody's uncommitted work.
            saved = SavedFile(path, None, "", problem="it was changed before, and not read: see the limits")
        elif path in converted:
            saved = SavedFile(path, None, "", problem="git converts its content, so its blob is another one")
        elif path in clean and is_protected(path):
            # An agent can write the index, and commands cannot write the file.
            saved = SavedFile(path, None, "", problem="other programs execute or obey it")
        elif path in clean:
            saved = _from_blob(path, before.tracked[path][0], contents.get(clean[path]))
        elif path in before.tracked or any(path.startswith(above) for above in before.nested):
            continue  # A link, or a file of another repository.
        elif has_new_ignores:
            # A file that was ignored before would be deleted.
            saved = SavedFile(path, None, "", problem="it may have existed before, ignored by git")
        else:
            saved = SavedFile(path, None, None)
        if saved.digest != current.digest or (saved.problem and saved.digest == ""):
            problem = saved.problem or current.problem
            content = None if problem else saved.content
            files.append(SavedFile(path, content, saved.digest, saved.mode, current.digest, problem))
    return CheckpointDraft(workspace, files, more) if files else None


def _from_blob(path: str, mode: str, content: bytes | None) -> SavedFile:
    """Return a file that was clean, from its blob in the index."""
    if content is None or content.startswith(_LFS):
        return SavedFile(path, None, "", problem="git does not have its content, or it is too large")
    digest = hashlib.sha256(content).hexdigest()
    return SavedFile(path, content, digest, 0o755 if mode == "100755" else 0o644)


def _excludes(place: GitPlace) -> str:
    return f"{place.directory}/info/exclude"


def _read(workspace: str, paths: Iterable[str]) -> dict[str, SavedFile]:
    """Return the current versions of files, as many as a checkpoint has. Errors: ToolError."""
    versions: dict[str, SavedFile] = {}
    room = MAX_CHECKPOINT_CONTENT_BYTES
    with open_root(workspace) as root:
        for path in paths:
            if len(versions) == MAX_CHECKPOINT_FILES or room < 0:
                break
            versions[path] = read_version(root, path)
            room -= len(versions[path].content or b"")
    return versions


async def _list_index(git: GitDirectory) -> dict[str, tuple[str, str]]:
    """Return the mode and the blob of each path in the index. Errors: GitFailed.

    A file whose changes git was told to ignore (``assume-unchanged``, ``skip-worktree``) has no mode: it may
    have any content.
    """
    listed = await git.run("ls-files", "-s", "-v", "-z")
    # In a thread: a repository has 100,000 files, and the daemon other sessions.
    return await trio.to_thread.run_sync(_parse_index, listed)


def _parse_index(listed: str) -> dict[str, tuple[str, str]]:
    tracked = {}
    for line in listed.split("\0"):
        facts, tab, path = line.partition("\t")
        if tab and path.isprintable():
            tag, mode, blob, _ = facts.split(" ")
            tracked[path] = (mode if tag == "H" else "", blob)
    return tracked


async def _find_converted(git: GitDirectory, paths: Iterable[str]) -> frozenset[str]:
    """Return the files whose contents are not their blobs: filtered or encoded ones. Errors: GitFailed."""
    names = sorted(paths)
    ends = await git.run("config", "--get-regexp", r"^core\.(autocrlf|eol)$", codes=(0, 1))
    if {"core.autocrlf true", "core.eol crlf"}.intersection(ends.splitlines()):
        return frozenset(names)
    asked = "".join(f"{name}\0" for name in names).encode()
    listed = await git.read("check-attr", "-z", "--stdin", *_CONVERSIONS, stdin=asked)
    fields = listed.decode(errors="replace").split("\0")
    values = zip(fields[::3], fields[1::3], fields[2::3], strict=False)
    return frozenset(
        path
        for path, name, value in values
        if value not in ("unspecified", "unset") and (name != "eol" or value == "crlf")
    )


async def _list_dirty(git: GitDirectory) -> tuple[list[str], tuple[str, ...]]:
    """Return modified and untracked files, and directories of other repositories. Errors: GitFailed."""
    listed = await git.run("ls-files", "-m", "-o", "--exclude-standard", "-z")
    return await trio.to_thread.run_sync(_parse_dirty, listed)


def _parse_dirty(listed: str) -> tuple[list[str], tuple[str, ...]]:
    paths = {path for path in listed.split("\0") if path and path.isprintable()}
    nested = tuple(path for path in paths if path.endswith("/"))
    return sorted(paths.difference(nested)), nested


async def _read_blobs(git: GitDirectory, place: GitPlace, blobs: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of blobs, but for large ones. Errors: GitFailed."""
    names = dict.fromkeys(blobs)
    if not names or _find_problem(place.common, place.directory):
        return {}
    question = "--batch-check=%(objectname) %(objecttype) %(objectsize)"
    answers = (await git.read("cat-file", question, stdin=_lines(names))).decode(errors="replace")
    sizes: dict[str, int] = {}
    for line in answers.splitlines():
        name, kind, size = (*line.split(" "), "", "")[:3]
        if kind == "blob" and int(size) <= min(
            MAX_CHECKPOINT_CONTENT_BYTES - sum(sizes.values()), MAX_CHECKPOINT_FILE_BYTES
        ):
            sizes[name] = int(size)
    # Each content follows a line, and ends with a line break.
    output = await git.read("cat-file", "--batch", stdin=_lines(sizes)) if sizes else b""
    contents: dict[str, bytes] = {}
    start = 0
    for name, length in sizes.items():
        start = output.index(b"\n", start) + 1
        contents[name] = output[start : start + length]
        start += length + 1
    return contents


def _lines(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()
