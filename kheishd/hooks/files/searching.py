"""``list_files``, ``glob_search``, and ``grep_search`` where there is no ripgrep: bounded, and in order."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from kheishd.hooks.files.arguments import ListFiles, Pattern
from kheishd.hooks.files.confine import Root, explained, relative
from kheishd.hooks.files.globs import Glob
from kheishd.hooks.files.looking import Check, pieces, still_wanted
from kheishd.hooks.files.walking import Walk
from kheishd.kernel.hook import ToolError
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.files import MAX_EDIT_BYTES, MAX_MATCH_BYTES, MAX_MATCHES
from protocol.limits.units import KIB

# What stands around what was found: a base and a pattern of 1 KiB each, every byte perhaps two as JSON.
_AROUND_BYTES: Final = 6 * KIB


class Match(Struct, frozen=True):
    """One line that a search found. ``text`` is the part around the match, where the line is long."""

    path: str
    line: int
    text: str


class Bounded:
    """What was found, as much of it as a model reads at once and asked for."""

    def __init__(self, limit: int) -> None:
        self.items: list[Any] = []
        self.cut = False
        self._limit = min(limit, MAX_MATCHES)
        self._left = MAX_TOOL_TEXT_BYTES - _AROUND_BYTES

    def take(self, item: str | Match) -> bool:
        """Take one more; False, and nothing is taken, where there is no room."""
        size = len(msgspec.json.encode(item)) + 1
        self.cut = len(self.items) == self._limit or size > self._left
        if not self.cut:
            self.items.append(item)
            self._left -= size
        return not self.cut


def list_files(root: Root, asked: ListFiles, check: Check = still_wanted) -> str:
    """Everything below a directory, nearest first; directories end in ``/``. Errors: ToolError."""
    base = relative(asked.base, root.workspace)
    walk = Walk(root, base, check=check)
    paths = (f"{entry.path}/" if entry.directory else entry.path for entry in walk)
    return _listed(walk, paths, asked.limit, base=base)


def glob_search(root: Root, asked: Pattern, check: Check = still_wanted) -> str:
    """The files below a directory that fit a pattern, nearest first. Errors: ToolError."""
    base = relative(asked.base, root.workspace)
    glob = Glob(asked.pattern)
    walk = Walk(root, base, glob.may_match_below, check)
    paths = (entry.path for entry in walk if not entry.directory and glob.matches(entry.below))
    return _listed(walk, paths, asked.limit, base=base, pattern=asked.pattern)


def _listed(walk: Walk, paths: Iterable[str], limit: int, **about: str) -> str:
    found = Bounded(limit)
    for path in paths:
        if not found.take(path):
            break
    unnamed = {"unnamed": walk.unnamed} if walk.unnamed else {}
    return told({**about, "paths": found.items, "truncated": found.cut or walk.cut, **unnamed})


def literal_search(root: Root, asked: Pattern, check: Check = still_wanted) -> str:
    """The lines that hold a text as it is: without ripgrep no regular expression of a stranger is run.

    Errors: ToolError.
    """
    base = relative(asked.base, root.workspace)
    wanted = asked.pattern.encode(errors="replace")
    walk = Walk(root, base, check=check)
    found = Bounded(asked.limit)
    matches = (match for entry in walk if entry.file for match in _in_file(root, entry.path, wanted, check))
    for match in matches:
        if not found.take(match):
            break
    return told({"matches": found.items, "truncated": found.cut or walk.cut, "engine": "literal"})


def _in_file(root: Root, path: str, wanted: bytes, check: Check) -> Iterator[Match]:
    """What a file holds; nothing of one that is binary, large, or cannot be read."""
    try:
        with explained(path), root.file(path) as descriptor:
            content = b"".join(pieces(descriptor, check, MAX_EDIT_BYTES + 1))
    except ToolError:
        return
    if wanted not in content or b"\0" in content or len(content) > MAX_EDIT_BYTES:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        place = line.find(wanted)
        if place >= 0:
            yield Match(path, number, around(line, place))


def around(line: bytes, place: int) -> str:
    """A line without its end; of a long one the part in which the match begins, at byte ``place``."""
    line = line.rstrip(b"\r\n")
    if len(line) <= MAX_MATCH_BYTES:
        return line.decode(errors="replace")
    start = max(0, min(place - MAX_MATCH_BYTES // 4, len(line) - MAX_MATCH_BYTES))
    return line[start : start + MAX_MATCH_BYTES].decode(errors="replace")


def told(result: dict[str, Any]) -> str:
    """A result as the model reads it."""
    return msgspec.json.encode(result).decode()
