"""Text for terminals."""

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
    paint,
    sanitise_styled,
    strip_styles,
)
from kheishctl.render.units import (
    format_utc,
)
from protocol.text import sanitise

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(80, False, NOW)

EVERYTHING = st.text(st.characters(exclude_categories=[]))


@given(st.text(st.characters(exclude_characters="\t")), st.integers(2, 12))
def test_fold_keeps_everything(text: str, columns: int) -> None:
    """No line is longer than there is room for, and nothing of the text is lost."""
    lines = fold(sanitise(text), columns)
    assert "".join(lines) == sanitise(text).replace("\n", "")
    assert all(count_columns(line) <= columns for line in lines)


def test_fold_lines() -> None:
    """Lines stay lines, empty ones too; a wide character is not cut in two; tabs are blanks."""
    assert fold("abcde\n\nf", 2) == ["ab", "cd", "e", "", "f"]
    assert fold("a漢字", 2) == ["a", "漢", "字"]
    assert fold("\tx", 10) == ["    x"]


def test_unstyled() -> None:
    """Styles are left out, and of a line that was written over what is there last; the rest is as it was."""
    assert strip_styles("\x1b[1;32mok\x1b[0m 10%\r 20%\r\n\x1b[2Jx\r") == " 20%\n\x1b[2Jx"


def test_styles_only() -> None:
    """A style stays, everything else is made visible."""
    assert sanitise_styled("\x1b[1mb\x1b[0m\x1b[2J") == "\x1b[1mb\x1b[0m␛[2J"
    assert sanitise_styled("plain") == "plain"
    assert sanitise_styled("\x9b2J\u202e") == "\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}"


def test_width_counts_columns() -> None:
    """Wide characters take two columns, combining ones none."""
    assert [count_columns("abc"), count_columns("日本"), count_columns("e\u0301")] == [3, 4, 1]


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])), st.integers(1, 40))
def test_fit_never_exceeds(text: str, columns: int) -> None:
    """What was cut fits, and what fits is not cut."""
    cut = fit(text, columns)
    assert count_columns(cut) <= columns
    assert cut == text or count_columns(text) > columns


def test_paint_only_when_on() -> None:
    """Without color nothing is added."""
    assert paint("x", "red", False) == "x"
    assert paint("x", "red", True) == "\x1b[31mx\x1b[0m"


COLUMNS = (
    Column("NAME", "name"),
    Column("SIZE", "size", "size"),
    Column("WHEN", lambda row: row["at"], "time"),
)
ROWS = [{"name": "日本\n\x1b", "size": 2048, "at": NOW - 60_000}, {"name": "b", "size": 1, "at": NOW}]


def test_table_for_a_terminal() -> None:
    """Titles, aligned columns, ages; numbers to the right."""
    assert format_table(ROWS, COLUMNS, WIDE).splitlines() == [
        "NAME       SIZE  WHEN",
        "日本 ␛  2.0 KiB  1 min ago",
        "b           1 B  now",
    ]


def test_table_for_a_pipe() -> None:
    """Values separated by tabs, whole and exact, without titles."""
    assert format_table(ROWS, COLUMNS, PIPE).splitlines() == [
        f"日本 ␛\t2048\t{format_utc(NOW - 60_000)}",
        f"b\t1\t{format_utc(NOW)}",
    ]


def test_table_is_cut_to_the_width() -> None:
    """A line is never longer than the terminal is wide."""
    rows = [{"name": "x" * 200, "size": 1, "at": NOW}]
    assert all(
        count_columns(line) <= 40
        for line in format_table(rows, COLUMNS, Display(40, False, NOW)).splitlines()
    )


def test_table_without_rows() -> None:
    """A person is told; a pipe gets nothing."""
    assert format_table([], COLUMNS, WIDE, "None yet.") == "None yet."
    assert format_table([], COLUMNS, PIPE, "None yet.") == ""


def test_properties_leave_out_what_is_missing() -> None:
    """Only what has a value is shown, on one line each."""
    assert format_pairs([("a", "1\n2"), ("long", None), ("b", "")], WIDE) == "a  1 2"
    assert format_pairs([("a", "1")], PIPE) == "a\t1"


def test_facts_say_amounts_as_people_do() -> None:
    """One of a run, one for each currency of a session."""
    cost = {"micros": 500_000, "currency": "EUR"}
    assert (
        format_record({"cost": cost, "costs": [cost, cost]}, PIPE)
        == "cost\t0.50 EUR\ncosts\t0.50 EUR, 0.50 EUR"
    )


def test_facts_say_what_tokens_cost() -> None:
    """A price of nothing is said, one that is not there is not."""
    prices = {"currency": "EUR", "input": 3_000_000, "output": 0}
    assert format_record({"prices": prices}, PIPE) == "prices\t3.00 EUR in, 0.00 EUR out"
    cached = format_record({"prices": prices | {"cached_input": 75_000}}, PIPE)
    assert cached == "prices\t3.00 EUR in, 0.075 EUR cached, 0.00 EUR out"


def test_facts_read_best() -> None:
    """Times, sizes, lists and nested values of any record."""
    record = {
        "x_at_ms": NOW,
        "y_bytes": 1024,
        "on": True,
        "names": ["a", "b"],
        "deep": {"k": 1, "deeper": {"n": 2}, "nothing": []},
        "none": None,
    }
    assert format_record(record, PIPE).splitlines() == [
        f"x_at_ms\t{format_utc(NOW)}",
        "y_bytes\t1024",
        "on\tyes",
        "names\ta, b",
        "deep.k\t1",
        'deep.deeper\t{"n": 2}',
        "deep.nothing\t[]",
    ]
    assert "1.0 KiB" in format_record(record, WIDE)
