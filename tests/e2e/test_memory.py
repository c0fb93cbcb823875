"""Memory in the real daemon: the recall of a run over a kill."""

from pathlib import Path

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until


def test_a_recall_survives_a_kill(home: Path) -> None:
    """Killed before its answer, a run is given the same notes again, whatever has changed since."""
    with Daemon(home) as daemon:
        daemon.call("memory.remember", agent="default", name="slow", content="Ann speaks slow.")
        run = daemon.call("conversation.send", content="/slow 20 100", wait="accepted")

        def recalls() -> list[object]:
            read = daemon.call("journal.read", session_id=run["session_id"], types=["notes_recalled"])
            events: list[object] = read["events"]
            return events

        until(lambda: bool(recalls()), "the notes are chosen")
        before = recalls()
        daemon.call("memory.remember", agent="default", name="slow", content="Ann speaks fast.")
        daemon.kill()
        daemon.start()
        ended = daemon.call("run.wait", run_id=run["run_id"])
        assert ended["status"] == "completed"
        assert recalls() == before
        assert Ctl(home)("daemon", "doctor").code == 0
