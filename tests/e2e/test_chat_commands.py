"""Every slash command of the chat works in every state of the conversation, with and without arguments."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kheishctl.shell.slash_commands import ALIASES, COMMANDS
from tests.support.daemons import Daemon, until
from tests.support.terminal import Terminal
from tests.support.waiting_runs import asks, writes

LAST = ("cancel", "reset", "new", "clear", "quit")
"""Commands that change the state, in their order."""

ARGUMENTS = {
    # It opens a viewer, which takes the keys until it is closed.
    "transcript": (),
    # Another sender has a conversation in another state.
    "as": ("",),
    "agent": ("", "no_such_agent"),
    "export": ("", "/no/such/directory/file"),
    "history": ("", "0", "99999999999"),
    "steer": ("", "faster, please"),
    "allow": ("9", "all please", "x"),
    "deny": ("9", "0"),
    "answer": ("", "7 8"),
    "resolve": ("", "done", "3 not-done", "maybe"),
    "route": ("", "nowhere", "offline"),
    "model": ("", "some-model"),
    "mode": ("", "nonsense"),
    "why": ("", "bash git push", "no_such_tool", "bash " + "x" * 2000),
    "tasks": ("", "x"),
}
"""Arguments that leave requests pending; other commands take none, and are tried with a word."""


def prepare_nothing(daemon: Daemon, sender: str) -> None:
    """Leave the conversation without a message."""


def prepare_active(daemon: Daemon, sender: str) -> None:
    """Start a long answer."""
    daemon.call("conversation.send", content="/slow 5 20\nhello", sender=sender)


def prepare_approval(daemon: Daemon, sender: str) -> None:
    """Let a call wait for its approval."""
    daemon.say(writes("notes.txt"), sender=sender)


def prepare_question(daemon: Daemon, sender: str) -> None:
    """Let a question wait for its answer."""
    daemon.say(asks(), sender=sender)


def prepare_ended(daemon: Daemon, sender: str) -> None:
    """End the session of the conversation."""
    sent = daemon.say("hello", sender=sender)
    daemon.call("session.end", session_id=sent["session_id"])


STATES: dict[str, Callable[[Daemon, str], None]] = {
    "new": prepare_nothing,
    "active": prepare_active,
    "approval": prepare_approval,
    "question": prepare_question,
    "ended": prepare_ended,
}


@pytest.fixture
def chat(shared_daemon: Daemon, tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    """Provide a function that opens a chat as a sender."""
    terminals: list[Terminal] = []

    def open_chat(sender: str) -> Terminal:
        command = [
            sys.executable,
            "-m",
            "kheishctl",
            "--home",
            str(shared_daemon.home),
            "chat",
            "--as",
            sender,
        ]
        terminals.append(Terminal(command, {"XDG_STATE_HOME": str(tmp_path)}, columns=140, rows=40))
        return terminals[-1]

    yield open_chat
    for terminal in terminals:
        terminal.close()


def drive(terminal: Terminal) -> None:
    """Give every command, and see every few of them that the chat still answers; then leave."""
    terminal.sees("/help lists")
    names = [*COMMANDS, *(alias for alias, name in ALIASES.items() if name != "quit")]
    lines = [
        f"/{name} {argument}".strip()
        for name in [*(name for name in names if name not in LAST), *LAST[:-1]]
        for argument in ARGUMENTS.get(name, ("word",))
    ]
    for number, line in enumerate(lines):
        terminal.say(line)
        if number % 5 and line != lines[-1]:
            continue
        # An unknown mode is refused by the chat itself, in every state.
        terminal.say(f"/mode marker{number}")
        terminal.sees(f"no mode 'marker{number}'")
    terminal.say("/quit")
    assert terminal.ends() == 0
    assert "Traceback" not in terminal.text
    assert "Error" not in terminal.text


@pytest.mark.parametrize("state", STATES)
def test_commands(shared_daemon: Daemon, chat: Callable[[str], Terminal], state: str) -> None:
    """No command ends the chat or leaves it silent, in any state of the conversation."""
    STATES[state](shared_daemon, f"in-{state}")
    drive(chat(f"in-{state}"))


def test_commands_without_a_daemon(shared_daemon: Daemon, chat: Callable[[str], Terminal]) -> None:
    """While the daemon is down, commands say so, and the chat can be left."""
    shared_daemon.say("hello", sender="in-down")
    terminal = chat("in-down")
    terminal.sees("/help lists")
    shared_daemon.stop()
    try:
        terminal.sees("connecting …")
        drive(terminal)
        assert "there is no connection to the daemon at the moment" in terminal.text
    finally:
        shared_daemon.start()
        until(lambda: bool(shared_daemon.call("rpc.ping")), "the daemon is back")


def test_another_sender_continues_another_conversation(
    shared_daemon: Daemon, chat: Callable[[str], Terminal]
) -> None:
    """The chat shows the other conversation, and the next message belongs to it."""
    shared_daemon.say("the first one", sender="as-one")
    second = shared_daemon.say("the second one", sender="as-two")
    terminal = chat("as-one")
    terminal.sees("the first one")
    terminal.say("/as as-two")
    terminal.sees("the second one")
    terminal.say("the third one")
    terminal.sees("You say: “the third one”")
    terminal.say("/quit")
    assert terminal.ends() == 0
    page = shared_daemon.call("session.history", session_id=second["session_id"])
    assert len(page["messages"]) == 4
