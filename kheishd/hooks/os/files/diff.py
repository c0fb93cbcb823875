"""Unified diffs of changes, for people: bounded in size and in the time to compute them."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from kheishd.hooks.os.files.edits import FileChange
from protocol.limits.files import MAX_DIFF_BYTES, MAX_DIFF_LINES

CONTEXT_LINES = 3

_Opcode = tuple[Any, int, int, int, int]


def diff_of(changes: Sequence[FileChange]) -> str:
    """Return a diff of all changes; text beyond MAX_DIFF_BYTES is left out, as the last line then says."""
    lines: list[str] = []
    room = MAX_DIFF_BYTES
    for line in (line for change in changes for line in _diff_file(change)):
        room -= len(line.encode()) + 1
        if room < 0:
            return "\n".join([*lines, f"... and more: the diff has over {MAX_DIFF_BYTES} bytes", ""])
        lines.append(line)
    return "\n".join([*lines, ""])


def _diff_file(change: FileChange) -> Iterator[str]:
    state, path = change.state, change.path
    yield f"--- {'/dev/null' if state.absent else f'a/{path}'}"
    yield f"+++ b/{path}"
    old, new = _lines_of(b"" if state.absent else state.content), _lines_of(change.content)
    if old is None or new is None:
        yield f"binary or large: {state.size} bytes become {len(change.content)}, SHA-256 {change.digest}"
        return
    for group in _hunks(old, new):
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"
        for operation, old_from, old_to, new_from, new_to in group:
            if operation == "equal":
                yield from _prefix_lines(" ", old[old_from:old_to])
            else:
                yield from _prefix_lines("-", old[old_from:old_to])
                yield from _prefix_lines("+", new[new_from:new_to])


def _lines_of(content: bytes | None) -> list[str] | None:
    """Return the lines of a text with their ends; None if the content is not text."""
    try:
        text = None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
    if text is None or "\0" in text:
        return None
    lines = text.split("\n")
    ended = [f"{line}\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def _hunks(old: list[str], new: list[str]) -> Iterator[list[_Opcode]]:
    """Yield the hunks. difflib takes quadratic time, so it gets only the part that differs, or none."""
    same = _common_prefix(old, new)
    end = min(_common_prefix(old[::-1], new[::-1]), len(old) - same, len(new) - same)
    start, beyond = max(same - CONTEXT_LINES, 0), max(end - CONTEXT_LINES, 0)
    old_part, new_part = old[start : len(old) - beyond], new[start : len(new) - beyond]
    if max(len(old_part), len(new_part)) <= MAX_DIFF_LINES:
        groups = [*difflib.SequenceMatcher(None, old_part, new_part).get_grouped_opcodes(CONTEXT_LINES)]
    else:
        # One hunk that replaces all lines but the context.
        head, tail, olds, news = same - start, end - beyond, len(old_part), len(new_part)
        groups = [
            [
                ("equal", 0, head, 0, head),
                ("replace", head, olds - tail, head, news - tail),
                ("equal", olds - tail, olds, news - tail, news),
            ]
        ]
    for group in groups:
        yield [(operation, a + start, b + start, c + start, d + start) for operation, a, b, c, d in group]


def _common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of equal lines at the beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _range(first: int, beyond: int) -> str:
    """Format lines for a hunk's header, counted from 1; an empty range names the line before it."""
    count = beyond - first
    if count == 1:
        return f"{first + 1}"
    return f"{first + 1 if count else first},{count}"


def _prefix_lines(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("\n"):
            yield mark + line[:-1]
        else:
            yield mark + line
            yield "\\ No newline at end of file"
