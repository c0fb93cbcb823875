"""``kheishctl agent`` against a real daemon."""

import json
import signal
import subprocess
import sys

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.terminal import Terminal


def test_life_of_an_agent(ctl: Ctl, sender: str) -> None:
    """An agent is judged, spawned, listed, drawn, renamed, audited and closed."""
    root = str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])
    explained = ctl.json("agent", "explain", root, "scout", "look", "--permission-mode", "bypassPermissions")
    assert (explained["allowed"], explained["reason"]) == (False, "scope_would_widen")
    spawned = ctl(
        "agent", "spawn", root, "Scout", "say hello", "--nickname", f"N {sender}", "--max-tokens", "9999"
    )
    assert spawned.code == exit_codes.OK, spawned.err
    agent_id, path = spawned.out.split()[:2]
    assert path == f"{root}/scout"
    run = ctl.json("run", "wait", ctl.json("agent", "show", path)["launch_run_id"])
    assert run["status"] == "completed"
    assert "say hello" in ctl.json("agent", "show", f"N {sender}")["output"]
    assert [row[0] for row in ctl("agent", "list", "--root", root).rows] == [root, agent_id]
    drawn = [line.split("\t")[:2] for line in ctl("agent", "tree", path).out.splitlines()]
    # The root may be reading the news of its child.
    assert [name for name, _ in drawn] == [root, "scout"]
    assert drawn[1][1] == "idle"
    assert len(ctl.json("agent", "tree", root)["agents"]) == 2
    renamed = ctl("agent", "rename", path, f"M {sender}")
    assert f"M {sender}" in renamed.out
    closed = ctl("agent", "close", f"M {sender}", "--note", "enough")
    assert (closed.code, "closed" in closed.out) == (exit_codes.OK, True)
    audit = ctl("agent", "audit", path).rows
    assert [row[2] for row in audit][-2:] == ["agent_close_requested", "agent_closed"]
    again = ctl("agent", "close", path)
    assert (again.code, "agent list --closed" in again.err) == (exit_codes.FAILED, True)
    assert [row[0] for row in ctl("agent", "list", "--root", root, "--closed").rows] == [root, agent_id]


def test_a_watched_tree_is_drawn_again_after_each_change(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """A terminal shows the current tree in place of the previous one, until Ctrl-C."""
    root = str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "agent", "tree", root]
    with Terminal([*command, "--watch"], {}) as terminal:
        terminal.sees(root)
        assert ctl("agent", "spawn", root, "diver", "look").code == exit_codes.OK
        terminal.sees("└─ diver  idle")
        assert ctl("agent", "close", f"{root}/diver").code == exit_codes.OK
        terminal.until(lambda text: "diver" not in text, "the tree without the child")
        terminal.signal(signal.SIGINT)
        assert terminal.ends() == exit_codes.INTERRUPTED


def test_a_watched_tree_in_a_pipe_is_one_line_for_each_change(daemon: Daemon, ctl: Ctl, sender: str) -> None:
    """With --json each line is the whole tree."""
    root = str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "--json", "agent", "tree", root]
    with subprocess.Popen([*command, "--watch"], stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert len(json.loads(watch.stdout.readline())["agents"]) == 1
        ctl("agent", "spawn", root, "diver", "look")
        while len(json.loads(watch.stdout.readline())["agents"]) == 1:
            pass
        watch.terminate()
