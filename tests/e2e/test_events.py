"""The event bus of a real daemon, which is killed while a run waits and an event is published."""

from tests.support.daemons import Daemon, short_home, until

CONFIG = "[tools]\nevents = true\n[workspace]\nsandbox = 'off'\n"

FILE = """
[[subscription]]
id = "ci"
source = "ci.*"
agent = "default"
sender = "ops"
prompt = "Look at this."
filter = { status = "red" }

[[subscription]]
id = "bad"
source = "not a source"
agent = "default"
prompt = "Never."
"""


def test_an_event_wakes_agents_over_a_kill() -> None:
    """A trigger of the file and a waiting run get an event once, although the daemon is killed twice."""
    with short_home() as home:
        (home / "events").mkdir(parents=True)
        home.chmod(0o700)
        (home / "config.toml").write_text(CONFIG)
        (home / "events" / "subscriptions.toml").write_text(FILE)
        with Daemon(home) as daemon:
            (warning,) = daemon.call("daemon.status")["warnings"]
            assert "subscriptions.toml:12: source:" in warning
            run = daemon.say('/call wait_for_event {"source": "ci.*"}')
            assert run["status"] == "waiting_for_approval"
            (approval,) = daemon.call("approval.list")["approvals"]
            answer = {"approval_id": approval["approval_id"], "decision": "allow"}
            daemon.call("approval.resolve", resolutions=[answer])

            def has_status(status: str) -> bool:
                return bool(daemon.call("run.get", run_id=run["run_id"])["status"] == status)

            until(lambda: has_status("waiting_for_event"), "the run waits")
            daemon.kill()
            daemon.start()
            assert has_status("waiting_for_event")
            daemon.call("event.publish", source="ci.lint", payload={"status": "red"}, idempotency_key="k")
            daemon.kill()
            daemon.start()
            daemon.call("event.publish", source="ci.lint", payload={"status": "red"}, idempotency_key="k")
            until(lambda: has_status("completed"), "the run ends")
            until(
                lambda: daemon.call("trigger.get", trigger_id="ci").get("delivered") == 1, "it is delivered"
            )
            runs = [run for run in daemon.call("run.list")["runs"] if run.get("sender") == "ops"]
            assert len(runs) == 1
            assert daemon.call("daemon.doctor", deep=True)["findings"] == []
            assert len(daemon.call("event.list")["events"]) == 1
