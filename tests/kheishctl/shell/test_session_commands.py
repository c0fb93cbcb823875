"""Slash commands about the conversation as a whole."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from kheishctl.client import Failure, RequestRefused
from kheishctl.contract import Json
from kheishctl.shell.session_commands import MAX_COPIED_BYTES, SessionCommands


class Conversation:
    """A conversation with prepared results, whose view records its output."""

    def __init__(self, **results: Any) -> None:
        self.session_id: str | None = "ses_1"
        self.agent = "default"
        self.has_unsent = False
        self.results = results
        self.calls: list[tuple[str, Json]] = []
        self.output: list[str] = []

    def address(self) -> Json:
        """Return the params that name the conversation."""
        return {"agent": self.agent, "sender": "ada"}

    def switch_sender(self, sender: str, agent: str | None = None) -> bool:
        """Switch to another agent, unless messages are unsent."""
        self.agent = self.agent if self.has_unsent else agent or self.agent
        return not self.has_unsent

    def send(self, text: str) -> None:
        """Record a message."""
        self.output.append(f"sent {text}")

    def note(self, text: str, style: str = "dim") -> None:
        """Record a note."""
        self.output.append(text)

    def copy(self, text: str) -> None:
        """Record a text for the clipboard."""
        self.output.append(f"copied {text}")

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Record a call and return its prepared result, or the next of several."""
        self.calls.append((method, dict(params or {})))
        result = self.results[method.replace(".", "_")]
        result = result.pop(0) if isinstance(result, list) else result
        if isinstance(result, Exception):
            raise result
        return result

    def run(self, name: str, *arguments: str) -> Any:
        """Run a command and return its result."""
        return asyncio.run(getattr(SessionCommands(self, self), name)(*arguments or ("",)))


def message(role: str, text: str, **fields: Any) -> Json:
    """Return an entry of a history."""
    return {"message": {"role": role, "items": [{"kind": "text", "text": text}]}, **fields}


def refusal(reason: str) -> RequestRefused:
    """Return a refusal."""
    return RequestRefused({"code": 1404, "message": "no", "data": {"reason": reason}})


def test_cost() -> None:
    """The cost has the tokens and the money, or says why there is none."""
    usage = {"input_tokens": 1200, "output_tokens": 30, "cached_input_tokens": 1000}
    session: Json = {"usage": usage, "costs": [{"micros": 250_000, "currency": "USD"}]}
    chat = Conversation(session_get=session)
    chat.run("show_cost")
    assert chat.output[0].startswith("1,200 tokens read (1,000 from a cache), 30 written; 0.25")
    chat = Conversation(session_get={})
    chat.run("show_cost")
    assert chat.output[0].endswith("no cost: the route has no prices")


def test_context() -> None:
    """The context is that of the newest answer, with its share of the model's."""
    history = {"messages": [message("user", "x"), message("assistant", "y", usage={"input_tokens": 500})]}
    runs = {"runs": [{"pinned": {"context_tokens": 1000}}]}
    chat = Conversation(run_list=runs, conversation_history=history)
    chat.run("show_context")
    assert chat.output == ["the context of the last answer: 500 tokens of 1,000 (50%); /compact makes room"]
    chat = Conversation(run_list={"runs": []}, conversation_history={"messages": []})
    chat.run("show_context")
    assert chat.output == ["the context of the last answer: 0 tokens"]


@pytest.mark.parametrize("command", ["show_cost", "show_context"])
def test_no_session(command: str) -> None:
    """Before the first message there is no session to describe."""
    chat = Conversation()
    chat.session_id = None
    with pytest.raises(Failure, match="send a message first"):
        chat.run(command)


def test_permissions() -> None:
    """Every layer shows its mode, its rules and its grants; without a session, those of the agent."""
    rule = {"decision": "ask", "tool": "bash", "subject": "git *"}
    layers = [
        {"layer": "daemon", "rules": [rule], "mode": "plan"},
        {"layer": "session", "name": "ses_1", "rules": [], "grants": [{"tool": "bash"}]},
        {"layer": "run", "rules": []},
    ]
    chat = Conversation(permission_list={"permissions": layers})
    chat.run("show_permissions")
    assert chat.output == [
        "daemon: mode: at most plan",
        "daemon: ask: bash git *",
        "session ses_1: allow, remembered: bash",
        "run: no rules",
    ]
    chat.session_id = None
    chat.run("show_permissions")
    assert chat.calls[-1] == ("permission.list", {"agent": "default"})


def test_agent() -> None:
    """The conversation continues with an agent that exists, once its messages are sent."""
    chat = Conversation(definition_get={"name": "reviewer"})
    chat.run("switch_agent")
    assert chat.output == ["the agent is default; '/agent NAME' talks to another one"]
    chat.has_unsent = True
    chat.run("switch_agent", "reviewer")
    assert (chat.agent, "try again" in chat.output[-1]) == ("default", True)
    chat.has_unsent = False
    chat.run("switch_agent", "reviewer")
    assert chat.agent == "reviewer"
    chat.results["definition_get"] = refusal("agent_not_found")
    with pytest.raises(RequestRefused):
        chat.run("switch_agent", "nobody")
    assert chat.agent == "reviewer"


def test_copy() -> None:
    """The last answer with text is copied, unless it is too long for a terminal."""
    history = {"messages": [message("assistant", " "), message("user", "q"), message("assistant", "so\n")]}
    chat = Conversation(conversation_history=history)
    chat.run("copy")
    assert chat.output[0] == "copied so"
    chat = Conversation(conversation_history={"messages": []})
    chat.run("copy")
    assert chat.output == ["there is no answer yet"]
    chat = Conversation(conversation_history={"messages": [message("assistant", "é" * MAX_COPIED_BYTES)]})
    chat.run("copy")
    assert "/export writes a file" in chat.output[0]


def test_export(tmp_path: Path) -> None:
    """All pages are written as Markdown to a new private file; an existing file is left alone."""
    pages = [
        {"messages": [message("user", "hi", sender="ada")], "next": "p2"},
        {"messages": [message("assistant", "**yes**"), message("assistant", "")], "next": None},
    ]
    chat = Conversation(conversation_history=[*pages, *pages])
    path = tmp_path / "notes.md"
    chat.run("export", str(path))
    assert path.read_text() == "# default and ada\n\n## ada\n\nhi\n\n## assistant\n\n**yes**\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert chat.calls[1][1]["after"] == "p2"
    with pytest.raises(Failure, match="File exists"):
        chat.run("export", str(path))
    chat.run("export")
    assert chat.output[-1].startswith("usage: /export FILE")


def test_skills() -> None:
    """A skill is activated with its arguments and begun with a message; other names are no skills."""
    chat = Conversation(skill_activate={})
    assert chat.run("use_skill", "review", "src")
    assert chat.calls == [("skill.activate", {"session_id": "ses_1", "name": "review", "args": "src"})]
    assert chat.output == ["sent src"]
    assert chat.run("use_skill", "review", "")
    assert chat.output[-1] == "sent Use the skill review."
    chat = Conversation(skill_activate=refusal("skill_not_found"))
    assert not chat.run("use_skill", "nosuch", "")
    chat = Conversation(skill_activate=refusal("skills_too_large"))
    with pytest.raises(RequestRefused):
        chat.run("use_skill", "review", "")


def test_skills_before_the_first_message() -> None:
    """Without a session, a skill asks for a message first; another name is no skill."""
    chat = Conversation(skill_list={"skills": [{"name": "review"}]})
    chat.session_id = None
    assert not chat.run("use_skill", "nosuch", "")
    with pytest.raises(Failure, match="send a message first"):
        chat.run("use_skill", "review", "")
