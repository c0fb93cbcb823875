"""The life of the daemon process: starts, stops, reloads, crashes and conflicts."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from protocol.limits.rpc import MAX_RUN_WAITS
from tests.support.ctl import Ctl
from tests.support.daemons import PATIENCE_S, Client, Daemon, RpcError, run_kheishd, until

SLOW = "/slow 200 20"
"""An answer that takes four seconds."""


def test_start_answer_stop(daemon: Daemon) -> None:
    """The daemon starts in an empty home, answers, stops on SIGTERM with code 0, and journals both."""
    assert daemon.call("rpc.ping")["version"]
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    daemon.restart()
    kinds = [(event["type"], event.get("after_crash")) for event in daemon.events()]
    assert kinds == [("daemon_started", None), ("daemon_stopped", None), ("daemon_started", None)]
    assert daemon.call("daemon.status")["warnings"] == []


def test_a_turn_is_two_commits_and_a_tool_call_three_more(daemon: Daemon) -> None:
    """The store counts its transactions: accepted and started, answered and ended; a call adds three."""

    def commits(text: str) -> tuple[int, str]:
        first = count()
        output = daemon.say(text)["output"]
        return count() - first, output

    def count() -> int:
        with lmdb.open(str(daemon.home / "state"), readonly=True, lock=False, max_dbs=1) as store:
            return int(store.info()["last_txnid"])

    daemon.say("hello")
    (daemon.home / "workspace" / "note.txt").write_text("remember the milk")
    number, output = commits("hello again")
    assert number == 2
    assert "hello again" in output
    number, output = commits('/call read_file {"path": "note.txt"}')
    assert "remember the milk" in output
    assert number == 5


def test_a_caller_waits_for_one_run_a_limited_number_of_times(daemon: Daemon) -> None:
    """One more wait is refused on any connection; the others are answered when the run ends."""
    run_id = daemon.call("conversation.send", content=SLOW)["run_id"]
    with daemon.connect() as first, daemon.connect() as second:
        for client in (first, second):
            for _ in range(MAX_RUN_WAITS // 2):
                client.ask("run.wait", run_id=run_id)
            client.call("rpc.ping")
        with pytest.raises(RpcError, match="64 requests of this caller") as refused:
            daemon.call("run.wait", run_id=run_id)
        assert refused.value.reason == "overloaded"
        daemon.call("run.cancel", run_id=run_id)
        for client in (first, second):
            answers = [client.receive()["result"]["status"] for _ in range(MAX_RUN_WAITS // 2)]
            assert set(answers) == {"cancelled"}
    assert daemon.call("run.wait", run_id=run_id)["status"] == "cancelled"


def test_the_home_is_private(daemon: Daemon) -> None:
    """No other user may read a file or enter a directory of the home."""
    for path in (daemon.home, *daemon.home.rglob("*")):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_a_start_after_a_kill_reports_it(daemon: Daemon) -> None:
    """The start after SIGKILL reports the crash in the journal and in the status."""
    daemon.say("hello")
    daemon.kill()
    daemon.restart()
    assert [e.get("after_crash") for e in daemon.events(types=["daemon_started"])] == [None, True]
    (warning,) = daemon.call("daemon.status")["warnings"]
    assert "did not shut down cleanly" in warning
    daemon.say("again")
    assert len(daemon.call("conversation.history")["messages"]) == 4


def test_a_second_daemon_on_the_home(shared_daemon: Daemon) -> None:
    """A second daemon names the pid of the first, ends with code 4, and disturbs nothing."""
    second = run_kheishd(shared_daemon.home)
    assert second.returncode == 4
    assert f"pid {shared_daemon.pid}" in second.stderr
    assert shared_daemon.call("rpc.ping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_runs_in_flight_finish(daemon: Daemon, number: signal.Signals) -> None:
    """A stopping daemon finishes its active runs and answers the waiting client."""
    with daemon.connect() as waiting:
        waiting.ask("conversation.send", content="/slow 20 20\nhello", wait="settled")
        until(lambda: daemon.call("daemon.status")["counts"]["runs_active"] == 1, "the run is active")
        daemon.signal(number)
        result = waiting.answer(1)
    assert result["status"] == "completed"
    assert daemon.wait() == 0


def test_while_stopping_new_work_is_refused(daemon: Daemon) -> None:
    """A stopping daemon refuses new work on open connections with a stable reason."""
    with daemon.connect() as waiting:
        waiting.ask("conversation.send", content=SLOW, wait="settled")
        until(lambda: daemon.call("daemon.status")["counts"]["runs_active"] == 1, "the run is active")
        daemon.call("daemon.shutdown", drain_s=30)
        with pytest.raises(RpcError) as refused:
            daemon.call("conversation.send", content="more")
        assert refused.value.reason == "daemon_draining"
        assert daemon.call("daemon.status")["draining"]
        daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_while_stopping_a_run_can_be_cancelled(daemon: Daemon) -> None:
    """A run can be cancelled while the daemon waits for it to stop."""
    run_id = daemon.call("conversation.send", content="/slow 1000 50")["run_id"]
    until(lambda: daemon.call("daemon.status")["counts"]["runs_active"] == 1, "the run is active")
    daemon.call("daemon.shutdown", drain_s=60)
    assert daemon.call("run.cancel", run_id=run_id)["status"] == "cancelled"
    assert daemon.wait() == 0


def test_a_second_signal_stops_at_once_and_nothing_is_lost(daemon: Daemon) -> None:
    """A second signal releases the active run, which the next daemon finishes once."""
    daemon.call("conversation.send", content="/slow 100 50\nhello")
    until(lambda: daemon.call("daemon.status")["counts"]["runs_active"] == 1, "the run is active")
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    daemon.signal(signal.SIGTERM)
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 0
    assert time.monotonic() - began < 4
    daemon.restart()
    (run,) = daemon.call("run.list")["runs"]
    settled = daemon.call("run.wait", run_id=run["run_id"], timeout_s=PATIENCE_S)
    assert settled["status"] == "completed"
    roles = [entry["message"]["role"] for entry in daemon.call("conversation.history")["messages"]]
    assert roles == ["user", "assistant"]


@pytest.mark.parametrize(
    "name",
    [
        "config.toml",
        "run/kheishd.lock",
        "state/checked",
        "state/identity",
        "state/data.mdb",
        "c.pem",
        "k.pem",
    ],
)
def test_a_named_pipe_is_refused(home: Path, name: str) -> None:
    """A start does not wait for the writer of a pipe: it names the path, and ends with 3."""
    path = home / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.suffix == ".pem":
        (home / "config.toml").write_text("[listen.tcp]\ncertificate = 'c.pem'\nkey = 'k.pem'\n")
        (home / "c.pem").touch()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    refused = run_kheishd(home)
    assert (refused.returncode, f"{path} is a named pipe" in refused.stderr) == (3, True)


def test_a_daemon_without_its_directory_is_named_and_stopped(daemon: Daemon) -> None:
    """After ``rm -rf run``, each command names the daemon's pid, and ``stop`` stops it."""
    shutil.rmtree(daemon.home / "run")
    ctl = Ctl(daemon.home)
    for words in ("status", "daemon doctor", "daemon compact"):
        done = ctl(*words.split())
        assert done.code != 0
        assert f"pid {daemon.pid}" in done.err, words
    second = run_kheishd(daemon.home)
    assert (second.returncode, f"pid {daemon.pid}" in second.stderr) == (5, True)
    done = ctl("daemon", "stop")
    assert (done.code, done.out) == (0, f"stopped, pid {daemon.pid}\n")


def test_shutdown_over_the_socket(daemon: Daemon) -> None:
    """daemon.shutdown answers with the pid, and the daemon stops as after SIGTERM."""
    assert daemon.call("daemon.shutdown") == {"pid": daemon.pid}
    assert daemon.wait() == 0


@pytest.mark.parametrize(
    "milestone", ["run/kheishd.lock", "state/data.mdb", "state/identity", "run/kheishd.sock"]
)
def test_a_signal_during_the_start_is_obeyed(home: Path, milestone: str) -> None:
    """A signal at any moment of the start stops the daemon in order."""
    daemon = Daemon(home)
    daemon.start(wait=False)
    until((home / milestone).exists, f"{milestone} exists")
    assert daemon.stop() == 0
    daemon.start()
    assert not any(event.get("after_crash") for event in daemon.events(types=["daemon_started"]))
    daemon.stop()


# Configuration.


def config(home: Path, text: str) -> None:
    """Write ``config.toml``."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def agent(home: Path, name: str, text: str) -> None:
    """Write an agent file."""
    (home / "agents").mkdir(parents=True, exist_ok=True)
    (home / "agents" / f"{name}.md").write_text(text)


def test_a_bad_configuration_refuses_to_start(home: Path) -> None:
    """The exit code is 3, the message names key, line and nearest key, and no file is made."""
    config(home, "default_agent = 'default'\ndefualt_route = 'offline'\n")
    ended = run_kheishd(home)
    assert ended.returncode == 3
    assert "config.toml:2: defualt_route: unknown key; did you mean 'default_route'?" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (home / "state" / "data.mdb").exists()


def test_a_bad_agent_is_skipped_at_the_start(home: Path) -> None:
    """A warning names the file and line of a bad agent; all other agents work."""
    agent(home, "good", "---\ndescription: d\n---\nBe good.\n")
    agent(home, "bad", "---\ndescription: d\ntools: all\n---\n")
    with Daemon(home) as daemon:
        names = [d["name"] for d in daemon.call("definition.list")["definitions"]]
        assert names == ["default", "good"]
        (warning,) = daemon.call("daemon.status")["warnings"]
        assert "bad.md:3: tools" in warning
        assert daemon.say("hello", agent="good")["status"] == "completed"


@pytest.mark.parametrize("trigger", ["signal", "method"])
def test_a_reload_applies_changes(daemon: Daemon, trigger: str) -> None:
    """A reload applies new agents, routes and limits, raises the generation and is journaled."""
    agent(daemon.home, "fresh", "Be fresh.\n")
    config(daemon.home, "default_agent = 'fresh'\n[log]\nlevel = 'debug'\n")
    if trigger == "signal":
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.call("daemon.status")["generation"] == 2, "reloaded")
    else:
        assert daemon.call("daemon.reload") == {"generation": 2, "warnings": []}
    assert daemon.call("daemon.status")["default_agent"] == "fresh"
    assert daemon.call("daemon.config")["config"]["log"]["level"] == "debug"
    assert daemon.events(types=["daemon_reloaded"])[0]["generation"] == 2


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.toml", "[runs]\nmax_active = 'x'\n", "config.toml:2: runs.max_active"),
        ("agents/bad.md", "---\nrouet: x\n---\n", "bad.md:2: rouet: unknown key; did you mean 'route'?"),
        (
            "agents/bad.md",
            "---\ndescription: d\nroute: gone\n---\n",
            "bad.md:3: route: no route 'gone'",
        ),
    ],
)
def test_a_refused_reload_changes_nothing(daemon: Daemon, file: str, text: str, words: str) -> None:
    """A refused reload names key and line, warns in the status and changes nothing else."""
    (daemon.home / "agents").mkdir()
    (daemon.home / file).write_text(text)
    with pytest.raises(RpcError) as refused:
        daemon.call("daemon.reload")
    assert refused.value.reason == "config_invalid"
    assert words in refused.value.message
    status = daemon.call("daemon.status")
    assert status["generation"] == 1
    assert words in status["warnings"][0]
    assert daemon.say("hello")["status"] == "completed"
    (daemon.home / file).unlink()
    assert daemon.call("daemon.reload")["generation"] == 2
    assert daemon.call("daemon.status")["warnings"] == []


def test_a_run_in_flight_finishes_on_the_old_runtime(daemon: Daemon) -> None:
    """An active run finishes although its agent is deleted by a reload."""
    agent(daemon.home, "brief", "Be brief.\n")
    daemon.call("daemon.reload")
    with daemon.connect() as waiting:
        waiting.ask("conversation.send", agent="brief", content="/slow 10 30\nhello", wait="settled")
        until(lambda: daemon.call("daemon.status")["counts"]["runs_active"] == 1, "the run is active")
        (daemon.home / "agents" / "brief.md").unlink()
        assert daemon.call("daemon.reload")["generation"] == 3
        assert waiting.answer(1)["status"] == "completed"
    with pytest.raises(RpcError) as refused:
        daemon.call("conversation.send", agent="brief", content="hello")
    assert refused.value.reason == "agent_not_found"


def test_a_reload_keeps_the_listeners(daemon: Daemon) -> None:
    """A reload keeps the listeners; a changed [listen] is a warning with the remedy."""
    config(daemon.home, "[listen.tcp]\naddress = '127.0.0.1:0'\n")
    (warning,) = daemon.call("daemon.reload")["warnings"]
    assert "[listen] changed" in warning
    assert daemon.call("daemon.status")["listeners"] == [f"unix:{daemon.socket}"]
    daemon.stop()
    daemon.restart()
    status = daemon.call("daemon.status")
    assert (len(status["listeners"]), status["warnings"]) == (2, [])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            'address = "127.0.0.1:0"\ncertificate = "c.pem"\nkey = "k.pem"\n',
            r"config.toml:3: listen.tcp.certificate: cannot read .*/c.pem: no such file",
        ),
        (
            'address = "127.0.0.1:0"\ncertificate = "config.toml"\nkey = "config.toml"\n',
            r"config.toml:3: listen.tcp.certificate: .*/config.toml is not a certificate in PEM",
        ),
        (
            'address = "192.0.2.1:80"\ninsecure = true\n',
            r"config.toml:2: listen.tcp.address: cannot listen on 192.0.2.1:80: cannot assign requested",
        ),
    ],
)
def test_a_listener_that_cannot_be_opened_ends_the_start(home: Path, lines: str, problem: str) -> None:
    """The daemon is not ready before all listeners are; the error names file, line, key and reason."""
    config(home, f"[listen.tcp]\n{lines}")
    ended = run_kheishd(home)
    assert ended.returncode == 3
    assert re.search(problem, ended.stderr)
    assert not (home / "run" / "kheishd.sock").exists()


def test_a_reload_refuses_a_certificate_that_the_next_start_would(daemon: Daemon) -> None:
    """An unusable certificate is refused at the reload, not at the next start."""
    config(daemon.home, "[listen.tcp]\naddress = '127.0.0.1:0'\ncertificate = 'c'\nkey = 'k'\n")
    with pytest.raises(RpcError, match=r"config.toml:3: listen.tcp.certificate: cannot read") as refused:
        daemon.call("daemon.reload")
    assert refused.value.reason == "config_invalid"


def test_twenty_reloads_at_once_coalesce(daemon: Daemon) -> None:
    """Twenty concurrent reloads succeed and are performed only a few times."""
    clients = [daemon.connect() for _ in range(20)]
    ids = [client.ask("daemon.reload") for client in clients]
    generations = {client.answer(id_)["generation"] for client, id_ in zip(clients, ids, strict=True)}
    for client in clients:
        client.close()
    assert len(generations) < 20
    assert max(generations) == daemon.call("daemon.status")["generation"]


def test_the_configuration_shows_no_credential(home: Path) -> None:
    """The configuration has its defaults and shows a credential by its reference only."""
    config(
        home,
        "[routes.r]\ndriver='openai'\nmodel='m'\nbase_url='http://127.0.0.1:9/v1'\nauth_ref='env:MY_KEY'\n",
    )
    with Daemon(home, environ={"MY_KEY": "sk-super-secret"}) as daemon:
        result = daemon.call("daemon.config")
        assert result["config"]["routes"]["r"]["auth_ref"] == "env:MY_KEY"
        assert result["config"]["runs"]["max_active"] == 256
        assert result["path"] == str(home / "config.toml")
        assert "problem" not in daemon.call("route.get", route_id="r")
        results = json.dumps([result, daemon.call("route.list"), daemon.call("daemon.status")])
        assert "sk-super-secret" not in results
    with Daemon(home) as daemon:
        route = daemon.call("route.get", route_id="r")
        assert (route["ready"], "MY_KEY" in route["problem"]) == (False, True)
        assert any(
            "route 'r' is not ready" in warning for warning in daemon.call("daemon.status")["warnings"]
        )


def test_a_known_secret_is_scrubbed_from_journal_and_log(home: Path) -> None:
    """A key typed into a conversation is in no journal, store file or log."""
    config(home, "[log]\nlevel='debug'\n[routes.r]\ndriver='openai'\nmodel='m'\nbase_url='http://127.0.0.1:9'\n"
           "auth_ref='env:MY_KEY'\n")  # fmt: skip
    with Daemon(home, environ={"MY_KEY": "sk-super-secret"}) as daemon:
        assert daemon.say("my key is sk-super-secret, route", route="offline")["status"] == "completed"
        assert "[scrubbed]" in json.dumps(daemon.events())
        assert "sk-super-secret" not in json.dumps(daemon.call("conversation.history"))
        daemon.stop()
        assert b"sk-super-secret" not in (home / "state" / "data.mdb").read_bytes()
        assert "sk-super-secret" not in daemon.read_log()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_failing_disk_stops_the_daemon(home: Path) -> None:
    """After a failed write the caller gets an error and the daemon ends with code 1 and a reason.

    Everything acknowledged earlier is intact at the next start.
    """
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync")
    with Daemon(home, before=(*inject, "-e", "inject=fdatasync:error=EIO:when=12+")) as daemon:
        count = 0
        with suppress(RpcError, EOFError):
            while True:
                daemon.say(f"message {count}")
                count += 1
        assert daemon.wait() == 1
        last = daemon.read_log().splitlines()[-1]
        assert last.startswith("kheishd: ")
        assert "Input/output error" in last
    with Daemon(home) as daemon:
        texts = [m["message"]["items"][0]["text"] for m in daemon.call("conversation.history")["messages"]]
        assert {f"message {number}" for number in range(count)} <= set(texts)
        assert daemon.call("daemon.doctor", deep=True)["findings"] == []


# Backup, doctor, status.


def test_backup_while_running(daemon: Daemon, home: Path) -> None:
    """A backup made during writes is consistent and can be restored and used."""
    daemon.say("before")
    stop = threading.Event()

    def write() -> None:
        with Client(daemon.socket) as client:
            while not stop.is_set():
                client.call("conversation.send", sender="busy", content="x", wait="settled")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        backup = daemon.call("daemon.backup", path=str(home.parent / "copy"))
    finally:
        stop.set()
        writer.join()
    assert backup["bytes"] > 0
    assert 0 < backup["cursor"] <= daemon.call("daemon.status")["cursor"]
    daemon.say("after")
    daemon.stop()
    restored = run_kheishd(home, "restore", str(home.parent / "copy"))
    assert restored.returncode == 0, restored.stderr
    daemon.restart()
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []
    texts = [m["message"]["items"][0]["text"] for m in daemon.call("conversation.history")["messages"]]
    assert texts[0] == "before"
    assert "after" not in texts


def test_backup_refuses_bad_paths(shared_daemon: Daemon) -> None:
    """Every bad path of a backup is refused with its reason and leaves no file."""
    home = shared_daemon.home
    for path in ("relative", str(home), str(home.parent / "no" / "where"), str(home / "state" / "copy")):
        with pytest.raises(RpcError) as refused:
            shared_daemon.call("daemon.backup", path=path)
        assert refused.value.reason == "path_refused"
    assert not (home / "state" / "copy").exists()


@pytest.mark.parametrize("deep", [False, True])
def test_the_online_doctor_finds_no_problem(shared_daemon: Daemon, deep: bool) -> None:
    """The doctor finds no problem while runs are active."""
    for number in range(5):
        shared_daemon.call("conversation.send", sender=f"s{number}", content="/slow 5 5")
    report = shared_daemon.call("daemon.doctor", deep=deep)
    assert report["findings"] == []
    assert report["streams"] >= 6
    assert report["complete"]


def do_everything(daemon: Daemon) -> None:
    """Make every kind of change that clients can request; some work is still active at the end."""
    call = daemon.call
    daemon.say("one")
    exported = call("session.export", session_id=call("conversation.get")["session_id"])
    call("session.import", lines=exported["lines"])
    call("conversation.reset")
    daemon.say("two", idempotency_key="k")
    daemon.say("three", sender="gone")
    call("session.end", session_id=call("conversation.get", sender="gone")["session_id"])
    daemon.say("four", sender="gone")
    parent = call("session.create", agent="default", title="parent")["session_id"]
    child = call("session.create", agent="default", parent_session_id=parent)["session_id"]
    call("session.rename", session_id=parent, title=None)
    call("session.update", session_id=parent, scope={"tools": ["a"]})
    call("session.send", session_id=child, content="/slow 100 50")
    call("session.send", session_id=child, content="queued")
    call("session.interrupt", session_id=child)
    daemon.say("/fail unauthorized", sender="failed")
    call("conversation.send", sender="retried", content="/fail rate_limited")
    created = call("token.create", scopes=["read", "converse"])
    call("token.narrow", token_id=created["token"]["token_id"], scopes=["read"])
    call("token.revoke", token_id=created["token"]["token_id"])
    call("token.create", scopes=["read"])
    call("conversation.send", sender="last", content="/slow 100 50")


def test_the_doctor_agrees_with_everything_the_daemon_does(daemon: Daemon) -> None:
    """Records agree with the journal during work, after a kill, in recovery and at rest."""
    do_everything(daemon)
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []
    daemon.kill()
    killed = run_kheishd(daemon.home, "doctor", "--deep")
    assert killed.returncode == 0, killed.stdout
    daemon.restart()
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []
    daemon.stop()
    stopped = run_kheishd(daemon.home, "doctor", "--deep")
    assert stopped.returncode == 0, stopped.stdout


def test_status_counts(daemon: Daemon) -> None:
    """The status shows the counts that an operator needs first."""
    daemon.say("hello")
    with daemon.connect() as client:
        client.call("journal.subscribe")
        status = daemon.call("daemon.status")
    assert status["pid"] == daemon.pid
    assert status["home"] == str(daemon.home)
    assert status["listeners"] == [f"unix:{daemon.socket}"]
    counts = status["counts"]
    assert (counts["sessions"], counts["conversations"], counts["runs"]) == (1, 1, 1)
    assert (counts["runs_active"], counts["runs_ready"]) == (0, 0)
    assert (counts["connections"], counts["subscriptions"]) == (2, 1)
    disk = status["disk"]
    assert 0 < disk["used_bytes"] <= disk["file_bytes"] <= disk["map_bytes"]
    assert disk["free_bytes"] > 0
    assert status["memory_bytes"] > 1_000_000
    assert status["cursor"] > 0


# The service manager.


def test_systemd_is_notified(home: Path, tmp_path: Path) -> None:
    """Systemd receives READY, WATCHDOG, RELOADING and STOPPING at the right moments."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home.parent / "notify"))
        manager.settimeout(PATIENCE_S)

        def wait_for(key: str) -> dict[str, str]:
            while True:
                text = manager.recv(4096).decode()
                state = dict(line.split("=", 1) for line in text.splitlines())
                if key in state:
                    return state

        environ = {"NOTIFY_SOCKET": str(home.parent / "notify"), "WATCHDOG_USEC": "200000"}
        daemon = Daemon(home, environ=environ).start(wait=False)
        assert wait_for("READY")["MAINPID"] == str(daemon.pid)
        assert daemon.call("rpc.ping")
        wait_for("WATCHDOG")
        wait_for("WATCHDOG")
        daemon.signal(signal.SIGHUP)
        assert int(wait_for("RELOADING")["MONOTONIC_USEC"]) > 0
        wait_for("READY")
        daemon.signal(signal.SIGTERM)
        wait_for("STOPPING")
        assert daemon.wait() == 0


def test_logs_as_json(home: Path) -> None:
    """Every log line is a JSON object with the same first members."""
    with Daemon(home, "--log-format", "json", "--log-level", "debug") as daemon:
        daemon.say("hello")
        daemon.stop()
        entries = [json.loads(line) for line in daemon.read_log().splitlines()]
    assert entries
    assert all({"at", "level", "logger", "message"} <= set(entry) for entry in entries)
    assert entries[-1]["message"] == "stopped"
    assert entries[-1]["reason"] == "SIGTERM"


def test_open_files_are_raised(shared_daemon: Daemon) -> None:
    """The soft limit of open files is raised to the hard limit."""
    limits = Path(f"/proc/{shared_daemon.pid}/limits").read_text()
    soft, hard = next(line for line in limits.splitlines() if "open files" in line).split()[3:5]
    assert soft == hard


def test_prometheus_and_the_chain_in_the_log(home: Path) -> None:
    """A collector reads the metrics over HTTP, and each line of a run's log names the request behind it."""
    config = "[metrics]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'debug'\n"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(config)
    with Daemon(home) as daemon:
        daemon.say("hello")
        (url,) = [name for name in daemon.call("daemon.status")["listeners"] if name.startswith("http:")]
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        assert 'kheish_runs_ended_total{outcome="completed"} 1' in text
        (line,) = [line for line in daemon.read_log().splitlines() if "a run is executed" in line]
    assert "run_id=run_" in line
    assert "request_id=" in line
