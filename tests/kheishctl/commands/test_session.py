"""``kheishctl session``."""

from pathlib import Path
from typing import Any

import pytest

from kheishctl import exit_codes
from tests.support.ctl import Ctl


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """Return a session without a conversation."""
    return str(ctl.json("session", "create", "--title", sender)["session_id"])


def test_create(ctl: Ctl, sender: str) -> None:
    """Properties are stored; the same id returns the session, and other properties are refused."""
    words = ["session", "create", "--id", sender, "--title", "T", "--scope", '{"tools": []}', "-m", "k=v"]
    made = ctl.json(*words, "--permission-mode", "plan", "--route", "offline", "--model", "m")
    assert (made["session_id"], made["scope"], made["metadata"]) == (sender, {"tools": []}, {"k": "v"})
    assert (made["permission_mode"], made["route"], made["model"]) == ("plan", "offline", "m")
    assert ctl("session", "create", "--id", sender, "--title", "other").code == exit_codes.FAILED


def test_a_session_is_named_by_its_agent(ctl: Ctl, session: str, sender: str) -> None:
    """A path or a nickname of an agent stands for its session; another unknown name is refused as before."""
    nickname = f"{sender} Hawk"
    agent = ctl.json("agent", "spawn", session, "scout", "look", "--nickname", nickname)["agent_id"]
    for name in (agent, f"{session}/scout", nickname):
        assert ctl.json("session", "show", name)["session_id"] == agent
    assert ctl.json("session", "rename", nickname, "T")["session_id"] == agent
    refused = ctl("session", "show", "nobody")
    assert (refused.code, "there is no session 'nobody'" in refused.err) == (exit_codes.FAILED, True)


def test_workspace_is_relative_to_the_caller(
    ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative workspace becomes absolute, because the daemon has another directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    assert ctl.json("session", "create", "--workspace", "work")["workspace"] == str(tmp_path / "work")


def test_a_workspace_that_is_no_directory(ctl: Ctl, tmp_path: Path) -> None:
    """A workspace that does not exist, or is a file, is refused by name."""
    (tmp_path / "file").touch()
    for name, problem in {"none": "does not exist; create it first", "file": "is not a directory"}.items():
        done = ctl("session", "create", "--workspace", str(tmp_path / name))
        assert done.code == exit_codes.USAGE
        assert f"{tmp_path / name} {problem}" in done.err


def test_create_with_an_invalid_scope(ctl: Ctl) -> None:
    """A scope that is not JSON never reaches the daemon."""
    assert ctl("session", "create", "--scope", "{").code == exit_codes.USAGE


def test_list_and_show(ctl: Ctl, session: str, sender: str) -> None:
    """Sessions are listed newest first, and shown with all fields."""
    assert ctl("session", "list", "--limit", "1").rows[0][0] == session
    assert session in [row[0] for row in ctl("session", "list", "--oldest", "--status", "open", "--all").rows]
    assert ["title", sender] in ctl("session", "show", session).rows


def test_update(ctl: Ctl, session: str) -> None:
    """Given properties change, cleared ones are unset, and others stay."""
    ctl.json("session", "update", session, "--route", "offline", "--model", "m", "-m", "k=v")
    now = ctl.json("session", "update", session, "--clear", "model", "--clear", "metadata")
    assert now["route"] == "offline"
    assert "model" not in now
    assert "metadata" not in now


def test_update_keeps_the_limits_that_it_does_not_name(ctl: Ctl, session: str) -> None:
    """A limit joins the budget or replaces its like; ``--clear budget`` removes all limits."""
    update = ("session", "update", session)
    ctl.json(*update, "--max-tokens", "5000")
    assert ctl.json(*update, "--max-cost", "2")["budget"] == {"max_tokens": 5000, "max_cost": 2}
    assert ctl.json(*update, "--max-tokens", "6000")["budget"] == {"max_tokens": 6000, "max_cost": 2}
    assert "budget" not in ctl.json(*update, "--clear", "budget")


def test_send_and_history(ctl: Ctl, session: str) -> None:
    """A session receives messages by its id."""
    assert "“hello”" in ctl("session", "send", session, "hello").out
    assert "“piped”" in ctl("session", "send", session, "-", stdin="piped").out
    assert [row[1] for row in ctl("session", "history", session).rows] == ["user", "assistant"] * 2
    assert len(ctl("session", "history", session, "--newest", "--limit", "1").rows) == 1


def test_search(ctl: Ctl, session: str) -> None:
    """Messages are found by their words, and limited to a time."""
    ctl("session", "send", session, f"lentils for {session}")
    (question, answer) = ctl("session", "search", "lentils", "--session", session, "--since", "1h").rows
    assert question[0] == answer[0] == session
    assert ctl.json("session", "search", "lentils", "--session", session, "--until", "1h")["messages"] == []


def test_rename(ctl: Ctl, session: str) -> None:
    """A title is set and removed."""
    assert ctl.json("session", "rename", session, "New")["title"] == "New"
    assert "title" not in ctl.json("session", "rename", session)


def test_interrupt(ctl: Ctl, session: str) -> None:
    """The current run has stopped when the command returns; an idle session is reported as such."""
    assert ctl("session", "interrupt", session).out == "no run was active\n"
    sent = ctl.json("session", "send", "--no-wait", session, "/slow 1000 1000")
    ctl.json("call", "journal.read", "{}")
    done = ctl("session", "interrupt", session, "--note", "lunch")
    assert done.out in (f"interrupted {sent['run_id']}\n", "no run was active\n")


def test_steer(ctl: Ctl, session: str) -> None:
    """A message reaches the current run; without a run, it is refused."""
    assert ctl("session", "steer", session, "wait").code == exit_codes.FAILED
    sent = ctl.json("session", "send", "--no-wait", session, "/slow 4 200")
    steered = ctl.json("session", "steer", session, "by the way", "--as", "bob")
    assert steered["run_id"] == sent["run_id"]
    assert "“by the way”" in ctl.json("run", "wait", sent["run_id"])["output"]


def test_compact(ctl: Ctl, session: str) -> None:
    """A session is summarized and its journal stays; a short session has nothing to summarize."""
    assert ctl("session", "compact", session).out == "there was nothing to summarize\n"
    for number in range(6):
        ctl.json("session", "send", session, f"{number} " + "word " * 40)
    accepted = ctl.json("session", "compact", session, "--check")
    assert accepted["status"] == "queued"
    assert "offline stand-in" in ctl("session", "compact", session, "--timeout", "30s").out
    assert len(ctl("session", "history", session).rows) == 12
    kinds = [row[3] for row in ctl("journal", "read", "--session", session, "--limit", "200").rows]
    assert kinds.count("context_compacted") == 1


def test_fork(ctl: Ctl, session: str) -> None:
    """A fork holds the messages up to its fork point and continues separately."""
    ctl.json("session", "send", session, "one")
    cursor = ctl.json("session", "show", session)["updated_cursor"]
    ctl.json("session", "send", session, "two")
    branch = ctl.json("session", "fork", session, "--at", str(cursor), "--title", "Another way")
    assert (branch["title"], branch["fork_of"]["cursor"]) == ("Another way", cursor)
    assert "“one”" in ctl("session", "send", branch["session_id"], "three").out
    assert len(ctl("session", "history", branch["session_id"]).rows) == 4
    assert len(ctl("session", "history", session).rows) == 4


def test_end(ctl: Ctl, session: str) -> None:
    """An ended session accepts no more input."""
    assert ctl.json("session", "end", session)["status"] == "ended"
    assert ctl("session", "send", session, "hi").code == exit_codes.FAILED
    assert session in [row[0] for row in ctl("session", "list", "--status", "ended", "--all").rows]


def test_session_not_found(ctl: Ctl) -> None:
    """Each command refuses an unknown session."""
    for words in (["show"], ["end"], ["fork"], ["history"], ["interrupt"], ["rename"], ["update"]):
        done: Any = ctl("session", *words, "none")
        assert done.code == exit_codes.FAILED, words


def test_contracts(ctl: Ctl, tmp_path: Path) -> None:
    """Contracts are read from files and cleared like other properties."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "boolean"}')
    words = ["--input-contract", str(schema), "--output-contract", str(schema)]
    session = ctl.json("session", "create", *words)["session_id"]
    assert ctl.json("session", "show", session)["input_schema"] == {"type": "boolean"}
    refused = ctl("session", "send", session, "maybe")
    assert (refused.code, "input contract" in refused.err) == (exit_codes.FAILED, True)
    now = ctl.json(
        "session", "update", session, "--clear", "input_contract", "--output-contract", str(schema)
    )
    assert ("input_contract" in now, "output_contract" in now) == (False, True)
