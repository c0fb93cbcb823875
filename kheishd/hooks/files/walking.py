"""Walking a workspace: directory by directory, nearest first, without following any link."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from kheishd.hooks.files.confine import ROOT, Root, explained
from kheishd.hooks.files.looking import Check, still_wanted
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_WALKED_ENTRIES
from protocol.limits.names import MAX_PATH_BYTES

PASSED_OVER = frozenset({".git"})
"""What no search looks into: a repository's own files, which are many and nobody's text."""

CHECKED_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a directory. ``path`` is relative to the workspace, ``below`` to where the walk began."""

    path: str
    below: str
    directory: bool
    file: bool


class Walk:
    """A walk. ``cut`` says afterwards whether there was more than may be looked at.

    ``unnamed`` counts what was passed over because its name cannot be told: it is not UTF-8, not printable
    or too long.
    """

    def __init__(
        self,
        root: Root,
        base: str,
        enters: Callable[[str], bool] = lambda below: True,
        check: Check = still_wanted,
    ) -> None:
        self._root = root
        self._base = base
        self._enters = enters
        self._check = check
        self.looked_at = 0
        self.unnamed = 0
        self.cut = False

    def __iter__(self) -> Iterator[Entry]:
        """What there is: all of a directory by name, then what is in the directories of it, and so on.

        Errors: ToolError if the walk cannot begin; what cannot be read on the way is passed over.
        """
        with explained(self._base), self._root.directory(self._base):
            waiting = deque([("", self._base)])
        while waiting and not self.cut:
            below, path = waiting.popleft()
            for entry in self._entries(below, path):
                yield entry
                if entry.directory and self._enters(entry.below):
                    waiting.append((entry.below, entry.path))

    def _entries(self, below: str, path: str) -> list[Entry]:
        """What is in a directory, which is opened anew from the root: so none has to stay open."""
        found: list[Entry] = []
        with suppress(OSError, ToolError), self._root.directory(path) as directory:
            # What is opened for walking cannot be read.
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            try:
                with os.scandir(descriptor) as entries:
                    self._take(found, below, path, entries)
            finally:
                os.close(descriptor)
        return sorted(found, key=lambda entry: entry.path)

    def _take(self, found: list[Entry], below: str, path: str, entries: Iterable[os.DirEntry[str]]) -> None:
        for each in entries:
            if self.looked_at == MAX_WALKED_ENTRIES:
                self.cut = True
                return
            self.looked_at += 1
            if self.looked_at % CHECKED_ENTRIES == 0:
                self._check()
            if each.name in PASSED_OVER:
                continue
            there = each.name if path == ROOT else f"{path}/{each.name}"
            if not there.isprintable() or len(there.encode()) > MAX_PATH_BYTES:
                self.unnamed += 1
                continue
            found.append(
                Entry(
                    there,
                    f"{below}/{each.name}" if below else each.name,
                    directory=each.is_dir(follow_symlinks=False),
                    file=each.is_file(follow_symlinks=False),
                )
            )
