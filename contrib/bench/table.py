"""Rows of the table: the figures of each round, their yardsticks, and the verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, assert_never

Judged = Literal["ratio", "difference", "figure"]
"""The value that a goal limits: the ratio or difference to the yardstick, or the figure itself."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit: ``≤`` for what should be small, ``≥`` for what should be large."""

    sign: Literal["≤", "≥"]
    limit: float

    def met(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        return value <= self.limit if self.sign == "≤" else value >= self.limit

    def distance(self, value: float) -> float:
        """Return the distance of a value from the limit, as a share of the limit."""
        return abs(value - self.limit) / self.limit


def at_most(limit: float) -> Goal:
    """Return the goal of an upper limit."""
    return Goal("≤", limit)


def at_least(limit: float) -> Goal:
    """Return the goal of a lower limit."""
    return Goal("≥", limit)


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round: the figure and its yardstick, if there is one."""

    figure: float
    yardstick: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One figure over several rounds. ``note`` is a remark for readers of the table.

    A headline is a goal of the project, which ``contrib/bench/run goals`` lists.
    """

    name: str
    unit: str
    rounds: Sequence[Round]
    goal: Goal | None = None
    judged: Judged = "figure"
    yardstick: str = ""
    note: str = ""
    is_headline: bool = False

    def figures(self) -> list[float]:
        """Return the figure of every round."""
        return [round_.figure for round_ in self.rounds]

    def yardsticks(self) -> list[float]:
        """Return the yardstick of every round that has one."""
        return [round_.yardstick for round_ in self.rounds if round_.yardstick is not None]

    def values(self) -> list[float]:
        """Return the values that the goal applies to, of every round."""
        if self.judged == "figure":
            return self.figures()
        pairs = [(round_.figure, round_.yardstick) for round_ in self.rounds if round_.yardstick is not None]
        if self.judged == "ratio":
            return [figure / yardstick for figure, yardstick in pairs if yardstick]
        return [figure - yardstick for figure, yardstick in pairs]

    def verdict(self) -> str:
        """Return ``met``, ``missed by 12 %``, or nothing without a goal."""
        values = self.values()
        if self.goal is None or not values:
            return ""
        middle = median(values)
        return "met" if self.goal.met(middle) else f"missed by {max(0.01, self.goal.distance(middle)):.0%}"

    def as_json(self) -> dict[str, Any]:
        """Return all measured values, for programs."""
        return {
            "name": self.name,
            "unit": self.unit,
            "rounds": [{"figure": round_.figure, "yardstick": round_.yardstick} for round_ in self.rounds],
            "yardstick": self.yardstick or None,
            "judged": self.judged,
            "value": median(self.values()) if self.values() else None,
            "goal": f"{self.goal.sign} {self.goal.limit:g}" if self.goal else None,
            "verdict": self.verdict() or None,
            "note": self.note or None,
            "cells": cells(self),
        }


def number(value: float) -> str:
    """Format a number with its significant digits: 1,234 · 56.7 · 1.23 · 0.045."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not size else f"{value:.2g}"


def spread(values: Sequence[float]) -> str:
    """Format minimum, median and maximum: ``1.21 / 1.25 / 1.40``; one number if they are equal."""
    if not values:
        return ""
    three = [number(value) for value in (min(values), median(values), max(values))]
    return three[0] if len(set(three)) == 1 else " / ".join(three)


HEADER = ("name", "figure", "yardstick", "compared", "goal", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """Return one line of the table."""
    compared = spread(row.values())
    match row.judged:
        case "ratio":
            compared, sign = f"{compared} x", "x"
        case "difference":
            compared, sign = f"+ {compared}", row.unit
        case "figure":
            compared, sign = "", row.unit
            if ratios := [round_.figure / round_.yardstick for round_ in row.rounds if round_.yardstick]:
                compared = f"{spread(ratios)} x"
        case _:
            assert_never(row.judged)
    beside = f"{row.yardstick}: {spread(row.yardsticks())}" if row.yardstick else ""
    goal = f"{row.goal.sign} {row.goal.limit:,g} {sign}" if row.goal else ""
    return (row.name, f"{spread(row.figures())} {row.unit}", beside, compared, goal, row.verdict())


def render(rows: Iterable[Row]) -> str:
    """Format the table as Markdown with aligned columns; notes follow it."""
    listed = list(rows)
    notes = [f"* {row.name}: {row.note}" for row in listed if row.note]
    return "\n".join([*align(map(cells, listed)), *(["", *notes] if notes else [])])


def align(lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table of these cells, below the header."""
    listed = [HEADER, *lines]
    widths = [max(len(line[column]) for line in listed) for column in range(len(HEADER))]
    table = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in listed
    ]
    table.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return table
