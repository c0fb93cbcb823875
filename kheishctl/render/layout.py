"""Layout for terminals and pipes: styles, columns of text, tables and records.

Text from models, senders and file names may hold escape sequences. The daemon's data therefore passes through
``sanitize``, ``one_line`` or ``sanitize_styled`` before it reaches a terminal.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from kheishctl.render.units import (
    format_age,
    format_local,
    format_money,
    format_prices,
    format_size,
    format_utc,
)
from kheishctl.values import ClientValue
from protocol.text import one_line, sanitize

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")

# A word with the blanks that follow it; the first one also with those that precede it.
_WORD = re.compile(r"^ *\S* *|\S+ *")

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Display(ClientValue):
    """The properties of an output: its width (None for a pipe), its colors, and the time for ages."""

    width: int | None
    color: bool
    now_ms: int

    def format_time(self, at_ms: int) -> str:
        """Format a time: with its age for a terminal, in UTC for a pipe."""
        if self.width is None:
            return format_utc(at_ms)
        return f"{format_local(at_ms)} ({format_age(at_ms, self.now_ms)})"


# Styles.


def paint(text: str, style: str, on: bool) -> str:
    """Add one of :data:`STYLES` to text if ``on``; an empty style adds nothing."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if on and text and style else text


def sanitize_styled(text: str) -> str:
    """Sanitize text but keep its styles."""
    if text.isascii() and "\x1b" not in text and text.isprintable():
        return text
    return "".join(part if _STYLE.fullmatch(part) else sanitize(part) for part in _STYLE.split(text))


def strip_styles(text: str) -> str:
    """Remove styles and overwritten text from the output of a program; not yet sanitized."""
    lines = _STYLE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


# Columns of a terminal. The functions expect sanitized text.


def count_columns(text: str) -> int:
    """Return the number of terminal columns of one line."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """Truncate one line to a number of columns; an ellipsis marks the cut."""
    if count_columns(text) <= columns:
        return text
    end = used = 0
    while used + _columns(text[end]) < columns:
        used += _columns(text[end])
        end += 1
    return text[:end] + "…"


def fold(text: str, columns: int) -> list[str]:
    """Split text into lines of at most ``columns``, without removing anything."""
    folded: list[str] = []
    for line in text.expandtabs(4).split("\n"):
        if line.isascii():
            folded += [line[start : start + columns] for start in range(0, len(line), columns)] or [""]
            continue
        current, used = "", 0
        for character in line:
            width = _columns(character)
            if used + width > columns:
                folded.append(current)
                current, used = "", 0
            current += character
            used += width
        folded.append(current)
    return folded


def fold_words(text: str, columns: int) -> list[str]:
    """Split text like :func:`fold`, but at blanks, which stay at the ends of the lines."""
    folded: list[str] = []
    for line in text.expandtabs(4).split("\n"):
        current = ""
        for word in _WORD.findall(line):
            if current and count_columns(current) + count_columns(word.rstrip()) > columns:
                folded.append(current)
                current = ""
            *parts, current = fold(current + word, columns)
            folded += parts
        folded.append(current)
    return folded


def wrap(text: str, columns: int | None, indent: int = 0) -> list[str]:
    """Break text at blanks into lines of at most ``columns``; only a word longer than a line is split.

    The continuation of a line is indented. ``columns`` is None for a pipe, where nothing is broken.
    """
    if columns is None:
        return [text]
    wrapped: list[str] = []
    indent = min(indent, columns // 2)
    for line in text.expandtabs(4).split("\n"):
        if count_columns(line) <= columns:
            wrapped.append(line)
            continue
        current = ""
        for word in _WORD.findall(line):
            letters = word.rstrip()
            blanks = word[len(letters) :]
            if current.strip() and count_columns(current) + count_columns(letters) > columns:
                wrapped.append(current.rstrip())
                current = " " * indent
            if count_columns(current) + count_columns(letters) > columns:
                # The first part has the room of the others, so that every part can be folded at once.
                *parts, letters = fold(letters, max(2, columns - indent))
                wrapped += (" " * indent + part for part in parts)
                current = " " * indent
            current += letters + blanks
        wrapped.append(current.rstrip())
    return wrapped


# Tables and records.


class Column(ClientValue):
    """A column of a table: its title, the field or function that yields a value, and the kind of value."""

    title: str
    value: str | Callable[[Mapping[str, Any]], Any]
    kind: Literal["text", "time", "size", "count"] = "text"

    def format_cell(self, row: Mapping[str, Any], display: Display) -> str:
        """Format the value of one row on one line; empty without a value."""
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        if value is None or value == "":
            return ""
        if self.kind == "time":
            return format_utc(value) if display.width is None else format_age(value, display.now_ms)
        if self.kind == "size" and display.width is not None:
            return format_size(value)
        return one_line(str(value))

    def align(self, cell: str, width: int) -> str:
        """Pad a cell to a width: numbers to the right, text to the left."""
        space = " " * (width - count_columns(cell))
        return space + cell if self.kind in ("size", "count") else cell + space


def format_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], display: Display, empty: str = ""
) -> str:
    """Format rows under titles for a terminal, or as tab-separated values without titles for a pipe.

    Shape: lines joined by newlines, none after the last; without rows, ``empty`` on a terminal.
    """
    cells = [[column.format_cell(row, display) for column in columns] for row in rows]
    if display.width is None:
        return "\n".join("\t".join(line) for line in cells)
    if not rows:
        return empty
    table = [[column.title for column in columns], *cells]
    widths = [max(map(count_columns, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        parts = [column.align(cell, width) for column, cell, width in zip(columns, line, widths, strict=True)]
        lines.append(fit("  ".join(parts).rstrip(), display.width))
    return "\n".join([paint(lines[0], "bold", display.color), *lines[1:]])


def format_pairs(pairs: Sequence[tuple[str, str | None]], display: Display) -> str:
    """Format names and values, one aligned pair per line; pairs without a value are omitted."""
    present = [(name, one_line(value)) for name, value in pairs if value]
    if display.width is None:
        return "\n".join(f"{name}\t{value}" for name, value in present)
    longest = max((len(name) for name, _ in present), default=0)
    lines = []
    for name, value in present:
        first, *rest = wrap(f"{name.ljust(longest)}  {value}", display.width, longest + 2)
        lines += [paint(first[:longest], "dim", display.color) + first[longest:], *rest]
    return "\n".join(lines)


def format_record(record: Mapping[str, Any], display: Display) -> str:
    """Format any record, one field per line; a nested record takes one line per field of its own."""
    pairs: list[tuple[str, str | None]] = []
    for name, value in record.items():
        if name == "cost":
            pairs.append((name, format_money(value)))
        elif name == "costs":
            pairs.append((name, ", ".join(filter(None, map(format_money, value)))))
        elif name == "prices":
            pairs.append((name, format_prices(value)))
        elif isinstance(value, dict):
            # An empty list in a scope allows nothing, while an absent one allows everything: show it.
            inner = (
                (key, "[]" if part == [] else _format_field(key, part, display))
                for key, part in value.items()
            )
            outer = name_field(name, display)
            pairs += [(f"{outer}.{name_field(key, display)}", part) for key, part in inner]
        else:
            pairs.append((name_field(name, display), _format_field(name, value, display)))
    return format_pairs(pairs, display)


def name_field(name: str, display: Display) -> str:
    """Return the label of a field: words for a terminal, and its name on the wire for a pipe."""
    if display.width is None:
        return one_line(name)
    return one_line(name).removesuffix("_at_ms").removesuffix("_id").replace("_", " ")


def _format_field(name: str, value: Any, display: Display) -> str | None:
    match value:
        case None:
            return None
        case dict() | list() if not value:
            return None
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith(("_at_ms", "due_ms", "_until_ms")) or name == "at_ms":
            return display.format_time(value)
        case int() if name.endswith("_bytes") and display.width is not None:
            return format_size(value)
        case str() | int() | float():
            return str(value)
        case [*parts] if all(isinstance(part, str) for part in parts):
            return ", ".join(parts)
        case _:
            return json.dumps(value, ensure_ascii=False)
