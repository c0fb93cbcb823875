"""Layout for terminals and pipes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import (
    Column,
    Display,
    count_columns,
    fit,
    fold,
    format_pairs,
    format_record,
    format_table,
    name_field,
    paint,
    sanitize_styled,
    strip_styles,
    wrap,
)
from kheishctl.render.units import (
    format_utc,
)
from protocol.text import sanitize

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(80, False, NOW)

EVERYTHING = st.text(st.characters(exclude_categories=[]))


@given(st.text(st.characters(exclude_characters="\t")), st.integers(2, 12))
def test_fold_keeps_everything(text: str, columns: int) -> None:
    """Folded lines fit the width and together hold the whole text."""
    lines = fold(sanitize(text), columns)
    assert "".join(lines) == sanitize(text).replace("\n", "")
    assert all(count_columns(line) <= columns for line in lines)


@given(st.text(st.characters(exclude_characters="\t")), st.integers(4, 40), st.sampled_from([0, 2]))
def test_wrap_keeps_everything(text: str, columns: int, indent: int) -> None:
    """Wrapped lines fit the width and together hold every word."""
    lines = wrap(sanitize(text), columns, indent)
    assert "".join("".join(lines).split()) == "".join(sanitize(text).split())
    assert all(count_columns(line) <= columns for line in lines)


def test_wrap_at_words() -> None:
    """Lines are split at blanks, keep their indentation, and a word that is too long is split."""
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("one two three", 8, 2) == ["one two", "  three"]
    assert wrap("  one two\n\nthree", 7) == ["  one", "two", "", "three"]
    assert wrap("an abcdefgh ij", 6) == ["an", "abcdef", "gh ij"]
    assert wrap("漢字 かな", 5) == ["漢字", "かな"]
    assert wrap("one two three", None) == ["one two three"]


def test_fold_lines() -> None:
    """Empty lines stay, wide characters are not split, and tabs become blanks."""
    assert fold("abcde\n\nf", 2) == ["ab", "cd", "e", "", "f"]
    assert fold("a漢字", 2) == ["a", "漢", "字"]
    assert fold("\tx", 10) == ["    x"]


def test_strip_styles() -> None:
    """Styles and overwritten text are removed."""
    assert strip_styles("\x1b[1;32mok\x1b[0m 10%\r 20%\r\n\x1b[2Jx\r") == " 20%\n\x1b[2Jx"


def test_sanitize_styled() -> None:
    """Styles stay, and other active characters are replaced."""
    assert sanitize_styled("\x1b[1mb\x1b[0m\x1b[2J") == "\x1b[1mb\x1b[0m␛[2J"
    assert sanitize_styled("plain") == "plain"
    assert sanitize_styled("\x9b2J\u202e") == "\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}"


def test_count_columns() -> None:
    """Wide characters take two columns and combining ones none."""
    assert [count_columns("abc"), count_columns("日本"), count_columns("e\u0301")] == [3, 4, 1]


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])), st.integers(1, 40))
def test_fit_never_exceeds(text: str, columns: int) -> None:
    """Truncated text fits the width, and fitting text is unchanged."""
    cut = fit(text, columns)
    assert count_columns(cut) <= columns
    assert cut == text or count_columns(text) > columns


def test_paint_only_when_on() -> None:
    """Without color or without a style, text is unchanged."""
    assert paint("x", "", True) == "x"
    assert paint("x", "red", False) == "x"
    assert paint("x", "red", True) == "\x1b[31mx\x1b[0m"


COLUMNS = (
    Column("NAME", "name"),
    Column("SIZE", "size", "size"),
    Column("WHEN", lambda row: row["at"], "time"),
)
ROWS = [{"name": "日本\n\x1b", "size": 2048, "at": NOW - 60_000}, {"name": "b", "size": 1, "at": NOW}]


def test_table_for_a_terminal() -> None:
    """A terminal shows titles, aligned columns and ages, with numbers to the right."""
    assert format_table(ROWS, COLUMNS, WIDE).splitlines() == [
        "NAME       SIZE  WHEN",
        "日本 ␛  2.0 KiB  1 min ago",
        "b           1 B  now",
    ]


def test_table_for_a_pipe() -> None:
    """A pipe receives exact, tab-separated values without titles."""
    assert format_table(ROWS, COLUMNS, PIPE).splitlines() == [
        f"日本 ␛\t2048\t{format_utc(NOW - 60_000)}",
        f"b\t1\t{format_utc(NOW)}",
    ]


def test_table_is_cut_to_the_width() -> None:
    """No line of a table is wider than the terminal."""
    rows = [{"name": "x" * 200, "size": 1, "at": NOW}]
    assert all(
        count_columns(line) <= 40
        for line in format_table(rows, COLUMNS, Display(40, False, NOW)).splitlines()
    )


def test_table_without_rows() -> None:
    """A terminal shows a sentence, and a pipe receives nothing."""
    assert format_table([], COLUMNS, WIDE, "None yet.") == "None yet."
    assert format_table([], COLUMNS, PIPE, "None yet.") == ""


def test_pairs_without_a_value_are_omitted() -> None:
    """Pairs with a value take one line each; others are omitted."""
    assert format_pairs([("a", "1\n2"), ("long", None), ("b", "")], WIDE) == "a  1 2"
    assert format_pairs([("a", "1")], PIPE) == "a\t1"


def test_record_with_costs() -> None:
    """A record shows one cost, or one cost per currency."""
    cost = {"micros": 500_000, "currency": "EUR"}
    assert (
        format_record({"cost": cost, "costs": [cost, cost]}, PIPE)
        == "cost\t0.50 EUR\ncosts\t0.50 EUR, 0.50 EUR"
    )


def test_record_with_prices() -> None:
    """A price of zero is shown, and a missing price is not."""
    prices = {"currency": "EUR", "input": 3_000_000, "output": 0}
    assert format_record({"prices": prices}, PIPE) == "prices\t3.00 EUR in, 0.00 EUR out"
    cached = format_record({"prices": prices | {"cached_input": 75_000}}, PIPE)
    assert cached == "prices\t3.00 EUR in, 0.075 EUR cached, 0.00 EUR out"


def test_record() -> None:
    """Times, sizes, lists and nested values of a record are formatted."""
    record = {
        "x_at_ms": NOW,
        "at_ms": NOW,
        "deferred_until_ms": NOW,
        "y_bytes": 1024,
        "on": True,
        "names": ["a", "b"],
        "deep": {"k": 1, "deeper": {"n": 2}, "nothing": []},
        "none": None,
    }
    assert format_record(record, PIPE).splitlines() == [
        f"x_at_ms\t{format_utc(NOW)}",
        f"at_ms\t{format_utc(NOW)}",
        f"deferred_until_ms\t{format_utc(NOW)}",
        "y_bytes\t1024",
        "on\tyes",
        "names\ta, b",
        "deep.k\t1",
        'deep.deeper\t{"n": 2}',
        "deep.nothing\t[]",
    ]
    assert "1.0 KiB" in format_record(record, WIDE)


@pytest.mark.parametrize(
    ("name", "label"),
    [("session_id", "session"), ("created_at_ms", "created"), ("permission_mode", "permission mode")],
)
def test_labels_are_words(name: str, label: str) -> None:
    """A terminal shows words as labels; a pipe keeps the names of the wire for scripts."""
    assert name_field(name, WIDE) == label
    assert name_field(name, PIPE) == name
