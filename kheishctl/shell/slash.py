"""The commands of the chat: a line that begins with a slash."""

from dataclasses import dataclass
from typing import Literal, get_args

Name = Literal[
    "help",
    "history",
    "status",
    "cancel",
    "steer",
    "approvals",
    "allow",
    "deny",
    "answer",
    "decline",
    "tasks",
    "doubts",
    "resolve",
    "mode",
    "why",
    "compact",
    "reset",
    "quit",
]

SUMMARIES: dict[Name, str] = {
    "help": "show this",
    "history": "show the last messages; '/history 50' shows more",
    "status": "show how the daemon is",
    "cancel": "stop the answer being written, as Ctrl-C does",
    "steer": "say something to the run in flight: '/steer leave the tests alone'",
    "approvals": "show everything that waits for you, whole",
    "allow": "allow what waits: the first, '/allow 2', '/allow all'",
    "deny": "deny what waits, saying why or not: '/deny all too risky'",
    "answer": "answer the question: '/answer 2', '/answer 1 3', '/answer neither'",
    "decline": "say that you will not answer the question",
    "tasks": "show what is to be done, and the shells that run in the background",
    "doubts": "show the calls of which nobody knows whether they took effect",
    "resolve": "say what became of one: '/resolve done', '/resolve not-done'; '/resolve 2 done' of several",
    "mode": "change what needs no approval: '/mode acceptEdits'; alone, show it",
    "why": "explain what would be decided: '/why bash git push'",
    "compact": "make what the model reads of this conversation shorter",
    "reset": "start over: the next message begins a new session",
    "quit": "leave, as Ctrl-D does; a run goes on without you",
}

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter", "begin a new line (a paste keeps its lines)"),
    ("Ctrl-C", "stop the answer; the conversation goes on"),
    ("Ctrl-D", "leave"),
    ("Up, Down, Ctrl-R", "what you said before"),
    ("a r s d D e A X", "answer an approval, where nothing is typed; the keys are shown with it"),
    ("1-9 n", "answer a question, where nothing is typed"),
)

# How like a command a word must be to be taken for one mistyped: "/rest" is, "/call" is not "/cancel".
LIKENESS_MIN = 0.75


@dataclass(frozen=True, slots=True)
class Slash:
    """A command and the rest of its line."""

    name: Name
    argument: str = ""


def parse(text: str) -> Slash | str | None:
    """The command that a line is; an error for a mistyped one; None for what is to be sent.

    What only looks like a command (``/etc/hosts is odd``, a line that the agent itself obeys) is something
    to say, and so are several lines. Two slashes say a line that is a command (see :func:`unescaped`).
    """
    word, _, rest = text.strip().partition(" ")
    if not word.startswith("/") or word.startswith("//") or "\n" in text.strip():
        return None
    for known in get_args(Name):
        if word == f"/{known}":
            return Slash(known, rest.strip())
    from difflib import get_close_matches

    for near in get_close_matches(word[1:], get_args(Name), 1, LIKENESS_MIN):
        return f"there is no command {word}; perhaps /{near}? To say it to the agent: /{text.strip()}"
    return None


def unescaped(text: str) -> str:
    """What is sent for a text: a line that begins with two slashes loses one."""
    return text[1:] if text.startswith("//") else text


def help_text() -> str:
    """All commands and keys."""
    rows = [*((f"/{name}", summary) for name, summary in SUMMARIES.items()), *KEYS]
    longest = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(longest)}  {summary}" for name, summary in rows)
