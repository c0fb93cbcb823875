"""Text for terminals."""

import json

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
    paint,
    sanitise_styled,
    strip_styles,
)
from kheishctl.render.units import (
    format_age,
    format_duration,
    format_local,
    format_money,
    format_size,
    format_utc,
)
from protocol.text import escape_json, one_line, sanitise

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(80, False, NOW)

EVERYTHING = st.text(st.characters(exclude_categories=[]))


@given(EVERYTHING)
def test_clean_leaves_nothing_that_acts(text: str) -> None:
    """No control but tab and newline, no mark that reorders text, nothing that cannot be encoded."""
    for character in sanitise(text):
        assert character in "\t\n" or (ord(character) >= 0x20 and not 0x7F <= ord(character) < 0xA0)
        assert character not in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    sanitise(text).encode()


@given(EVERYTHING, EVERYTHING)
def test_clean_works_piece_by_piece(one: str, other: str) -> None:
    """A text that comes in pieces is as harmless as the whole."""
    assert sanitise(one) + sanitise(other) == sanitise(one + other)


def test_clean_makes_escapes_visible() -> None:
    """An escape sequence is seen, not obeyed."""
    assert sanitise("\x1b[2J\x07a\r\nb\x9b") == "␛[2J␇a\nb\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("hidden", ["\u200b", "\xad", "\u2060", "\ufeff", "\U000e0001", "\U000e0041"])
def test_clean_makes_what_nobody_sees_visible(hidden: str) -> None:
    """Who approves a command sees that there is more of it; joiners, which scripts need, stay."""
    assert sanitise(f"rm{hidden} -rf") == "rm\N{REPLACEMENT CHARACTER} -rf"
    safe = escape_json(json.dumps(hidden, ensure_ascii=False))
    assert (safe.isascii(), json.loads(safe)) == (True, hidden)
    assert sanitise("\u0646\u200c\u0645 👩\u200d🔧") == "\u0646\u200c\u0645 👩\u200d🔧"


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


def test_one_line() -> None:
    """Whatever breaks lines becomes a space."""
    assert one_line(" a\n\tb\r\nc ") == "a b c"


@given(EVERYTHING)
def test_json_safe_means_the_same(text: str) -> None:
    """The document decodes to the same text, and nothing in it acts on a terminal."""
    safe = escape_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(safe) == text
    assert sanitise(safe) == safe


def test_width_counts_columns() -> None:
    """Wide characters take two columns, combining ones none."""
    assert [count_columns("abc"), count_columns("日本"), count_columns("e\u0301")] == [3, 4, 1]


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])), st.integers(1, 40))
def test_fit_never_exceeds(text: str, columns: int) -> None:
    """What was cut fits, and what fits is not cut."""
    cut = fit(text, columns)
    assert count_columns(cut) <= columns
    assert cut == text or count_columns(text) > columns


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_size(amount: int, said: str) -> None:
    """Bytes in the unit that keeps the number short."""
    assert format_size(amount) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.25, "0.2 s"), (59, "59 s"), (185, "3 min 5 s"), (7200, "2 h"), (190_000, "2 d 4 h"), (86_461, "1 d")],
)
def test_duration(seconds: float, said: str) -> None:
    """A length of time in its two greatest units."""
    assert format_duration(seconds) == said


@pytest.mark.parametrize(
    ("before_s", "said"), [(0, "now"), (5, "5 s ago"), (120, "2 min ago"), (-7200, "in 2 h"), (-5, "in 5 s")]
)
def test_ago(before_s: int, said: str) -> None:
    """How long ago, or in how long."""
    assert format_age(NOW - before_s * 1000, NOW) == said


def test_times() -> None:
    """Machines get UTC to the millisecond, people their own clock to the second."""
    assert format_utc(1_000_000_123) == "1970-01-12T13:46:40.123Z"
    assert len(format_local(NOW)) == len("2026-11-20 10:00:00")


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


@pytest.mark.parametrize(
    ("micros", "said"),
    [
        (0, "0.00 USD"),
        (1, "0.000001 USD"),
        (12_345, "0.012345 USD"),
        (120_000, "0.12 USD"),
        (125_000, "0.125 USD"),
        (3_000_000, "3.00 USD"),
        (1_234_500_000, "1234.50 USD"),
    ],
)
def test_money(micros: int, said: str) -> None:
    """At least cents, and whatever is smaller where there is something."""
    assert format_money({"micros": micros, "currency": "USD"}) == said
    assert format_money(None) is None


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
