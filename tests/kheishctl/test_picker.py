"""The picker, on a terminal and without one."""

import sys
from typing import get_args

import click
import pytest
from msgspec import Raw
from msgspec.structs import fields

from kheishctl.options import COMPLETIONS
from kheishctl.picker import DETAILS, pick, pick_row
from protocol.events.event import EventPublished
from protocol.rpc.catalogue import METHODS
from tests.support.ctl import Ctl
from tests.support.terminal import Terminal


class Asked:
    """An app that collects notes, with a person who gives fixed answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str, rows: object = ()) -> None:
        self.notes: list[str] = []
        self._rows = rows
        queue = list(answers)
        monkeypatch.setattr(click, "prompt", lambda *_, **__: queue.pop(0))

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def call(self, method: str, params: object) -> dict[str, object]:
        """Return the rows."""
        return {"rows": self._rows}


def test_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer is explained; each choice takes one line of the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    app = Asked(monkeypatch, "", "2")
    assert pick(app, "agent", [("anna", "x" * 80), ("ben", "reads")]) == "ben"  # type: ignore[arg-type]
    assert "Type a number, a name or a part of a line; Ctrl-C leaves." in app.notes
    assert max(map(len, app.notes[:2])) == 40


CHOICES = [("anna", "writes"), ("ben", "reads"), ("2", "a number as a name")]


@pytest.mark.parametrize(
    ("answer", "name"), [("1", "anna"), ("2", "2"), ("ben", "ben"), ("WRIT", "anna"), ("3", "2")]
)
def test_answers(monkeypatch: pytest.MonkeyPatch, answer: str, name: str) -> None:
    """The answer is a name, a number of the list, or a part of one line; a name counts before a number."""
    assert pick(Asked(monkeypatch, answer), "agent", CHOICES) == name  # type: ignore[arg-type]


def test_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of several lines shortens the list, whose numbers count then; one of none shows all again."""
    choices = [(f"agent-{number}", "") for number in range(30)]
    app = Asked(monkeypatch, "-2", "99", "-2", "3")
    assert pick(app, "agent", choices) == "agent-21"  # type: ignore[arg-type]
    assert "No agent has '99' in its line." in app.notes
    assert "      and 10 more; type a part of a line to search" in app.notes


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shown with their details, in short and without control characters; only some are choices."""
    rows = [
        {"name": "a\x1b[2J", "state": "ready", "command": ["npx", "x" * 80]},
        {"name": "b", "state": "ready"},
    ]
    app = Asked(monkeypatch, "1", rows=rows)
    source: tuple[str, dict[str, object], str, str] = ("mcp.list", {}, "rows", "name")
    assert pick_row(app, "mcp_servers", "server", source, lambda row: row["name"] != "b") == "a\x1b[2J"  # type: ignore[arg-type]
    (line,) = app.notes
    assert "\x1b" not in line
    assert line.endswith(f"npx {'x' * 55}…")
    assert pick_row(app, "mcp_servers", "server", source, lambda row: False) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_details_exist(kind: str) -> None:
    """Every kind of name has its details, which are fields of the rows."""
    method, _, plural, _ = COMPLETIONS[kind]
    (rows,) = [item for item in fields(METHODS[method].result) if item.name == plural]
    (row,) = get_args(rows.type)
    assert set(DETAILS[kind]) <= {item.name for item in fields(EventPublished if row is Raw else row)}


def test_on_a_terminal(ctl: Ctl) -> None:
    """A person who leaves the name out picks it; with --json, a missing name is an error."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(ctl.home), "route", "show"]
    with Terminal(command, {}) as terminal:
        terminal.sees("Which route? Number or name")
        terminal.say("offline")
        terminal.sees("built_in")
        assert terminal.ends() == 0
    with Terminal([*command, "--json"], {}) as terminal:
        terminal.sees("Missing argument 'ROUTE'")
        assert terminal.ends() == 2
    with Terminal(command, {}) as terminal:
        terminal.sees("Which route?")
        terminal.press("ctrl-d")
        assert terminal.ends() == 1


def test_without_a_daemon(ctl: Ctl) -> None:
    """Without a daemon the message and the exit code are those of the command."""
    command = [sys.executable, "-m", "kheishctl", "--home", f"{ctl.home}-none", "route", "show"]
    with Terminal(command, {}) as terminal:
        terminal.sees("kheishctl:")
        assert terminal.ends() == 3


def test_in_a_script(ctl: Ctl) -> None:
    """Without a terminal nothing is asked: a missing name is a usage error that names the list."""
    for noun in ("route", "run"):
        done = ctl(noun, "show")
        assert (done.code, f"Missing argument '{noun.upper()}'" in done.err) == (2, True)
        assert f"kheishctl --home {ctl.home} {noun} list" in done.err
