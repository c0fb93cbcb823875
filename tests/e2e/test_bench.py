"""Tests of ``contrib/bench/run``: every figure can be measured. No test judges a time."""

import json
import subprocess

import pytest

from contrib.bench.__main__ import FIGURES
from contrib.bench.table import Round, Row, at_least, at_most, number, render, spread
from tests.support.programs import ROOT, environment

RUN = ROOT / "contrib" / "bench" / "run"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_measured(name: str) -> None:
    """Each figure has rows with finite values and a goal or a yardstick."""
    done = subprocess.run(
        [RUN, name, "--small", "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows
    for row in rows:
        assert row["rounds"] or row["note"], row
        assert all(round_["figure"] >= 0 for round_ in row["rounds"]), row


def test_a_missed_goal_is_shown_with_its_distance() -> None:
    """The median of the rounds is judged; a miss is shown as a share of the limit."""
    rounds = [Round(300, 100), Round(200, 100), Round(240, 100)]
    assert Row("x", "µs", rounds, at_most(2), "ratio").verdict() == "missed by 20%"
    assert Row("x", "µs", rounds, at_most(2.4), "ratio").verdict() == "met"
    assert Row("x", "/s", rounds, at_least(480), "figure").verdict() == "missed by 50%"
    assert Row("x", "/s", rounds, at_most(150), "difference").verdict() == "met"


def test_the_table_shows_minimum_median_and_maximum() -> None:
    """The table shows minimum, median and maximum, or one number if they are equal."""
    assert spread([3, 1, 2]) == "1.00 / 2.00 / 3.00"
    assert spread([5, 5]) == "5.00"
    assert [number(value) for value in (1234.5, 56.78, 1.234, 0.0123, 0)] == [
        "1,234",
        "56.8",
        "1.23",
        "0.012",
        "0.00",
    ]


def test_the_table_lines_up_and_notes_follow() -> None:
    """All lines of the table have the same width, and notes follow it."""
    rows = [
        Row("one", "ms", [Round(1.5, 0.5)], at_most(2), "ratio", "bare"),
        Row("two", "MiB", [Round(30)], at_most(45), note="resident"),
    ]
    *table, blank, note = render(rows).splitlines()
    assert len({len(line) for line in table}) == 1
    assert "3.00 x" in table[2]
    assert "≤ 2 x" in table[2]
    assert not blank
    assert note == "* two: resident"
