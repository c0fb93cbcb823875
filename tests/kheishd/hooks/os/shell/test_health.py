"""The health of the sandbox: its states, its mark, and its lines in the log."""

import logging
from pathlib import Path

import pytest

from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.hooks.os.shell.health import MARK_NAME, SandboxHealth

AUTO, REQUIRED, OFF = (WorkspaceSection(sandbox=mode) for mode in ("auto", "required", "off"))


def states(health: SandboxHealth) -> list[str]:
    """Return the states under the three modes."""
    return [health.describe(workspace).state for workspace in (AUTO, REQUIRED, OFF)]


def test_states(home: Path) -> None:
    """A failure is harmless only in a home where the sandbox never worked and need not."""
    health = SandboxHealth(home)
    assert states(health) == ["untested", "untested", "off"]
    health.record("no bwrap")
    assert states(health) == ["unavailable", "required", "off"]
    assert health.describe(AUTO).problem == "no bwrap"
    assert not health.has_worked
    health.record(None)
    assert states(health) == ["works", "works", "off"]
    health.record("no namespaces")
    assert states(health) == ["required", "required", "off"]
    later = SandboxHealth(home)
    assert later.has_worked
    assert states(later) == ["untested", "untested", "off"]


def test_switched_off_after_it_worked(home: Path) -> None:
    """Commands outside are asked about until the operator accepts them or removes the mark."""
    health = SandboxHealth(home)
    assert health.describe(OFF).problem == ""
    (home / MARK_NAME).touch()
    assert "a person approves each one" in health.describe(OFF).problem
    assert health.describe(WorkspaceSection(sandbox="off", unsandboxed="allow")).problem == ""


def test_the_network(home: Path) -> None:
    """The network is open if the configuration says so, and wherever commands run without a sandbox."""
    health, opened = SandboxHealth(home), WorkspaceSection(network="open")
    assert [health.describe(workspace).network for workspace in (AUTO, opened, OFF)] == [
        "closed",
        "open",
        "open",
    ]
    health.record("no bwrap")
    assert health.describe(AUTO).network == "open"
    health.record(None)
    assert [health.describe(workspace).network for workspace in (AUTO, opened)] == ["closed", "open"]


def test_a_mark_that_cannot_be_written(tmp_path: Path) -> None:
    """Without the mark, the sandbox is required as long as the daemon runs."""
    health = SandboxHealth(tmp_path / "gone")
    health.record(None)
    assert health.has_worked
    assert not SandboxHealth(tmp_path / "gone").has_worked


def test_changes_are_logged_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line for each change of the result, and of the state."""
    caplog.set_level(logging.INFO, "kheishd.sandbox")
    health = SandboxHealth(home)
    for problem in (None, None, "gone", "gone", None):
        health.record(problem)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    caplog.clear()
    for workspace in (AUTO, AUTO, OFF, OFF, AUTO):
        health.log_state(workspace)
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["works", "off", "works"]
