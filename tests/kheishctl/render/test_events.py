"""Events as text."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.events import format_delta, format_event, summarize_event
from kheishctl.render.layout import Display
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.text import sanitize
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(100, False, NOW)
COLORED = Display(100, True, NOW)


def event(type_: str, **fields: Any) -> dict[str, Any]:
    """Return an event as it arrives from the daemon."""
    return {"type": type_, "cursor": 7, "at_ms": NOW, "session_id": "ses_1", **fields}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("variant", get_args(JournalEvent), ids=lambda variant: variant.__name__)
def test_every_event_is_one_line(variant: type, full: bool) -> None:
    """Every type of event fits one line, with all its fields or only the required ones."""
    line = sample(Envelope, full=full) | sample(variant, full=full)
    for look in (PIPE, WIDE, COLORED):
        assert "\n" not in format_event(line, look)
    assert line["type"] in format_event(line, PIPE).split("\t")


def test_unknown_events_are_shown_as_json() -> None:
    """An unknown type, and a known type in another shape, is shown as JSON."""
    assert summarize_event(event("tool_called", name="bash")) == '{"name": "bash"}'
    assert summarize_event(event("run_started", begun=3)) == '{"begun": 3}'
    assert summarize_event(event("something")) == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            event(
                "calls_judged",
                verdicts=[
                    {"tool": "bash", "decision": "deny", "why": "managed rule bash deny", "note": "no"},
                    {"tool": "read_file", "subject": "a", "decision": "allow", "why": "its default"},
                ],
            ),
            "bash: deny, by managed rule bash deny: no; read_file a: allow, by its default",
        ),
        (
            event("approval_requested", approval_id="apr_1", tool="bash", subject="ls", note="rule"),
            "apr_1 bash ls: rule",
        ),
        (
            event("approval_answered", decision="allow", remember="run", actor="uid:7"),
            "allow for this run by uid:7",
        ),
        (event("approval_answered", decision="deny", note="not now"), "deny by daemon: not now"),
        (event("approval_lapsed", approval_id="apr_1", how="expired"), "apr_1 expired"),
        (event("question_asked", question_id="qst_1", questions=[{"question": "a?"}]), "qst_1 a?"),
        (
            event("question_answered", answers=[{"selected": ["x", "y"]}, {"text": "so"}], actor="uid:7"),
            "x, y / so by uid:7",
        ),
        (event("question_answered", answers=[], declined=True, actor="uid:7"), "declined by uid:7"),
        (event("question_lapsed", question_id="qst_1", how="withdrawn"), "qst_1 withdrawn"),
        (event("tool_called", tool="bash", call_id="c1"), "bash c1, attempt 1"),
        (event("tool_observed", call_id="c1", evidence={"pid": 3}), 'c1 {"pid": 3}'),
        (
            event("tool_returned", tool="bash", how="failed", text="exit 1\nx", took_ms=1500),
            "bash failed after 1.5 s: exit 1 x",
        ),
        (event("indoubt_opened", indoubt_id="dbt_1", tool="bash", note="gone"), "dbt_1 bash: gone"),
        (event("indoubt_resolved", tool="bash", outcome="done", note="seen"), "bash done by daemon: seen"),
        (
            event("call_probed", tool="bash", call_id="c1", note="nothing there"),
            "bash c1 runs again: nothing there",
        ),
        (
            event("steered", sender="ada", items=[{"kind": "text", "text": "faster"}]),
            "ada: faster",
        ),
        (event("task_created", task_id="t1", title="Paint"), "t1 Paint"),
        (
            event("task_updated", task_id="t1", status="blocked", owner=None, output="x", note="rain"),
            "t1 status blocked, owner -, output: rain",
        ),
        (event("task_started", task_id="t1", pid=7, started=1), "t1 as process 7"),
        (event("task_stop_requested", task_id="t1", actor="uid:7", note="no"), "t1 by uid:7: no"),
        (event("task_moved", task_id="t1", to_session_id="ses_1"), "t1 to ses_1"),
        (event("task_adopted", task_id="t1", task={"session_id": "ses_2"}), "t1 from ses_2"),
        (event("task_stalled", task_id="t1"), "t1 printed a question and waits for input"),
        (
            event("task_ended", task_id="t1", status="failed", terminal_reason="exited", exit_code=2),
            "t1 failed, exited with exit code 2",
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_summaries(line: dict[str, Any], says: str) -> None:
    """The summary of each event names its subject, its outcome and its actor."""
    assert summarize_event(line) == says


def test_event_lines() -> None:
    """A terminal shows short origins and labels; a pipe receives tab-separated fields."""
    ended = event(
        "run_ended", run_id="run_ABCDEF", outcome="failed", error={"reason": "x", "message": "no\nkey"}
    )
    assert format_event(ended, PIPE).split("\t")[2:] == ["run_ABCDEF", "run_ended", "failed: no key"]
    assert format_event(ended, WIDE).endswith("7  …ABCDEF  run ended           failed: no key")
    assert "\x1b[36mrun ended\x1b[0m" in format_event(ended, COLORED)
    stopped = event("daemon_stopped", note="SIGTERM", session_id=None)
    assert format_event(stopped, WIDE).endswith("7  daemon   daemon stopped      SIGTERM")


@given(st.text(st.characters(exclude_categories=[])))
def test_events_are_sanitized(text: str) -> None:
    """An event with any text is one sanitized line."""
    received = event("input_received", input_id="i", items=[{"kind": "text", "text": text}])
    for line in (
        format_event(received, PIPE),
        format_event(received, WIDE),
        format_delta({"text": text}, PIPE),
    ):
        assert sanitize(line) == line
        assert "\n" not in line


def test_delta_line_is_one_line() -> None:
    """A delta keeps its newlines as JSON."""
    line = format_delta({"run_id": "r", "kind": "text", "offset": 3, "text": "a\nb"}, PIPE)
    assert line.split("\t") == ["r", "text", "3", json.dumps("a\nb")]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "attempt 1: busy"),
        ({"route": "a", "next_route": "b"}, "attempt 1: a: busy; next: b"),
        (
            {"route": "a", "auth_ref": "env:K1", "next_route": "a", "next_auth_ref": "env:K2"},
            "attempt 1: a (env:K1): busy; next: a (env:K2)",
        ),
    ],
)
def test_a_failed_model_call(fields: dict[str, Any], text: str) -> None:
    """A failed call names its route and key, if the run has several, and what is asked next."""
    assert summarize_event(event("model_failed", attempt=1, error={"message": "busy"}, **fields)) == text
