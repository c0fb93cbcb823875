"""Calls of tools, as people read them: what a call is about, and the end of what it wrote. Pure.

Whatever a model or a tool wrote may be megabytes long and may mean something to a terminal: nothing here
looks at more of it than is shown, and what is given back is harmless.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kheishctl.render.layout import clean, one_line, unstyled

# What a call is about fits a line of any terminal; so much of an argument is looked at.
MAX_ABOUT_CHARACTERS = 400
MAX_ARGUMENT_CHARACTERS = 200

# Of what a call wrote its last lines are shown: so much is kept of it.
MAX_TAIL_CHARACTERS = 2_000

# Arguments that say what a call works on; they need no name. The first that is there is meant.
SUBJECTS = ("command", "path", "file_path", "pattern", "url", "query", "name", "agent", "task")


def about(arguments: Any) -> str:
    """What a call is about, on one harmless line: what it works on, then its other arguments by name."""
    if not isinstance(arguments, Mapping):
        return ""
    subject = next((name for name in SUBJECTS if isinstance(arguments.get(name), str)), None)
    words = [] if subject is None else [str(arguments[subject])[:MAX_ARGUMENT_CHARACTERS]]
    for name, value in arguments.items():
        if name != subject:
            words.append(f"{name[:MAX_ARGUMENT_CHARACTERS]}={_brief(value)}")
        if sum(map(len, words)) > MAX_ABOUT_CHARACTERS:
            break
    return one_line("  ".join(words)[:MAX_ABOUT_CHARACTERS])


def _brief(value: Any) -> str:
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


def first_lines(text: str, count: int) -> list[str]:
    """The first lines of a text that say something, each harmless and on one line."""
    lines = map(one_line, unstyled(text[: count * MAX_TAIL_CHARACTERS]).split("\n"))
    return [line for line in lines if line][:count]


@dataclass(slots=True)
class Tail:
    """The end of what a call wrote so far."""

    text: str = ""

    def add(self, text: str) -> None:
        """More of it."""
        self.text = (self.text + text[-MAX_TAIL_CHARACTERS:])[-MAX_TAIL_CHARACTERS:]

    def lines(self, count: int) -> list[str]:
        """Its last lines that are not empty, harmless, each as a terminal would show it."""
        lines = [clean(line).expandtabs(4).rstrip() for line in unstyled(self.text).split("\n")]
        return [line for line in lines if line][-count:]
