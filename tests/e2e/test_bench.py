"""Tests of ``contrib/bench/run``: every figure can be measured. No test judges a time."""

import json
import re
import subprocess
from math import isfinite
from pathlib import Path

import pytest

from contrib.bench.__main__ import FIGURES, GOALS, arguments, merge
from contrib.bench.client import Client
from contrib.bench.model import config, model_server, newest_request
from contrib.bench.processes import daemon, yardstick
from contrib.bench.prototype import run_turn
from contrib.bench.table import Round, Row, at_least, at_most, number, render, spread
from contrib.bench.turn_profile import LOOP, step_of
from tests.support.programs import ROOT, environment

RUN = ROOT / "contrib" / "bench" / "run"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_measured(name: str) -> None:
    """Each figure has rows with finite values and a goal or a yardstick."""
    done = subprocess.run(
        [RUN, name, "--small", "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows
    for row in rows:
        assert row["rounds"] or row["note"], row
        # A figure beyond another one, measured on a busy machine, may be below zero.
        assert all(isfinite(round_["figure"]) for round_ in row["rounds"]), row


def test_a_turn_can_be_profiled() -> None:
    """The profile lists steps with their shares, and the time of a turn."""
    command = [str(ROOT / "contrib" / "bench" / "profile"), "--small"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("sum ") for line in lines)
    # Few samples are taken, so any single step may be missing.
    assert any(re.search(r" \d+\.\d%", line) for line in lines)


def test_a_sample_belongs_to_the_innermost_step() -> None:
    """A library's function belongs to its caller, a system call to the socket, a bare loop to the loop."""
    http, trio = "kheishd/providers/http.py:read", "/site-packages/trio/_core/_run.py:CancelScope.__enter__"
    tasks = "/site-packages/trio/_core/_run.py:unrolled_run"
    daemon_frame = "kheishd/daemon.py:run"

    def step(line: str, *frames: str) -> str:
        return step_of({"line": line, "frames": frames})

    assert step("with self:", trio, http, tasks, daemon_frame) == "the HTTP client"
    assert step("return self._sock.recv(n)", http, tasks) == "the socket: send, receive, wait until ready"
    assert step("msg = task.coro.send()", tasks, daemon_frame) == LOOP


def test_a_missed_goal_is_shown_with_its_distance() -> None:
    """The median of the rounds is judged; a miss is shown as a share of the limit."""
    rounds = [Round(300, 100), Round(200, 100), Round(240, 100)]
    assert Row("x", "µs", rounds, at_most(2), "ratio").verdict() == "missed by 20%"
    assert Row("x", "µs", rounds, at_most(2.4), "ratio").verdict() == "met"
    assert Row("x", "/s", rounds, at_least(480), "figure").verdict() == "missed by 50%"
    assert Row("x", "/s", rounds, at_most(150), "difference").verdict() == "met"


def test_a_figure_beside_a_yardstick_shows_the_ratio_too() -> None:
    """A goal that limits the figure itself shows the ratio to the yardstick as information."""
    row = Row("x", "ms", [Round(3, 2)], at_most(5), yardstick="bare prototype")
    assert row.verdict() == "met"
    assert "1.50 x" in render([row])


def test_goals_are_named_by_one_word() -> None:
    """``goals`` stands for the modules that have the goals of the project."""
    options = arguments(["goals"])
    assert options.only_goals
    assert tuple(options.names) == GOALS
    assert not arguments(["turn"]).only_goals
    assert arguments(["goals", "bash"]).names == ["bash"]


def test_goals_that_are_measured_again_replace_their_rows() -> None:
    """The other rows stay, and so does the order."""
    written = [{"name": "one", "value": 1}, {"name": "two", "value": 2}]
    assert merge(written, [{"name": "one", "value": 3}]) == [{"name": "one", "value": 3}, written[1]]


def test_the_prototype_keeps_the_order_of_a_turn(tmp_path: Path) -> None:
    """The prototype sends the bytes of the daemon, and remembers a conversation after a kill."""
    with model_server() as port:
        with daemon(config(port)) as server, server.client() as client:
            for _ in range(3):
                run_turn(client, "ada")
            request = newest_request(port)
        file = tmp_path / "request"
        file.write_bytes(request)
        for turns in (2, 1):
            with yardstick("turns", str(tmp_path / "store"), str(file), str(port)) as path:
                with Client(path) as client:
                    for _ in range(turns):
                        run_turn(client, "ada")
        assert newest_request(port) == request


def test_the_table_shows_minimum_median_and_maximum() -> None:
    """The table shows minimum, median and maximum, or one number if they are equal."""
    assert spread([3, 1, 2]) == "1.00 / 2.00 / 3.00"
    assert spread([5, 5]) == "5.00"
    assert [number(value) for value in (1234.5, 56.78, 1.234, 0.0123, 0)] == [
        "1,234",
        "56.8",
        "1.23",
        "0.012",
        "0.00",
    ]


def test_the_table_lines_up_and_notes_follow() -> None:
    """All lines of the table have the same width, and notes follow it."""
    rows = [
        Row("one", "ms", [Round(1.5, 0.5)], at_most(2), "ratio", "bare"),
        Row("two", "MiB", [Round(30)], at_most(45), note="resident"),
    ]
    *table, blank, note = render(rows).splitlines()
    assert len({len(line) for line in table}) == 1
    assert "3.00 x" in table[2]
    assert "≤ 2 x" in table[2]
    assert not blank
    assert note == "* two: resident"
