"""Tool calls as text."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.calls import (
    MAX_SUMMARY_CHARACTERS,
    MAX_TAIL_CHARACTERS,
    OutputTail,
    summarize_arguments,
    take_first_lines,
)
from protocol.text import one_line

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"command": "ls -la"}, "ls -la"),
        ({"timeout_s": 3, "command": "make\nall"}, "make all timeout_s=3"),
        ({"path": "a.py", "content": "x" * 500}, "a.py content=" + "x" * 200),
        ({"path": 7, "pattern": "def"}, "def path=7"),
        (
            {"items": [1, 2], "options": {"a": 1}, "none": {}, "on": True},
            "items=[2] options={…} none={} on=true",
        ),
        ({}, ""),
        (None, ""),
        ("no object", ""),
    ],
)
def test_summary_of_arguments(arguments: Any, line: str) -> None:
    """The subject comes first and without a name; large values are abbreviated."""
    assert summarize_arguments(arguments) == line


@given(ANYTHING)
def test_summary_is_one_sanitized_line(arguments: Any) -> None:
    """A summary is one sanitized line of limited length, whatever the arguments."""
    line = summarize_arguments({"command": "x", "y": arguments, str(arguments): 1})
    assert one_line(line) == line
    assert len(line) <= MAX_SUMMARY_CHARACTERS


def test_huge_values_take_no_time() -> None:
    """Megabytes of arguments and output are not scanned."""
    huge = "\x1b" * 10_000_000
    began = time.process_time()
    assert summarize_arguments({"command": huge, "more": [huge], "name": huge}).startswith("␛␛")
    assert take_first_lines(huge, 3)
    tail = OutputTail()
    tail.add(huge)
    assert len(tail.lines(3)[0]) == MAX_TAIL_CHARACTERS
    assert time.process_time() - began < 0.5


def test_first_lines() -> None:
    """Empty lines are skipped."""
    assert take_first_lines("\n\n a\x1b[1mb\x1b[0m \x07\n\nc\nd\ne", 3) == ["ab ␇", "c", "d"]
    assert take_first_lines("", 3) == []


def test_tail() -> None:
    """The tail holds the last lines as a terminal shows them, without styles."""
    tail = OutputTail()
    for text in ("one\ntwo\r\n", "\x1b[32mthree\x1b[0m\n\n10%\r", "20%\x1b[2J"):
        tail.add(text)
    assert tail.lines(3) == ["two", "three", "20%␛[2J"]
    assert tail.lines(1) == ["20%␛[2J"]
