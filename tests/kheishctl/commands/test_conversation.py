"""``kheishctl conversation``."""

import pytest

from tests.support.ctl import Ctl


@pytest.fixture
def session_id(ctl: Ctl, sender: str) -> str:
    """Return the session of a conversation with one run."""
    return str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])


def test_list(ctl: Ctl, sender: str, session_id: str) -> None:
    """A conversation is listed with its session."""
    rows = ctl("conversation", "list", "--as", sender).rows
    assert [row[:4] for row in rows] == [["default", sender, session_id, "1"]]
    assert ctl.json("conversation", "list", "--agent", "default", "--as", sender)["next"] is None


def test_list_nothing(ctl: Ctl) -> None:
    """A list without rows prints nothing to a pipe."""
    assert ctl("conversation", "list", "--agent", "nobody").out == ""


def test_show(ctl: Ctl, sender: str, session_id: str) -> None:
    """A conversation is shown with its session."""
    done = ctl("conversation", "show", "default", "--as", sender)
    assert ["session_id", session_id] in done.rows
    assert ctl.json("conversation", "show", "--as", sender)["session_id"] == session_id


def test_show_conversation_not_found(ctl: Ctl, sender: str) -> None:
    """An unused address is refused with a hint."""
    done = ctl("conversation", "show", "--as", sender)
    assert done.code == 1
    assert sender in done.err


def test_history_of_no_agent(ctl: Ctl) -> None:
    """A name that no agent has is reported as such, because a message could not be sent to it."""
    done = ctl("conversation", "history", "nope")
    assert done.code == 1
    assert "there is no agent 'nope'; 'kheishctl" in done.err
    assert "send something" not in done.err


def test_history(ctl: Ctl, sender: str, session_id: str) -> None:
    """Messages are printed oldest first, from either end of the history."""
    assert [row[1] for row in ctl("conversation", "history", "--as", sender).rows] == ["user", "assistant"]
    newest = ctl("conversation", "history", "--as", sender, "--newest", "--limit", "1").rows
    assert [row[1] for row in newest] == ["assistant"]
    both = ctl("conversation", "history", "--as", sender, "--newest", "--limit", "1", "--all").rows
    assert [row[1] for row in both] == ["user", "assistant"]
    first = ctl.json("conversation", "history", "--as", sender, "--newest")["messages"][0]
    assert first["message"]["role"] == "assistant"


def test_cancel(ctl: Ctl, sender: str) -> None:
    """The current run has stopped when the command returns."""
    sent = ctl.json("send", "--no-wait", "default", "/slow 1000 1000", "--as", sender)
    done = ctl("conversation", "cancel", "default", "--as", sender, "--note", "enough")
    assert done.out == f"cancelled {sent['run_id']}\n"
    assert ctl.json("run", "show", sent["run_id"])["status"] == "cancelled"


def test_cancel_nothing(ctl: Ctl, sender: str, session_id: str) -> None:
    """A conversation without an active run is reported as such, and that is no error."""
    done = ctl("conversation", "cancel", "--as", sender)
    assert (done.code, done.out) == (0, "no run was active\n")


def test_steer(ctl: Ctl, sender: str, session_id: str) -> None:
    """A message from the command line or from a pipe reaches the current run."""
    assert ctl("conversation", "steer", "default", "wait", "--as", sender).code == 1
    sent = ctl.json("send", "--no-wait", "default", "/slow 4 200", "--as", sender)
    steered = ctl.json("conversation", "steer", "default", "one", "--as", sender)
    assert (steered["run_id"], steered["session_id"]) == (sent["run_id"], session_id)
    ctl("conversation", "steer", "default", "-", "--as", sender, stdin="two")
    assert "“two”" in ctl.json("run", "wait", sent["run_id"])["output"]


def test_compact(ctl: Ctl, sender: str, session_id: str) -> None:
    """The command waits for the summary, unless it is told not to wait."""
    for number in range(6):
        ctl.json("send", "default", f"{number} " + "word " * 40, "--as", sender)
    accepted = ctl.json("conversation", "compact", "default", "--as", sender, "--no-wait")
    assert ctl.json("run", "wait", accepted["run_id"])["kind"] == "compaction"
    done = ctl.json("conversation", "compact", "default", "--as", sender)
    assert (done["session_id"], done["status"]) == (session_id, "completed")


def test_reset(ctl: Ctl, sender: str, session_id: str) -> None:
    """The next message starts a new session; a dry run changes nothing."""
    assert ctl("conversation", "reset", "--as", sender, "--check").code == 0
    assert ctl.json("send", "default", "one", "--as", sender)["session_id"] == session_id
    assert session_id in ctl("conversation", "reset", "--as", sender).out
    assert ctl.json("send", "default", "two", "--as", sender)["session_id"] != session_id


def test_list_has_titles(ctl: Ctl, sender: str) -> None:
    """A list of conversations ends each row with the title of its session."""
    session_id = ctl.json("send", "default", "hi", "--as", sender)["session_id"]
    ctl("session", "rename", session_id, "Bells and whistles")
    (row,) = ctl("conversation", "list", "--as", sender).rows
    assert row[-1] == "Bells and whistles"
