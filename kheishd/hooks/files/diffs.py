"""What changes look like to a person: a unified diff, bounded in size and in the time it takes to make."""

import difflib
from collections.abc import Iterator, Sequence

from kheishd.hooks.files.planning import Change
from protocol.limits.files import MAX_DIFF_BYTES, MAX_DIFF_LINES

CONTEXT_LINES = 3

_Opcode = tuple[str, int, int, int, int]


def diff_of(changes: Sequence[Change]) -> str:
    """A diff of all changes; what is beyond MAX_DIFF_BYTES is left out, and the last line says so."""
    lines: list[str] = []
    left = MAX_DIFF_BYTES
    for line in (line for change in changes for line in _file(change)):
        left -= len(line.encode()) + 1
        if left < 0:
            return "\n".join([*lines, f"... and more: the diff has over {MAX_DIFF_BYTES} bytes", ""])
        lines.append(line)
    return "\n".join([*lines, ""])


def _file(change: Change) -> Iterator[str]:
    found, path = change.found, change.path
    yield f"--- {'/dev/null' if found.absent else f'a/{path}'}"
    yield f"+++ b/{path}"
    before, after = _lines(b"" if found.absent else found.content), _lines(change.after)
    if before is None or after is None:
        yield f"binary or large: {found.size} bytes become {len(change.after)}, SHA-256 {change.digest}"
        return
    for group in _groups(before, after):
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"
        for what, before_from, before_to, after_from, after_to in group:
            if what == "equal":
                yield from _marked(" ", before[before_from:before_to])
            else:
                yield from _marked("-", before[before_from:before_to])
                yield from _marked("+", after[after_from:after_to])


def _lines(content: bytes | None) -> list[str] | None:
    """The lines of a text with their ends; None for what is none."""
    try:
        text = None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
    if text is None or "\0" in text:
        return None
    lines = text.split("\n")
    ended = [f"{line}\n" for line in lines[:-1]]
    return [*ended, lines[-1]] if lines[-1] else ended


def _groups(before: list[str], after: list[str]) -> Iterator[list[_Opcode]]:
    """The hunks. difflib's time grows with the square of what it is given: little, or nothing at all."""
    same = _alike(before, after)
    end = min(_alike(before[::-1], after[::-1]), len(before) - same, len(after) - same)
    start, beyond = max(same - CONTEXT_LINES, 0), max(end - CONTEXT_LINES, 0)
    one, other = before[start : len(before) - beyond], after[start : len(after) - beyond]
    if max(len(one), len(other)) <= MAX_DIFF_LINES:
        groups = [*difflib.SequenceMatcher(None, one, other).get_grouped_opcodes(CONTEXT_LINES)]
    else:
        groups = [_as_one(len(one), len(other), same - start, end - beyond)]
    for group in groups:
        yield [(what, a + start, b + start, c + start, d + start) for what, a, b, c, d in group]


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are the same from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def _as_one(before: int, after: int, start: int, end: int) -> list[_Opcode]:
    """All lines but the first and last ones replaced, in one hunk."""
    return [
        ("equal", 0, start, 0, start),
        ("replace", start, before - end, start, after - end),
        ("equal", before - end, before, after - end, after),
    ]


def _range(first: int, beyond: int) -> str:
    """Lines as a hunk's head names them, from 1; none are named by the line before them."""
    count = beyond - first
    if count == 1:
        return f"{first + 1}"
    return f"{first + 1 if count else first},{count}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("\n"):
            yield mark + line[:-1]
        else:
            yield mark + line
            yield "\\ No newline at end of file"
