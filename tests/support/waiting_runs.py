"""Runs that wait for people, started with the built-in agent, which calls the tools that an input names."""

import json
from typing import Any

from kheishctl import exit_codes
from tests.support.ctl import Ctl

COLORS = [{"label": "Red"}, {"label": "Blue", "description": "like the sky"}]
QUESTIONS = [
    {"header": "Color", "question": "Which color?", "options": COLORS},
    {"question": "Which ones then?", "options": COLORS, "multi_select": True},
    {"question": "Why?"},
]


def order(tool: str, **arguments: Any) -> str:
    """Return a line with which the built-in agent calls a tool."""
    return f"/call {tool} {json.dumps(arguments)}"


def writes(*paths: str, content: str = "one\n") -> str:
    """Return an input that writes these files, in one message."""
    return "\n".join(order("write_file", path=path, content=content) for path in paths)


def asks(*questions: dict[str, Any]) -> str:
    """Return an input that asks a question."""
    return order("ask_user_question", questions=list(questions) or QUESTIONS)


def waits(ctl: Ctl, sender: str, content: str) -> str:
    """Send an input that makes the run wait for a person; return the run's id."""
    done = ctl("send", "default", content, "--as", sender, "--json")
    assert done.code == exit_codes.RUN_WAITS, done.out + done.err
    return str(done.json["run_id"])
