"""Tests of the chat on pipes, with a real daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from kheishctl.shell.chat import Chat
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.paper import Paper


class Person:
    """A person at the pipes of a chat."""

    def __init__(self, keyboard: PipeInput) -> None:
        self.keyboard = keyboard
        self.paper = Paper()

    def type(self, text: str) -> None:
        """Type a text."""
        self.keyboard.send_text(text)

    async def sees(self, text: str, times: int = 1) -> None:
        """Wait until the chat has written a text, the given number of times."""
        end = 0
        for _ in range(times):
            await self.paper.sees(text, end)
            end = self.paper.getvalue().index(text, end) + len(text)


@pytest.fixture(autouse=True)
def history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the history of lines in the test's directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def run_chat(
    daemon: Daemon,
    sender: str,
    body: Callable[[Person], Awaitable[None]],
    agent: str | None = None,
    *,
    verbose: bool = False,
) -> str:
    """Run a chat until the body ends it; return all its output."""

    async def main(keyboard: PipeInput) -> str:
        person = Person(keyboard)
        output = Vt100_Output(person.paper, lambda: Size(30, 90), term="xterm")
        chat = Chat(
            str(daemon.socket), agent, sender, color=False, verbose=verbose, terminal=(keyboard, output)
        )
        actions = asyncio.ensure_future(body(person))
        async with asyncio.timeout(PATIENCE_S):
            await chat.run()
        await actions
        return person.paper.getvalue()

    with create_pipe_input() as keyboard:
        return asyncio.run(main(keyboard))


def test_turn(daemon: Daemon, sender: str) -> None:
    """The chat shows the message and its answer; Ctrl-D ends it."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("hello\r")
        await person.sees("You say: “hello”")
        person.type("\x04")

    assert f"{sender} > hello" in run_chat(daemon, sender, body)


def test_commands_of_the_person(daemon: Daemon, sender: str) -> None:
    """``!`` runs a command in the client; /share sends its output; a second mark makes a message."""

    async def body(person: Person) -> None:
        person.type("/share\r")
        await person.sees("no command was run")
        person.type("!printf 'c%s' alm; exit 3\r")
        await person.sees("calm")
        await person.sees("exit code 3; /share sends the output to the agent")
        person.type("/share explain\r")
        await person.sees("its exit code was 3")
        person.type("!!important\r")
        await person.sees("You say: “!important”")
        person.type("!echo waits; read line < /dev/zero\r")
        await person.sees("waits")
        person.type("!true\r")
        await person.sees("a command is running; Ctrl-C stops it")
        person.type("\x03")
        await person.sees("stopped: echo waits")
        person.type("/quit\r")

    run_chat(daemon, sender, body)


def test_an_unknown_command_is_rejected_once(daemon: Daemon, sender: str) -> None:
    """An unknown command stays on the line; Enter on the unchanged line sends it, as a second slash does."""

    async def body(person: Person) -> None:
        person.type("/xyzzy one\r")
        await person.sees("no command /xyzzy; /help lists the commands")
        person.type("\r")
        await person.sees("You say: “/xyzzy one”")
        person.type("//xyzzy two\r")
        await person.sees("You say: “/xyzzy two”")
        person.type("/exit\r")

    run_chat(daemon, sender, body)


def test_commands(daemon: Daemon, sender: str) -> None:
    """Every slash command has its effect on a real daemon."""
    daemon.say("before", agent="default", sender=sender)

    async def body(person: Person) -> None:
        await person.sees("You say: “before”")
        for line, output in (
            ("/help", "Alt-Enter"),
            ("/status", "healthy"),
            ("/cancel", "nothing is running"),
            ("/hlep", "did you mean /help?"),
            ("/history 1", "We"),
            ("/approvals", "nothing is pending"),
            ("/allow", "no such approval is pending"),
            ("/decline", "no question is pending"),
            ("/doubts", "no call is in doubt"),
            ("/resolve done", "no call is in doubt"),
            ("/steer faster", "No run is in flight"),
            ("/mode", "the permission mode is default"),
            ("/mode plan", "the permission mode is now plan"),
            ("/route", "offline (default): offline by offline"),
            ("/route offline", "the route is now offline"),
            ("/model another", "the model is now another"),
            ("/model", "the model is another, on route offline"),
            ("/agent", "the agent is default"),
            ("/agent nosuch", "there is no agent 'nosuch'; the agents are: "),
            ("/cost", "no cost: the route has no prices"),
            ("/context", "the context of the last answer"),
            ("/permissions", "daemon: "),
            ("/copy", "was sent to the terminal's clipboard"),
            ("/export", "usage: /export FILE"),
            ("/why write_file a.txt", "verdict: deny, by"),
            ("/compact", "not compacted"),
            ("/reset", "was reset"),
            ("/new", "is already new"),
        ):
            person.type(f"{line}\r")
            await person.sees(output if line != "/history 1" else "“before”")
            if line == "/hlep":
                # The rejected line stays, to be corrected.
                person.type("\x03")
        person.type("/quit\r")

    run_chat(daemon, sender, body)


def test_verbose(daemon: Daemon, sender: str) -> None:
    """A verbose chat shows the verdict on a call and its result."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/call list_files {}\r")
        await person.sees("The tool list_files gave")
        person.type("\x04")

    assert "· list_files  allowed (" in run_chat(daemon, sender, body, verbose=True)
    assert "allowed (" not in run_chat(daemon, f"{sender}-quiet", body)


def test_steer(daemon: Daemon, sender: str) -> None:
    """A message to the running run is shown with its sender."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/slow 1000 1000\r")
        await person.sees("answering")
        person.type("/steer leave the tests\r")
        await person.sees(f"{sender} (steering) > leave the tests")
        person.type("\x03")
        await person.sees("· stopped")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_ctrl_c_stops_the_answer(daemon: Daemon, sender: str) -> None:
    """Ctrl-C cancels the run once; the conversation continues."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/slow 1000 1000\r")
        await person.sees("answering")
        person.type("\x03\x03")
        await person.sees("· stopped")
        person.type("next\r")
        await person.sees("“next”")
        person.type("\x04")

    output = run_chat(daemon, sender, body)
    assert output.count("· stopped") == 1


def test_draft_and_answer(daemon: Daemon, sender: str) -> None:
    """Ctrl-C clears a draft and the run continues; Esc stops the run and keeps the draft."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/slow 1000 1000\r")
        await person.sees("answering")
        person.type("draft\x03kept\x1b")
        await person.sees("· stopped")
        person.type("\r")
        await person.sees("“kept”")
        person.type("\x04")

    assert run_chat(daemon, sender, body).count("· stopped") == 1


def test_help_key(daemon: Daemon, sender: str) -> None:
    """A question mark on an empty line shows the keys."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("?")
        await person.sees("Ctrl-G")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_failed_editor(daemon: Daemon, sender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor that cannot be started is named, and the line is kept."""
    monkeypatch.setenv("VISUAL", "/nonexistent/editor")

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("draft\x07")
        await person.sees("/nonexistent/editor: ")
        person.type("\r")
        await person.sees("“draft”")
        person.type("/vi\r")
        await person.sees("keys of vi")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_transcript(daemon: Daemon, sender: str) -> None:
    """Ctrl-O shows the whole conversation, full screen; the chat continues behind it."""
    daemon.say("before", agent="default", sender=sender)

    async def body(person: Person) -> None:
        await person.sees("You say: “before”")
        person.type("draft\x0f")
        await person.sees("q closes")
        person.type("q")
        person.type("\r")
        await person.sees("“draft”")
        person.type("/transcript\r")
        await person.sees("q closes", 2)
        person.type("q")
        person.type("/expand\r")
        await person.sees("there is no such text")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_image(daemon: Daemon, sender: str, tmp_path: Path) -> None:
    """An image is rejected by its name, and nothing is sent."""
    (tmp_path / "shot.png").touch()

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type(f"{tmp_path}/shot.png\r")
        await person.sees("images cannot be sent yet")
        person.type("\x04")

    run_chat(daemon, sender, body)
    assert sender not in str(daemon.call("conversation.list")["conversations"])


def test_leaving_during_an_answer(daemon: Daemon, sender: str) -> None:
    """After the chat has ended the run continues, and the chat says how to come back."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/slow 1000 1000\r")
        await person.sees("answering")
        person.type("\x04")

    output = run_chat(daemon, sender, body)
    assert f"come back with: kheishctl chat default --as {sender}" in output
    assert daemon.call("run.list", active=True, limit=1)["runs"][0]["sender"] == sender
    daemon.call("conversation.cancel", agent="default", sender=sender)


def test_queued_message(daemon: Daemon, sender: str) -> None:
    """A message behind another one is shown as queued."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        person.type("/slow 1000 1000\r")
        await person.sees("answering")
        person.type("and then\r")
        await person.sees("queued: and then")
        person.type("\x03")
        await person.sees("“and then”")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_earlier_messages(daemon: Daemon, sender: str) -> None:
    """If there are more messages than the chat shows at its start, it says how to show them."""
    for number in range(4):
        daemon.say(f"turn {number}", agent="default", sender=sender)

    async def body(person: Person) -> None:
        await person.sees("earlier messages: /history")
        await person.sees("“turn 3”")
        person.type("/history\r")
        await person.sees("> turn 0")
        person.type("\x04")

    run_chat(daemon, sender, body)


def test_escape_sequences_are_sanitized(daemon: Daemon, sender: str) -> None:
    """An escape sequence in a message is shown as text and does not reach the terminal."""

    async def body(person: Person) -> None:
        await person.sees("a new conversation")
        await asyncio.to_thread(daemon.say, "\x1b]0;title\x07", agent="default", sender=sender)
        await person.sees("␛]0;title␇")
        person.type("\x04")

    assert "\x1b]0;title" not in run_chat(daemon, sender, body, "default")
