"""The live table: its order, its limits and its rates."""

from typing import Any

import pytest

from kheishctl.render.layout import Display, count_columns
from kheishctl.render.top import SORT_KEYS, Sample, arrange_runs, format_top, tokens_per_minute
from protocol.objects.daemon import DaemonStatus
from tests.support.samples import sample as make_sample

SMALL = Display(80, False, 0)
ROWS = 24


def run(number: int, **fields: Any) -> dict[str, Any]:
    """Return an open run."""
    return {
        "run_id": f"run_{number}",
        "status": "running",
        "agent": "default",
        "accepted_at_ms": number,
        "updated_at_ms": number,
        **fields,
    }


def sample_of(*runs: dict[str, Any], **fields: Any) -> Sample:
    """Return a sample with these runs."""
    status = make_sample(DaemonStatus, full=True) | {"health": {"ok": True, "warnings": []}}
    values: dict[str, Any] = {
        "status": status,
        "metrics": {
            "kheish_tokens_total": [
                {"value": 10.0, "labels": {"kind": "input"}},
                {"value": 9.0, "labels": {"kind": "cached_input"}},
            ]
        },
        "runs": list(runs),
        "waits": [],
        "crons": [],
        "servers": [],
        "agents": [],
        "at_ms": 60_000,
    }
    return Sample(**(values | fields))


def test_a_full_daemon_fits_a_small_terminal() -> None:
    """Hundreds of runs, waits, timers and servers fit a terminal of 80 by 24; the rest is counted."""
    many = range(200)
    sample = sample_of(
        *(run(number, agent="長" * 50) for number in many),
        waits=[{"id": f"apr_{number}" * 30, "begin_ms": 1, "agent": "a"} for number in many],
        crons=[{"cron_id": f"cron_{number}", "next_due_ms": number} for number in many],
        servers=[{"name": f"s{number}\x1b[2J", "state": "ready"} for number in many],
    )
    lines = format_top(sample, None, "age", SMALL, ROWS).split("\n")
    assert len(lines) <= ROWS
    assert all(count_columns(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert any("more runs" in line for line in lines)
    assert "… and 196 more servers" in lines
    five = [{"cron_id": f"cron_{number}", "next_due_ms": number} for number in range(5)]
    assert "… and 1 more timer" in format_top(sample_of(crons=five), None, "age", SMALL, ROWS).split("\n")


@pytest.mark.parametrize("sort", SORT_KEYS)
def test_orders(sort: str) -> None:
    """Each order puts a run first: the oldest, the longest idle, the most tokens, agent or status."""
    first = {"age": 1, "idle": 2, "tokens": 3, "agent": 4, "status": 5}[sort]
    sample = sample_of(
        run(1, agent="m", updated_at_ms=50),
        run(2, agent="m", updated_at_ms=0, accepted_at_ms=20),
        run(3, agent="m", updated_at_ms=50, accepted_at_ms=20, usage={"input_tokens": 9}),
        run(4, agent="a", updated_at_ms=50, accepted_at_ms=20),
        run(5, agent="m", updated_at_ms=50, accepted_at_ms=20, status="awaiting"),
    )
    lines = format_top(sample, None, sort, SMALL, ROWS).split("\n")
    assert lines[3].startswith(f"run_{first} ")


def test_the_rate_is_that_of_one_daemon() -> None:
    """Tokens per minute need two samples of the same daemon; cached tokens count once."""
    first = sample_of()
    metrics = {"kheish_tokens_total": [{"value": 30.0, "labels": {}}]}
    second = sample_of(at_ms=90_000, metrics=metrics)
    assert tokens_per_minute(second, first) == 40.0
    assert tokens_per_minute(second, None) is None
    other = sample_of(at_ms=90_000, metrics=metrics, status=second.status | {"pid": 2})
    assert tokens_per_minute(other, first) is None


def test_agents_are_a_tree() -> None:
    """The run of a spawned agent follows that of its parent; one whose parent has none stands by itself."""
    sample = sample_of(
        run(1, session_id="s1", agent="root"),
        run(2, session_id="s2", agent="other"),
        run(3, session_id="s3", agent="grandchild"),
        run(4, session_id="s4", agent="child"),
        run(5, session_id="s5", agent="orphan"),
        agents=[
            {"agent_id": "s3", "parent_id": "s4"},
            {"agent_id": "s4", "parent_id": "s1"},
            {"agent_id": "s5", "parent_id": "gone"},
        ],
    )
    arranged = [(int(row["run_id"][4:]), depth) for row, depth in arrange_runs(sample, "age")]
    assert arranged == [(1, 0), (4, 1), (3, 2), (2, 0), (5, 0)]
    assert any(" └ child" in line for line in format_top(sample, None, "age", SMALL, ROWS).split("\n"))


def test_the_ends_of_waits_and_retries() -> None:
    """A wait and a pause before a retry say until when."""
    sample = sample_of(
        run(1, retry_at_ms=65_000),
        waits=[{"id": "apr_1", "begin_ms": 0, "end_ms": 90_000, "agent": "a"}],
    )
    text = format_top(sample, None, "age", Display(120, False, 0), ROWS)
    assert "retry in 5" in text
    assert "waits for a person: apr_1 of a, for 1 min, 30" in text
