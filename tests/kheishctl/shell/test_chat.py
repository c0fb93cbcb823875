"""The chat: what is typed, what is seen, on pipes and with a real daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from kheishctl.shell.chat import Chat, in_turns
from tests.support.daemons import PATIENCE_S, Daemon
from tests.support.paper import Paper


class Talk:
    """A chat on pipes: what is typed and what was written to the terminal."""

    def __init__(self, typed: PipeInput) -> None:
        self.typed = typed
        self.seen = Paper()

    def type(self, text: str) -> None:
        """Type something."""
        self.typed.send_text(text)

    async def sees(self, text: str) -> None:
        """Wait until something was written."""
        await self.seen.sees(text)


@pytest.fixture(autouse=True)
def history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is typed is kept where the test can forget it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def chat(
    daemon: Daemon,
    sender: str,
    body: Callable[[Talk], Awaitable[None]],
    agent: str | None = None,
    *,
    verbose: bool = False,
) -> str:
    """Chat until the body leaves: everything that was written."""

    async def run(typed: PipeInput) -> str:
        talk = Talk(typed)
        output = Vt100_Output(talk.seen, lambda: Size(30, 90), term="xterm")
        whole = Chat(
            str(daemon.socket), agent, sender, color=False, verbose=verbose, terminal=(typed, output)
        )
        doing = asyncio.ensure_future(body(talk))
        async with asyncio.timeout(PATIENCE_S):
            await whole.run()
        await doing
        return talk.seen.getvalue()

    with create_pipe_input() as typed:
        return asyncio.run(run(typed))


def test_a_turn(daemon: Daemon, sender: str) -> None:
    """What is said and what is answered are seen; leaving ends it."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("hello\r")
        await talk.sees("You say: “hello”")
        talk.type("\x04")

    assert f"{sender} > hello" in chat(daemon, sender, body)


def test_commands(daemon: Daemon, sender: str) -> None:
    """Each of the chat's own commands does what it says."""
    daemon.say("before", agent="default", sender=sender)

    async def body(talk: Talk) -> None:
        await talk.sees("You say: “before”")
        for line, shown in (
            ("/help", "Alt-Enter"),
            ("/status", "healthy"),
            ("/cancel", "nothing is running"),
            ("/hlep", "perhaps /help?"),
            ("/history 1", "We"),
            ("/approvals", "nothing waits for you"),
            ("/allow", "no such approval waits"),
            ("/decline", "no question waits"),
            ("/doubts", "no call is in doubt"),
            ("/resolve done", "no call is in doubt"),
            ("/steer faster", "No run is in flight"),
            ("/mode", "the permission mode is default"),
            ("/mode plan", "the permission mode is now plan"),
            ("/why write_file a.txt", "so: deny, by"),
            ("/compact", "nothing was done"),
            ("/reset", "was reset"),
            ("/reset", "is new already"),
        ):
            talk.type(f"{line}\r")
            await talk.sees(shown if line != "/history 1" else "“before”")
        talk.type("/quit\r")

    chat(daemon, sender, body)


def test_verbose(daemon: Daemon, sender: str) -> None:
    """What decided about a call is shown, and what it gave."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("/call list_files {}\r")
        await talk.sees("The tool list_files gave")
        talk.type("\x04")

    assert "· list_files  allowed: " in chat(daemon, sender, body, verbose=True)
    assert "allowed: " not in chat(daemon, f"{sender}-quiet", body)


def test_a_run_is_steered(daemon: Daemon, sender: str) -> None:
    """What is said to it while it works is shown, by whom."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("/slow 1000 1000\r")
        await talk.sees("answering")
        talk.type("/steer leave the tests\r")
        await talk.sees(f"{sender}, meanwhile > leave the tests")
        talk.type("\x03")
        await talk.sees("· stopped")
        talk.type("\x04")

    chat(daemon, sender, body)


def test_ctrl_c_stops_the_answer(daemon: Daemon, sender: str) -> None:
    """The run is cancelled, once, and the conversation goes on."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("/slow 1000 1000\r")
        await talk.sees("answering")
        talk.type("\x03\x03")
        await talk.sees("· stopped")
        talk.type("next\r")
        await talk.sees("“next”")
        talk.type("\x04")

    seen = chat(daemon, sender, body)
    assert seen.count("· stopped") == 1


def test_leaving_while_it_answers(daemon: Daemon, sender: str) -> None:
    """The run goes on, and it is said how to come back."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("/slow 1000 1000\r")
        await talk.sees("answering")
        talk.type("\x04")

    seen = chat(daemon, sender, body)
    assert f"come back with: kheishctl chat default --as {sender}" in seen
    assert daemon.call("run.list", active=True, limit=1)["runs"][0]["sender"] == sender
    daemon.call("conversation.cancel", agent="default", sender=sender)


def test_what_waits_is_seen(daemon: Daemon, sender: str) -> None:
    """A second message is queued behind the first, in sight."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        talk.type("/slow 1000 1000\r")
        await talk.sees("answering")
        talk.type("and then\r")
        await talk.sees("queued: and then")
        talk.type("\x03")
        await talk.sees("“and then”")
        talk.type("\x04")

    chat(daemon, sender, body)


def test_earlier_messages_are_named(daemon: Daemon, sender: str) -> None:
    """Where there is more than is shown, it is said how to see it."""
    for number in range(4):
        daemon.say(f"turn {number}", agent="default", sender=sender)

    async def body(talk: Talk) -> None:
        await talk.sees("earlier messages: /history")
        await talk.sees("“turn 3”")
        talk.type("/history\r")
        await talk.sees("> turn 0")
        talk.type("\x04")

    chat(daemon, sender, body)


def test_escape_sequences_are_seen_not_obeyed(daemon: Daemon, sender: str) -> None:
    """What anybody says cannot act on the terminal."""

    async def body(talk: Talk) -> None:
        await talk.sees("a new conversation")
        await asyncio.to_thread(daemon.say, "\x1b]0;title\x07", agent="default", sender=sender)
        await talk.sees("␛]0;title␇")
        talk.type("\x04")

    assert "\x1b]0;title" not in chat(daemon, sender, body, "default")


@pytest.mark.parametrize(
    ("received", "shown"),
    [
        ("u1 a1 u2 a2", "u1 a1 u2 a2"),
        ("u1 u2 a1 a2", "u1 a1 u2 a2"),
        ("u1 u2 u3 a1 a3", "u1 a1 u2 u3 a3"),  # The second run gave no answer.
        ("u2 a1 a2 u3", "a1 u2 a2 u3"),  # The first input is on the page before.
        ("u1 a1 a1 u2", "u1 a1 a1 u2"),
        ("", ""),
    ],
)
def test_the_history_is_shown_turn_by_turn(received: str, shown: str) -> None:
    """What was said while an answer was being written stands before its own answer."""
    roles = {"u": "user", "a": "assistant"}
    messages = [{"message": {"role": roles[name[0]]}, "run_id": name[1:]} for name in received.split()]
    order = [entry["message"]["role"][0] + entry["run_id"] for entry in in_turns(messages)]
    assert " ".join(order) == shown
