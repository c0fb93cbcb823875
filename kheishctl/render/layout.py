"""Text for terminals: made harmless, measured, cut to fit, and numbers as people say them.

Whatever a model, a sender or a file name says may hold escape sequences that move the cursor, rename
the window or hide what was written. Nothing that this program did not write itself reaches a terminal
before :func:`clean` or :func:`one_line` went over it.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Everything a terminal or a bidirectional layout acts on, besides tab and newline: C0, DEL, C1, the
# separators that some take for newlines, the marks that reorder text, and halves of surrogate pairs, which
# cannot be encoded at all. And what nobody sees: who approves a command is to see all of it. The joiners
# (U+200C, U+200D) are not among these, as whole scripts and many an emoji need them.
_BEYOND_ASCII = (
    r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
    r"\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\U000e0000-\U000e007f"
)
_UNSAFE = re.compile(rf"[\x00-\x08\x0b-\x1f{_BEYOND_ASCII}]")
_ESCAPE_IN_JSON = re.compile(f"[{_BEYOND_ASCII}]")

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")

# The prices of a route, and what each is for.
PRICED = (("input", "in"), ("cached_input", "cached"), ("output", "out"))

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def _harmless(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code == 0x0D:
        return ""
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    """``text`` with everything a terminal would act on made visible; tabs and newlines stay.

    Works piece by piece too: the pieces of a text, cleaned and joined, are the text cleaned.
    """
    return _UNSAFE.sub(_harmless, text)


def styles_only(text: str) -> str:
    """``text`` in which only styles act on a terminal, whoever wrote it."""
    if text.isascii() and "\x1b" not in text and text.isprintable():
        return text
    return "".join(part if _STYLE.fullmatch(part) else clean(part) for part in _STYLE.split(text))


def one_line(text: str) -> str:
    """``text`` made harmless and put on one line."""
    return " ".join(clean(text).split())


def json_safe(document: str) -> str:
    """A JSON document with what a terminal would act on as Unicode escapes, which mean the same."""
    return _ESCAPE_IN_JSON.sub(_escaped, document)


def _escaped(found: re.Match[str]) -> str:
    # DEL is the one of them that JSON takes for ordinary; beyond 16 bits it takes two escapes.
    return r"\u007f" if found.group() == "\x7f" else json.dumps(found.group())[1:-1]


def fold(text: str, columns: int) -> list[str]:
    """The lines of ``text``, which is harmless, those longer than ``columns`` folded hard: nothing is cut."""
    folded: list[str] = []
    for line in text.expandtabs(4).split("\n"):
        if line.isascii():
            folded += [line[at : at + columns] for at in range(0, len(line), columns)] or [""]
        else:
            folded += _folded(line, columns)
    return folded


def _folded(line: str, columns: int) -> list[str]:
    lines, current, used = [], "", 0
    for character in line:
        taken = _columns(character)
        if used + taken > columns:
            lines.append(current)
            current, used = "", 0
        current += character
        used += taken
    return [*lines, current]


def unstyled(text: str) -> str:
    """What a program wrote for a terminal, without its styles and what it wrote over itself; not harmless."""
    lines = _STYLE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def paint(text: str, style: str, on: bool) -> str:
    """``text`` in one of :data:`STYLES` if ``on``."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if on and text else text


def width(text: str) -> int:
    """How many columns a terminal gives ``text``, which is one line and harmless."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """``text`` cut to ``columns``, the cut shown by an ellipsis."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for character in text:
        used += _columns(character)
        if used > columns - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


# Numbers as people say them.


def size(amount: int) -> str:
    """A number of bytes: ``512 B``, ``1.4 MiB``."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def money(amount: Mapping[str, Any] | None) -> str | None:
    """An amount of money: ``0.012345 USD``, ``3.00 USD``; nothing for none."""
    if amount is None:
        return None
    whole, micros = divmod(int(amount["micros"]), 1_000_000)
    cents, rest = divmod(micros, 10_000)
    return f"{whole}.{cents:02d}{f'{rest:04d}'.rstrip('0')} {amount['currency']}"


def price_list(prices: Mapping[str, Any]) -> str:
    """What a million tokens cost: ``3.00 USD in, 0.30 USD cached, 15.00 USD out``."""
    said = [(prices[name], word) for name, word in PRICED if prices.get(name) is not None]
    return ", ".join(f"{money({'micros': n, 'currency': prices['currency']})} {word}" for n, word in said)


def duration(seconds: float) -> str:
    """A length of time, in its two greatest units: ``4 s``, ``3 min 5 s``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    rest = int(seconds)
    said: list[tuple[int, str]] = []
    for name, length in units:
        count, rest = divmod(rest, length)
        if count or said:
            said.append((count, name))
        if len(said) == 2:
            break
    return " ".join(f"{count} {name}" for count, name in said if count)


def ago(at_ms: int, now_ms: int) -> str:
    """How long ago, in one unit: ``3 min ago``; ``in 2 h`` for what is to come."""
    seconds = (now_ms - at_ms) / 1000
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            count = int(abs(seconds) // length)
            return f"{count} {name} ago" if seconds > 0 else f"in {count} {name}"
    return "now" if abs(seconds) < 1 else f"{seconds:.0f} s ago" if seconds > 0 else f"in {-seconds:.0f} s"


def stamp(at_ms: int) -> str:
    """A time for machines: ISO 8601 in UTC, milliseconds included."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def clock(at_ms: int) -> str:
    """A time for people: local date and time to the second."""
    from datetime import datetime

    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


# Tables.


@dataclass(frozen=True, slots=True)
class Look:
    """Where text goes: ``width`` is None for a pipe; ``now_ms`` is what ages are told from."""

    width: int | None
    color: bool
    now_ms: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, where its value is found in a row, and what kind of value that is."""

    title: str
    value: str | Callable[[Mapping[str, Any]], Any]
    kind: Literal["text", "time", "size", "count"] = "text"

    def cell(self, row: Mapping[str, Any], look: Look) -> str:
        """The value of one row, on one line; empty if there is none."""
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        if value is None or value == "":
            return ""
        if self.kind == "time":
            return stamp(value) if look.width is None else ago(value, look.now_ms)
        if self.kind == "size" and look.width is not None:
            return size(value)
        return one_line(str(value))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], look: Look, empty: str = "") -> str:
    """Rows under titles for a terminal, cut to its width; tab-separated values without titles for a pipe.

    Shape: lines joined by newlines, none after the last; ``empty`` on a terminal if there are no rows.
    """
    cells = [[column.cell(row, look) for column in columns] for row in rows]
    if look.width is None:
        return "\n".join("\t".join(line) for line in cells)
    if not rows:
        return empty
    widths = [
        max(map(width, (column.title, *column_cells))) for column, column_cells in _by_column(columns, cells)
    ]
    titles = _line([column.title for column in columns], widths, columns, look.width)
    return "\n".join(
        [paint(titles, "bold", look.color), *(_line(line, widths, columns, look.width) for line in cells)]
    )


def _by_column(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[tuple[Column, list[str]]]:
    return [(column, [line[index] for line in cells]) for index, column in enumerate(columns)]


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column], max_columns: int) -> str:
    parts = []
    for cell, length, column in zip(cells, widths, columns, strict=True):
        space = " " * (length - width(cell))
        parts.append(space + cell if column.kind in ("size", "count") else cell + space)
    return fit("  ".join(parts).rstrip(), max_columns)


def properties(pairs: Sequence[tuple[str, str | None]], look: Look) -> str:
    """Names and values, one pair a line, aligned; pairs without a value are left out."""
    shown = [(name, one_line(value)) for name, value in pairs if value]
    if look.width is None:
        return "\n".join(f"{name}\t{value}" for name, value in shown)
    longest = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{paint(name.ljust(longest), 'dim', look.color)}  {value}" for name, value in shown)


def facts(record: Mapping[str, Any], look: Look) -> str:
    """Any record, a field a line: times, sizes and nested values as they are best read."""
    pairs: list[tuple[str, str | None]] = []
    for name, value in record.items():
        if name == "cost":
            pairs.append((name, money(value)))
        elif name == "costs":
            pairs.append((name, ", ".join(filter(None, map(money, value)))))
        elif name == "prices":
            pairs.append((name, price_list(value)))
        elif isinstance(value, dict):
            # An empty list inside says something: nothing is allowed, where none at all allows everything.
            inner = ((key, "[]" if part == [] else _fact(key, part, look)) for key, part in value.items())
            pairs += [(one_line(f"{name}.{key}"), part) for key, part in inner]
        else:
            pairs.append((one_line(name), _fact(name, value, look)))
    return properties(pairs, look)


def _fact(name: str, value: Any, look: Look) -> str | None:
    match value:
        case None:
            return None
        case dict() | list() if not value:
            return None
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_at_ms"):
            return stamp(value) if look.width is None else f"{clock(value)} ({ago(value, look.now_ms)})"
        case int() if name.endswith("_bytes") and look.width is not None:
            return size(value)
        case str() | int() | float():
            return str(value)
        case [*parts] if all(isinstance(part, str) for part in parts):
            return ", ".join(parts)
        case _:
            return json.dumps(value, ensure_ascii=False)
