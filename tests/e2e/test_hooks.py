"""Lifecycle hooks in a real daemon: a guard, kill -9 while a hook runs, and files that are invalid."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, RpcError, short_home, until
from tests.support.waiting_runs import order

GUARD = """
[[hook]]
name = "guard"
event = "pre_tool_use"
matcher = "read_file"
command = "echo not here >&2; exit 2"
failure = "closed"
"""

SLOW = """
[[hook]]
name = "slow"
event = "pre_tool_use"
matcher = "list_files"
command = ["{home}/slow.sh"]
timeout_s = 30
"""

SCRIPT = """#!/bin/sh
cat >> {home}/inputs; echo >> {home}/inputs
test -e {home}/again && exit 0
touch {home}/again
exec sleep 60
"""


@pytest.fixture
def hooked() -> Iterator[Daemon]:
    """Provide a daemon with a guard and a slow hook."""
    with short_home() as home:
        (home / "hooks").mkdir(parents=True)
        (home / "hooks/guard.toml").write_text(GUARD)
        (home / "hooks/slow.toml").write_text(SLOW.format(home=home))
        script = home / "slow.sh"
        script.write_text(SCRIPT.format(home=home))
        script.chmod(0o700)
        with Daemon(home) as daemon:
            yield daemon


def results(daemon: Daemon, session_id: str) -> list[str]:
    """Return the texts of a session's results."""
    events = daemon.events(session_id=session_id)
    return [event["text"] for event in events if event["type"] == "tool_returned"]


def test_a_guard_and_a_daemon_that_is_killed_while_a_hook_runs(hooked: Daemon) -> None:
    """The run is resumed, its call is judged again under the same key, and the guard still guards."""
    sent = hooked.say(order("read_file", path="a"))
    assert "the hook 'guard' blocked it: not here" in results(hooked, sent["session_id"])[0]
    sent = hooked.call("conversation.send", content=order("list_files"), sender="bob")
    inputs = hooked.home / "inputs"
    until(lambda: (hooked.home / "again").exists(), "the hook runs")
    hooked.kill()
    hooked.start()
    run_id = sent["run_id"]
    until(lambda: hooked.call("run.get", run_id=run_id)["status"] == "completed", "the run is completed")
    first, second = (json.loads(line) for line in inputs.read_text().split("\n") if line)
    assert first["invocation_key"] == second["invocation_key"]
    assert first["run_id"] == run_id
    assert len(results(hooked, sent["session_id"])) == 1
    refuse_bad_files(hooked, hooked.home / "hooks")


def refuse_bad_files(daemon: Daemon, directory: Path) -> None:
    """Reload with files that are invalid, and restart with them."""
    (directory / "bad.toml").write_text('[[hook]]\nname = "a"\nevent = "stopp"\n')
    assert "skipped the hooks in bad.toml:3: hook[0].event" in daemon.call("daemon.reload")["warnings"][0]
    (directory / "guard.toml").write_text(GUARD.replace("command", "comand"))
    with pytest.raises(RpcError, match=r"hooks/guard.toml:6: hook\[0\].comand: unknown key"):
        daemon.call("daemon.reload")
    # The guard that was read before stays.
    sent = daemon.say(order("read_file", path="a"), sender="carol")
    assert "blocked" in results(daemon, sent["session_id"])[0]
    daemon.stop()
    daemon.start(wait=False)
    assert daemon.wait() != 0
    (directory / "guard.toml").unlink()
    daemon.start()
    sent = daemon.say(order("read_file", path="a"), sender="dora")
    assert "blocked" not in results(daemon, sent["session_id"])[0]
