"""The daemon is killed with SIGKILL at every commit of a scripted conversation; the result is the same.

``strace`` delivers the signal at the k-th call of a system call, so the product needs no test hooks. At
``fdatasync`` a commit is written but not yet valid. At ``sendto``, with which the writer thread and the loop
notify others, a commit is on the disk but not yet announced. After each kill the daemon is restarted, the
script repeats the unanswered request, and the journals must be equal.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.journals import comparable
from tests.support.victims import Script, Victim, strace

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (Debian: strace)")


class Conversation(Script):
    """A conversation with every feature that needs no tools."""

    def play(self) -> None:
        """Play a conversation with every feature of the daemon."""
        first = self.send("hello")
        self.send("/call no_such_tool {}")
        self.call("session.rename", session_id=first["session_id"], title="A title")
        slow = self.send("/slow 3 100", wait="accepted")
        queued = self.send("never asked", wait="accepted")
        last = self.send("asked after that", wait="accepted")
        self.call("run.cancel", run_id=queued["run_id"])
        for run in (slow, last):
            self.call("run.wait", run_id=run["run_id"])
        self.send("hello from another", sender="bob")
        self.call("conversation.reset", sender="ada")
        self.send("a new conversation")
        token = self.call("token.create", scopes=["read"], check=True)
        assert token["token"]["token_id"]
        self.call("session.end", session_id=first["session_id"])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[str], Victim]]:
    """Provide a function that creates daemons in separate homes, and stop them all."""
    victims: list[Victim] = []

    def make(name: str) -> Victim:
        (tmp_path / name).mkdir(mode=0o700)
        victims.append(Victim(tmp_path / name))
        return victims[-1]

    yield make
    for victim in victims:
        if victim.process is not None:
            victim.kill()


def play(daemon: Victim, *wrapper: str) -> dict[str, list[str]]:
    """Play the script to its end; return the journal after the doctor has checked it."""
    daemon.start(*wrapper)
    script = Conversation(daemon)
    script.play()
    journal = comparable(script.journal(), str(daemon.home))
    diagnosis = script.call("daemon.doctor", deep=True)
    assert diagnosis["findings"] == []
    return journal


@pytest.mark.parametrize(("call", "every"), [("fdatasync", 1), ("sendto", 4)])
def test_a_kill_at_any_commit_changes_no_result(
    call: str, every: int, daemon: Callable[[str], Victim], tmp_path: Path
) -> None:
    """The journal is the same after a kill at any commit and at some messages after one."""
    calm = daemon("calm")
    trace = tmp_path / "calls"
    expected = play(calm, *strace("-o", str(trace), "-e", f"trace={call}"))
    calm.stop()
    assert len(expected) == 3, "three sessions"
    threads: dict[str, int] = {}
    for line in trace.read_text().splitlines():
        if f" {call}(" in line:
            thread = line.split()[0]
            threads[thread] = threads.get(thread, 0) + 1
    most = max(threads.values())
    assert most > 15
    deaths = 0
    tried = range(1, most + 1, every)
    for k in tried:
        victim = daemon(f"{call}-{k}")
        kill = strace(
            "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={k}"
        )
        assert play(victim, *kill) == expected, f"killed at {call} number {k}"
        deaths += victim.deaths
        victim.kill()
    assert deaths >= len(tried) - 2, "nearly every call is reached before the script is over"
