"""Sizes, money and times as text."""

import pytest

from kheishctl.render.units import (
    format_age,
    format_count,
    format_duration,
    format_local,
    format_money,
    format_size,
    format_utc,
)

NOW = 1_795_000_000_000


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_size(amount: int, text: str) -> None:
    """A size has the unit that keeps its number short."""
    assert format_size(amount) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0k"),
        (9_951, "10k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (2 * 10**12, "2000G"),
    ],
)
def test_count(amount: int, text: str) -> None:
    """A count has at most three digits and a unit."""
    assert format_count(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (185, "3 min 5 s"), (7200, "2 h"), (190_000, "2 d 4 h"), (86_461, "1 d")],
)
def test_duration(seconds: float, text: str) -> None:
    """A length of time is shown in its two largest units."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("before_s", "text"), [(0, "now"), (5, "5 s ago"), (120, "2 min ago"), (-7200, "in 2 h"), (-5, "in 5 s")]
)
def test_age(before_s: int, text: str) -> None:
    """Past and future times are shown by their distance."""
    assert format_age(NOW - before_s * 1000, NOW) == text


def test_times() -> None:
    """Machines receive UTC with milliseconds, and people their local time with seconds."""
    assert format_utc(1_000_000_123) == "1970-01-12T13:46:40.123Z"
    assert len(format_local(NOW)) == len("2026-11-20 10:00:00")


@pytest.mark.parametrize(
    ("micros", "text"),
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
def test_money(micros: int, text: str) -> None:
    """An amount has at least two decimals, and more if they are needed."""
    assert format_money({"micros": micros, "currency": "USD"}) == text
    assert format_money(None) is None
