"""Pending requests in the terminal of a chat: shown, answered by keys, removed when they are closed."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_daemon import ChatDaemon, make_approval, serve_chat
from tests.support.scripted import Message, Peer
from tests.support.terminal import Terminal

OpenChat = Callable[..., Terminal]
OPTIONS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue", "description": "cold"}]
KEYS = "a allow  r for this run"


@pytest.fixture
def daemon(home: Path, request: pytest.FixtureRequest) -> Iterator[ChatDaemon]:
    """Provide a fake daemon that serves as many connections as the test's parameter says (default: one)."""
    with serve_chat(home, getattr(request, "param", 1)) as daemon:
        yield daemon


@pytest.fixture
def chat(daemon: ChatDaemon, home: Path, tmp_path: Path) -> Iterator[OpenChat]:
    """Provide a function that opens a chat in a terminal."""
    opened: list[Terminal] = []

    def open_chat(*arguments: str, columns: int = 90, rows: int = 30, **environ: str) -> Terminal:
        command = [sys.executable, "-m", "kheishctl", "--home", str(home), "chat", *arguments]
        environ |= {"XDG_STATE_HOME": str(tmp_path)}
        opened.append(Terminal(command, environ, columns=columns, rows=rows))
        return opened[-1]

    yield open_chat
    for terminal in opened:
        terminal.close()


def request_approval(daemon: ChatDaemon, number: int, command: str, **fields: Any) -> None:
    """Emit a call of bash that needs approval."""
    daemon.request_call(f"call_{number}", command=command)
    daemon.emit("approval_requested", **make_approval(number, command, **fields))


def test_key_allows(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The bell rings once, the panel shows the command, and one key allows it."""
    terminal = chat()
    request_approval(daemon, 1, "make install", note="bash asks by default")
    text = terminal.sees(KEYS)
    assert "? bash needs your approval" in text
    assert "  │ why: bash asks by default" in text
    assert "  │ make install" in text
    assert terminal.raw.count("\a") == 1
    terminal.type("a")
    assert daemon.wait_for_call("approval.resolve")["resolutions"] == [
        {"approval_id": "apr_1", "decision": "allow"}
    ]
    daemon.answer_approval(1, "allow")
    text = terminal.sees("✓ bash  allowed by you · make install")
    assert "needs your approval" not in text
    assert terminal.raw.count("\a") == 1


def test_output_of_a_running_call(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The last lines of the output are shown while the call runs; one line shows its result."""
    terminal = chat()
    daemon.request_call("call_1", command="make")
    daemon.emit("tool_called", call_id="call_1", tool="bash")
    daemon.emit_output("call_1", "one\ntwo\nthree\n\x1b[31mfour\x1b[2J\n", 0)
    text = terminal.sees("│ four␛[2J")
    assert "│ two" in text
    assert "│ one" not in text
    daemon.emit("tool_returned", call_id="call_1", tool="bash", how="failed", text="exit 2", took_ms=1500)
    text = terminal.until(
        lambda text: "✗ bash  failed after 1.5 s · make" in text and "│ two" not in text, "the result"
    )
    assert "  │ exit 2" in text
    assert "\x1b[2J" not in terminal.raw


def test_output_of_a_command_stays(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The last lines of a command and its exit code stay; all of its lines can be shown; words stay whole."""
    terminal = chat(columns=60)
    daemon.request_call("call_1", command="make tests")
    daemon.emit("tool_called", call_id="call_1", tool="bash", attempt=1)
    output = "".join(f"line {number}\n" for number in range(30))
    result = {"command": "make tests", "exit_code": 2, "stdout": output, "stderr": "it failed\n"}
    daemon.emit(
        "tool_returned", call_id="call_1", tool="bash", how="returned", text=json.dumps(result), took_ms=12
    )
    text = terminal.sees("  │ it failed")
    assert "✗ bash  exit 2 after 0.0 s · make tests" in text
    assert "  │ … 26 more lines: /expand, Ctrl-O" in text
    assert "line 25" not in text
    assert "\x1b[31mexit 2\x1b[0m" in terminal.raw
    terminal.say("/expand")
    terminal.sees("  │ line 0\n  │ line 1\n")
    terminal.say("/help")
    terminal.sees("on an empty line;\n                    the panel explains the keys")
    assert max(map(len, terminal.lines)) <= 60


def test_lookalikes_are_named(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A letter that passes for another one, and a hidden character, are shown by name in an approval."""
    terminal = chat()
    request_approval(daemon, 1, "cat r\u043eot\u200b.txt")
    terminal.sees("  │ cat r⟨CYRILLIC SMALL LETTER O⟩ot⟨ZERO WIDTH SPACE⟩.txt")


def test_page_keys_scroll_a_request(daemon: ChatDaemon, chat: OpenChat) -> None:
    """PageDown scrolls an approval with a draft in the line, and recalls nothing; then a key allows it."""
    terminal = chat(rows=20)
    terminal.say("earlier")
    daemon.wait_for_call("conversation.send")
    request_approval(daemon, 1, "\n".join(f"line {number}" for number in range(40)))
    terminal.sees("more (1-")
    terminal.type("a")
    terminal.sees("the rest of the request must be shown first")
    terminal.type("draft")
    terminal.sees("> draft")
    for _ in range(5):
        terminal.type("\x1b[6~")
    terminal.sees("  │ line 39")
    assert "draft" in terminal.lines[-1] or "> draft" in terminal.text
    terminal.press("ctrl-c")
    terminal.press("up")
    terminal.until(lambda _: terminal.text.endswith(">"), "an empty line")
    terminal.type("a")
    daemon.wait_for_call("approval.resolve")


def test_denial_with_note(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The next line is the note of the denial; it is not sent as a message and not kept in the history."""
    terminal = chat()
    request_approval(daemon, 1, "rm -rf build")
    terminal.sees(KEYS)
    terminal.type("D")
    terminal.sees("note >")
    terminal.say("keep the build")
    [answer] = daemon.wait_for_call("approval.resolve")["resolutions"]
    assert answer == {"approval_id": "apr_1", "decision": "deny", "note": "keep the build"}
    daemon.answer_approval(1, "deny", note="keep the build")
    terminal.sees("✗ bash  denied by you · keep the build")
    terminal.press("up")
    terminal.type("!")
    terminal.sees("user > !")
    assert not daemon.has_call("conversation.send")


def test_edited_input(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The input is put into the prompt as JSON, can be corrected, and is sent with the approval."""
    daemon.results["approval.get"] = {"arguments": {"command": "make"}}
    terminal = chat()
    request_approval(daemon, 1, "make")
    terminal.sees(KEYS)
    terminal.type("e")
    terminal.sees("new input >")
    terminal.type("x\r")
    terminal.sees("this is not JSON")
    terminal.type("\x7f\r")
    [answer] = daemon.wait_for_call("approval.resolve")["resolutions"]
    assert answer == {"approval_id": "apr_1", "decision": "allow", "updated_input": {"command": "make"}}


def test_input_does_not_replace_a_line(daemon: ChatDaemon, chat: OpenChat) -> None:
    """An input that arrives after the person has begun a line is not put into the prompt."""
    is_requested, is_typed = threading.Event(), threading.Event()

    def answer_late(peer: Peer, request: Message) -> None:
        is_requested.set()
        assert is_typed.wait(30)
        peer.answer(request, {"arguments": {"command": "make"}})

    daemon.results["approval.get"] = answer_late
    terminal = chat()
    request_approval(daemon, 1, "make")
    terminal.sees(KEYS)
    terminal.type("e")
    assert is_requested.wait(30)
    terminal.type("x")
    terminal.sees("user > x")
    is_typed.set()
    text = terminal.sees("the line is not empty")
    assert "new input" not in text


def test_all_approvals_at_once(daemon: ChatDaemon, chat: OpenChat) -> None:
    """The panel shows one approval and their number; a capital answers all of them."""
    terminal = chat()
    for number in (1, 2, 3):
        request_approval(daemon, number, f"make {number}")
    terminal.sees("? 1 of 3 ·")
    terminal.sees("A allow all 3")
    terminal.type("A")
    resolutions = daemon.wait_for_call("approval.resolve")["resolutions"]
    assert [resolution["approval_id"] for resolution in resolutions] == ["apr_1", "apr_2", "apr_3"]
    terminal.until(lambda text: "needs your approval" not in text, "no request")


def test_another_person_answers_first(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A request that another person answered disappears with their name; our late answer does not count."""

    def refuse_late(peer: Peer, request: Message) -> None:
        daemon.answer_approval(1, "deny", actor="token:tok_ops", note="not today")
        peer.refuse(request, 1409, "The approval is already resolved.", reason="approval_already_resolved")

    daemon.results["approval.resolve"] = refuse_late
    terminal = chat()
    request_approval(daemon, 1, "make")
    terminal.sees(KEYS)
    terminal.type("a")
    terminal.sees("✗ bash  denied by token:tok_ops · not today · make")
    request_approval(daemon, 2, "make again")
    terminal.sees("│ make again")
    daemon.answer_approval(2, "allow", actor="token:tok_ops")
    text = terminal.until(
        lambda text: "allowed by token:tok_ops" in text and "needs your approval" not in text, "no request"
    )
    assert "by you" not in text


def test_keys_within_a_line_are_text(daemon: ChatDaemon, chat: OpenChat) -> None:
    """Keys answer nothing while the line has text; once it is empty they are effective again."""
    terminal = chat()
    terminal.sees("answering")
    terminal.type("so ")
    request_approval(daemon, 1, "make")
    terminal.sees("the keys work on an empty line only")
    terminal.type("add")
    terminal.sees("user > so add")
    terminal.type("\x7f" * 6)
    terminal.sees(KEYS)
    terminal.type("add more")
    terminal.sees("user > add more")
    assert not daemon.has_call("approval.resolve")
    terminal.type("\x7f" * 8)
    terminal.until(lambda text: "user > a" not in text and KEYS in text, "an empty line")
    terminal.type("d")
    assert daemon.wait_for_call("approval.resolve")["resolutions"][0]["decision"] == "deny"


def test_question(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A digit answers; several options are selected and entered; a line is an answer as text."""
    parts = [
        {"key": "one", "question": "Which?", "options": OPTIONS},
        {"key": "some", "question": "Which ones?", "options": OPTIONS, "multi_select": True},
        {"key": "free", "question": "What name?"},
    ]
    terminal = chat()
    daemon.emit("question_asked", question_id="qst_1", call_id="call_1", questions=parts)
    terminal.sees("? the agent asks, question 1 of 3")
    text = terminal.sees("1-9 answer")
    assert "  │ 2  blue: cold" in text
    terminal.type("2")
    terminal.sees("question 2 of 3")
    terminal.sees("1-9 choose")
    terminal.type("1")
    terminal.sees("│ 1  [x] red")
    terminal.press("enter")
    terminal.sees("question 3 of 3")
    terminal.sees("answer >")
    terminal.say("Ada")
    params = daemon.wait_for_call("question.answer")
    assert params["answers"] == [
        {"key": "one", "selected": ["b"]},
        {"key": "some", "selected": ["r"]},
        {"key": "free", "text": "Ada"},
    ]
    answers = {"question_id": "qst_1", "call_id": "call_1", "answers": params["answers"], "actor": "uid:0"}
    daemon.emit("question_answered", **answers)
    terminal.sees("✓ question  answered by you · blue / red / Ada")
    assert not daemon.has_call("conversation.send")


def test_line_begun_before_a_question(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A line that was begun before the question appeared is a message; the next line answers."""
    terminal = chat()
    terminal.sees("answering")
    terminal.type("by the way")
    daemon.emit(
        "question_asked", question_id="qst_1", call_id="c", questions=[{"key": "k", "question": "Why?"}]
    )
    terminal.sees("type the answer")
    terminal.press("enter")
    assert daemon.wait_for_call("conversation.send")["content"] == "by the way"
    terminal.sees("answer >")
    terminal.say("because")
    assert daemon.wait_for_call("question.answer")["answers"] == [{"key": "k", "text": "because"}]


def test_long_diff(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A long and hostile diff is shown page by page and never moves the prompt off the screen."""
    lines = [f"+line {number} \x1b[2J\x1b]0;stolen\x07" for number in range(15)]
    lines += ["+user > a forged line", "+" + "x" * 10_000_000]
    terminal = chat(rows=20)
    daemon.request_call("call_1", path="a")
    preview = {"kind": "diff", "text": "\n".join(lines)}
    daemon.emit("approval_requested", **make_approval(1, "") | {"preview": preview})
    terminal.sees("space more (1-")
    assert "user >" in terminal.lines
    assert "│ +line 0 ⟨ESCAPE⟩[2J⟨ESCAPE⟩]0;stolen⟨BELL⟩" in terminal.text
    terminal.type(" ")
    terminal.sees("│ +user > a forged line")
    terminal.type(" " * 200)
    terminal.sees("│ Truncated:")
    assert "user >" in terminal.lines
    assert "\x1b[2J" not in terminal.raw
    assert "stolen\x07" not in terminal.raw
    terminal.type("d")
    daemon.wait_for_call("approval.resolve")


@pytest.mark.parametrize(("columns", "rows"), [(24, 6), (40, 10)])
def test_small_terminal(daemon: ChatDaemon, chat: OpenChat, columns: int, rows: int) -> None:
    """A small terminal has room for a line of the request, the keys and the prompt."""
    terminal = chat(columns=columns, rows=rows)
    request_approval(daemon, 1, "\n".join(f"line {number}" for number in range(50)))
    terminal.sees("a r s allow")
    assert "user >" in terminal.lines
    assert "  │ line 0" in terminal.lines
    terminal.type(" ")
    terminal.sees("  │ line 1")
    terminal.type("d")
    daemon.wait_for_call("approval.resolve")


def test_start_during_a_run(daemon: ChatDaemon, chat: OpenChat) -> None:
    """A chat that starts during a run shows the history, running calls, pending requests and doubts."""
    call = {"kind": "tool_call", "call_id": "call_7", "name": "bash", "arguments": {"command": "sleep 9"}}
    message = {"role": "assistant", "items": [{"kind": "text", "text": "Working."}, call]}
    follow_up = {"role": "user", "items": [{"kind": "text", "text": "Go on."}]}
    daemon.history = [
        {"cursor": 8, "at_ms": 1, "run_id": "run_1", "message": follow_up, "item_id": "itm_0.follow_up"},
        {"cursor": 9, "at_ms": 1, "run_id": "run_1", "message": message},
    ]
    daemon.run["calls"] = [
        {"call_id": "call_7", "tool": "bash", "state": "called", "attempt": 1, "called_at_ms": 1}
    ]
    daemon.approvals = [make_approval(1, "make install")]
    daemon.doubts = [
        {"indoubt_id": "idt_1", "tool": "bash", "note": "gone", "arguments": {"command": "rm x"}}
    ]
    terminal = chat()
    text = terminal.sees(KEYS)
    assert "the daemon > Go on." in text
    assert "→ bash  sleep 9" in text
    assert "bash  sleep 9 · " in text
    assert "│ make install" in text
    assert "a call is in doubt: /doubts shows more" in text
    terminal.say("/doubts")
    terminal.sees("? bash  in doubt · rm x")
    terminal.say("/resolve not-done")
    resolution = daemon.wait_for_call("indoubt.resolve")
    assert (resolution["indoubt_id"], resolution["outcome"]) == ("idt_1", "not_done")


@pytest.mark.parametrize("daemon", [2], indirect=True, ids=["two connections"])
def test_pending_requests_after_a_lost_connection(daemon: ChatDaemon, chat: OpenChat) -> None:
    """After a reconnection closed requests disappear, pending ones stay, and the bell rings for new ones."""
    terminal = chat()
    request_approval(daemon, 1, "make one")
    request_approval(daemon, 2, "make two")
    terminal.sees("? 1 of 2")
    rings = terminal.raw.count("\a")
    daemon.approvals = [make_approval(2, "make two"), make_approval(3, "make three")]
    daemon.hang_up()
    terminal.sees("connected again")
    daemon.answer_approval(1, "allow", actor="token:tok_ops")
    text = terminal.sees("allowed by token:tok_ops · make one")
    text = terminal.until(lambda text: "? 1 of 2" in text and KEYS in text, "the requests")
    assert "│ make two" in text
    assert terminal.raw.count("\a") == rings + 1
    terminal.type("a")
    assert daemon.wait_for_call("approval.resolve")["resolutions"] == [
        {"approval_id": "apr_2", "decision": "allow"}
    ]
    terminal.sees("│ make three")


def test_ctrl_c_cancels_the_note_and_then_the_run(daemon: ChatDaemon, chat: OpenChat) -> None:
    """Ctrl-C cancels the line for an approval first, then the run."""
    terminal = chat()
    request_approval(daemon, 1, "make")
    terminal.sees(KEYS)
    terminal.type("D")
    terminal.sees("note >")
    terminal.type("hm")
    terminal.press("ctrl-c")
    terminal.until(lambda text: "user >" in text and "hm" not in text, "the prompt")
    assert not daemon.has_call("conversation.cancel")
    terminal.press("ctrl-c")
    daemon.wait_for_call("conversation.cancel")
