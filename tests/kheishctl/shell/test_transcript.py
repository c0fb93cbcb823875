"""Tests of the transcript as terminal text."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallEnd,
    CallOutput,
    CallRequest,
    CallStart,
    CallVerdict,
    ChildProgress,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.render.layout import count_columns
from kheishctl.shell.markdown import MAX_LIVE_CHARACTERS, make_renderer
from kheishctl.shell.transcript import BAR, RESULTS, SPINNER, CallChange, CallView, TranscriptView
from protocol.objects.run import CallOutcome
from protocol.text import sanitize

NOW_S = 1_795_000_000.0
NOW_MS = int(NOW_S * 1000)
CALL = "call_1"


def make_calls(*, columns: int = 60, verbose: bool = False, color: bool = False) -> CallView:
    """Return a view of calls with a fixed width and clock."""
    return CallView(lambda: columns, lambda: NOW_S, color=color, verbose=verbose)


def make_start(number: int = 1, elapsed_s: int = 0) -> CallStart:
    """Return the start of a call."""
    return CallStart(f"call_{number}", "bash", f"make {number}", NOW_MS - elapsed_s * 1000)


def make_result(outcome: str, text: str = "", **fields: object) -> CallEnd:
    """Return the result of a call."""
    return CallEnd(CALL, "bash", "make", outcome, text, **fields)  # type: ignore[arg-type]


def make_view(*, thinking: bool = False, columns: int = 60) -> TranscriptView:
    """Return a transcript without color."""
    return TranscriptView(make_renderer(color=False), lambda: columns, color=False, thinking=thinking)


def show(view: TranscriptView, *changes: DisplayChange) -> str:
    """Return the text that changes add to the scrollback."""
    return "".join(map(view.show, changes))


# Calls.


def test_call_request() -> None:
    """The request of a call is one line with its tool and as much of its arguments as fits."""
    assert make_calls().show(CallRequest(CALL, "bash", "ls -la")) == "→ bash  ls -la\n"
    assert make_calls(columns=20).show(CallRequest(CALL, "bash", "x" * 80)) == "→ bash  xxxxxxxxxxx…\n"
    assert make_calls(columns=20).show(CallRequest(CALL, "t" * 80, "")) == "→ ttttttttt…\n"


def test_call_result() -> None:
    """A result is one line with its kind and duration; an error adds its first lines."""
    format_result = make_calls().show
    assert format_result(make_result("returned", "output", took_ms=300)) == "✓ bash  0.3 s · make\n"
    assert format_result(make_result("failed", "exit 1\n\nno rule\nto make\nmore", took_ms=300)) == (
        f"✗ bash  failed after 0.3 s · make\n{BAR}exit 1\n{BAR}no rule\n{BAR}to make\n"
    )
    assert format_result(make_result("denied", "no network", denied_by="managed rule bash deny")) == (
        f"✗ bash  denied by managed rule bash deny · make\n{BAR}no network\n"
    )
    assert format_result(make_result("stopped", "it was stopped")) == "■ bash  stopped · make\n"
    assert format_result(make_result("upended", "x")) == "· bash  upended · make\n"


def test_stopped_call_keeps_its_output() -> None:
    """The last lines of the output of a call that is stopped stay on the screen."""
    calls = make_calls()
    calls.show(make_start())
    output = "".join(f"tick {number}\n" for number in range(1, 9))
    calls.show(CallOutput(make_start().call_id, output, True))
    end = CallEnd(make_start().call_id, "bash", "make", "stopped", "it was stopped")
    lines = "".join(f"{BAR}tick {number}\n" for number in range(4, 9))
    assert calls.show(end) == f"■ bash  stopped · make\n{lines}"


def test_every_outcome_has_a_row() -> None:
    """The table of results covers every outcome of a call in the contract."""
    assert RESULTS.keys() == set(get_args(CallOutcome))


def test_call_that_could_not_be_made() -> None:
    """A denial names its source; a call that could not be made shows only the problem."""
    assert make_calls().show(make_result("failed", denied_by="not valid")) == "✗ bash  not valid · make\n"
    assert make_calls().show(make_result("denied", denied_by="rule bash")) == (
        "✗ bash  denied by rule bash · make\n"
    )


def test_result_with_a_line_of_its_own() -> None:
    """Results that another line reports are not shown again: denials by people, answers, doubts."""
    results = (make_result("denied", denial_shown=True), make_result("answered"), make_result("in_doubt"))
    for result in results:
        assert make_calls().show(result) == ""


def test_verbose() -> None:
    """A verbose view adds verdicts and results; denials are shown with the result."""
    verbose, brief = make_calls(verbose=True), make_calls()
    allowed = CallVerdict(CALL, "bash", "allow", "bash's default")
    pending = CallVerdict(CALL, "bash", "ask", "bash's default")
    assert verbose.show(allowed) == "· bash  allowed (bash's default)\n"
    assert verbose.show(pending) == "· bash  needs approval (bash's default)\n"
    assert verbose.show(CallVerdict(CALL, "bash", "deny", "a rule")) == ""
    assert brief.show(allowed) == brief.show(pending) == ""
    lines = "\n".join(f"line {number}" for number in range(20))
    assert verbose.show(make_result("returned", lines)).splitlines()[1:] == [
        *(f"{BAR}line {number}" for number in range(10)),
        f"{BAR}… 10 more lines: /expand, Ctrl-O",
    ]


def test_running_call() -> None:
    """A running call shows its elapsed time and the last lines of its output."""
    calls = make_calls()
    assert calls.format_running(10) == []
    calls.show(make_start(elapsed_s=3))
    calls.show(CallOutput(CALL, "one\ntwo\nthree\nfo", False))
    calls.show(CallOutput(CALL, "ur\n", False))
    line, *output = calls.format_running(10)
    assert line[0] in SPINNER
    assert line[1:] == " bash  make 1 · 3 s"
    assert output == [f"{BAR}two", f"{BAR}three", f"{BAR}four"]
    calls.show(CallOutput(CALL, "anew", True))
    assert calls.format_running(10)[1:] == [f"{BAR}anew"]
    calls.show(make_result("returned"))
    assert calls.format_running(10) == []


@pytest.mark.parametrize(("elapsed_s", "text"), [(-5, "0 s"), (9, "9 s"), (75, "1 min 15 s")])
def test_elapsed_time(elapsed_s: int, text: str) -> None:
    """Elapsed time is never negative, even if this clock is behind the daemon's."""
    calls = make_calls()
    calls.show(make_start(elapsed_s=elapsed_s))
    assert calls.format_running(1)[0].endswith(f" · {text}")


def test_output_before_the_start_of_its_call() -> None:
    """Output that arrives before its call is shown once the call has started, and forgotten with the run."""
    calls = make_calls()
    calls.show(CallOutput(CALL, "early", False))
    assert calls.format_running(10) == []
    calls.show(make_start())
    assert calls.format_running(10)[1:] == [f"{BAR}early"]
    calls.clear()
    assert calls.format_running(10) == []


def test_many_running_calls() -> None:
    """Each call has a line before any call has output; without room, the last line counts the rest."""
    calls = make_calls()
    for number in range(1, 6):
        calls.show(make_start(number))
        calls.show(CallOutput(f"call_{number}", "a\nb\nc\n", False))
    assert len(calls.format_running(100)) == 5 * 4
    is_output = [line.startswith(BAR) for line in calls.format_running(7)]
    assert is_output == [False, True, True, False, False, False, False]
    assert len(calls.format_running(3)) == 3
    assert calls.format_running(3)[-1] == "… and 3 more"
    assert len(calls.format_running(0)) == 1


def test_colors() -> None:
    """Marks and tools have styles in a view with color."""
    assert make_calls(color=True).show(make_result("failed")) == (
        "\x1b[31m✗\x1b[0m \x1b[1mbash\x1b[0m  failed · make\n"
    )


@given(st.text(st.characters(exclude_categories=[])), st.integers(20, 60))
def test_lines_are_sanitized_and_marked(text: str, columns: int) -> None:
    """Whatever the name and output of a tool, its lines are sanitized, fit, and have a mark or a rule."""
    calls = make_calls(columns=columns, verbose=True)
    changes: list[CallChange] = [
        CallRequest(CALL, text, text),
        CallVerdict(CALL, text, "allow", text),
        CallStart(CALL, text, text, 0),
        CallOutput(CALL, text, False),
    ]
    lines = "".join(map(calls.show, changes)).split("\n")[:-1] + calls.format_running(9)
    lines += calls.show(make_result("failed", text, denied_by=text)).split("\n")[:-1]
    for line in lines:
        assert sanitize(line) == line
        assert "\n" not in line
        assert count_columns(line) <= columns
        assert line.startswith((BAR, "→ ", "· ", "✗ ")) or line[0] in SPINNER


# The transcript.


def test_turn() -> None:
    """The input and the finished blocks are added to the scrollback; the growing block is live."""
    view = make_view()
    assert show(view, QueuedInput("hi", "ada", "r")) == ""
    assert view.queue == {"r": "hi"}
    assert show(view, StartedInput("hi", "ada", "r")) == "ada > hi\n\n"
    assert view.queue == {}
    assert show(view, AnswerText("one\n\ntw")) == "one\n\n"
    assert view.format_growing(10) == "tw"
    assert show(view, AnswerText("o")) == ""
    assert view.format_growing(10) == "two"
    assert show(view, MessageEnd("end")) == "two\n\n"
    assert view.format_growing(10) == ""
    assert show(view, RunEnd("r", "completed", "")) == ""


def test_growing_text_fits() -> None:
    """Only the last lines of a long block are live; a block that is too long to render is plain text."""
    view = make_view(columns=20)
    show(view, AnswerText("".join(f"line {n}\n" for n in range(50))))
    assert view.format_growing(3).split("\n") == ["line 47", "line 48", "line 49"]
    show(view, AnswerText("x" * MAX_LIVE_CHARACTERS))
    lines = view.format_growing(5).split("\n")
    assert len(lines) == 5
    assert set("".join(lines)) == {"x"}
    assert all(len(line) <= 20 for line in lines)


def test_restarted_answer() -> None:
    """A restart discards live text; text in the scrollback stays, and a note voids it."""
    view = make_view()
    show(view, AnswerText("half"))
    assert show(view, AnswerRestart()) == ""
    assert view.format_growing(5) == ""
    assert show(view, AnswerText("done\n\nmore")) == "done\n\n"
    assert "starts over" in show(view, AnswerRestart())
    assert show(view, AnswerText("anew"), MessageEnd("end")) == "anew\n\n"


def test_reasoning() -> None:
    """The last line of the reasoning is live; only a view with ``thinking`` keeps the reasoning."""
    without, with_ = make_view(), make_view(thinking=True)
    for view in (without, with_):
        show(view, ReasoningText("first\nthen\n"))
        assert view.format_growing(5) == "thinking: then"
    assert show(without, AnswerText("so\n\nx")) == "so\n\n"
    assert show(with_, AnswerText("so\n\nx")) == "first\nthen\n\nso\n\n"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (RunEnd("r", "failed", "no key\x1b"), "· the run failed: no key␛\n"),
        (RunEnd("r", "failed", ""), "· the run failed: no error was recorded\n"),
        (RunEnd("r", "cancelled", ""), "· stopped\n"),
        (MessageEnd("length"), "· the answer was cut off at its length limit\n"),
        (MessageEnd("refusal"), "· the model refused to continue\n"),
        (Notice("news\x07\nada > yes"), "· news␇ ada > yes\n"),
    ],
)
def test_notes(change: DisplayChange, note: str) -> None:
    """A note follows the text so far, sanitized and on one line."""
    view = make_view()
    show(view, AnswerText("partial"))
    assert show(view, change) == f"partial\n\n{note}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (ApprovalClosing("p", "bash", "ls", "allow", "you"), "✓ bash  allowed by you · ls\n"),
        (
            ApprovalClosing("p", "bash", "ls", "allow", "ada", remember="run"),
            "✓ bash  allowed by ada for this run · ls\n",
        ),
        (ApprovalClosing("p", "bash", "ls", "deny", "ada", "no\x1b"), "✗ bash  denied by ada · no␛ · ls\n"),
        (ApprovalClosing("p", "bash", "ls", "expired"), "✗ bash  denied: nobody answered in time · ls\n"),
        (ApprovalClosing("p", "bash", "", "renewed"), "· bash  the call changed; it needs approval again\n"),
        (ApprovalClosing("p", "", "", "withdrawn"), "■ a call  no longer pending\n"),
        (QuestionClosing("q", "answered", "you", "red\nada >"), "✓ question  answered by you · red ada >\n"),
        (QuestionClosing("q", "expired"), "■ question  expired\n"),
        (
            DoubtClosing("d", "bash", "not_done", "ada", "seen"),
            "✓ bash  resolved as not done by ada · seen\n",
        ),
        (SteerText("faster", "ada"), "ada (steering) > faster\n\n"),
    ],
)
def test_closed_requests(change: DisplayChange, line: str) -> None:
    """The closing of a request is one line with its outcome and its actor."""
    assert show(make_view(), change) == line


def test_doubt() -> None:
    """A call in doubt shows its arguments, its note, and how to resolve it."""
    doubt = {"tool": "bash", "arguments": {"command": "rm x"}, "note": "its process is gone\nada > yes"}
    assert show(make_view(columns=100), DoubtOpening(doubt)).splitlines() == [
        "? bash  in doubt · rm x",
        "  │ its process is gone",
        "  │ ada > yes",
        "  │ its outcome is unknown; check it, then type /resolve done or /resolve not-done",
    ]


def test_blank_lines() -> None:
    """Lines about calls follow each other directly; a blank line separates them from other text."""
    text = show(
        make_view(),
        AnswerText("so\n\n"),
        MessageEnd("tool_calls"),
        CallRequest("c", "bash", "ls"),
        CallEnd("c", "bash", "ls", "returned", ""),
        AnswerText("done\n\nreally"),
        MessageEnd("end"),
        StartedInput("next", "ada", "r"),
    )
    assert text == "so\n\n→ bash  ls\n✓ bash  ls\n\ndone\n\nreally\n\nada > next\n\n"


def make_command(exit_code: int, count: int) -> str:
    """Return the result of a command with a number of lines of output."""
    lines = "".join(f"line {number}\n" for number in range(1, count + 1))
    return json.dumps({"exit_code": exit_code, "stdout": lines, "stderr": ""})


def test_output_of_a_command_stays() -> None:
    """The last lines of a command's output stay, with its exit code; all of them can be shown."""
    view = make_view()
    text = show(view, make_result("returned", make_command(0, 9), took_ms=1_000))
    assert text.split("\n")[:3] == [
        "✓ bash  exit 0 after 1.0 s · make",
        f"{BAR}… 4 more lines: /expand, Ctrl-O",
        f"{BAR}line 5",
    ]
    assert text.endswith(f"{BAR}line 9\n")
    assert view.format_collapsed(1) == "bash\n" + "".join(f"{BAR}line {n}\n" for n in range(1, 10)) + "\n"
    short = show(view, make_result("returned", make_command(0, 6)))
    assert short.count(BAR) == 6
    with pytest.raises(IndexError):
        view.format_collapsed(3)


def test_failed_command_is_red() -> None:
    """A command whose exit code is not 0 has a red cross and a red exit code."""
    calls = make_calls(color=True)
    text = calls.show(make_result("returned", make_command(3, 0)))
    assert text.startswith("\x1b[31m✗\x1b[0m ")
    assert "\x1b[31mexit 3\x1b[0m" in text


def test_result_of_another_tool() -> None:
    """A result that is no command's is shown if the chat is verbose, as lines; it can always be expanded."""
    result = make_result("returned", json.dumps({"path": "a.txt", "text": "one\ntwo"}))
    view = make_view()
    assert show(view, result) == "✓ bash  make\n"
    assert view.format_collapsed(1).startswith(f"bash\n{BAR}path: a.txt\n")
    assert (
        make_calls(verbose=True).show(result)
        == f"✓ bash  make\n{BAR}path: a.txt\n{BAR}text:\n{BAR}  one\n{BAR}  two\n"
    )


def test_long_message_is_collapsed() -> None:
    """Of a long message the first lines are shown; all of it can be expanded."""
    view = make_view()
    text = view.format_input("\n".join(f"line {number}" for number in range(30)), "ada")
    assert text.startswith("ada > line 0\nline 1\n")
    assert text.endswith(f"line 11\n{BAR}… 18 more lines: /expand, Ctrl-O\n\n")
    assert f"{BAR}line 29\n" in view.format_collapsed(1)


def test_words_are_not_broken() -> None:
    """Messages and notes are wrapped at words."""
    view = make_view(columns=20)
    assert (
        view.format_input("several words that are longer", "ada")
        == "ada > several words\nthat are longer\n\n"
    )
    assert view.format_note("a note of several words") == "· a note of several\n  words\n"


def test_end_of_a_run_ends_its_calls() -> None:
    """After the end of a run no call is shown as running."""
    view = make_view()
    show(view, CallStart("c", "bash", "ls", 0))
    assert view.calls.format_running(9)
    show(view, RunEnd("r", "cancelled", ""))
    assert view.calls.format_running(9) == []


def test_cancelled_run_leaves_the_queue() -> None:
    """A queued run that ends is removed from the queue, and does not touch the growing answer."""
    view = make_view()
    show(view, AnswerText("so far"), QueuedInput("x", "ada", "r"), QueuedInput("y", "ada", "s"))
    assert show(view, RunEnd("r", "cancelled", "")) == "· withdrawn: x\n"
    assert show(view, RunEnd("s", "failed", "no route")) == "· not answered (no route): y\n"
    assert view.queue == {}
    assert view.flush() == "\nso far\n\n"


def test_flush() -> None:
    """A flush adds the growing text to the scrollback, once."""
    view = make_view()
    show(view, AnswerText("so far"))
    assert view.flush() == "so far\n\n"
    assert view.flush() == ""


def test_history() -> None:
    """Inputs and answers of the history look like new ones."""
    view = make_view()
    assert view.format_input("a\x1b\nb\n", "") == "unknown > a␛\nb\n\n"
    assert view.format_answer("**x**") == "x\n\n"
    assert view.format_answer(" ") == ""


def test_agents_below_have_a_line_each() -> None:
    """The live area shows the agents at work; an agent that has settled is one finished line."""
    view = make_view(columns=40)
    names = [f"a{number:02}" for number in range(10)]
    assert not show(view, *(ChildProgress(name, name, "running", 0, "", False) for name in names))
    lines = view.format_children(20)
    assert [lines[0], lines[-1]] == ["  ↳ a00 · running", "  … and 3 more agents"]
    assert len(lines) == 8
    assert view.format_children(1) == ["  … and 10 more agents"]
    text = show(view, ChildProgress("a00", "a00", "completed", 1234, "\x1b[2J" + "x" * 99, True))
    assert text == "  ✓ a00 · completed · 1,234 tokens · ␛[…\n"
    assert count_columns(text.rstrip("\n")) <= 40
    assert show(view, ChildProgress("a01", "a01", "failed", 0, "", True)) == "  ✗ a01 · failed\n"
    closing = QuestionClosing("q", "answered", "you", "Blue", "a02")
    assert show(view, closing).startswith("✓ a02: question  answered by you")


def test_every_piece_is_handled() -> None:
    """The transcript handles every kind of change."""
    examples: list[DisplayChange] = [
        StartedInput("a", "b", "r"),
        QueuedInput("a", "b", "r"),
        AnswerText("a"),
        ReasoningText("a"),
        AnswerRestart(),
        MessageEnd("end"),
        Notice("a"),
        RunEnd("r", "interrupted", ""),
        CallRequest("c", "t", "a"),
        CallVerdict("c", "t", "allow", "w"),
        CallStart("c", "t", "a", 0),
        CallOutput("c", "a", False),
        CallEnd("c", "t", "a", "returned", "x"),
        ApprovalOpening({}),
        ApprovalClosing("p", "t", "a", "allow"),
        QuestionOpening({}),
        QuestionClosing("q", "answered"),
        DoubtOpening({"tool": "t"}),
        DoubtClosing("d", "t", "done", "b", ""),
        SteerText("a", "b"),
        ChildProgress("s", "a", "running", 1, "l", False),
    ]
    assert {type(change) for change in examples} == set(get_args(DisplayChange))
    show(make_view(), *examples)
