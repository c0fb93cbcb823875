"""Histories show messages in the order in which the model reads them."""

from typing import Any

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, until
from tests.support.waiting_runs import order


@pytest.fixture
def stopped(daemon: Daemon) -> Daemon:
    """Provide a conversation: A waits for an approval, B, C and D are queued; D is cancelled, then A."""
    first = daemon.call("conversation.send", content=order("write_file", path="a", content="x"))
    until(lambda: daemon.call("approval.list")["approvals"] != [], "A waits")
    runs = [daemon.call("conversation.send", content=f"question {name}") for name in "BCD"]
    assert texts(daemon.call("conversation.history")) == [
        "",
        "question B",
        "question C",
        "question D",
    ]
    daemon.call("run.cancel", run_id=runs[2]["run_id"])
    daemon.call("run.cancel", run_id=first["run_id"])
    for run in runs:
        daemon.call("run.wait", run_id=run["run_id"])
    return daemon


def texts(page: Any) -> list[str]:
    """Return the texts of the messages of people and models, without commands of the test."""
    texts = []
    for entry in page["messages"]:
        items = [item["text"] for item in entry["message"]["items"] if item["kind"] == "text"]
        if entry["message"]["role"] == "user":
            texts.append("" if items[0].startswith("/call") else items[0])
        elif entry["message"]["role"] == "assistant" and "question " in "".join(items):
            texts.append("answer to " + items[0].rpartition("question ")[2][:1])
    return texts


def test_each_answer_follows_its_question(stopped: Daemon) -> None:
    """After A was stopped, B and C were answered in turn, and D, cancelled in the queue, is marked unread."""
    page = stopped.call("conversation.history")
    shown = [text for text in texts(page) if text]
    assert shown == ["question D", "question B", "answer to B", "question C", "answer to C"]
    assert [entry["unread"] for entry in page["messages"] if entry.get("unread")] == [True]
    for limit in (1, 2, 3):
        for direction in ("oldest", "newest"):
            pages = read_pages(stopped, limit, direction)
            assert pages == (page["messages"] if direction == "oldest" else page["messages"][::-1])
    ctl = Ctl(stopped.home)
    assert ctl.json("conversation", "history")["messages"] == page["messages"]
    rows = ctl("conversation", "history", "--newest", "--limit", "4").rows
    assert [row[2].rpartition("question ")[2][:1] for row in rows] == ["B", "B", "C", "C"]


def read_pages(daemon: Daemon, limit: int, direction: str) -> list[Any]:
    """Return all pages of the history, joined."""
    messages: list[Any] = []
    params: dict[str, Any] = {"limit": limit, "order": direction}
    while True:
        page = daemon.call("conversation.history", **params)
        messages += page["messages"]
        if page["next"] is None:
            return messages
        params["after"] = page["next"]
