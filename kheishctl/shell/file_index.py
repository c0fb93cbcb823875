"""The files of a directory, and the search among them by some letters of a path.

No library was as fast as searches through all paths at once.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from contextlib import suppress
from itertools import chain, compress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_PATHS = 200_000
"""The files that are listed; the others of a larger directory are not offered."""

# 160 bytes for each path; longer paths are rare.
MAX_LISTED_BYTES = 160 * MAX_PATHS
MAX_LISTING_SECONDS = 10.0

ENOUGH_PATHS = 20
"""With so many paths that contain a query, none is searched that has its letters apart."""

READ_BYTES = 256 * 1024

# Directories of tools, in which nobody works, for places where git does not say so.
SKIPPED_DIRECTORIES = frozenset(
    (
        *(".git", ".hg", ".svn", ".jj", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".nox"),
        *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".gradle", ".terraform", ".cache", ".idea"),
    )
)

# A repository may name programs in its configuration: listing its files runs none of them.
GIT = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
GIT_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}


class FileIndex:
    """An index of paths. Shorter paths come first among those that fit equally well."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = sorted(paths, key=len)
        self._lines = [path.replace("\n", " ").casefold() for path in self._paths]
        # One line for each path, so that one search goes over all of them.
        self._all_lines = "\n".join(["", *self._lines, ""])
        self._all_names = "\n".join(["", *(line[line.rfind("/", 0, -1) + 1 :] for line in self._lines), ""])

    def search(self, query: str, max_paths: int) -> list[str]:
        """Return the best paths: names that begin with the query or contain it, paths that contain it.

        If these are few, names and paths follow that contain the letters of the query in its order.
        """
        query = query.replace("\n", " ").casefold()
        if not query:
            return self._paths[:max_paths]
        part = re.escape(query) + "[^\n]*+"
        paths_with_part = chain(
            _find(self._all_names, "\n" + part), _find(self._all_names, part), _find(self._all_lines, part)
        )
        # Most words of many letters are in no path: that is found out much faster than where they are.
        indices = dict.fromkeys(
            _take_distinct(paths_with_part, max_paths) if query in self._all_lines else ()
        )
        if len(indices) < min(ENOUGH_PATHS, max_paths):
            indices |= dict.fromkeys(_take_distinct(self._find_letters(query), max_paths))
        return [self._paths[index] for index in indices][:max_paths]

    def _find_letters(self, query: str) -> Iterator[int]:
        """Yield the indices of the names, then of the paths, that contain letters in their order."""
        letters = [re.escape(letter) for letter in query]
        if "/" not in query:
            pattern = letters[0] + "".join(f"[^\n{letter}]*+{letter}" for letter in letters[1:])
            yield from _find(self._all_names, pattern + "[^\n]*+")
        in_path = re.compile("".join(f"[^{letter}]*+{letter}" for letter in letters))
        yield from compress(range(len(self._lines)), map(in_path.match, self._lines))


def _take_distinct(indices: Iterable[int], max_indices: int) -> list[int]:
    distinct: dict[int, None] = {}
    for index in indices:
        distinct[index] = None
        if len(distinct) >= max_indices:
            break
    return list(distinct)


def _find(text: str, pattern: str) -> Iterator[int]:
    """Yield the indices of the lines with a match, which ends with its line; a newline begins the text."""
    index, position = -1, 0
    for match in re.finditer(pattern, text):
        index += text.count("\n", position, match.end())
        position = match.end()
        yield index


async def list_files(directory: str) -> list[str]:
    """Return the paths of the files below a directory, without those that git ignores, if it is git's."""
    listed = await _list_with_git(directory, "--cached", "--others", "--exclude-standard")
    if not listed:
        is_cancelled = threading.Event()
        try:
            return await asyncio.to_thread(walk_files, directory, is_cancelled.is_set)
        finally:
            is_cancelled.set()
    deleted = await _list_with_git(directory, "--deleted")
    return await asyncio.to_thread(_decode_paths, listed, deleted)


async def _list_with_git(directory: str, *options: str) -> bytes:
    """Return the paths that ``git ls-files`` lists, each with a null byte; none if git has failed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        process = await asyncio.create_subprocess_exec(
            *(*GIT, "-C", directory, "ls-files", "-z", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environ | GIT_ENVIRONMENT,
        )
    except (OSError, ValueError):
        return b""
    assert process.stdout is not None
    output, is_complete = bytearray(), False
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_LISTING_SECONDS):
                while len(output) < MAX_LISTED_BYTES and not is_complete:
                    data = await process.stdout.read(READ_BYTES)
                    output, is_complete = output + data, not data
    finally:
        if not is_complete:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
    return bytes(output[: output.rfind(b"\0") + 1])


def _decode_paths(listed: bytes, deleted: bytes) -> list[str]:
    # A file with a conflict is listed once for each of its versions.
    paths = dict.fromkeys(os.fsdecode(listed).split("\0"))
    for path in os.fsdecode(deleted).split("\0"):
        paths.pop(path, None)
    return list(paths)[:MAX_PATHS]


def walk_files(directory: str, must_end: Callable[[], bool]) -> list[str]:
    """Return the paths of the files below a directory, the nearest first; links are not followed."""
    paths: list[str] = []
    directories = [""]
    deadline = time.monotonic() + MAX_LISTING_SECONDS
    for parent in directories:
        if len(paths) >= MAX_PATHS or time.monotonic() > deadline or must_end():
            break
        # A directory that cannot be read has no files for the person.
        with suppress(OSError, ValueError), os.scandir(os.path.join(directory, parent)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = os.path.join(parent, entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    paths.append(path)
                elif entry.name not in SKIPPED_DIRECTORIES:
                    directories.append(path)
    return paths[:MAX_PATHS]
