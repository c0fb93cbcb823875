"""The sandbox of commands in a real daemon: its state, and the way out of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home, until
from tests.support.waiting_runs import order

ALLOW = """
[permissions]
mode = "bypassPermissions"

[[permissions.rules]]
tool = "bash"
decision = "allow"
"""

pytestmark = pytest.mark.usefixtures("bubblewrap")


@pytest.fixture
def home() -> Iterator[Path]:
    """Provide a home in which a rule and the mode allow every command."""
    with short_home() as home:
        home.mkdir()
        configure(home)
        yield home


def configure(home: Path, settings: str = "") -> None:
    """Write the configuration: settings of the workspace, and a rule for all commands."""
    (home / "config.toml").write_text(f"[workspace]\n{settings}\n{ALLOW}")


def state(daemon: Daemon) -> dict[str, Any]:
    """Return the state of the sandbox in the daemon's status."""
    sandbox: dict[str, Any] = daemon.call("daemon.status")["sandbox"]
    return sandbox


def asks(daemon: Daemon, command: str, **arguments: Any) -> dict[str, Any]:
    """Send a command; return the approval that waits for a person."""
    before = len(daemon.call("approval.list")["approvals"])
    daemon.call("conversation.send", content=order("bash", command=command, **arguments), sender=command)
    until(lambda: len(daemon.call("approval.list")["approvals"]) > before, "a person is asked")
    approval: dict[str, Any] = daemon.call("approval.list")["approvals"][-1]
    return approval


def test_leaving_the_sandbox_needs_a_person(home: Path) -> None:
    """The status and the log show the state; once it is off, no rule, mode or grant allows a command."""
    with Daemon(home) as daemon:
        until(lambda: state(daemon)["state"] == "works", "the sandbox was tried")
        assert '"sandboxed":true' in daemon.say(order("bash", command="echo in"))["output"]
        assert "works (mode auto)" in Ctl(home)("status").out
        assert "the state of the sandbox of commands is 'works'" in daemon.read_log()

        configure(home, 'sandbox = "off"')
        daemon.call("daemon.reload")
        until(lambda: "the state of the sandbox of commands is 'off'" in daemon.read_log(), "it is logged")
        assert state(daemon)["state"] == "off"
        (warning,) = daemon.call("daemon.status")["warnings"]
        assert "workspace.sandbox is off: commands ran in a sandbox before" in warning

        for arguments in ({}, {"run_in_background": True}):
            approval = asks(daemon, f"echo out >>out{len(arguments)}", **arguments)
            assert "this one would run without it" in approval["note"]
            assert "without a sandbox" in approval["preview"]["text"]
            answer = {"approval_id": approval["approval_id"], "decision": "allow", "remember": "session"}
            daemon.call("approval.resolve", resolutions=[answer])
            written = home / "workspace" / f"out{len(arguments)}"
            until(written.exists, "the approved command ran")
            # The grant of the session does not answer for the person.
            again = asks(daemon, f"echo out >>out{len(arguments)}", **arguments)
            assert "without a sandbox" in again["preview"]["text"]

        configure(home, 'sandbox = "off"\nunsandboxed = "allow"')
        daemon.call("daemon.reload")
        assert daemon.call("daemon.status")["warnings"] == []
        assert '"sandboxed":false' in daemon.say(order("bash", command="echo accepted"), sender="x")["output"]


def test_a_sandbox_that_fails_later(home: Path, tmp_path: Path) -> None:
    """Where the sandbox has worked, a later daemon without bubblewrap runs no command, and says so."""
    with Daemon(home) as daemon:
        until(lambda: state(daemon)["state"] == "works", "the sandbox was tried")
        daemon.stop()
        broken = tmp_path / "bwrap"
        broken.write_text("#!/bin/sh\necho 'no namespaces here' >&2; exit 1\n")
        broken.chmod(0o755)
    with Daemon(home, environ={"PATH": f"{tmp_path}:/usr/bin:/bin"}) as daemon:
        until(lambda: state(daemon)["state"] == "required", "the sandbox was tried")
        assert state(daemon) == {"state": "required", "mode": "auto", "problem": "no namespaces here"}
        result = daemon.say(order("bash", command="touch escaped"))
        assert "it does not work now: no namespaces here" in json.dumps(result)
        assert not (home / "workspace" / "escaped").exists()
        done = Ctl(home)("status")
        assert done.code == exit_codes.OK
        assert "does not work, so no command runs (mode auto): no namespaces here" in done.out
        (home / ".sandbox").unlink()
        until(lambda: state(daemon)["state"] == "unavailable", "the operator removed the mark")
