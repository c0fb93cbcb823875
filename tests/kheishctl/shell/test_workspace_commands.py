"""The slash commands about the work of a chat: directory, changes of files, earlier sessions."""

from pathlib import Path
from typing import Any

from kheishctl.client import RequestRefused
from tests.kheishctl.shell.test_slash_commands import FakeChat


def test_cd(tmp_path: Path) -> None:
    """The conversation moves to a directory that exists and is allowed; else the note says why not."""
    chat = FakeChat()
    chat.run("cd")
    chat.results["workspace.get"] = {"path": str(tmp_path), "root": None}
    chat.run(f"cd {tmp_path}/../{tmp_path.name}")
    assert chat.calls[0] == ("workspace.get", {"path": str(tmp_path)})
    assert chat.workspace == str(tmp_path)
    chat.results["workspace.get"] = {"path": "/gone", "problem": "the workspace /gone does not exist"}
    chat.run("cd /gone")
    assert chat.workspace == str(tmp_path)
    assert [line.split(",")[0] for line in chat.output] == [
        "the conversation works in /srv/shop",
        f"the conversation works in {tmp_path}",
        "the workspace /gone does not exist",
    ]


def test_undo_redo_and_diff() -> None:
    """Changes of files are shown and restored; one that others changed since names the way to force it."""
    chat = FakeChat()
    chat.results["checkpoint.restore"] = {"files": [{"path": "a", "action": "written"}]}
    chat.results["checkpoint.diff"] = {"text": "+b\n", "files": ["a"]}
    for line in ("undo", "redo force", "diff", "undo everything"):
        chat.run(line)
    changed = RequestRefused({"code": 1409, "message": "a changed", "data": {"reason": "files_changed"}})
    chat.results["checkpoint.restore"] = changed
    chat.run("undo")
    session = {"session_id": "ses_1"}
    assert chat.calls[:3] == [
        ("checkpoint.restore", session | {"force": False}),
        ("checkpoint.restore", session | {"force": True, "redo": True}),
        ("checkpoint.diff", session | {"since": 0}),
    ]
    assert "a: restored" in chat.output[0]
    assert chat.output[-2:] == ["usage: /undo, or /undo force", "a changed: '/undo force'"]
    chat.session_id = None
    for line in ("undo", "redo", "diff"):
        chat.run(line)
    assert all("send a message first" in line for line in chat.output[-3:])


def entry(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """Return a message of a person in a history."""
    message = {"role": "user", "items": [{"kind": "text", "text": text}]}
    return {"cursor": number, "at_ms": 1000, "message": message, **fields}


def test_sessions() -> None:
    """Sessions are listed or searched, and a number returns to one."""
    chat = FakeChat()
    row = {"status": "open", "sender": "ada", "updated_at_ms": 1000, "effective_workspace": "/srv"}
    rows = [{"session_id": "ses_2", "title": "Two", **row}, {"session_id": "ses_1", **row}]
    chat.results["session.list"] = {"sessions": [*rows, {"session_id": "ended", **row, "status": "ended"}]}
    chat.results["session.history"] = {"messages": [entry(5, "last words")]}
    chat.run("sessions")
    assert [line.split(" (")[0] for line in chat.output] == [
        "1  Two · last words",
        "2  last words",
        "'/sessions NUMBER' returns to one",
    ]
    assert "current, /srv)" in chat.output[1]
    chat.run("resume 1")
    assert chat.calls[-1] == ("conversation.resume", chat.address() | {"session_id": "ses_2"})
    chat.run("sessions 9")
    hit = {"session_id": "ses_9", "at_ms": 1000, "snippet": "a race", "title": "Parser"}
    chat.results["session.search"] = {"messages": [hit, hit | {"snippet": "worse"}]}
    chat.run("sessions race")
    assert "1  Parser · a race" in chat.output[-2]
    chat.results["session.search"] = {"messages": []}
    chat.run("sessions nothing")
    assert chat.output[-1] == "no such session"


def test_fork() -> None:
    """The conversation continues in the fork."""
    chat = FakeChat()
    chat.results["session.fork"] = {"session_id": "ses_2"}
    chat.run("fork")
    assert [method for method, _ in chat.calls] == ["session.fork", "conversation.resume"]
    chat.session_id = None
    chat.run("fork")
    assert "send a message first" in chat.output[-1]


def test_rewind() -> None:
    """A fork that ends before the message takes the conversation's place; files are restored when asked."""
    chat = FakeChat()
    answer = {"cursor": 6, "at_ms": 1, "item_id": "itm_1", "message": {"role": "assistant", "items": []}}
    chat.results["session.history"] = {"messages": [entry(7, "second"), answer, entry(5, "first")]}
    chat.results["session.fork"] = {"session_id": "ses_2"}
    files = [{"path": "a", "action": "written"}, {"path": "b", "action": "unchanged"}]
    chat.results["checkpoint.restore"] = {"files": files}
    chat.run("rewind files")
    chat.run("rewind")
    assert chat.output[-3:] == ["2  first", "1  second", "'/rewind NUMBER' goes back to before a message"]
    chat.run("rewind 3")
    chat.run("rewind 1")
    since = {"session_id": "ses_1", "since": 7}
    assert chat.calls[1:] == [
        ("session.fork", {"session_id": "ses_1", "at": 6}),
        ("conversation.resume", chat.address() | {"session_id": "ses_2"}),
        ("checkpoint.restore", since | {"check": True}),
    ]
    assert chat.output[-4:-2] == ["replay of ses_2", "a: changed since"]
    assert chat.output[-1] == "'/rewind files' restores the files"
    chat.run("rewind files")
    assert chat.calls[-1] == ("checkpoint.restore", since | {"force": False})
    refused = RequestRefused({"code": 1409, "message": "none", "data": {"reason": "nothing_to_restore"}})
    chat.results["checkpoint.restore"] = refused
    chat.run("rewind")
    chat.run("rewind 2")
    assert "as it was before" in chat.output[-1]
    chat.session_id = None
    chat.run("rewind")
    assert "send a message first" in chat.output[-1]
