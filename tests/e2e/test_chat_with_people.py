"""What waits for a person, in a terminal: seen, answered with keys, gone when somebody else was first."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted import Message, Peer
from tests.support.stage import Stage, staged
from tests.support.terminal import Terminal

Open = Callable[..., Terminal]
OPTIONS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue", "description": "cold"}]
KEYS = "a allow  r for this run"


@pytest.fixture
def stage(home: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Provide a scripted daemon that serves as many connections as the test asks for (default: one)."""
    with staged(home, getattr(request, "param", 1)) as stage:
        yield stage


@pytest.fixture
def chat(stage: Stage, home: Path, tmp_path: Path) -> Iterator[Open]:
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


def ask(stage: Stage, number: int, command: str, **fields: Any) -> None:
    """Return a call that needs approval."""
    stage.call(f"call_{number}", command=command)
    stage.tell("approval_requested", **stage.approval(number, command, **fields))


def test_one_key_allows(stage: Stage, chat: Open) -> None:
    """The bell rings once, the command is shown, and one key answers."""
    terminal = chat()
    ask(stage, 1, "make install", note="rule bash ask")
    text = terminal.sees(KEYS)
    assert "? bash needs your approval" in text
    assert "  │ why: rule bash ask" in text
    assert "  │ make install" in text
    assert terminal.raw.count("\a") == 1
    terminal.type("a")
    assert stage.asks("approval.resolve")["resolutions"] == [{"approval_id": "apr_1", "decision": "allow"}]
    stage.answered(1, "allow")
    text = terminal.sees("✓ bash  allowed by you · make install")
    assert "needs your approval" not in text
    assert terminal.raw.count("\a") == 1


def test_what_a_call_writes_is_seen_while_it_runs(stage: Stage, chat: Open) -> None:
    """Its last lines, above the prompt; then one line for how it ended."""
    terminal = chat()
    stage.call("call_1", command="make")
    stage.tell("tool_called", call_id="call_1", tool="bash")
    stage.write("call_1", "one\ntwo\nthree\n\x1b[31mfour\x1b[2J\n", 0)
    seen = terminal.sees("│ four␛[2J")
    assert "│ two" in seen
    assert "│ one" not in seen
    stage.tell("tool_returned", call_id="call_1", tool="bash", how="failed", text="exit 2", took_ms=1500)
    text = terminal.until(
        lambda text: "✗ bash  failed after 1.5 s · make" in text and "│ two" not in text, "it"
    )
    assert "  │ exit 2" in text
    assert "\x1b[2J" not in terminal.raw


def test_a_denial_with_a_reason(stage: Stage, chat: Open) -> None:
    """The line that follows is the reason; it is no message, and is not remembered as one."""
    terminal = chat()
    ask(stage, 1, "rm -rf build")
    terminal.sees(KEYS)
    terminal.type("D")
    terminal.sees("why not >")
    terminal.say("keep the build")
    [answer] = stage.asks("approval.resolve")["resolutions"]
    assert answer == {"approval_id": "apr_1", "decision": "deny", "note": "keep the build"}
    stage.answered(1, "deny", note="keep the build")
    terminal.sees("✗ bash  denied by you · keep the build")
    terminal.press("up")
    terminal.type("!")
    terminal.sees("user > !")
    assert not any(method == "conversation.send" for method, _ in stage.asked)


def test_an_input_is_edited(stage: Stage, chat: Open) -> None:
    """It stands in the prompt as JSON; what is no JSON can be mended; what is sent is the changed one."""
    stage.replies["approval.get"] = {"arguments": {"command": "make"}}
    terminal = chat()
    ask(stage, 1, "make")
    terminal.sees(KEYS)
    terminal.type("e")
    terminal.sees("its input >")
    terminal.type("x\r")
    terminal.sees("that is not JSON")
    terminal.type("\x7f\r")
    [answer] = stage.asks("approval.resolve")["resolutions"]
    assert answer == {"approval_id": "apr_1", "decision": "allow", "updated_input": {"command": "make"}}


def test_an_input_does_not_replace_what_is_typed(stage: Stage, chat: Open) -> None:
    """Who types before it has come goes on typing, and is told."""
    asked, typed = threading.Event(), threading.Event()

    def late(peer: Peer, request: Message) -> None:
        asked.set()
        assert typed.wait(30)
        peer.answer(request, {"arguments": {"command": "make"}})

    stage.replies["approval.get"] = late
    terminal = chat()
    ask(stage, 1, "make")
    terminal.sees(KEYS)
    terminal.type("e")
    assert asked.wait(30)
    terminal.type("x")
    terminal.sees("user > x")
    typed.set()
    text = terminal.sees("something is typed already")
    assert "its input" not in text


def test_several_are_answered_at_once(stage: Stage, chat: Open) -> None:
    """One is shown, it is said how many there are, and a capital answers all."""
    terminal = chat()
    for number in (1, 2, 3):
        ask(stage, number, f"make {number}")
    terminal.sees("? 1 of 3 ·")
    terminal.sees("A allow all 3")
    terminal.type("A")
    resolutions = stage.asks("approval.resolve")["resolutions"]
    assert [each["approval_id"] for each in resolutions] == ["apr_1", "apr_2", "apr_3"]
    terminal.until(lambda text: "needs your approval" not in text, "nothing that waits")


def test_somebody_else_answers_first(stage: Stage, chat: Open) -> None:
    """It is said who, and it is gone; an answer of ours that came too late is none."""

    def too_late(peer: Peer, request: Message) -> None:
        stage.answered(1, "deny", actor="token:tok_ops", note="not today")
        peer.refuse(request, 1409, "Somebody has answered already.", reason="approval_already_resolved")

    stage.replies["approval.resolve"] = too_late
    terminal = chat()
    ask(stage, 1, "make")
    terminal.sees(KEYS)
    terminal.type("a")
    terminal.sees("✗ bash  denied by token:tok_ops · not today · make")
    ask(stage, 2, "make again")
    terminal.sees("│ make again")
    stage.answered(2, "allow", actor="token:tok_ops")
    text = terminal.until(
        lambda text: "allowed by token:tok_ops" in text and "needs your approval" not in text, "it gone"
    )
    assert "by you" not in text


def test_what_is_typed_is_text(stage: Stage, chat: Open) -> None:
    """Who types while it appears, or pastes, answers nothing; once the line is empty keys count again."""
    terminal = chat()
    terminal.sees("answering")
    terminal.type("so ")
    ask(stage, 1, "make")
    terminal.sees("keys count where nothing is typed")
    terminal.type("add")
    terminal.sees("user > so add")
    terminal.type("\x7f" * 6)
    terminal.sees(KEYS)
    terminal.type("add more")
    terminal.sees("user > add more")
    assert not any(method == "approval.resolve" for method, _ in stage.asked)
    terminal.type("\x7f" * 8)
    terminal.until(lambda text: "user > a" not in text and KEYS in text, "an empty line")
    terminal.type("d")
    assert stage.asks("approval.resolve")["resolutions"][0]["decision"] == "deny"


def test_a_question(stage: Stage, chat: Open) -> None:
    """A digit picks; several are chosen and entered; a line is an answer in words."""
    parts = [
        {"key": "one", "question": "Which?", "options": OPTIONS},
        {"key": "some", "question": "Which ones?", "options": OPTIONS, "multi_select": True},
        {"key": "free", "question": "What name?"},
    ]
    terminal = chat()
    stage.tell("question_asked", question_id="qst_1", call_id="call_1", questions=parts)
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
    params = stage.asks("question.answer")
    assert params["answers"] == [
        {"key": "one", "selected": ["b"]},
        {"key": "some", "selected": ["r"]},
        {"key": "free", "text": "Ada"},
    ]
    answers = {"question_id": "qst_1", "call_id": "call_1", "answers": params["answers"], "actor": "uid:0"}
    stage.tell("question_answered", **answers)
    terminal.sees("✓ question  answered by you · blue / red / Ada")
    assert not any(method == "conversation.send" for method, _ in stage.asked)


def test_a_line_begun_before_the_question_is_a_message(stage: Stage, chat: Open) -> None:
    """It goes to the agent; the next one answers."""
    terminal = chat()
    terminal.sees("answering")
    terminal.type("by the way")
    stage.tell(
        "question_asked", question_id="qst_1", call_id="c", questions=[{"key": "k", "question": "Why?"}]
    )
    terminal.sees("type the answer")
    terminal.press("enter")
    assert stage.asks("conversation.send")["content"] == "by the way"
    terminal.sees("answer >")
    terminal.say("because")
    assert stage.asks("question.answer")["answers"] == [{"key": "k", "text": "because"}]


def test_a_long_diff_is_read_page_by_page(stage: Stage, chat: Open) -> None:
    """It never pushes the prompt off the screen, however long and hostile it is."""
    lines = [f"+line {number} \x1b[2J\x1b]0;stolen\x07" for number in range(15)]
    lines += ["+user > a forged line", "+" + "x" * 10_000_000]
    terminal = chat(rows=20)
    stage.call("call_1", path="a")
    preview = {"kind": "diff", "text": "\n".join(lines)}
    stage.tell("approval_requested", **stage.approval(1, "") | {"preview": preview})
    terminal.sees("space more (1-")
    assert "user >" in terminal.lines
    assert "│ +line 0 ␛[2J␛]0;stolen␇" in terminal.text
    terminal.type(" ")
    terminal.sees("│ +user > a forged line")
    terminal.type(" " * 200)
    terminal.sees("│ This is not all of it")
    assert "user >" in terminal.lines
    assert "\x1b[2J" not in terminal.raw
    assert "stolen\x07" not in terminal.raw
    terminal.type("d")
    stage.asks("approval.resolve")


@pytest.mark.parametrize(("columns", "rows"), [(24, 6), (40, 10)])
def test_a_small_terminal(stage: Stage, chat: Open, columns: int, rows: int) -> None:
    """There is a line of what is asked, the keys, and the prompt."""
    terminal = chat(columns=columns, rows=rows)
    ask(stage, 1, "\n".join(f"line {number}" for number in range(50)))
    terminal.sees("a r s allow")
    assert "user >" in terminal.lines
    assert "  │ line 0" in terminal.lines
    terminal.type(" ")
    terminal.sees("  │ line 1")
    terminal.type("d")
    stage.asks("approval.resolve")


def test_what_waits_on_entry(stage: Stage, chat: Open) -> None:
    """Who comes in the middle sees what was said, what runs, what waits and what is in doubt."""
    call = {"kind": "tool_call", "call_id": "call_7", "name": "bash", "arguments": {"command": "sleep 9"}}
    message = {"role": "assistant", "items": [{"kind": "text", "text": "Working."}, call]}
    again = {"role": "user", "items": [{"kind": "text", "text": "Go on."}]}
    stage.history = [
        {"cursor": 8, "at_ms": 1, "run_id": "run_1", "message": again, "item_id": "itm_0.again"},
        {"cursor": 9, "at_ms": 1, "run_id": "run_1", "message": message},
    ]
    stage.run["calls"] = [
        {"call_id": "call_7", "tool": "bash", "state": "called", "attempt": 1, "called_at_ms": 1}
    ]
    stage.approvals = [stage.approval(1, "make install")]
    stage.doubts = [{"indoubt_id": "idt_1", "tool": "bash", "note": "gone", "arguments": {"command": "rm x"}}]
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
    resolution = stage.asks("indoubt.resolve")
    assert (resolution["indoubt_id"], resolution["outcome"]) == ("idt_1", "not_done")


@pytest.mark.parametrize("stage", [2], indirect=True, ids=["two connections"])
def test_what_waits_after_the_connection_was_lost(stage: Stage, chat: Open) -> None:
    """What was answered meanwhile is gone and told; what waits still does, and what is new rings."""
    terminal = chat()
    ask(stage, 1, "make one")
    ask(stage, 2, "make two")
    terminal.sees("? 1 of 2")
    rings = terminal.raw.count("\a")
    stage.approvals = [stage.approval(2, "make two"), stage.approval(3, "make three")]
    stage.drop()
    terminal.sees("connected again")
    stage.answered(1, "allow", actor="token:tok_ops")
    text = terminal.sees("allowed by token:tok_ops · make one")
    text = terminal.until(lambda text: "? 1 of 2" in text and KEYS in text, "what waits")
    assert "│ make two" in text
    assert terminal.raw.count("\a") == rings + 1
    terminal.type("a")
    assert stage.asks("approval.resolve")["resolutions"] == [{"approval_id": "apr_2", "decision": "allow"}]
    terminal.sees("│ make three")


def test_ctrl_c_leaves_the_reason_and_then_stops_the_run(stage: Stage, chat: Open) -> None:
    """First what is typed, then what runs."""
    terminal = chat()
    ask(stage, 1, "make")
    terminal.sees(KEYS)
    terminal.type("D")
    terminal.sees("why not >")
    terminal.type("hm")
    terminal.press("ctrl-c")
    terminal.until(lambda text: "user >" in text and "hm" not in text, "the prompt")
    assert not any(method == "conversation.cancel" for method, _ in stage.asked)
    terminal.press("ctrl-c")
    stage.asks("conversation.cancel")
