"""A home of the previous version opens and continues to work.

``fixtures/home-0.1.tar.xz`` is the home of a killed kheish 0.1 with every kind of object and active work;
``home-0.1.json`` holds the answers of 0.1 about an unpacked copy. An operator renames the configuration keys
that the daemon names at start; the daemon upgrades everything else.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kheishd.launch import STORE_REFUSED, UNUSABLE
from protocol.objects.run import ENDED
from tests.support.daemons import Daemon, run_kheishd, short_home
from tests.support.peers import call, websocket_peer
from tests.support.stores import needs_strace, strace_with

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).parent / "fixtures"
FACTS: dict[str, Any] = json.loads((FIXTURES / "home-0.1.json").read_text())
UNDER_WAY: dict[str, dict[str, str]] = FACTS["under_way"]

RENAMED = {
    "active_max": "max_active",
    "attempts_max": "max_attempts",
    "backoff_max_s": "max_backoff_s",
    "bytes_max": "max_bytes",
    "calls_max": "max_calls",
    "continuations_max": "max_continuations",
    "cost_max": "max_cost",
    "failures_max": "max_failures",
    "input_bytes_max": "max_input_bytes",
    "kept_s": "max_age_s",
    "mode_max": "max_mode",
    "output_bytes_max": "max_output_bytes",
    "parallel_max": "max_parallel",
    "reason": "note",
    "results_idle_s": "drop_results_after_s",
    "results_keep": "keep_results",
    "retry_after_max_s": "max_retry_after_s",
    "run_output_bytes_max": "max_run_output_bytes",
    "timeout_max_s": "max_timeout_s",
    "tokens_max": "max_tokens",
    "turns_max": "max_turns",
    "wall_s_max": "max_work_s",
}
"""Renamed keys of config.toml and agent files."""

EXPIRING = UNDER_WAY["question_expiring"]["run_id"]
"""A run whose question expires a year after the fixture was made."""


def unpack(home: Path) -> None:
    """Unpack the home of 0.1, and rename its configuration keys as an operator would.

    The grant of its shared socket, which is in the home, was of use to root only.
    """
    with tarfile.open(FIXTURES / "home-0.1.tar.xz") as archive:
        archive.extractall(home.parent, filter="data")
    for path in (home / "config.toml", *(home / "agents").glob("*.md")):
        keys = re.compile(rf"\b({'|'.join(RENAMED)})(?=\s*[=:])")
        text = path.read_text().replace("uid = 12345", "uid = 0")
        path.write_text(keys.sub(lambda match: RENAMED[match[1]], text))


@pytest.fixture
def home() -> Iterator[Path]:
    """Provide a copy of the home of 0.1."""
    with short_home() as path:
        unpack(path)
        yield path


@contextmanager
def quiet(home: Path) -> Iterator[Daemon]:
    """Provide a daemon of this version on the home of 0.1, once no run is active."""
    with Daemon(home) as daemon:
        for run in UNDER_WAY.values():
            if run["status"] in ("completed", "failed", "cancelled"):
                daemon.call("run.wait", run_id=run["run_id"], timeout_s=30)
        yield daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon that the tests of this module only read."""
    with short_home() as path:
        unpack(path)
        with quiet(path) as daemon:
            yield daemon


def rows(daemon: Daemon, method: str, plural: str, **params: Any) -> list[dict[str, Any]]:
    """Return all rows of a list."""
    items: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = daemon.call(method, limit=500, **params, **({} if after is None else {"after": after}))
        items += page[plural]
        after = page["next"]
        if after is None:
            return items


def require_healthy(daemon: Daemon) -> None:
    """Require that the doctor finds nothing. Errors: AssertionError."""
    diagnosis = daemon.call("daemon.doctor", deep=True)
    assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)


def test_records_are_unchanged(daemon: Daemon) -> None:
    """Every object keeps its id, state and history, and the doctor finds no problem."""
    require_healthy(daemon)
    sessions = {
        row["session_id"]: [
            row["agent"],
            row["status"],
            row.get("runs", 0),
            row.get("title"),
            row.get("parent_session_id"),
        ]
        for row in rows(daemon, "session.list", "sessions", sidechains=True)
    }
    assert sessions == FACTS["sessions"]
    runs = {row["run_id"]: row["status"] for row in rows(daemon, "run.list", "runs")}
    assert runs | {EXPIRING: ""} == FACTS["runs"] | {EXPIRING: ""}
    conversations = rows(daemon, "conversation.list", "conversations")
    assert {f"{row['agent']}/{row['sender']}": row["session_id"] for row in conversations} == FACTS[
        "conversations"
    ]
    for name in ("approval", "question", "indoubt", "task"):
        records = rows(daemon, f"{name}.list", f"{name}s", status="any")
        statuses = {row[f"{name}_id"]: row["status"] for row in records if row.get("run_id") != EXPIRING}
        expected = {key: value for key, value in FACTS[f"{name}s"].items() if key in statuses}
        assert statuses == expected
        assert len(FACTS[f"{name}s"]) - len(expected) == (name == "question")
    for session_id, digest in FACTS["histories"].items():
        messages = rows(daemon, "session.history", "messages", session_id=session_id)
        # Only their order has changed: it is that in which the model reads them.
        messages.sort(key=lambda message: int(message["cursor"]))
        for message in messages:
            message.pop("unread", None)
        # The digests are those of 0.1 without the signatures of thinking, which histories no longer show.
        assert _digest(messages) == digest, session_id
    for session_id, layers in FACTS["rules"].items():
        permissions = rows(daemon, "permission.list", "permissions", session_id=session_id)
        assert layers == [
            [layer["layer"], len(layer["rules"]), len(layer.get("grants", []))] for layer in permissions
        ]


def _digest(messages: list[dict[str, Any]]) -> str:
    content = json.dumps([row["message"] for row in messages], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def test_every_session_can_be_exported_and_imported(daemon: Daemon) -> None:
    """What an older version wrote is a valid transcript: every session's export would be imported."""
    for session_id in FACTS["sessions"]:
        page = daemon.call("session.export", session_id=session_id, limit=500)
        assert page["next"] is None
        checked = daemon.call("session.import", lines=page["lines"], agent="default", check=True)
        assert checked["messages"] >= 0


@pytest.fixture
def working(home: Path) -> Iterator[Daemon]:
    """Provide a daemon for one test."""
    with quiet(home) as daemon:
        yield daemon


def test_active_work_continues(working: Daemon) -> None:
    """Active runs end as in 0.1; waiting and queued runs continue when a person answers."""
    daemon = working

    def allow(name: str) -> None:
        approvals = rows(daemon, "approval.list", "approvals", run_id=UNDER_WAY[name]["run_id"])
        daemon.call(
            "approval.resolve",
            resolutions=[{"approval_id": row["approval_id"], "decision": "allow"} for row in approvals],
        )

    def wait_for_run(name: str) -> dict[str, Any]:
        run: dict[str, Any] = daemon.call("run.wait", run_id=UNDER_WAY[name]["run_id"], timeout_s=30)
        return run

    assert wait_for_run("flight_steered")["output"] == "it was steered"
    assert wait_for_run("flight_bash")["output"] == "one is in doubt"
    assert wait_for_run("flight_retry")["error"]["reason"] == "overloaded"
    allow("emit")
    assert wait_for_run("emit")["value"] == {"ok": True}
    assert wait_for_run("queued_behind_emit")["status"] == "completed"
    allow("plan")
    assert wait_for_run("plan")["output"] == "out of plan mode"
    (question,) = rows(daemon, "question.list", "questions", run_id=UNDER_WAY["question"]["run_id"])
    answers = [{"key": "q1", "selected": ["o2"]}, {"key": "q2", "text": "it is calm"}]
    daemon.call("question.answer", question_id=question["question_id"], answers=answers)
    assert wait_for_run("question")["output"] == "thank you for the answer"
    for doubt in rows(daemon, "indoubt.list", "indoubts", status="open"):
        daemon.call("indoubt.resolve", indoubt_id=doubt["indoubt_id"], outcome="done")
    for sender in ("ada", "compacted", "checkpointed", "flight-bash"):
        sent = daemon.say("And now?", agent="default", sender=sender)
        assert (sent["status"], sent["session_id"]) == (
            "completed",
            FACTS["conversations"][f"default/{sender}"],
        )
    for name in ("fork", "imported", "child"):
        sent = daemon.call("session.send", session_id=FACTS["names"][name], content="Go on.", wait="settled")
        assert sent["status"] == "completed"
    require_healthy(daemon)


def upgrade_status(daemon: Daemon, secret: str) -> int:
    """Return the HTTP status with which the TCP listener answers a token."""
    address = (daemon.home / "run" / "tcp").read_text().strip()
    connection = HTTPConnection(address, timeout=30)
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Authorization": f"Bearer {secret}"}
    try:
        connection.request("GET", "/rpc", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("name", FACTS["tokens"])
async def test_tokens_are_unchanged(daemon: Daemon, name: str) -> None:
    """Valid tokens keep their rights; revoked tokens and their descendants are refused."""
    secret, addresses = FACTS["tokens"][name]
    if addresses is None:
        assert upgrade_status(daemon, secret) == 401
        return
    async with websocket_peer(daemon.home, secret) as peer:
        page = await call(peer, "conversation.list", limit=500)
    assert [f"{row['agent']}/{row['sender']}" for row in page["conversations"]] == addresses


def test_old_configuration_keys_are_named(home: Path) -> None:
    """The daemon refuses old configuration keys and names the current ones."""
    config = home / "config.toml"
    config.write_text(config.read_text().replace("max_active", "active_max"))
    started = run_kheishd(home)
    assert started.returncode == UNUSABLE
    assert "runs.active_max: unknown key; did you mean 'max_active'?" in started.stderr


def test_the_offline_doctor_requires_the_upgrade(home: Path) -> None:
    """The offline doctor requires the upgrade, because it cannot read the old records."""
    refused = run_kheishd(home, "doctor")
    assert refused.returncode == STORE_REFUSED
    assert "Start the daemon once" in refused.stderr
    with Daemon(home) as daemon:
        daemon.stop()
    assert run_kheishd(home, "doctor", "--deep").returncode == 0


@needs_strace
@pytest.mark.parametrize("commit", [1, 2, 3])
def test_a_kill_during_the_upgrade_costs_nothing(home: Path, commit: int) -> None:
    """A kill at any of the three commits of the upgrade is recovered at the next start."""
    victim = Daemon(home, before=tuple(strace_with(f"fdatasync:signal=KILL:when={commit}")))
    victim.start(wait=False)
    assert victim.wait() != 0
    with Daemon(home) as daemon:
        require_healthy(daemon)
        assert {row["run_id"] for row in rows(daemon, "run.list", "runs")} == set(FACTS["runs"])
        assert len(rows(daemon, "conversation.list", "conversations")) == len(FACTS["conversations"])


def test_the_way_back(home: Path) -> None:
    """The store from before an upgrade is kept, byte for byte, and the log says how to go back.

    This version restores the copy as well; a rule that was added after the upgrade stays.
    """
    original = (home / "state" / "data.mdb").read_bytes()
    rule = {"tool": "web_fetch", "decision": "deny", "subject": "late.example"}
    with Daemon(home) as daemon:
        log = daemon.read_log()
        daemon.call("permission.update", add=[rule])
        daemon.stop()
    kept = home / "before-upgrade-from-0.1.0"
    assert (kept / "data.mdb").read_bytes() == original
    assert f"install kheish 0.1.0, and let it restore the copy from before: kheishd restore {kept}" in log
    done = run_kheishd(home, "upgrade")
    assert (done.returncode, done.stdout.startswith("nothing to upgrade")) == (0, True)
    done = run_kheishd(home, "restore", str(kept))
    assert (done.returncode, "deny web_fetch late.example" in done.stdout) == (0, True), done.stderr
    assert run_kheishd(home, "upgrade").returncode == 0
    with Daemon(home) as daemon:
        assert daemon.call("daemon.status")["restored"]["runs"] > 0
        assert {run["status"] for run in rows(daemon, "run.list", "runs")} <= ENDED
        (layer,) = [row for row in daemon.call("permission.list")["permissions"] if row["layer"] == "daemon"]
        assert rule in layer["rules"]
        require_healthy(daemon)


def test_a_rehearsal_changes_nothing(home: Path) -> None:
    """A rehearsal upgrades a copy, compares counts, ends and records, and only reads the store."""
    before = {path: path.read_bytes() for path in (home / "state").iterdir() if path.name != "lock.mdb"}
    done = run_kheishd(home, "upgrade", "--rehearse")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "table runs:" not in done.stdout, "as many rows as before"
    assert "streams that end at the same cursor and hash: 61" in done.stdout
    report = json.loads(run_kheishd(home, "upgrade", "--rehearse", "--json").stdout)
    assert (report["differences"], report["from_version"], report["heads"]) == ([], "0.1.0", 61)
    assert {path: path.read_bytes() for path in before} == before
    assert not (home / "rehearsal").exists()
    assert not list(home.glob("before-upgrade*"))


def test_a_rehearsal_beside_a_running_daemon(working: Daemon) -> None:
    """A running daemon goes on during a rehearsal, which sees one consistent state."""
    with working.connect() as client:
        asked = client.ask("conversation.send", content="/slow 20 20", sender="beside", wait="settled")
        done = run_kheishd(working.home, "upgrade", "--rehearse", "--json")
        assert client.answer(asked)["status"] == "completed"
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["differences"] == []
    require_healthy(working)


def spoil(home: Path) -> None:
    """Change a line of the old journal, as a failing disk would."""
    data = home / "state" / "data.mdb"
    content = data.read_bytes()
    assert content.count(b'"type":"run_accepted"') > 10
    data.write_bytes(content.replace(b'"type":"run_accepted"', b'"type":"run_accepteX"', 1))


def test_an_event_that_cannot_be_read_stops_the_upgrade(home: Path) -> None:
    """Before anything is written, the unreadable event is named, with the remedy; the store is unchanged."""
    spoil(home)
    before = (home / "state" / "data.mdb").read_bytes()
    for arguments in ((), ("upgrade",), ("upgrade", "--rehearse")):
        refused = run_kheishd(home, *arguments)
        assert refused.returncode == STORE_REFUSED, refused.stderr
        assert re.search(r"the event \d+ of ses_\w+: the hash is not that of the line", refused.stderr)
        assert "kheish 0.1.0 still opens the store" in refused.stderr
        assert "kheishd upgrade --force" in refused.stderr
        assert (home / "state" / "data.mdb").read_bytes() == before
        assert not list(home.glob("before-upgrade*"))
    assert run_kheishd(home, "upgrade", "--force").returncode == 0
    examined = run_kheishd(home, "doctor", "--deep")
    assert (examined.returncode, "the hash chain is broken" in examined.stdout) == (1, True)


@needs_strace
@pytest.mark.parametrize(
    "call", ["fsync:signal=KILL:when=1", "rename:signal=KILL:when=1", "mkdir:signal=KILL"]
)
def test_a_kill_while_the_copy_is_made_costs_nothing(home: Path, call: str) -> None:
    """A kill while the store from before is copied leaves the old store; the next start upgrades it."""
    before = (home / "state" / "data.mdb").read_bytes()
    command = [*strace_with(call), sys.executable, "-m", "kheishd", "upgrade", "--home", str(home)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0
    assert (home / "state" / "data.mdb").read_bytes() == before
    assert run_kheishd(home, "upgrade").returncode == 0
    assert (home / "before-upgrade-from-0.1.0" / "data.mdb").read_bytes() == before
    assert not list(home.glob(".before-upgrade*"))
    assert run_kheishd(home, "doctor", "--deep").returncode == 0
