"""Selecting lines of the daemon's log."""

import json

from kheishctl.render.logs import LogFilter, format_since

TEXT = """\
    the end of an older message
2026-11-20T09:53:21.123Z info kheishd.daemon: ready
2026-11-20T09:53:22.000Z error kheishd.runs: it failed run_id=run_1 request_id=deploy-7
Traceback (most recent call last):
  a line of it
2026-11-20T09:53:23.000Z debug kheishd.runs: a child run_id=run_2 parent_run_id=run_1 request_id=deploy-7
2026-11-20T09:53:24.000Z warning kheishd.runs: another run_id=run_10
""".splitlines()


def select(**fields: str) -> list[int]:
    """Return the numbers of the selected lines."""
    selection = LogFilter(**fields)
    return [number for number, line in enumerate(TEXT) if selection.admits(line)]


def test_without_a_filter() -> None:
    """Everything is selected."""
    assert LogFilter().is_empty
    assert select() == list(range(len(TEXT)))


def test_a_message_is_selected_with_its_further_lines() -> None:
    """Lines without a time belong to the message before them."""
    assert select(level="error") == [2, 3, 4]
    assert select(level="warning") == [2, 3, 4, 6]
    assert select(since="2026-11-20T09:53:22.500Z") == [5, 6]


def test_runs_and_requests() -> None:
    """A run is selected with those that it spawned; an id is compared as a whole."""
    assert select(run_id="run_1") == [2, 3, 4, 5]
    assert select(run_id="run_2") == [5]
    assert select(request_id="deploy-7", level="info") == [2, 3, 4]


def test_json_lines() -> None:
    """Lines in JSON are selected by the same fields; one that cannot be read belongs to the one before."""
    selection = LogFilter(level="warning", run_id="run_1")
    entry = {"at": "2026-11-20T09:53:22.000Z", "level": "error", "run_id": "run_1"}
    lines = [json.dumps(entry), "{broken", json.dumps({**entry, "run_id": "run_2"}), json.dumps(["x"])]
    assert [selection.admits(line) for line in lines] == [True, True, False, False]


def test_a_time_as_the_log_writes_it() -> None:
    """Times compare as text, because all have the same form."""
    assert format_since(1_795_168_401.1239) == "2026-11-20T09:53:21.123Z"
