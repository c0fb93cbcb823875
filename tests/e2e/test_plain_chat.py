"""The chat on plain lines: with a dumb terminal, an option or a setting."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.daemons import Daemon
from tests.support.terminal import Terminal

OPTIONS = json.dumps([{"label": "red"}, {"label": "blue"}])
ASK = f'/call ask_user_question {{"questions": [{{"question": "Which?", "options": {OPTIONS}}}]}}'


def open_chat(daemon: Daemon, place: Path, *arguments: str, **environ: str) -> Terminal:
    """Open a chat with state and settings of its own."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "chat", *arguments]
    return Terminal(
        command, {"XDG_STATE_HOME": str(place), "XDG_CONFIG_HOME": str(place), **environ}, columns=200
    )


def call(command: str) -> str:
    """Return a message that makes the agent run a command."""
    return f"/call bash {json.dumps({'command': command})}"


def test_dumb_terminal(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Messages, approvals, a question, commands, Ctrl-C and Ctrl-D work without a single escape sequence."""
    with open_chat(shared_daemon, tmp_path, "--as", "ada", TERM="dumb", LANG="C", LC_ALL="C") as chat:
        chat.sees("ada>")
        chat.say("hello")
        text = chat.until(lambda text: text.count("ada>") >= 2, "the second prompt")
        assert text.count("hello") == 2, "the message is on its line and in the answer, and is not repeated"
        chat.say(call("printf 'c%s' alm"))
        text = chat.sees("type: allow, allow run, allow session, deny, deny NOTE, or edit")
        assert "? bash needs your approval" in text
        assert "  │ printf 'c%s' alm" in text
        chat.say("allow")
        chat.until(lambda text: "  │ calm" in text and text.count("ada>") >= 4, "the output and a prompt")
        chat.say(call("printf 'c%s' old"))
        chat.until(lambda text: text.count("type: allow") == 2, "the second approval")
        chat.say("deny it is warm")
        text = chat.until(lambda text: text.count("ada>") >= 6, "the prompt after the denial")
        assert "✗ bash  denied by you · it is warm · " in text
        chat.say(ASK)
        chat.sees("type: a number, answer TEXT, or decline")
        chat.say("3")
        chat.sees("there are the options 1 to 2")
        chat.say("2")
        chat.sees("✓ question  answered by you · blue")
        chat.say("/copy")
        chat.sees("/export writes the conversation")
        chat.say(call("true"))
        chat.until(lambda text: text.count("type: allow") == 3, "the third approval")
        chat.press("ctrl-c")
        chat.sees("· stopped\n")
        chat.press("ctrl-d")
        assert chat.ends() == 0
        assert "\x1b" not in chat.raw


def test_changed_input(shared_daemon: Daemon, tmp_path: Path) -> None:
    """The input of a call is shown whole, and the next line is the new one."""
    with open_chat(shared_daemon, tmp_path, "--as", "eve", "--plain") as chat:
        chat.sees("eve>")
        chat.say(call("printf 'c%s' alm"))
        chat.sees("type: allow")
        chat.say("edit")
        chat.sees("new input>")
        chat.say("calm")
        chat.until(lambda text: text.count("new input>") == 2, "the rejection and a prompt")
        chat.say('{"command": "printf \'w%s\' arm"}')
        text = chat.sees("changed its input to")
        assert "✓ bash  allowed by you" in text
        assert "not JSON" in text
        assert "\x1b" not in chat.raw


@pytest.mark.parametrize("plain", [True, False])
def test_setting(shared_daemon: Daemon, tmp_path: Path, plain: bool) -> None:
    """A setting makes the chat plain on every terminal."""
    (tmp_path / "kheish").mkdir()
    (tmp_path / "kheish" / "client.toml").write_text(f"plain = {str(plain).lower()}\n")
    with open_chat(shared_daemon, tmp_path, "--as", "bob") as chat:
        chat.sees("bob>" if plain else "bob >")
        assert ("\x1b" in chat.raw) is not plain
