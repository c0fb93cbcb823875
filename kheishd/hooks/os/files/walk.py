"""A walk through a workspace, and the patterns of paths that it selects by.

The walk goes directory by directory, nearest first, and follows no link.

Patterns are ``src/**/*.py`` or ``*.{c,h}``. Names are matched by ``fnmatch``, whose translation never
backtracks: a pattern comes from a model, and one that takes exponential time would stop the daemon, because
``re`` holds the interpreter lock. Only the syntax that ``fnmatch`` lacks is added: ``**`` for any number of
directories, ``{one,other}``, and a backslash before a literal character. ``glob.translate`` came with
Python 3.13; wcmatch does more, but backtracks.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fnmatch import translate

from kheishd.hooks.os.files.confinement import ROOT, Root, explain_errors
from kheishd.hooks.os.files.edits import Check, check_cancelled
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_PATTERN_ALTERNATIVES, MAX_WALKED_ENTRIES
from protocol.limits.names import MAX_PATH_BYTES
from protocol.structs import Value

SKIPPED_NAMES = frozenset({".git"})
"""Directories that no search enters: a repository's own files are many, and not text."""

CHECK_INTERVAL = 256
"""Entries between two checks."""


class WalkEntry(Value, frozen=True):
    """An entry of a directory. ``path`` is relative to the workspace, ``below`` to the base of the walk."""

    path: str
    below: str
    directory: bool
    file: bool


class Walk:
    """A walk. ``truncated`` is set afterwards if there were more entries than the limit.

    ``unnamed`` counts the skipped entries with a name that is not UTF-8, not printable or too long.
    """

    def __init__(
        self,
        root: Root,
        base: str,
        enters: Callable[[str], bool] = lambda below: True,
        check: Check = check_cancelled,
    ) -> None:
        self._root = root
        self._base = base
        self._enters = enters
        self._check = check
        self.count = 0
        self.unnamed = 0
        self.truncated = False

    def __iter__(self) -> Iterator[WalkEntry]:
        """Yield the entries: all of a directory by name, then those of its directories, and so on.

        Errors: ToolError if the base cannot be read; directories below that cannot be read are skipped.
        """
        with explain_errors(self._base), self._root.directory(self._base):
            queue = deque([("", self._base)])
        while queue and not self.truncated:
            below, path = queue.popleft()
            for entry in self._read_directory(below, path):
                yield entry
                if entry.directory and self._enters(entry.below):
                    queue.append((entry.below, entry.path))

    def _read_directory(self, below: str, path: str) -> list[WalkEntry]:
        """Read a directory, opened from the root, so that none has to stay open."""
        collected: list[WalkEntry] = []
        with suppress(OSError, ToolError), self._root.directory(path) as directory:
            # A descriptor that was opened for walking cannot be read.
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            try:
                with os.scandir(descriptor) as entries:
                    self._collect(collected, below, path, entries)
            finally:
                os.close(descriptor)
        return sorted(collected, key=lambda entry: entry.path)

    def _collect(
        self, collected: list[WalkEntry], below: str, parent: str, entries: Iterable[os.DirEntry[str]]
    ) -> None:
        for entry in entries:
            if self.count == MAX_WALKED_ENTRIES:
                self.truncated = True
                return
            self.count += 1
            if self.count % CHECK_INTERVAL == 0:
                self._check()
            if entry.name in SKIPPED_NAMES:
                continue
            path = entry.name if parent == ROOT else f"{parent}/{entry.name}"
            if not path.isprintable() or len(path.encode()) > MAX_PATH_BYTES:
                self.unnamed += 1
                continue
            collected.append(
                WalkEntry(
                    path,
                    f"{below}/{entry.name}" if below else entry.name,
                    directory=entry.is_dir(follow_symlinks=False),
                    file=entry.is_file(follow_symlinks=False),
                )
            )


# Patterns.

_BRACES = re.compile(r"\{([^{}]*)\}")
_ANY_DIRECTORIES = "**"
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CLASS = re.compile(r"\[!?\]?[^\]/]*\]")
# While a pattern is taken apart, private characters stand for special ones that are literal.
_LITERALS = {chr(0x100000 + ord(special)): special for special in "*?[]{},!-\\"}
_PLACEHOLDERS = {special: placeholder for placeholder, special in _LITERALS.items()}

_Matcher = Callable[[str], object]


class Glob:
    """A pattern, compiled to match relative paths with ``/``.

    Errors: ToolError for a pattern that leads out of its base, or has too many alternatives.
    """

    def __init__(self, pattern: str) -> None:
        literal = _ESCAPE.sub(lambda match: _PLACEHOLDERS.get(match[1], match[1]), pattern)
        literal = _CLASS.sub(lambda match: _hide_braces(match[0]), literal)
        self._rows = [_compile(alternative) for alternative in _expand(literal)]

    def matches(self, path: str) -> bool:
        """Whether the whole path matches."""
        return any(len(row) in _reach(row, path) for row in self._rows)

    def may_match_below(self, path: str) -> bool:
        """Whether a path below this directory could match."""
        return any(any(state < len(row) for state in _reach(row, path)) for row in self._rows)


def _hide_braces(text: str) -> str:
    return "".join(_PLACEHOLDERS[letter] if letter in "{}," else letter for letter in text)


def _expand(pattern: str) -> list[str]:
    """Return the patterns without braces that a pattern stands for; innermost braces are expanded first."""
    expanded, pending = [], [pattern]
    while pending:
        candidate = pending.pop(0)
        braces = _BRACES.search(candidate)
        if braces is None:
            expanded.append(candidate)
        else:
            head, tail = candidate[: braces.start()], candidate[braces.end() :]
            pending += [head + alternative + tail for alternative in braces[1].split(",")]
        if len(expanded) + len(pending) > MAX_PATTERN_ALTERNATIVES:
            raise ToolError(
                f"the braces stand for more than {MAX_PATTERN_ALTERNATIVES} patterns; search twice"
            )
    return expanded


def _compile(pattern: str) -> list[_Matcher | None]:
    """Return one matcher per name; None for any number of directories."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.startswith("/") or ".." in names or not names:
        raise ToolError("a pattern is relative to its base and stays below it, as in 'src/**/*.py'")
    # Repeated ones mean the same as one.
    pairs = zip(["", *names], names, strict=False)
    names = [name for previous, name in pairs if not previous == name == _ANY_DIRECTORIES]
    return [None if name == _ANY_DIRECTORIES else _compile_name(name) for name in names]


def _compile_name(name: str) -> _Matcher:
    expression = "".join(
        re.escape(_LITERALS[letter]) if letter in _LITERALS else letter for letter in translate(name)
    )
    return re.compile(expression).match


def _reach(row: list[_Matcher | None], path: str) -> set[int]:
    """Return how many parts of the pattern the path can have consumed: a few states instead of a search."""
    states = _skip_empty(row, {0})
    for name in path.split("/"):
        following: set[int] = set()
        for state in states:
            if state == len(row):
                continue
            matcher = row[state]
            if matcher is None:
                following.add(state)
            elif matcher(name):
                following.add(state + 1)
        states = _skip_empty(row, following)
    return states


def _skip_empty(row: list[_Matcher | None], states: set[int]) -> set[int]:
    """Add the states after a ``**`` that stands for no directory."""
    for state in range(len(row)):
        if state in states and row[state] is None:
            states.add(state + 1)
    return states
