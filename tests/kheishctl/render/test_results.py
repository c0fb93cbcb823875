"""Tests of results of calls as lines."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.results import ResultText, read_result, split_output


def command(exit_code: int | None = 0, stdout: str = "", stderr: str = "", **fields: Any) -> ResultText:
    """Read the result of a command."""
    value = {"command": "make", "exit_code": exit_code, "stdout": stdout, "stderr": stderr}
    return read_result(json.dumps(value | fields))


def test_command() -> None:
    """A command has its output and its exit code; only 0 is a success."""
    assert command(0, "one\ntwo\n") == ResultText(("one", "two"), "exit 0", True, False)
    assert command(3, "out\n", "err\n") == ResultText(("out", "err"), "exit 3", True, True)


@pytest.mark.parametrize(("fields", "end"), [({}, "stopped"), ({"timed_out": True}, "timed out")])
def test_stopped_command(fields: dict[str, Any], end: str) -> None:
    """A command without an exit code was stopped, or took too long."""
    result = command(None, "out", note="it used too much\nmemory", stdout_truncated=True, **fields)
    assert (result.end, result.has_failed) == (end, True)
    assert result.lines == ("out", "(the middle of its stdout is left out)", "(it used too much memory)")


def test_object() -> None:
    """The fields of an object are lines: short ones behind their name, others below it."""
    value = {"path": "a.txt", "size": 3, "text": "one\ntwo", "rows": [{"name": "x" * 80}], "none": None}
    assert read_result(json.dumps(value)).lines == (
        "path: a.txt",
        "size: 3",
        "text:",
        "  one",
        "  two",
        "rows:",
        "  [",
        "    {",
        f'      "name": "{"x" * 80}"',
        "    }",
        "  ]",
        "none: null",
    )


@pytest.mark.parametrize("text", ["plain\ntext", "{not json", "[1, 2]", "{" * 50_000, '"text"'])
def test_text(text: str) -> None:
    """A text that is no JSON object stays as it is."""
    assert read_result(text).lines == tuple(text.split("\n"))
    assert not read_result(text).is_command


def test_exit_code_without_output() -> None:
    """An object with an exit code and no output is an object like others."""
    assert read_result('{"exit_code": 3}').lines == ("exit_code: 3",)


def test_output() -> None:
    """Colors, overwritten text and empty lines around an output are removed."""
    assert split_output("\n\n\x1b[31mred\x1b[0m\r\n10%\r100%\n\n\tend\n\n") == ["red", "100%", "", "    end"]


@given(st.text())
def test_lines_are_safe(text: str) -> None:
    """Whatever a tool returns, no line moves the cursor or breaks."""
    for result in (read_result(text), command(1, text, text), read_result(json.dumps({text: [text]}))):
        assert not any(character in line for line in result.lines for character in "\x1b\r\n\x07\x9b")
