"""The chat in a terminal, with a real daemon."""

import os
import pwd
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from kheishctl import exit_codes
from kheishctl.client import resolve_socket
from kheishctl.launch import probe, wait_for_exit
from tests.support.daemons import Daemon
from tests.support.git_repositories import git
from tests.support.terminal import Terminal

Chat = Callable[..., "Terminal"]


@contextmanager
def chats(home: Path, state: Path, *defaults: str) -> Iterator[Chat]:
    """Provide a function that opens chats with the daemon of a home, each in a separate terminal."""
    opened: list[Terminal] = []

    def open_chat(*arguments: str, columns: int = 90, rows: int = 40, **environ: str) -> Terminal:
        command = [sys.executable, "-m", "kheishctl", "--home", str(home), "chat", *(arguments or defaults)]
        environ = {"XDG_STATE_HOME": str(state), **environ}
        opened.append(Terminal(command, environ, columns=columns, rows=rows))
        return opened[-1]

    try:
        yield open_chat
    finally:
        for terminal in opened:
            terminal.close()


@pytest.fixture
def chat(home: Path, tmp_path: Path) -> Iterator[Chat]:
    """Provide a function that opens chats with the test's daemon."""
    with chats(home, tmp_path / "state") as open_chat:
        yield open_chat


_numbers = count(1)


@pytest.fixture
def sender() -> str:
    """Return a sender that only this test uses."""
    return f"sender-{next(_numbers)}"


@pytest.fixture
def shared_chat(shared_daemon: Daemon, sender: str, tmp_path: Path) -> Iterator[Chat]:
    """Provide a function that opens chats with the shared daemon, as the test's own sender by default."""
    with chats(shared_daemon.home, tmp_path / "state", "--as", sender) as open_chat:
        yield open_chat


def test_markdown(shared_chat: Chat) -> None:
    """The marks of markdown become styles, and the answer is shown once."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.say("then **this** and `that`")
    text = terminal.until(lambda text: "You say: “then this and that”" in text, "the answer")
    assert text.count("You say") == 1
    terminal.until(lambda _: "\x1b[1mthis\x1b[0m" in terminal.raw, "bold text")


def test_streaming(shared_chat: Chat) -> None:
    """The text of an answer is shown while its run is running."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.paste("/slow 50 60\nhello")
    terminal.press("enter")
    text = terminal.sees("This is the off")
    assert "“hello”" not in text
    assert "answering" in text
    whole = terminal.until(lambda text: "“hello”" in text and "answering" not in text, "the whole answer")
    assert whole.count("This is the offline stand-in") == 1


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(daemon: Daemon, chat: Chat) -> None:
    """Ctrl-C cancels the run and keeps its text; the session continues."""
    terminal = chat()
    terminal.sees("a new conversation")
    terminal.paste("/slow 60 100\nfirst")
    terminal.press("enter")
    terminal.sees("This is")
    terminal.press("ctrl-c")
    terminal.sees("· stopped")
    terminal.say("second")
    text = terminal.sees("You say: “second”")
    assert text.count("· stopped") == 1
    runs = daemon.call("run.list", order="oldest")["runs"]
    assert [run["status"] for run in runs] == ["cancelled", "completed"]
    assert len({run["session_id"] for run in runs}) == 1


def test_keys(shared_chat: Chat, tmp_path: Path) -> None:
    """The keys of a line work in a terminal: recall, search, editor, the keys of vi from the settings."""
    settings = tmp_path / "kheish" / "client.toml"
    settings.parent.mkdir()
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "from the editor\\n" > "$1"\n')
    editor.chmod(0o755)
    terminal = shared_chat(EDITOR=str(editor), XDG_CONFIG_HOME=str(tmp_path))
    terminal.sees("a new conversation")
    terminal.say("first line")
    terminal.sees("“first line”")
    terminal.type("draft")
    terminal.press("up")
    terminal.press("ctrl-c")
    terminal.type("\x12irst")
    terminal.press("enter")
    terminal.sees("> first line")
    terminal.type("\x07")
    terminal.sees("> from the editor")
    terminal.press("enter")
    text = terminal.sees("“from the editor”")
    assert "draftfirst" not in text
    terminal.press("ctrl-d")
    assert terminal.ends() == 0
    settings.write_text('editing_mode = "vi"')
    terminal = shared_chat(XDG_CONFIG_HOME=str(tmp_path))
    terminal.sees("“from the editor”")
    terminal.type("wrong\x1b")
    terminal.until(lambda _: "\x1b[2 q" in terminal.raw, "the cursor of navigation")
    terminal.type("ccright")
    terminal.press("enter")
    terminal.sees("“right”")


def test_status_queue_and_notice(shared_daemon: Daemon, shared_chat: Chat, tmp_path: Path) -> None:
    """The status line has the state; a queued message is withdrawn and changed; a notice tells the end."""
    terminal = shared_chat(columns=120, TERM_PROGRAM="WezTerm", TMUX="", XDG_CONFIG_HOME=str(tmp_path))
    terminal.sees("a new conversation")
    terminal.paste("/slow 1000 1000\nhello")
    terminal.press("enter")
    terminal.sees("Esc stops it · default · offline · ")
    terminal.say("next")
    terminal.sees("queued: next")
    terminal.type("\x1b\x1b[A")
    terminal.until(
        lambda text: "· withdrawn: next" in text and text.endswith("> next"), "the text in the line"
    )
    assert "answering" in terminal.text
    terminal.type("!")
    terminal.press("enter")
    terminal.sees("queued: next!")
    # The terminal is not in front.
    terminal.type("\x1b[O\x1b")
    terminal.sees("“next!”")
    terminal.until(lambda _: "\x1b]9;default: the answer is complete\a" in terminal.raw, "a notice")
    terminal.until(
        lambda text: re.search(r"^default · offline · context \d+ \(0%\)", text, re.M) is not None, "use"
    )
    terminal.press("ctrl-d")
    assert terminal.ends() == 0
    assert "\x1b]2;default: answering\x1b\\" in terminal.raw
    assert terminal.raw.endswith("\x1b[?1004l\x1b[23;2t")


def test_suspension(shared_daemon: Daemon, sender: str, tmp_path: Path) -> None:
    """Ctrl-Z suspends the chat and ends the reports of the focus; it continues with the line as it was."""
    program = f"{sys.executable} -m kheishctl --home {shared_daemon.home} chat --as {sender}; echo gone"
    environ = {"XDG_STATE_HOME": str(tmp_path), "PS1": "$ "}
    with Terminal(["bash", "--norc", "-i"], environ, columns=200) as terminal:
        terminal.say(program)
        terminal.sees("a new conversation")
        terminal.type("draft\x1a")
        terminal.sees("Stopped")
        assert terminal.raw.rindex("\x1b[?1004l") > terminal.raw.rindex("\x1b[?1004h")
        terminal.say("fg")
        terminal.until(lambda text: text.endswith("> draft"), "the line")
        terminal.type("\x03\x04")
        terminal.sees("gone")


def test_existing_conversation(shared_daemon: Daemon, shared_chat: Chat) -> None:
    """The chat shows the last turns of its conversation and no message of another sender."""
    shared_daemon.say("the first thing", agent="default", sender="ada")
    shared_daemon.say("the second thing", agent="default", sender="ada")
    terminal = shared_chat("default", "--as", "ada")
    text = terminal.sees("You say: “the second thing”")
    assert text.index("ada > the first thing") < text.index("ada > the second thing")
    terminal.say("third")
    terminal.sees("before it you said: “the second thing”")
    bobs_chat = shared_chat("default", "--as", "bob")
    assert "thing" not in bobs_chat.sees("a new conversation")


def test_two_chats_in_one_conversation(shared_chat: Chat) -> None:
    """Two chats in one conversation show the same text, whichever sends."""
    first, second = shared_chat(), shared_chat()
    first.sees("a new conversation")
    second.sees("a new conversation")
    first.say("from one")
    for terminal in (first, second):
        terminal.sees("You say: “from one”")
    second.say("from two")
    for terminal in (first, second):
        text = terminal.sees("You say: “from two”")
        assert text.index("> from one") < text.index("> from two")
        assert text.count("You say: “from one”") == 1


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
def test_daemon_restarts_during_an_answer(daemon: Daemon, chat: Chat, orderly: bool) -> None:
    """The chat waits for the daemon, and the answer is shown completely and once."""
    terminal = chat()
    terminal.sees("a new conversation")
    terminal.paste("/slow 30 40\nhello")
    terminal.press("enter")
    terminal.sees("This is the off")
    if orderly:
        daemon.signal(signal.SIGTERM)
        daemon.wait()
    else:
        daemon.kill()
    terminal.sees("connection lost")
    terminal.say("typed meanwhile")
    terminal.sees("to be sent: typed meanwhile")
    daemon.restart()
    text = terminal.until(
        lambda text: "You say: “typed meanwhile”" in text and "answering" not in text, "all"
    )
    assert text.count("You say: “hello”") == 1
    assert text.count("> typed meanwhile") == 1
    assert text.count("connected again") == 1
    assert len(daemon.events(types=["input_received"])) == 2


def test_run_continues_after_the_chat(shared_chat: Chat) -> None:
    """The chat says how to come back, and the next chat shows the rest of the answer."""
    terminal = shared_chat("--as", "lea")
    terminal.sees("a new conversation")
    terminal.paste("/slow 30 60\nhello")
    terminal.press("enter")
    terminal.sees("This is the off")
    terminal.press("ctrl-d")
    terminal.sees("come back with: kheishctl chat default --as lea")
    assert terminal.ends() == 0
    next_chat = shared_chat("--as", "lea")
    text = next_chat.sees("You say: “hello”")
    assert text.count("This is the offline stand-in") == 1


def test_line_breaks(shared_daemon: Daemon, shared_chat: Chat, sender: str) -> None:
    """Alt-Enter inserts a line break, a paste keeps its line breaks, and Enter sends all lines."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.type("one")
    terminal.press("alt-enter")
    terminal.paste("two\nthree")
    terminal.press("enter")
    terminal.sees("You say: “one")
    message = shared_daemon.call("conversation.history", sender=sender)["messages"][0]["message"]
    assert message["items"][0]["text"] == "one\ntwo\nthree"


def test_history_of_lines(shared_chat: Chat) -> None:
    """Up recalls an earlier line, in the next chat too."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.say("remember me")
    terminal.sees("You say: “remember me”")
    terminal.press("ctrl-d")
    assert terminal.ends() == 0
    next_chat = shared_chat("--as", "eva")
    next_chat.sees("a new conversation")
    next_chat.press("up")
    next_chat.sees("eva > remember me")


@pytest.mark.parametrize(("columns", "rows"), [(60, 12), (30, 8)])
def test_long_answer_in_a_small_terminal(shared_chat: Chat, columns: int, rows: int) -> None:
    """Every word of an answer that is longer than the screen is shown once and in order."""
    terminal = shared_chat(columns=columns, rows=rows)
    terminal.sees(">")
    terminal.paste("/slow 60 10\n/long 300")
    terminal.press("enter")
    text = terminal.until(lambda text: "word300" in text and "answering" not in text, "the last word")
    words = [word for word in text.split() if word.startswith("word")]
    assert words == [f"word{number}" for number in range(1, 301)]


def test_escape_sequences(shared_daemon: Daemon, shared_chat: Chat, sender: str) -> None:
    """Escape sequences in a message are shown as text, while the answer grows and afterwards."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    shared_daemon.say("/slow 20 20\n\x1b]0;stolen\x07\x1b[2Jgone\u202e", agent="default", sender=sender)
    terminal.until(lambda text: "␛[2Jgone" in text and "answering" not in text, "the sequence")
    assert "\x1b]0;stolen" not in terminal.raw
    assert "\x1b[2J" not in terminal.raw
    assert "\u202e" not in terminal.raw


def test_without_color(shared_chat: Chat) -> None:
    """With NO_COLOR neither the transcript nor the prompt has colors."""
    terminal = shared_chat(NO_COLOR="1")
    terminal.sees("a new conversation")
    terminal.say("**bold** and `code`")
    terminal.sees("bold and code")
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|[12])m", terminal.raw)


WRITE = '/call write_file {"path": "notes.txt", "content": "remember\\n"}'
KEYS = "a allow  r for this run"


def test_key_allows_a_change(daemon: Daemon, chat: Chat) -> None:
    """The panel shows the change of a call, a key allows it, and the call is executed."""
    terminal = chat(NO_COLOR="1")
    terminal.sees("a new conversation")
    terminal.say(WRITE)
    text = terminal.sees(KEYS)
    assert "? write_file needs your approval" in text
    assert "  │ +remember" in text
    assert terminal.raw.count("\a") == 1
    terminal.type("a")
    terminal.sees("✓ write_file  allowed by you")
    text = terminal.until(
        lambda text: "The tool write_file gave" in text and "answering" not in text, "the answer"
    )
    assert "needs your approval" not in text
    assert re.search(r"✓ write_file  \d.* s · notes.txt", text)
    assert (daemon.home / "workspace" / "notes.txt").read_text() == "remember\n"


def test_output_of_an_allowed_command(daemon: Daemon, chat: Chat) -> None:
    """The output of an allowed command is shown while it runs, then its result and the answer."""
    command = "echo $((6 * 7)) begun; until [ -e go ]; do sleep 0.02; done; echo and done"
    terminal = chat(NO_COLOR="1")
    terminal.sees("a new conversation")
    terminal.say(f'/call bash {{"command": "{command}"}}')
    text = terminal.sees(KEYS)
    assert f"  │ {command}" in text
    terminal.type("r")
    terminal.sees("✓ bash  allowed by you for this run")
    terminal.sees("  │ 42 begun")
    (daemon.home / "workspace" / "go").touch()
    text = terminal.until(lambda text: "The tool bash gave" in text and "answering" not in text, "the answer")
    assert re.search(r"✓ bash  exit 0 after \d.* s · echo.*\n  │ 42 begun\n  │ and done\n", text)
    assert text.count("│ 42 begun") == 1


def test_output_of_a_stopped_command(daemon: Daemon, chat: Chat) -> None:
    """The last lines of a command that Esc stops stay on the screen."""
    terminal = chat(NO_COLOR="1")
    terminal.sees("a new conversation")
    terminal.say('/call bash {"command": "echo $((6 * 7)) begun; until [ -e go ]; do sleep 0.02; done"}')
    terminal.sees(KEYS)
    terminal.type("a")
    terminal.sees("  │ 42 begun")
    terminal.type("\x1b")
    text = terminal.until(lambda text: "■ bash" in text and "answering" not in text, "the end")
    assert re.search(r"■ bash  stopped.*\n  │ 42 begun\n", text)


def test_another_client_answers(daemon: Daemon, chat: Chat) -> None:
    """The answer of one chat closes the request in the other one, which shows the name of the person."""
    first, second = chat(), chat()
    first.sees("a new conversation")
    second.sees("a new conversation")
    first.say(WRITE)
    for terminal in (first, second):
        terminal.sees(KEYS)
    second.type("D")
    second.sees("note >")
    second.say("not into the workspace")
    second.sees("✗ write_file  denied by you · not into the workspace")
    name = pwd.getpwuid(os.getuid()).pw_name
    first.sees(f"✗ write_file  denied by {name} · not into the workspace")
    for terminal in (first, second):
        text = terminal.until(
            lambda text: "The tool write_file failed" in text and "answering" not in text, "the answer"
        )
        assert "needs your approval" not in text
    assert not (daemon.home / "workspace" / "notes.txt").exists()


def test_question(shared_chat: Chat) -> None:
    """A digit answers with an option, which the agent receives."""
    options = '[{"label": "red"}, {"label": "blue"}]'
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.say(f'/call ask_user_question {{"questions": [{{"question": "Which?", "options": {options}}}]}}')
    terminal.sees("1-9 answer")
    terminal.type("2")
    terminal.sees("✓ question  answered by you · blue")
    terminal.until(lambda text: "The tool ask_user_question gave" in text and "blue" in text, "the answer")


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
def test_pending_request_survives_a_restart(daemon: Daemon, chat: Chat, orderly: bool) -> None:
    """Without a daemon no key answers; after its restart the request is still pending."""
    terminal = chat()
    terminal.sees("a new conversation")
    terminal.say(WRITE)
    terminal.sees(KEYS)
    daemon.stop() if orderly else daemon.kill()
    terminal.until(lambda text: "connection lost" in text and KEYS not in text, "the loss")
    terminal.type("a")
    terminal.sees("user > a")
    terminal.type("\x7f")
    daemon.restart()
    terminal.sees("connected again")
    terminal.sees(KEYS)
    terminal.type("a")
    terminal.sees("The tool write_file gave")


def test_start_with_pending_requests(daemon: Daemon, chat: Chat) -> None:
    """A chat shows the requests that were pending before it started; a command allows all of them."""
    daemon.say(f"{WRITE}\n{WRITE.replace('notes', 'more')}", agent="default", sender="ada")
    terminal = chat("default", "--as", "ada")
    text = terminal.sees("1 of 2 · write_file needs your approval")
    assert "→ write_file  notes.txt" in text
    terminal.say("/approvals")
    terminal.sees("· 2 of 2")
    terminal.say("/allow all")
    terminal.until(lambda text: text.count("allowed by you") == 2, "both allowed")
    terminal.until(lambda text: text.count("The tool write_file gave") == 2, "both done")


@contextmanager
def stop_daemon(home: Path) -> Iterator[None]:
    """Stop the daemon of a home at the end, if there is one."""
    try:
        yield
    finally:
        status = probe(resolve_socket(str(home)))
        if status is not None:
            os.kill(status["pid"], signal.SIGTERM)
            assert wait_for_exit(status["pid"], 30)


@pytest.mark.parametrize("arguments", [["--spawn"], []], ids=["spawn", "consent"])
def test_chat_starts_a_daemon(home: Path, chat: Chat, arguments: list[str]) -> None:
    """With --spawn or consent the chat starts a daemon in the background, which outlives it."""
    with stop_daemon(home):
        terminal = chat(*arguments)
        if not arguments:
            terminal.sees("Start one in the background? [Y/n]")
            terminal.press("enter")
        terminal.sees("Started a daemon")
        terminal.say("hello")
        terminal.sees("You say: “hello”")
        terminal.press("ctrl-d")
        assert terminal.ends() == 0
        assert probe(resolve_socket(str(home))) is not None


def test_chat_without_consent_to_a_daemon(home: Path, chat: Chat) -> None:
    """Without consent no daemon is started, and the exit code says that no daemon answers."""
    terminal = chat()
    terminal.sees("No daemon is running")
    terminal.say("n")
    assert terminal.ends() == exit_codes.NO_DAEMON
    assert not (home / "run").exists()


def test_signal(shared_chat: Chat) -> None:
    """SIGTERM ends the chat like Ctrl-D and restores the terminal."""
    terminal = shared_chat()
    terminal.sees("a new conversation")
    terminal.signal(signal.SIGTERM)
    assert terminal.ends() == 0
    # Bracketed paste and the hidden cursor were switched off after they were switched on.
    for switch_on, switch_off in (("\x1b[?2004h", "\x1b[?2004l"), ("\x1b[?25l", "\x1b[?25h")):
        assert terminal.raw.rfind(switch_off) > terminal.raw.rfind(switch_on)


def test_mentions(shared_daemon: Daemon, sender: str, tmp_path: Path) -> None:
    """@ lists files and agents; the selected one is in the line, and nothing odd reaches the screen."""
    work = tmp_path / "work"
    (work / "src").mkdir(parents=True)
    for name in ("src/main program.py", "src/\x1b[2Jevil.py", "other.md"):
        (work / name).touch()
    git(work, "init", "-q", "-b", "main")
    command = [sys.executable, "-m", "kheishctl", "--home", str(shared_daemon.home), "chat", "--as", sender]
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with Terminal([*command, "--workspace", str(work)], environ, columns=90, rows=30) as terminal:
        terminal.sees("Do you trust")
        terminal.say("n")
        terminal.sees("a new conversation")
        terminal.type("explain @mnprg")
        terminal.sees("> src/main program.py")
        terminal.press("enter")
        terminal.sees("> explain src/main\\ program.py")
        terminal.say("and @xyz")
        terminal.sees("You say: “explain src/main\\ program.py and @xyz”")
        terminal.type("@evil")
        terminal.sees("> src/⟨ESCAPE⟩[2Jevil.py")
        terminal.press("tab")
        terminal.sees("> $'src/\\x1b[2Jevil.py'")
        assert "\x1b[2Jevil" not in terminal.raw
        terminal.press("ctrl-c")
        terminal.type("ask @default")
        terminal.sees("> @default  agent")
        terminal.press("enter")
        terminal.sees("You say: “ask @default”")
        terminal.press("ctrl-d")
        assert terminal.ends() == 0
