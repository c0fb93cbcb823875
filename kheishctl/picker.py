"""The picker: a person in a terminal chooses one of the daemon's objects by its number or its name.

Nothing is asked in a script: not with ``--json``, and not unless input and output are a terminal.
"""

import sys
from collections.abc import Callable, Sequence
from shutil import get_terminal_size
from typing import Any

import click

from kheishctl.cli import App
from kheishctl.contract import Json
from kheishctl.render.layout import fit
from protocol.text import one_line

MAX_SHOWN_CHOICES = 20

MAX_DETAIL_CHARACTERS = 60

# The fields of a row that tell a person which object it is, beside its name or id.
DETAILS: dict[str, tuple[str, ...]] = {
    "agents": ("description",),
    "agent_paths": ("state", "title"),
    "routes": ("driver", "model"),
    "mcp_servers": ("state", "url", "command"),
    "sessions": ("agent", "sender", "status", "title"),
    "runs": ("agent", "sender", "status"),
    "open_runs": ("agent", "sender", "status"),
    "senders": ("agent",),
    "secrets": ("kind",),
    "tokens": ("name",),
    "approvals": ("agent", "sender", "tool"),
    "questions": ("agent", "sender", "status"),
    "personas": ("display_name",),
    "hooks": ("event", "target"),
    "crons": ("status", "name"),
    "notes": ("kind",),
    "tasks": ("status", "title"),
    "skills": ("description",),
    "triggers": ("status", "source", "name"),
    "events": ("source",),
    "indoubts": ("agent", "sender", "tool"),
}


def may_pick(app: App) -> bool:
    """Whether a person can choose: a terminal is the input and the output, and no JSON is expected."""
    return not app.as_json and all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def pick(app: App, noun: str, choices: Sequence[tuple[str, str]]) -> str:
    """Return the name that a person chooses from pairs of a name and its details.

    The answer is a number of the list, a name, or a part of a line; a part of several lines shortens the
    list. Errors: click.Abort at Ctrl-C and at the end of the input.
    """
    shown = choices
    columns = get_terminal_size().columns
    while True:
        width = max(len(one_line(name)) for name, _ in shown)
        for number, (name, details) in enumerate(shown[:MAX_SHOWN_CHOICES], 1):
            app.note(fit(f"{number:>4}  {one_line(name):<{width}}  {one_line(details)}".rstrip(), columns))
        if len(shown) > MAX_SHOWN_CHOICES:
            app.note(f"      and {len(shown) - MAX_SHOWN_CHOICES} more; type a part of a line to search")
        question = f"Which {noun}? Number or name"
        answer = str(click.prompt(question, default="", show_default=False, err=True)).strip()
        if not answer:
            app.note("Type a number, a name or a part of a line; Ctrl-C leaves.")
            continue
        if any(name == answer for name, _ in choices):
            return answer
        if answer.isdecimal() and 1 <= int(answer) <= min(len(shown), MAX_SHOWN_CHOICES):
            return shown[int(answer) - 1][0]
        matches = [choice for choice in choices if answer.casefold() in " ".join(choice).casefold()]
        if len(matches) == 1:
            return matches[0][0]
        if not matches:
            app.note(f"No {noun} has '{one_line(answer)}' in its line.")
        shown = matches or choices


def pick_row(
    app: App, kind: str, noun: str, source: tuple[str, Json, str, str], offers: Callable[[Json], bool]
) -> str | None:
    """Return the name of the daemon's object that a person chooses; None if there is none to choose.

    ``source`` is the method that lists the objects, its params, the list in its result and the field of the
    name (``options.COMPLETIONS``). ``offers`` decides whether a row is a choice.
    Errors: Failure, click.Abort.
    """
    method, params, plural, field = source
    choices = {
        str(row[field]): describe_row(row, kind) for row in app.call(method, params)[plural] if offers(row)
    }
    return pick(app, noun, list(choices.items())) if choices else None


def describe_row(row: Json, kind: str) -> str:
    """Return the details of a row that tell a person which object it is."""
    return "  ".join(_describe(row[name]) for name in DETAILS[kind] if row.get(name))


def _describe(value: Any) -> str:
    """Return a value of a row in short."""
    text = one_line(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    return text if len(text) <= MAX_DETAIL_CHARACTERS else f"{text[: MAX_DETAIL_CHARACTERS - 1]}…"
