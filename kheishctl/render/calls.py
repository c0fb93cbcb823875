"""Format tool calls: a summary of their arguments, and the last lines of their output.

Arguments and output may be megabytes long and contain escape sequences. These functions read only the part
that is shown, and return sanitized text.
"""

from collections.abc import Mapping
from typing import Any

from kheishctl.render.layout import strip_styles
from protocol.text import one_line, sanitize

# The size of a summary, which fits a line of any terminal, and of each argument in it.
MAX_SUMMARY_CHARACTERS = 400
MAX_ARGUMENT_CHARACTERS = 200

# The stored end of an output, of which only the last lines are shown.
MAX_TAIL_CHARACTERS = 2_000


def summarize_arguments(arguments: Any) -> str:
    """Summarize the arguments of a call on one sanitized line: its subject, then the others by name.

    The subject is the first string argument: models write arguments in the order of the tool's schema.
    """
    if not isinstance(arguments, Mapping):
        return ""
    subject = next((name for name, value in arguments.items() if isinstance(value, str)), None)
    words = [] if subject is None else [str(arguments[subject])[:MAX_ARGUMENT_CHARACTERS]]
    for name, value in arguments.items():
        if name != subject:
            words.append(f"{name[:MAX_ARGUMENT_CHARACTERS]}={_abbreviate(value)}")
        if sum(map(len, words)) > MAX_SUMMARY_CHARACTERS:
            break
    return one_line("  ".join(words)[:MAX_SUMMARY_CHARACTERS])


def _abbreviate(value: Any) -> str:
    match value:
        case str():
            return value[:MAX_ARGUMENT_CHARACTERS]
        case dict():
            return "{…}" if value else "{}"
        case list():
            return f"[{len(value)}]"
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case _:
            return str(value)


def take_first_lines(text: str, count: int) -> list[str]:
    """Return the first ``count`` non-empty lines, sanitized."""
    lines = map(one_line, strip_styles(text[: count * MAX_TAIL_CHARACTERS]).split("\n"))
    return [line for line in lines if line][:count]


class OutputTail:
    """The last part of a call's output."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        """Append output and drop all but its end."""
        self.text = (self.text + text[-MAX_TAIL_CHARACTERS:])[-MAX_TAIL_CHARACTERS:]

    def lines(self, count: int) -> list[str]:
        """Return the last ``count`` non-empty lines, sanitized, with tabs expanded."""
        lines = [sanitize(line).expandtabs(4).rstrip() for line in strip_styles(self.text).split("\n")]
        return [line for line in lines if line][-count:]
