"""``kheishctl session``."""

from pathlib import Path
from typing import Any

import pytest

from kheishctl import exits
from tests.support.ctl import Ctl


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """A session without a conversation."""
    return str(ctl.json("session", "create", "--title", sender)["session_id"])


def test_create(ctl: Ctl, sender: str) -> None:
    """Properties are kept; the same id again gives the same session, with others a refusal."""
    words = ["session", "create", "--id", sender, "--title", "T", "--scope", '{"tools": []}', "-m", "k=v"]
    made = ctl.json(*words, "--permission-mode", "plan", "--route", "offline", "--model", "m")
    assert (made["session_id"], made["scope"], made["metadata"]) == (sender, {"tools": []}, {"k": "v"})
    assert (made["permission_mode"], made["route"], made["model"]) == ("plan", "offline", "m")
    assert ctl("session", "create", "--id", sender, "--title", "other").code == exits.FAILED


def test_a_workspace_is_where_the_caller_is(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon has another directory, so it is told the whole path."""
    monkeypatch.chdir(tmp_path)
    assert ctl.json("session", "create", "--workspace", "work")["workspace"] == str(tmp_path / "work")


def test_create_with_a_scope_that_is_no_json(ctl: Ctl) -> None:
    """It never reaches the daemon."""
    assert ctl("session", "create", "--scope", "{").code == exits.USAGE


def test_list_and_get(ctl: Ctl, session: str, sender: str) -> None:
    """Newest first; one of them whole."""
    assert ctl("session", "list", "--limit", "1").rows[0][0] == session
    assert session in [row[0] for row in ctl("session", "list", "--oldest", "--status", "open", "--all").rows]
    assert ["title", sender] in ctl("session", "show", session).rows


def test_update(ctl: Ctl, session: str) -> None:
    """Given properties change, cleared ones go, others stay."""
    ctl.json("session", "update", session, "--route", "offline", "--model", "m", "-m", "k=v")
    now = ctl.json("session", "update", session, "--clear", "model", "--clear", "metadata")
    assert now["route"] == "offline"
    assert "model" not in now
    assert "metadata" not in now


def test_send_and_history(ctl: Ctl, session: str) -> None:
    """A session is talked to by its id."""
    assert "“hello”" in ctl("session", "send", session, "hello").out
    assert "“piped”" in ctl("session", "send", session, "-", stdin="piped").out
    assert [row[1] for row in ctl("session", "history", session).rows] == ["user", "assistant"] * 2
    assert len(ctl("session", "history", session, "--newest", "--limit", "1").rows) == 1


def test_rename(ctl: Ctl, session: str) -> None:
    """A title is given and taken away."""
    assert ctl.json("session", "rename", session, "New")["title"] == "New"
    assert "title" not in ctl.json("session", "rename", session)


def test_interrupt(ctl: Ctl, session: str) -> None:
    """The run in flight is interrupted when the command returns; nothing to interrupt is said."""
    assert ctl("session", "interrupt", session).out == "no run was active\n"
    sent = ctl.json("session", "send", "--no-wait", session, "/slow 1000 1000")
    ctl.json("call", "journal.read", "{}")
    done = ctl("session", "interrupt", session, "--note", "lunch")
    assert done.out in (f"interrupted {sent['run_id']}\n", "no run was active\n")


def test_steer(ctl: Ctl, session: str) -> None:
    """Something is said to the run in flight, and read by it; where none is, that is a failure."""
    assert ctl("session", "steer", session, "wait").code == exits.FAILED
    sent = ctl.json("session", "send", "--no-wait", session, "/slow 4 200")
    steered = ctl.json("session", "steer", session, "by the way", "--as", "bob")
    assert steered["run_id"] == sent["run_id"]
    assert "“by the way”" in ctl.json("run", "wait", sent["run_id"])["output"]


def test_compact(ctl: Ctl, session: str) -> None:
    """What was said is summed up, and the journal keeps it; of too little there is nothing to sum up."""
    assert ctl("session", "compact", session).out == "there was nothing to sum up\n"
    for number in range(6):
        ctl.json("session", "send", session, f"{number} " + "word " * 40)
    accepted = ctl.json("session", "compact", session, "--check")
    assert accepted["status"] == "queued"
    assert "offline stand-in" in ctl("session", "compact", session, "--timeout", "30s").out
    assert len(ctl("session", "history", session).rows) == 12
    kinds = [row[3] for row in ctl("journal", "read", "--session", session, "--limit", "200").rows]
    assert kinds.count("context_compacted") == 1


def test_fork(ctl: Ctl, session: str) -> None:
    """A branch has what was said, up to where it branched off, and goes its own way."""
    ctl.json("session", "send", session, "one")
    at = ctl.json("session", "show", session)["updated_cursor"]
    ctl.json("session", "send", session, "two")
    branch = ctl.json("session", "fork", session, "--at", str(at), "--title", "Another way")
    assert (branch["title"], branch["fork_of"]["cursor"]) == ("Another way", at)
    assert "“one”" in ctl("session", "send", branch["session_id"], "three").out
    assert len(ctl("session", "history", branch["session_id"]).rows) == 4
    assert len(ctl("session", "history", session).rows) == 4


def test_end(ctl: Ctl, session: str) -> None:
    """An ended session takes no more."""
    assert ctl.json("session", "end", session)["status"] == "ended"
    assert ctl("session", "send", session, "hi").code == exits.FAILED
    assert session in [row[0] for row in ctl("session", "list", "--status", "ended", "--all").rows]


def test_no_such_session(ctl: Ctl) -> None:
    """Each command on a session that is not there is refused."""
    for words in (["show"], ["end"], ["fork"], ["history"], ["interrupt"], ["rename"], ["update"]):
        done: Any = ctl("session", *words, "none")
        assert done.code == exits.FAILED, words


def test_contracts(ctl: Ctl, tmp_path: Path) -> None:
    """From files, for what is said and for what is answered; cleared like other properties."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "boolean"}')
    words = ["--input-contract", str(schema), "--output-contract", str(schema)]
    session = ctl.json("session", "create", *words)["session_id"]
    assert ctl.json("session", "show", session)["input_schema"] == {"type": "boolean"}
    refused = ctl("session", "send", session, "maybe")
    assert (refused.code, "input contract" in refused.err) == (exits.FAILED, True)
    now = ctl.json(
        "session", "update", session, "--clear", "input_contract", "--output-contract", str(schema)
    )
    assert ("input_contract" in now, "output_contract" in now) == (False, True)
