"""Tests of the state of a conversation for the status line."""

from typing import Any

import pytest

from kheishctl.shell.status import ConversationStatus, format_elapsed, shorten_directory

PINNED = {"route": "r", "driver": "openai", "model": "gpt", "workspace": "/srv/work", "context_tokens": 1_000}


def feed(status: ConversationStatus, kind: str, **fields: Any) -> None:
    """Feed an event of the run."""
    status.feed({"type": kind, "run_id": "run_1", "at_ms": 5_000, **fields})


def usage(input_tokens: int, output_tokens: int = 0) -> dict[str, int]:
    """Return the usage of a model call, without zeros, as the daemon writes it."""
    counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    return {name: count for name, count in counts.items() if count}


def test_records() -> None:
    """The line has what the records of a session, its messages and its last run say."""
    status = ConversationStatus()
    status.read_session(
        {"usage": usage(12_000, 345), "costs": [{"micros": 120_000, "currency": "USD"}], "title": "A fix"}
    )
    status.read_history([{"usage": {}}, {"usage": usage(200, 50)}, {"usage": usage(9)}])
    status.read_run({"run_id": "run_1", "pinned": PINNED, "started_at_ms": 7})
    line = status.format("default", 200, "2 pending")
    assert line == (
        "2 pending · default · gpt · context 250 (25%), 750 left · 12k tokens · 0.12 USD · /srv/work"
    )
    assert status.started_at_ms("run_1") == 7
    assert status.title == "A fix"


def test_events() -> None:
    """Events continue the records: model, context, use and the start of the run."""
    status = ConversationStatus()
    feed(status, "run_accepted", pinned=PINNED)
    feed(status, "run_started")
    assert status.started_at_ms("run_1") == 5_000
    cost = {"micros": 20_000, "currency": "EUR"}
    feed(status, "message_appended", usage=usage(100, 20), cost=cost, model="gpt-2")
    feed(status, "message_appended")
    feed(status, "model_failed", usage=usage(30), cost=cost)
    feed(status, "session_renamed", title="A fix")
    assert (
        status.format("a", 99)
        == "a · gpt-2 · context 120 (12%), 880 left · 150 tokens · 0.04 EUR · /srv/work"
    )
    feed(status, "context_compacted", usage=usage(5), post_tokens=40)
    assert "context 40 (4%), 960 left · 155 tokens" in status.format("a", 99)
    feed(status, "run_ended")
    assert status.started_at_ms("run_1") is None
    assert status.title == "A fix"


def test_workspace_of_the_next_run() -> None:
    """A conversation that moves shows the directory of its next run."""
    status = ConversationStatus()
    status.read_run({"run_id": "run_1", "pinned": PINNED})
    assert status.format("a", 99, workspace="/new").endswith("· /new")


def test_ended_run() -> None:
    """A run that has ended has no start, and no run has none."""
    status = ConversationStatus()
    status.read_run({"run_id": "run_1", "pinned": PINNED, "started_at_ms": 7, "ended_at_ms": 9})
    assert status.started_at_ms("run_1") is None
    assert status.started_at_ms(None) is None


def test_new_conversation() -> None:
    """What is not known yet is not in the line."""
    assert ConversationStatus().format("default", 80, "") == "default"


@pytest.mark.parametrize(
    ("columns", "line"),
    [(40, "default · gpt · 900 tokens · /srv/work"), (30, "default · gpt · 900 tokens"), (5, "defa…")],
)
def test_narrow_terminal(columns: int, line: str) -> None:
    """Parts that do not fit are omitted from the end."""
    status = ConversationStatus()
    status.read_session({"usage": usage(900)})
    status.read_run({"run_id": "run_1", "pinned": PINNED})
    assert status.format("default", columns) == line


def test_hostile_names() -> None:
    """No name moves the cursor or breaks the line."""
    status = ConversationStatus()
    status.read_run(
        {"run_id": "run_1", "pinned": PINNED | {"model": "a\x1b[2J\nb", "workspace": "/x\ny\x07"}}
    )
    assert status.format("a\rb", 90).isprintable()


def test_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in the person's home begins with a tilde; of a long one, the end is shown."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert shorten_directory("/home/ada/project") == "~/project"
    assert shorten_directory("/home/ada") == "~"
    assert shorten_directory("/home/adam") == "/home/adam"
    assert shorten_directory("/" + "long/" * 20 + "end") == "…/long/long/long/long/long/end"


def test_elapsed() -> None:
    """The elapsed time is in full seconds."""
    assert format_elapsed(None, 5) == ""
    assert format_elapsed(1_000, 4_900) == "3 s"
    assert format_elapsed(5_000, 1_000) == "0 s"
    assert format_elapsed(0, 65_000) == "1 min 5 s"
