"""A backup of a busy daemon is restored: nothing runs again, and followers see the break."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, RpcError, run_kheishd, short_home, until
from tests.support.stores import needs_strace, strace_with
from tests.support.waiting_runs import order, writes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """
[[permissions.rules]]
tool = "bash"
decision = "allow"
"""


class Story(NamedTuple):
    """A home whose daemon worked on after a backup; ids and answers from before the backup was restored."""

    daemon: Daemon
    backup: Path
    running: dict[str, Any]
    queued: dict[str, Any]
    waiting: dict[str, Any]
    tokens: dict[str, str]
    epoch: str
    backup_cursor: int
    last_cursor: int


def rules(daemon: Daemon) -> dict[str, str]:
    """Return the decisions of the daemon's own rules by tool."""
    (layer,) = [row for row in daemon.call("permission.list")["permissions"] if row["layer"] == "daemon"]
    return {rule["tool"]: rule["decision"] for rule in layer["rules"]}


def work(daemon: Daemon, backup: Path) -> Story:
    """Begin work of every kind, make a backup, and continue the work."""
    daemon.say("hello", sender="done")
    begun = daemon.home / "workspace" / "begun"
    slow = order("bash", command="echo once >> begun; sleep 600")
    running = daemon.call("conversation.send", content=slow, sender="busy")
    until(begun.exists, "the command runs")
    second = order("bash", command="echo once >> second")
    queued = daemon.call("conversation.send", content=second, sender="busy")
    waiting = daemon.say(writes("third"), sender="waits")
    background = order("bash", command="echo once >> background; sleep 600", run_in_background=True)
    daemon.say(background, sender="shell")
    until((daemon.home / "workspace" / "background").exists, "the background command runs")
    tokens = {
        name: daemon.call("token.create", scopes=["read"], name=name)["token"]["token_id"]
        for name in ("kept", "lost")
    }
    allow = [{"tool": tool, "decision": "allow"} for tool in ("web_fetch", "patch_file")]
    daemon.call("permission.update", add=allow)
    for name in ("ses_narrow", "ses_over"):
        daemon.call("session.create", session_id=name, permission_mode="bypassPermissions")
    cursor = daemon.call("daemon.backup", path=str(backup))["cursor"]
    # After the backup, everything goes on.
    daemon.call("token.revoke", token_id=tokens["lost"])
    daemon.call("token.create", scopes=["read"], name="late")
    scope = {"tools": ["write_file"]}
    daemon.call("session.update", session_id="ses_narrow", permission_mode="plan", scope=scope)
    daemon.call("session.end", session_id="ses_over")
    deny = {"tool": "grep_search", "decision": "deny"}
    daemon.call("permission.update", add=[deny], remove=[{"tool": "web_fetch"}])
    (approval,) = daemon.call("approval.list")["approvals"]
    answer = {"approval_id": approval["approval_id"], "decision": "allow"}
    daemon.call("approval.resolve", resolutions=[answer])
    daemon.call("run.wait", run_id=waiting["run_id"])
    daemon.call("conversation.cancel", sender="busy")
    daemon.call("run.wait", run_id=queued["run_id"])
    status = daemon.call("daemon.status")
    return Story(daemon, backup, running, queued, waiting, tokens, status["epoch"], cursor, status["cursor"])


@pytest.fixture(scope="module")
def worked() -> Iterator[Story]:
    """Provide a stopped daemon that worked on after a backup."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG)
        with Daemon(home) as daemon:
            story = work(daemon, home.parent / "backup")
            assert daemon.stop() == 0
            yield story


@pytest.fixture(scope="module")
def story(worked: Story) -> Story:
    """Return the daemon after the restore of its backup, with the output of the restore in its log."""
    done = Ctl(worked.daemon.home)("daemon", "restore", str(worked.backup))
    assert done.code == 0, done.err
    (worked.daemon.home.parent / "output").write_text(done.out)
    worked.daemon.start()
    return worked


def lines(story: Story, name: str) -> list[str]:
    """Return the lines of a file in the workspace."""
    return (story.daemon.home / "workspace" / name).read_text().splitlines()


def test_restore_says_what_was_open_and_withdrawn(story: Story) -> None:
    """Restore prints the open work, the withdrawn rights, and the way back."""
    output = (story.daemon.home.parent / "output").read_text()
    assert "1 running, 1 queued, 1 waiting for a person" in output
    assert "in doubt after the first start: 1" in output
    assert "background commands that were running and are not run again: 1" in output
    assert f"stay revoked: {story.tokens['lost']}\n" in output
    assert "created after the backup and do not exist any more: 1" in output
    assert "the daemon: rules that were added after the backup stay: deny grep_search" in output
    assert "the daemon: rules that were removed after the backup stay removed: allow web_fetch" in output
    assert f"to go back: kheishd restore {story.daemon.home}/state/before-restore-1" in output


def test_open_runs_do_not_run_again(story: Story) -> None:
    """Open runs are interrupted and say why; their effects happened once."""
    for sent in (story.running, story.queued, story.waiting):
        run = story.daemon.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["error"]["reason"]) == ("interrupted", "restored")
        assert "restored from a backup of 20" in run["error"]["message"]
    assert lines(story, "begun") == lines(story, "second") == lines(story, "background") == ["once"]
    (task,) = story.daemon.call("task.list", status="any")["tasks"]
    assert task["status"] != "in_progress", task
    assert "restored from a backup" in json.dumps(task)
    assert story.daemon.call("approval.list")["approvals"] == []
    assert story.daemon.call("daemon.status")["counts"]["runs_ready"] == 0


def test_a_running_call_is_in_doubt(story: Story) -> None:
    """The call that ran during the backup is in doubt, and the model learns that from its result."""
    (doubt,) = story.daemon.call("indoubt.list")["indoubts"]
    assert (doubt["run_id"], doubt["tool"]) == (story.running["run_id"], "bash")
    assert "The state is from a backup of 20" in doubt["note"]
    results = [
        event["text"]
        for event in story.daemon.events(types=["tool_returned"])
        if event["run_id"] in (story.running["run_id"], story.waiting["run_id"])
    ]
    assert len(results) == 2
    assert all("It is not known whether" in text for text in results)


def test_conversations_continue(story: Story) -> None:
    """An interrupted conversation takes the next message, and the store is sound."""
    for sender in ("busy", "waits", "done"):
        assert story.daemon.say("And now?", sender=sender)["status"] == "completed"
    diagnosis = story.daemon.call("daemon.doctor", deep=True)
    assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)


def test_withdrawn_rights_stay_withdrawn(story: Story) -> None:
    """A token that was revoked after the backup is revoked; so it is with rules."""
    tokens = story.daemon.call("token.list", revoked=True)["tokens"]
    assert {token["name"]: "revoked_at_ms" in token for token in tokens} == {"kept": False, "lost": True}
    assert rules(story.daemon) == {"patch_file": "allow", "grep_search": "deny"}


def test_sessions_stay_narrow(story: Story) -> None:
    """A session's mode and scope that were narrowed after the backup, and its end, hold after a restore."""
    narrow = story.daemon.call("session.get", session_id="ses_narrow")
    assert (narrow["permission_mode"], narrow["scope"]) == ("plan", {"tools": ["write_file"]})
    run = story.daemon.call(
        "session.send", session_id="ses_narrow", content=writes("bypassed"), wait="settled"
    )
    assert run["status"] != "waiting"
    assert not (story.daemon.home / "workspace" / "bypassed").exists()
    assert story.daemon.call("session.get", session_id="ses_over")["status"] == "ended"
    output = (story.daemon.home.parent / "output").read_text()
    assert 'ses_narrow: what was narrowed after the backup stays narrowed: permission_mode "plan"' in output
    assert "the session ses_over: it was ended after the backup and stays so" in output


def test_a_restore_is_no_crash(story: Story) -> None:
    """A restored store is healthy: status names the backup, and nothing speaks of an unclean stop."""
    status = story.daemon.call("daemon.status")
    assert status["warnings"] == []
    assert (status["restored"]["runs"], status["restored"]["indoubts"]) == (3, 1)
    assert status["restored"]["cursor"] == story.backup_cursor
    assert "from a backup of 20" in Ctl(story.daemon.home)("status").out
    assert "did not shut down cleanly" not in story.daemon.read_log()
    assert "restored from a backup of 20" in story.daemon.read_log()
    started = story.daemon.events(types=["daemon_started"])
    assert not any(event.get("after_crash") for event in started)
    (restored,) = story.daemon.events(types=["daemon_restored"])
    assert (restored["epoch"], restored["revoked_tokens"]) == (status["epoch"], 1)


def test_a_follower_of_the_old_epoch_gets_a_gap(story: Story) -> None:
    """A follower from before the restore gets the gap, the new epoch, and every event after the backup."""
    epoch = story.daemon.call("daemon.status")["epoch"]
    assert epoch != story.epoch
    with story.daemon.connect() as client:
        subscribed = client.call("journal.subscribe", after=story.last_cursor, epoch=story.epoch)
        assert (subscribed["cursor"], subscribed["epoch"]) == (story.backup_cursor, epoch)
        first = client.notes.pop(0) if client.notes else client.receive()
        assert first["method"] == "journal.gap"
        gap = {name: first["params"][name] for name in ("from", "to", "epoch", "reason")}
        assert gap == {
            "from": story.last_cursor,
            "to": story.backup_cursor,
            "epoch": epoch,
            "reason": "restored",
        }
        assert client.note("journal.event")["event"]["type"] == "daemon_started"
        assert client.note("journal.synced")["epoch"] == epoch
    with pytest.raises(RpcError) as refused:
        story.daemon.call("journal.read", after=story.last_cursor, epoch=story.epoch)
    assert refused.value.reason == "cursor_unknown"
    assert f"the same up to cursor {story.backup_cursor}" in refused.value.message


@pytest.mark.parametrize(
    ("params", "end", "reason"),
    [({"after": 10**9}, "last", "beyond_end"), ({"after": 5, "epoch": "0" * 32}, 0, "restored")],
)
def test_a_foreign_cursor_gets_a_gap(
    story: Story, params: dict[str, Any], end: str | int, reason: str
) -> None:
    """A cursor beyond the end, or of an unknown line of history, gets a gap before anything else."""
    last = story.daemon.call("daemon.status")["cursor"]
    with story.daemon.connect() as client:
        client.call("journal.subscribe", types=["none"], **params)
        first = client.notes.pop(0) if client.notes else client.receive()
        assert (first["method"], first["params"]["reason"]) == ("journal.gap", reason)
        assert (first["params"]["from"], first["params"]["to"]) == (
            params["after"],
            last if end == "last" else end,
        )
        assert client.note("journal.synced")["cursor"] == last
    with pytest.raises(RpcError) as refused:
        story.daemon.call("journal.read", **{"epoch": story.daemon.call("rpc.ping")["epoch"]} | params)
    assert refused.value.reason == "cursor_unknown"


def test_a_follower_of_this_epoch_gets_none(story: Story) -> None:
    """With the current epoch, or with none, a valid cursor continues as ever."""
    status = story.daemon.call("daemon.status")
    for epoch in ({"epoch": status["epoch"]}, {}):
        with story.daemon.connect() as client:
            client.call("journal.subscribe", after=status["cursor"], **epoch)
            first = client.notes.pop(0) if client.notes else client.receive()
            assert (first["method"], first["params"]["cursor"]) == ("journal.synced", status["cursor"])
        page = story.daemon.call("journal.read", after=status["cursor"], **epoch)
        assert (page["events"], page["epoch"]) == ([], status["epoch"])


def test_followers_on_the_command_line(story: Story) -> None:
    """``journal follow`` keeps its epoch across a restore, and says what happened."""
    daemon = story.daemon
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "--json", "journal", "follow"]
    daemon.say("before the second restore", sender="done")
    cursor, epoch = (daemon.call("daemon.status")[name] for name in ("cursor", "epoch"))
    arguments = [
        "--after",
        str(cursor - 1),
        "--epoch",
        epoch,
        "--type",
        "daemon_restored",
        "--type",
        "run_ended",
    ]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["type"] == "run_ended"
        daemon.stop()
        assert run_kheishd(daemon.home, "restore", str(story.backup)).returncode == 0
        daemon.start()
        gap, *events = (json.loads(follower.stdout.readline()) for _ in range(5))
        follower.terminate()
    assert (gap["gap"]["reason"], gap["gap"]["to"]) == ("restored", story.backup_cursor)
    assert [event["type"] for event in events] == ["run_ended"] * 3 + ["daemon_restored"]


def test_the_way_back(story: Story) -> None:
    """The kept store can be restored: it has what happened after the backup."""
    daemon = story.daemon
    daemon.stop()
    kept = daemon.home / "state" / "before-restore-1"
    assert run_kheishd(daemon.home, "restore", str(kept)).returncode == 0
    daemon.start()
    assert daemon.call("run.get", run_id=story.waiting["run_id"])["status"] == "completed"
    assert daemon.call("daemon.status")["restored"]["runs"] == 0
    # The line of the first restore shares with this one what the backup had.
    with daemon.connect() as client:
        assert client.call("journal.subscribe", after=story.last_cursor, epoch=story.epoch)["cursor"] > 0
        assert client.note("journal.gap")["to"] == story.last_cursor


def test_a_damaged_store_is_replaced(story: Story) -> None:
    """The rights of a store that cannot be read are not known, and restore says so."""
    daemon = story.daemon
    daemon.stop()
    for kept in (daemon.home / "state").glob("before-restore-*"):
        # They would know the revoked token.
        shutil.rmtree(kept)
    data = daemon.home / "state" / "data.mdb"
    data.write_bytes(data.read_bytes()[:4096] + b"\xa5" * 40_000)
    done = run_kheishd(daemon.home, "restore", str(story.backup))
    assert done.returncode == 0, done.stderr
    assert "the previous store is not there or cannot be read, so it is not known which tokens" in done.stdout
    daemon.start()
    tokens = daemon.call("token.list", revoked=True)["tokens"]
    assert not any("revoked_at_ms" in token for token in tokens)
    assert daemon.call("daemon.status")["restored"]["runs"] == 3


def test_a_backup_that_is_put_in_place_by_hand(story: Story) -> None:
    """A backup whose files are copied into the home is recognized: nothing in it runs again."""
    daemon = story.daemon
    daemon.stop()
    shutil.rmtree(daemon.home / "state")
    shutil.copytree(story.backup, daemon.home / "state")
    daemon.start()
    status = daemon.call("daemon.status")
    assert (status["restored"]["runs"], status["warnings"]) == (3, [])
    assert status["epoch"] != story.epoch
    assert daemon.call("run.get", run_id=story.running["run_id"])["status"] == "interrupted"
    assert lines(story, "begun") == lines(story, "second") == ["once"]


@needs_strace
def test_a_kill_while_the_work_is_marked(story: Story) -> None:
    """A kill at any commit of the first start leaves no run that runs again; the next start continues."""
    daemon = story.daemon
    daemon.stop()
    for commit in (2, 4):
        assert run_kheishd(daemon.home, "restore", str(story.backup)).returncode == 0
        victim = Daemon(daemon.home, before=tuple(strace_with(f"fdatasync:signal=KILL:when={commit}")))
        victim.start(wait=False)
        assert victim.wait() != 0
        daemon.start()
        status = daemon.call("daemon.status")
        assert (status["restored"]["runs"], status["counts"]["runs_ready"]) == (3, 0)
        for sent in (story.running, story.queued, story.waiting):
            assert daemon.call("run.get", run_id=sent["run_id"])["status"] == "interrupted"
        assert len(daemon.events(types=["daemon_restored"])) == 1
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []
        daemon.stop()
    assert lines(story, "begun") == lines(story, "second") == ["once"]
