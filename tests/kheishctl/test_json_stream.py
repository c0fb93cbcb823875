"""The output format stream-json."""

import json

import pytest

from kheishctl.cli import App
from kheishctl.client import NoDaemon, RequestRefused
from kheishctl.json_stream import JsonStream


def test_each_event_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An event that the daemon repeats after a reconnection is written once, for each subscription."""
    stream = JsonStream(App(None, None, as_json=True))
    first = {"subscription": "run", "cursor": 4, "event": {"type": "run_started"}}
    for notification in (first, first, first | {"cursor": 5}, first | {"cursor": 3, "subscription": "below"}):
        stream.receive("journal.event", notification)
    stream.receive("journal.synced", {"cursor": 5})
    stream.receive("journal.delta", {"subscription": "run", "text": "a\u2028b", "offset": 0})
    stream.show([])
    stream.end()
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [
        {"type": "event", "version": 1, "cursor": 4, "event": {"type": "run_started"}},
        {"type": "event", "version": 1, "cursor": 5, "event": {"type": "run_started"}},
        {"type": "event", "version": 1, "cursor": 3, "event": {"type": "run_started"}},
        {"type": "delta", "version": 1, "text": "a\u2028b", "offset": 0},
    ]


def test_the_last_line_has_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """A result and an error carry the exit code of the command."""
    stream = JsonStream(App(None, None, as_json=True))
    stream.end_with_result({"status": "completed"}, 0)
    stream.end_with_failure(NoDaemon("no daemon"))
    result, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert (result["exit_code"], result["result"]) == (0, {"status": "completed"})
    assert (error["exit_code"], error["error"]["data"]) == (3, {"reason": "no_daemon"})


def test_an_error_has_the_hint_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal names the command that helps, as with ``--json``."""
    app = App(None, None, as_json=True)
    refused = RequestRefused({"code": 1404, "message": "no", "data": {"reason": "route_not_found"}})
    JsonStream(app).end_with_failure(refused)
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["error"]["data"]["hint"] == "kheishctl route list"
