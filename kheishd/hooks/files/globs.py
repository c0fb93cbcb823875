"""Patterns of paths: ``src/**/*.py``, ``*.{c,h}``.

What a name matches is left to ``fnmatch``, whose translation never goes back over what it has matched: a
pattern is a model's, and one that takes exponential time would stop the daemon, as ``re`` holds the
interpreter. Only what ``fnmatch`` does not have is added: ``**``, for any number of directories, and
``{one,other}``. ``glob.translate`` came with Python 3.13; wcmatch does more, but goes back.
"""

import re
from collections.abc import Callable
from fnmatch import translate

from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_PATTERN_ALTERNATIVES

_BRACES = re.compile(r"\{([^{}]*)\}")
_ANY = "**"

_Matches = Callable[[str], object]


class Glob:
    """A pattern, ready to be matched against paths that are relative and use ``/``.

    Errors: ToolError for a pattern that would lead elsewhere, or stands for too many.
    """

    def __init__(self, pattern: str) -> None:
        self._rows = [_row(each) for each in _alternatives(pattern)]

    def matches(self, path: str) -> bool:
        """Whether the whole path fits."""
        return any(len(row) in _reached(row, path) for row in self._rows)

    def may_match_below(self, path: str) -> bool:
        """Whether anything below this directory could fit."""
        return any(any(state < len(row) for state in _reached(row, path)) for row in self._rows)


def _alternatives(pattern: str) -> list[str]:
    """The patterns without braces that a pattern stands for; the innermost braces are taken apart first."""
    found = [pattern]
    while any(_BRACES.search(each) for each in found):
        found = [each for one in found for each in _apart(one)]
        if len(found) > MAX_PATTERN_ALTERNATIVES:
            raise ToolError(
                f"the braces stand for more than {MAX_PATTERN_ALTERNATIVES} patterns; search twice"
            )
    return found


def _apart(pattern: str) -> list[str]:
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + each + after for each in found[1].split(",")]


def _row(pattern: str) -> list[_Matches | None]:
    """One matcher a name; None for any number of directories."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.startswith("/") or ".." in names or not names:
        raise ToolError("a pattern is relative to its base and stays below it, as in 'src/**/*.py'")
    # Several in a row are no more than one.
    names = [name for before, name in zip(["", *names], names, strict=False) if not name == before == _ANY]
    return [None if name == _ANY else re.compile(translate(name)).match for name in names]


def _reached(row: list[_Matches | None], path: str) -> set[int]:
    """How many parts of the pattern the path can have used up: a handful of states, not a search."""
    states = _with_empty(row, {0})
    for name in path.split("/"):
        following: set[int] = set()
        for state in states:
            part = row[state] if state < len(row) else _nothing
            if part is None:
                following.add(state)
            elif part(name):
                following.add(state + 1)
        states = _with_empty(row, following)
    return states


def _with_empty(row: list[_Matches | None], states: set[int]) -> set[int]:
    """``**`` may also stand for no directory at all."""
    for state in range(len(row)):
        if state in states and row[state] is None:
            states.add(state + 1)
    return states


def _nothing(name: str) -> bool:
    return False
