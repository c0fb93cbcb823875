"""The status of the daemon as text."""

from pathlib import Path

import click

from kheishctl.cli import Verb
from kheishctl.program import root
from kheishctl.render.daemon import HEALTH_HINTS, RELATED, format_daemon_status, format_metrics
from kheishctl.render.layout import Display
from protocol import __version__
from protocol.objects.daemon import DaemonMetrics, DaemonStatus
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(100, False, NOW)


def test_status() -> None:
    """The status holds version, counts and disk use, and ends with "healthy" or with warnings."""
    result = (
        sample(DaemonStatus, full=True)
        | {"version": __version__, "warnings": [], "draining": False}
        | {"health": {"ok": True, "warnings": []}}
    )
    assert format_daemon_status(result, WIDE).endswith("healthy")
    assert "healthy" not in format_daemon_status(result, PIPE)
    assert "1 approval, 1 question, 1 call in doubt" in format_daemon_status(result, WIDE)
    counts = result["counts"] | {"approvals": 2, "questions": 0, "indoubts": 3}
    assert "2 approvals, 3 calls in doubt" in format_daemon_status(result | {"counts": counts}, PIPE)
    for name in ("approvals", "questions", "indoubts"):
        del counts[name]
    assert "waiting" not in format_daemon_status(result | {"counts": counts}, PIPE)
    del result["health"]
    ill = format_daemon_status(
        result | {"version": "9.9", "warnings": ["the disk is nearly full"], "draining": True}, WIDE
    )
    assert "the daemon is version 9.9" in ill
    assert "accepts no new work" in ill
    assert ill.endswith("warning: the disk is nearly full")


def test_warnings_have_their_remedies_below() -> None:
    """Each warning shows its severity, and its remedy in the next line."""
    result = sample(DaemonStatus, full=True) | {"version": __version__, "draining": False}
    warning = {"severity": "critical", "code": "x", "message": "the disk is full", "remedy": "free some"}
    text = format_daemon_status(result | {"health": {"ok": False, "warnings": [warning]}}, PIPE)
    assert text.endswith("critical: the disk is full\n  free some")


def test_metrics() -> None:
    """Each sample has a line with its labels; a histogram shows its number and its mean."""
    metrics = sample(DaemonMetrics, full=True)
    counter = {"name": "a", "measure": "counter", "samples": [{"value": 3.0, "labels": {"kind": "b"}}]}
    histogram = {"name": "c", "measure": "histogram", "samples": [{"value": 4.0, "sum": 2.0}]}
    text = format_metrics(metrics | {"metrics": [counter, histogram]}, PIPE)
    assert [line.split() for line in text.splitlines()] == [["a{kind=b}", "3"], ["c", "4,", "mean", "0.5"]]


def test_a_status_fits_80_columns() -> None:
    """On a terminal, no line is longer, no word is broken, and each warning names a command that helps."""
    warning = {
        "severity": "warning",
        "code": "mcp_needs_login",
        "message": "the MCP server 'files' needs a login by a person: " + "its token has expired " * 4,
        "remedy": "begin one by mcp.login",
        "related_id": "files",
    }
    result = sample(DaemonStatus, full=True) | {
        "listeners": [f"/a/long/path/of/a/socket/{number}/kheishd.sock" for number in range(4)],
        "health": {"ok": False, "warnings": [warning]},
    }
    text = format_daemon_status(result, Display(80, False, 0))
    assert max(map(len, text.split("\n"))) <= 80
    assert "kheishctl mcp login files" in text
    assert all(path in text.replace("\n", " ") for path in result["listeners"])


def test_hints_of_warnings_are_commands() -> None:
    """Each hint of a health warning is a command, and each code is one that the daemon has."""
    documented = Path("contrib/docs/observability.md").read_text()
    for code, words in HEALTH_HINTS.items():
        assert f"`{code}`" in documented
        command: click.Command | None = root
        names = [word for word in words if word != RELATED and not word.startswith("--")]
        for name in names:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), name)
        assert isinstance(command, Verb), words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
