"""The follower of the agents below a session: turns the events of their streams into display changes. Pure.

Each agent has a stream follower of its own, whose requests to people are passed on with the agent's path. All
else becomes progress: one line for each agent.
"""

from kheishctl.contract import Json
from kheishctl.render.changes import (
    ApprovalClosing,
    ApprovalOpening,
    CallRequest,
    ChildProgress,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    QuestionClosing,
    QuestionOpening,
)
from kheishctl.render.follower import StreamFollower
from kheishctl.render.layout import fit
from kheishctl.render.messages import join_answer_text
from protocol.text import one_line

CHILD_EVENTS = (
    "child_spawned",
    "run_accepted",
    "run_started",
    "message_appended",
    "run_ended",
    "approval_requested",
    "approval_answered",
    "approval_lapsed",
    "question_asked",
    "question_answered",
    "question_lapsed",
    "indoubt_opened",
    "indoubt_resolved",
    "agent_closed",
)
"""The types of events of a subscription to all agents below a session."""

MAX_CHILDREN = 1_000
"""Followed agents. Beyond that, those without an open run are forgotten, and new ones are not followed."""

MAX_PATH_COLUMNS = 40
MAX_LINE_CHARACTERS = 400

STATUS_OF_EVENT = {
    "run_started": "running",
    "approval_requested": "waiting for approval",
    "question_asked": "waiting for an answer",
    "approval_answered": "running",
    "approval_lapsed": "running",
    "question_answered": "running",
    "question_lapsed": "running",
}
"""The status of an agent after an event of its run."""

_STATUS_OF_AGENT = {
    "waiting_for_approval": "waiting for approval",
    "waiting_for_user_input": "waiting for an answer",
    "waiting_for_event": "waiting for an event",
}


class _Child:
    """An agent below the session. ``is_open``: it has a run that has not ended."""

    def __init__(self, path: str, status: str, tokens: int = 0, *, is_open: bool = True) -> None:
        self.path = path
        self.status = status
        self.tokens = tokens
        self.is_open = is_open
        self.line = ""
        self.follower = StreamFollower()

    def update(self, event: Json, changes: list[DisplayChange]) -> bool:
        """Read an event of the agent's stream and the changes it made; whether the progress differs."""
        kind = str(event["type"])
        previous = (self.status, self.tokens, self.line, self.is_open)
        match kind:
            case "run_accepted" if not self.is_open:
                self.status, self.is_open, self.line = "queued", True, ""
            case "run_ended":
                self.status, self.is_open = str(event["outcome"]), False
                self.line = str((event.get("error") or {}).get("message") or self.line)
            case "agent_closed" if self.is_open:
                self.status, self.is_open = "closed", False
            case "message_appended" if event["message"]["role"] == "assistant":
                usage = event.get("usage", {})
                self.tokens += int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))
                text = join_answer_text(event["message"]).rstrip().rpartition("\n")[2]
                self.line = text[:MAX_LINE_CHARACTERS] or self.line
            case _ if self.is_open:
                self.status = STATUS_OF_EVENT.get(kind, self.status)
            case _:
                pass  # A settled agent changes by its next run.
        for change in changes:
            if isinstance(change, CallRequest):
                self.line = f"→ {change.tool} {change.summary}"[:MAX_LINE_CHARACTERS]
        return previous != (self.status, self.tokens, self.line, self.is_open)


class ChildFollower:
    """The follower of all agents below one session. ``cursor`` is the cursor of the last event."""

    def __init__(self, session_id: str, cursor: int = 0) -> None:
        self.session_id = session_id
        self.cursor = cursor
        self._children: dict[str, _Child] = {}
        # Questions to an agent above, which need no person.
        self._hidden: set[str] = set()

    def add(self, agents: list[Json]) -> list[DisplayChange]:
        """Learn the agents of a tree, each after its parent; return the progress of those with a run."""
        changes: list[DisplayChange] = []
        for agent in agents:
            agent_id, usage = str(agent["agent_id"]), agent.get("usage", {})
            is_open = agent.get("active_run_id") is not None
            path = self._path_below(str(agent.get("parent_id")), str(agent["name"]))
            if path is not None and self._has_room():
                tokens = int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))
                status = str(agent["status"])
                child = _Child(path, _STATUS_OF_AGENT.get(status, status), tokens, is_open=is_open)
                self._children[agent_id] = child
                changes += [_progress(agent_id, child)] if is_open else []
        return changes

    def mark(self, request: Json) -> Json | None:
        """Return an agent's approval or question with its path; None for one that needs no person."""
        child = self._children.get(str(request["session_id"]))
        if child is None or request.get("to_agent") is not None:
            return None
        if "tool" in request:
            # The message with the call came before the first event that is followed here.
            call = {"kind": "tool_call", "call_id": request["call_id"], "name": request["tool"]}
            child.follower.learn({"items": [call | {"arguments": request.get("arguments", {})}]})
        return request | {"agent_path": child.path}

    def feed(self, method: str, params: Json) -> list[DisplayChange]:
        """Return the changes of one notification."""
        if method != "journal.event" or int(params["cursor"]) <= self.cursor:
            return []
        self.cursor = int(params["cursor"])
        event = params["event"]
        stream = str(event.get("session_id"))
        if event["type"] == "child_spawned":
            path = self._path_below(stream, str(event["name"]))
            child_id = str(event["child_id"])
            if path is None or child_id in self._children or not self._has_room():
                return []
            self._children[child_id] = _Child(path, "queued")
            return [_progress(child_id, self._children[child_id])]
        child = self._children.get(stream)
        if child is None:
            return []
        changes = child.follower.feed(method, params)
        requests = [marked for change in changes for marked in self._mark_change(change, child.path)]
        progress = [_progress(stream, child)] if child.update(event, changes) else []
        if event["type"] == "agent_closed":
            del self._children[stream]
        return [*requests, *progress]

    def _path_below(self, parent_id: str, name: str) -> str | None:
        """Return the path of an agent, from below the session; None for one of another tree."""
        if parent_id == self.session_id:
            return name
        parent = self._children.get(parent_id)
        return None if parent is None else f"{parent.path}/{name}"

    def _has_room(self) -> bool:
        if len(self._children) >= MAX_CHILDREN:
            self._children = {key: child for key, child in self._children.items() if child.is_open}
        return len(self._children) < MAX_CHILDREN

    def _mark_change(self, change: DisplayChange, path: str) -> list[DisplayChange]:
        """Return a change of a request to people with the agent's path; nothing for another change."""
        match change:
            case QuestionOpening(question) if question.get("to_agent") is not None:
                self._hidden.add(str(question["question_id"]))
            case QuestionClosing(question_id) if question_id in self._hidden:
                self._hidden.discard(question_id)
            case QuestionOpening(question):
                return [QuestionOpening(question | {"agent_path": path})]
            case ApprovalOpening(approval):
                return [ApprovalOpening(approval | {"agent_path": path})]
            case QuestionClosing():
                return [change.replace(agent_path=path)]
            case ApprovalClosing() | DoubtClosing():
                return [change.replace(tool=f"{shorten_path(path)}: {change.tool}")]
            case DoubtOpening(doubt):
                return [DoubtOpening(doubt | {"tool": f"{shorten_path(path)}: {doubt['tool']}"})]
            case _:
                pass
        return []


def _progress(agent_id: str, child: _Child) -> ChildProgress:
    return ChildProgress(agent_id, child.path, child.status, child.tokens, child.line, not child.is_open)


def shorten_path(path: str) -> str:
    """Return a path in a width that leaves room for more on its line, sanitized."""
    return fit(one_line(path), MAX_PATH_COLUMNS)


def format_progress(progress: ChildProgress, columns: int | None = None) -> str:
    """Format the progress of an agent on one line: its path, status, tokens and the last line of its text."""
    tokens = f"{progress.tokens:,} tokens" if progress.tokens else ""
    parts = (shorten_path(progress.path), progress.status, tokens, one_line(progress.line))
    text = one_line(" · ".join(filter(None, parts)))
    return text if columns is None else fit(text, columns)
