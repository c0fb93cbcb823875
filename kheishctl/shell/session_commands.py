"""Slash commands about the conversation as a whole: its cost, its context, its rules, its text, its agent."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Protocol

from kheishctl.client import Failure, RequestRefused
from kheishctl.contract import MAX_PAGE_ROWS
from kheishctl.render.messages import format_message, join_answer_text
from kheishctl.render.units import format_money
from protocol.text import one_line

if TYPE_CHECKING:
    from kheishctl.contract import Json
    from kheishctl.shell.person_commands import PersonCommand

# Terminals accept about 100,000 characters of base64 in one sequence for the clipboard.
MAX_COPIED_BYTES = 74_000

# The newest messages among which the last answer and its token usage are.
SEARCHED_MESSAGES = 20

SKILL_MESSAGE = "Use the skill {}."
"""The message that begins a skill without arguments."""


class ConversationHandle(Protocol):
    """The part of the conversation that these commands use."""

    @property
    def session_id(self) -> str | None:
        """The current session; None before the first message."""
        ...

    def address(self) -> Json:
        """Return the params that name the conversation."""
        ...

    def switch_sender(self, sender: str, agent: str | None = None) -> bool:
        """Continue as another sender, or with another agent; False while messages are unsent."""
        ...

    def send(self, text: str) -> None:
        """Put a message into the outbox."""
        ...

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Call a method of the daemon. Errors: RequestRefused, ConnectionLost."""
        ...


class NoteView(Protocol):
    """The part of the chat's display that these commands use."""

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note."""
        ...

    def copy(self, text: str) -> None:
        """Put a text into the clipboard of the terminal."""
        ...


class SessionCommands:
    """The handler of these commands. Every method takes the argument of the command line."""

    def __init__(self, conversation: ConversationHandle, view: NoteView) -> None:
        self._conversation = conversation
        self._view = view
        self.last_command: PersonCommand | None = None
        """The last command that the person ran."""

    async def _need_session(self) -> str:
        """Return the session. Errors: Failure before the first message."""
        if self._conversation.session_id is None:
            raise Failure("the conversation has no session yet; send a message first")
        return self._conversation.session_id

    async def show_cost(self, _: str) -> None:
        """Show the tokens and the cost of the session."""
        session = await self._conversation.call("session.get", {"session_id": await self._need_session()})
        usage = session.get("usage") or {}
        counts = (usage.get("input_tokens", 0), usage.get("output_tokens", 0))
        tokens = f"{counts[0]:,} tokens read ({usage.get('cached_input_tokens', 0):,} from a cache)"
        costs = ", ".join(filter(None, map(format_money, session.get("costs", ()))))
        self._view.note(f"{tokens}, {counts[1]:,} written; {costs or 'no cost: the route has no prices'}", "")

    async def show_context(self, _: str) -> None:
        """Show how much of the model's context the conversation uses."""
        params: Json = {"session_id": await self._need_session(), "limit": 1}
        runs = (await self._conversation.call("run.list", params))["runs"]
        size = int(runs[0]["pinned"].get("context_tokens", 0)) if runs else 0
        usage: Json = next((entry["usage"] for entry in await self._read_newest() if entry.get("usage")), {})
        used = int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))
        share = f" of {size:,} ({100 * used // size}%); /compact makes room" if size else ""
        self._view.note(f"the context of the last answer: {used:,} tokens{share}", "")

    async def show_permissions(self, _: str) -> None:
        """Show the rules, grants and modes that apply, broadest first."""
        session_id = self._conversation.session_id
        target = (
            {"session_id": session_id} if session_id else {"agent": self._conversation.address()["agent"]}
        )
        page = await self._conversation.call("permission.list", target)
        for layer in page["permissions"]:
            name = f" {layer['name']}" if layer.get("name") else ""
            rules = [("mode", f"at most {layer['mode']}")] if layer.get("mode") else []
            rules += [(rule["decision"], _format_rule(rule)) for rule in layer["rules"]]
            rules += [("allow, remembered", _format_rule(grant)) for grant in layer.get("grants", ())]
            for says, text in rules:
                self._view.note(one_line(f"{layer['layer']}{name}: {says}: {text}"), "")
            if not rules:
                self._view.note(one_line(f"{layer['layer']}{name}: no rules"))

    async def switch_agent(self, agent: str) -> None:
        """Continue with another agent, in the same sender's conversation with it; without one, show it."""
        address = self._conversation.address()
        if not agent:
            self._view.note(f"the agent is {address['agent']}; '/agent NAME' talks to another one")
            return
        await self._conversation.call("definition.get", {"name": agent})
        if not self._conversation.switch_sender(address["sender"], agent):
            self._view.note("messages are still being sent; try again after them", "yellow")

    async def copy(self, _: str) -> None:
        """Put the last answer into the clipboard."""
        text = next(filter(None, map(_read_answer, await self._read_newest())), "")
        if not text:
            self._view.note("there is no answer yet", "yellow")
        elif len(text.encode()) > MAX_COPIED_BYTES:
            self._view.note("the answer is too long for the clipboard; /export writes a file", "yellow")
        else:
            self._view.copy(text)
            self._view.note("the last answer was sent to the terminal's clipboard")

    async def share(self, text: str) -> None:
        """Send the last command of the person with its output to the agent."""
        if self.last_command is None:
            self._view.note("no command was run; '!ls' runs one", "yellow")
        else:
            self._conversation.send(self.last_command.format_message(text))

    async def export(self, argument: str) -> None:
        """Write the conversation to a new file as Markdown."""
        if not argument:
            self._view.note("usage: /export FILE, for example /export notes.md", "yellow")
            return
        address = self._conversation.address()
        params: Json = address | {"limit": MAX_PAGE_ROWS}
        parts = [f"# {address['agent']} and {address['sender']}\n"]
        while True:
            page = await self._conversation.call("conversation.history", params)
            parts += map(_format_entry, page["messages"])
            if page.get("next") is None:
                break
            params["after"] = page["next"]
        path = await asyncio.to_thread(_write_new_file, argument, "\n".join(filter(None, parts)))
        self._view.note(f"written to {one_line(path)}", "")

    async def use_skill(self, name: str, arguments: str) -> bool:
        """Activate a skill and begin it with a message; False if there is no skill of this name."""
        session_id = self._conversation.session_id
        if session_id is None:
            listed = (await self._conversation.call("skill.list", {"limit": MAX_PAGE_ROWS}))["skills"]
            if any(skill["name"] == name for skill in listed):
                await self._need_session()
            return False
        params = {"session_id": session_id, "name": name}
        try:
            await self._conversation.call(
                "skill.activate", params | ({"args": arguments} if arguments else {})
            )
        except RequestRefused as refused:
            if refused.reason == "skill_not_found" or refused.data.get("field") == "$.params.name":
                return False
            raise
        self._conversation.send(arguments or SKILL_MESSAGE.format(name))
        return True

    async def _read_newest(self) -> list[Json]:
        params = self._conversation.address() | {"order": "newest", "limit": SEARCHED_MESSAGES}
        messages: list[Json] = (await self._conversation.call("conversation.history", params))["messages"]
        return messages


def _write_new_file(name: str, text: str) -> str:
    """Write a file that only its owner can read; return its path. Errors: Failure, also if it exists."""
    path = os.path.abspath(os.path.expanduser(name))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    return path


def _format_rule(rule: Json) -> str:
    return f"{rule['tool']} {rule.get('subject') or ''}".rstrip()


def _read_answer(entry: Json) -> str:
    return join_answer_text(entry["message"]).strip() if entry["message"]["role"] == "assistant" else ""


def _format_entry(entry: Json) -> str:
    """Return a message as Markdown; a message without text, such as a list of calls, is empty."""
    message = entry["message"]
    is_answer = message["role"] == "assistant"
    text = (join_answer_text(message) if is_answer else format_message(message)).strip()
    author = "assistant" if is_answer else str(message.get("agent") or entry.get("sender") or "user")
    return f"## {one_line(author)}\n\n{text}\n" if text else ""


async def find_model(conversation: ConversationHandle, session: Json) -> tuple[str, str]:
    """Return the route and the model of a session: its own, else its agent's, else the default ones."""
    route, model = session.get("route"), session.get("model")
    if route is None:
        agent = conversation.address().get("agent", "default")
        definition = await conversation.call("definition.get", {"name": agent})
        route, model = definition.get("route"), model or definition.get("model")
    if route is None:
        route = (await conversation.call("daemon.status")).get("default_route", "offline")
    if model is None:
        model = (await conversation.call("route.get", {"route_id": route}))["model"]
    return route, model
