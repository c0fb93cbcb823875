"""The counts of the daemon: by commits, by labels from small sets, and of slow rounds."""

import pytest

from kheishd.kernel import meter as module
from kheishd.kernel.meter import MAX_LABELS, OTHER, BootClock, Histogram, Meter
from kheishd.store.commit import Group
from protocol.budget import Cost
from protocol.events.call import ToolCalled, ToolReturned
from protocol.events.run import MessageAppended, ModelFailed, RunEnded
from protocol.journal.line import JournalEvent
from protocol.objects.run import RunError
from protocol.transcript import Message, Text, Usage


def count(meter: Meter, *events: JournalEvent, route: str = "main") -> None:
    """Count a commit of these events."""
    meter.count_group(Group([], frozenset(), [(event, route) for event in events], 100, 0.002))


def answer(stop_reason: str = "end") -> MessageAppended:
    """Return an answer that used tokens and money."""
    message = Message("assistant", [Text("hi")])
    return MessageAppended(
        item_id="i", message=message, usage=Usage(7, 2), stop_reason=stop_reason, cost=Cost(5, "USD")
    )


def test_commits_are_counted() -> None:
    """A commit counts its time, its bytes, and each of its events by type."""
    meter = Meter()
    count(meter, answer(), RunEnded(outcome="completed"))
    assert (meter.events[MessageAppended], meter.events[RunEnded]) == (1, 1)
    assert (meter.journal_bytes, sum(meter.commit_seconds.counts)) == (100, 1)
    assert meter.runs == {"completed": 1}


def test_model_calls_are_counted_by_route_and_outcome() -> None:
    """Answers, stopped answers, retries and failures are told apart; messages of people are no calls."""
    meter = Meter()
    error = RunError("overloaded", "busy")
    retried = ModelFailed(item_id="i", turn=1, attempt=1, error=error, retry_at_ms=5)
    failed = ModelFailed(item_id="i", turn=1, attempt=2, error=error, retry_at_ms=None)
    person = MessageAppended(item_id="p", message=Message("user", [Text("hi")]))
    count(meter, answer(), answer("cancelled"), retried, failed, person)
    outcomes = {outcome: number for (_, outcome), number in meter.model_calls.items()}
    assert outcomes == {"answered": 1, "cancelled": 1, "retried": 1, "failed": 1}
    assert meter.tokens["main", "input"] == 14
    assert meter.cost_micros == {("main", "USD"): 10}


def test_tools_that_do_not_exist_have_no_label() -> None:
    """A name that only a model wrote is counted as another tool; tools of a server as their server."""
    meter = Meter()
    count(meter, ToolCalled(call_id="1", tool="bash"), ToolCalled(call_id="2", tool="mcp__git__log"))
    for tool in ("bash", "mcp__git__log", "call_alice_at_home"):
        count(meter, ToolReturned(call_id="1", tool=tool, how="returned", text="", took_ms=20))
    assert set(meter.tool_calls) == {("bash", "returned"), ("mcp__git", "returned"), (OTHER, "returned")}
    assert sum(meter.tool_seconds.counts) == 3


def test_labels_are_bounded() -> None:
    """Beyond a number of routes, further ones are counted together."""
    meter = Meter()
    for number in range(MAX_LABELS + 50):
        count(meter, answer(), route=f"route{number}")
    assert len(meter.model_calls) == MAX_LABELS + 1
    assert meter.model_calls[OTHER, "answered"] == 50


def test_histogram() -> None:
    """A value counts in the first bucket whose bound it does not exceed."""
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.add(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 1], 12)


def test_the_lag_is_the_longest_recent_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow round is reported for a while."""
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    meter = Meter()
    assert meter.loop_lag_s() == 0.0
    meter.count_slow_round(0.2)
    meter.count_slow_round(0.1)
    assert (meter.loop_lag_s(), meter.slow_rounds) == (0.2, 2)
    now_s += module.LAG_WINDOW_SECONDS + 1
    assert meter.loop_lag_s() == 0.0


def test_the_clock_is_compared_with_the_time_since_the_boot() -> None:
    """Setting the clock is seen; the passing of time, also asleep, is not."""
    offset = 1_000.0
    clock = BootClock(lambda: offset)
    assert clock.jump_s() == 0.0
    offset -= 90.0
    assert clock.jump_s() == -90.0
    assert abs(BootClock().jump_s()) < 1.0
