"""A conversation longer than a checkpoint in one transaction: kills and forks lose no message."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from protocol.limits.store import MAX_SEPARATE_CHECKPOINT_BYTES
from tests.support.daemons import Daemon

if TYPE_CHECKING:
    from pathlib import Path

TEXT = f"/answer fine\n{'x' * 60_000}"
WORDS = 4
"""The words of each turn: three of the question, one of the answer."""

CHECKPOINT_TURNS = 11
"""Turns whose events are worth a checkpoint."""


def ask(daemon: Daemon, **params: Any) -> tuple[str, int]:
    """Send a message; return the session, and the words of its prompt: the offline model's tokens."""
    method = "session.send" if "session_id" in params else "conversation.send"
    sent = daemon.call(method, content=TEXT, wait="settled", **params)
    assert sent["status"] == "completed"
    words: int = daemon.call("run.get", run_id=sent["run_id"])["usage"]["input_tokens"]
    return sent["session_id"], words


def test_a_long_conversation_loses_nothing(home: Path) -> None:
    """The daemon is killed right after answers, while it writes checkpoints: no prompt lacks a message."""
    assert CHECKPOINT_TURNS * len(TEXT) > 2 * MAX_SEPARATE_CHECKPOINT_BYTES
    with Daemon(home) as daemon:
        sizes = []
        for number in range(2 * CHECKPOINT_TURNS):
            session_id, words = ask(daemon)
            sizes.append(words)
            if number % CHECKPOINT_TURNS in (0, 2, CHECKPOINT_TURNS - 1):
                daemon.kill()
                daemon.start()
        fork = daemon.call("session.fork", session_id=session_id)["session_id"]
        for copy in (session_id, fork):
            daemon.stop()
            daemon.start()
            assert ask(daemon, session_id=copy)[1] == sizes[-1] + WORDS
        assert {later - earlier for earlier, later in pairwise(sizes)} == {WORDS}
        diagnosis = daemon.call("daemon.doctor", deep=True)
        assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)
