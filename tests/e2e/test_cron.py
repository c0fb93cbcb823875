"""Cron entries in the real daemon: the kernel's timer, the file, and kills around the due time."""

import time
from datetime import UTC, datetime
from pathlib import Path

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until

ROW = """[[cron]]
id = "filed"
schedule = "*/5 * * * * *"
agent = "default"
sender = "filed"
prompt = "tick"
once = true

[[cron]]
id = "bad"
"""


def soon(seconds: int) -> str:
    """Return a single time in some seconds."""
    return f"at {datetime.fromtimestamp(int(time.time()) + seconds, UTC).isoformat()}"


def test_firings_happen_once_over_kills(home: Path) -> None:
    """Killed before and after the due time, the daemon fires each entry once; the store stays sound."""
    (home / "cron").mkdir(parents=True)
    (home / "cron" / "crons.toml").write_text(ROW)
    target = {"agent": "default", "prompt": "hello"}
    with Daemon(home) as daemon:
        warnings = daemon.call("daemon.status")["warnings"]
        assert any("crons.toml:9" in warning for warning in warnings), warnings
        for number in range(5):
            entry = target | {"sender": f"user{number}"}
            daemon.call("cron.create", cron_id=f"c{number}", schedule=soon(2), target=entry)
        daemon.kill()
        daemon.start()

        def has_fired(cron_id: str) -> bool:
            return bool(daemon.call("cron.get", cron_id=cron_id).get("recent"))

        until(lambda: has_fired("c0"), "the first entry fires")
        daemon.kill()
        daemon.start()
        names = ("filed", *(f"c{number}" for number in range(5)))
        until(lambda: all(has_fired(name) for name in names), "all entries fire")

        def outcomes() -> list[str]:
            rows = [daemon.call("cron.get", cron_id=name)["recent"] for name in names]
            assert all(len(row) == 1 for row in rows)
            return [row[0]["outcome"] for row in rows]

        until(lambda: outcomes() == ["completed"] * 6, "all runs end")
        for name in names:
            (row,) = daemon.call("cron.get", cron_id=name)["recent"]
            read = daemon.call("journal.read", session_id=row["session_id"], types=["input_received"])
            assert len(read["events"]) == 1
        (home / "cron" / "crons.toml").write_text("[[cron")
        daemon.call("daemon.reload")
        assert daemon.call("cron.get", cron_id="filed")["status"] == "completed"
        assert (home / "cron" / "crons.toml").read_text() == "[[cron"
        daemon.kill()
        daemon.start()
        assert daemon.call("cron.get", cron_id="filed")["status"] == "completed"
        assert any("crons.toml" in warning for warning in daemon.call("daemon.status")["warnings"])
        assert Ctl(home)("daemon", "doctor").code == 0
