"""The result of a tool call as lines for people.

Tools return text for the model. That of a command is JSON with its exit code and its output, and many others
return a JSON object, too: both are shown as lines. Nothing here depends on the name of a tool.
"""

import json
from typing import Any

from kheishctl.render.layout import strip_styles
from kheishctl.values import ClientValue
from protocol.text import one_line, sanitize

# A value of this length stays on the line of its name.
MAX_INLINE_CHARACTERS = 80

STREAMS = ("stdout", "stderr")


class ResultText(ClientValue):
    """A result: its sanitized lines, and for a command its end.

    ``is_command``: the last lines matter most. ``has_failed``: its end is not that of a success.
    """

    lines: tuple[str, ...]
    end: str = ""
    is_command: bool = False
    has_failed: bool = False


def read_result(text: str) -> ResultText:
    """Read the text of a result. Text that is no JSON object, such as that of a file, stays as it is."""
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return ResultText(tuple(split_output(text)))
    if "exit_code" in value and any(isinstance(value.get(stream), str) for stream in STREAMS):
        return _read_command(value)
    return ResultText(tuple(_format_fields(value)))


def _read_command(value: dict[str, Any]) -> ResultText:
    code = value["exit_code"]
    end = "timed out" if value.get("timed_out") else "stopped" if code is None else f"exit {code}"
    lines: list[str] = []
    for stream in STREAMS:
        lines += split_output(str(value.get(stream) or ""))
        if value.get(f"{stream}_truncated"):
            lines.append(f"(the middle of its {stream} is left out)")
    if value.get("note"):
        lines.append(f"({one_line(str(value['note']))})")
    return ResultText(tuple(lines), one_line(end), True, code != 0)


def split_output(text: str) -> list[str]:
    """Return the lines of an output, sanitized, with tabs expanded, without empty lines around them."""
    lines = [sanitize(line).expandtabs(4).rstrip() for line in strip_styles(text).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines


def _format_fields(value: dict[str, Any]) -> list[str]:
    """Return the fields of an object: short ones on the line of their name, others below it."""
    lines: list[str] = []
    for name, field in value.items():
        text = field if isinstance(field, str) else json.dumps(field, ensure_ascii=False)
        if len(text) <= MAX_INLINE_CHARACTERS and "\n" not in text:
            lines.append(f"{one_line(name)}: {one_line(text)}")
            continue
        if not isinstance(field, str):
            text = json.dumps(field, ensure_ascii=False, indent=2)
        lines += [f"{one_line(name)}:", *(f"  {line}" for line in split_output(text))]
    return lines
