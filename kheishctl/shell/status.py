"""The state of a conversation for the chat's status line: its model, its context, its use and its run. Pure.

The records of the session and of its last run are read once; the events that follow keep the state current.
"""

import os

from kheishctl.contract import DEFAULT_CONTEXT_TOKENS, Json
from kheishctl.render.layout import fit
from kheishctl.render.units import format_count, format_duration, format_money
from protocol.text import one_line

MAX_PATH_COLUMNS = 30


class ConversationStatus:
    """The state of one conversation. ``workspace`` is None until a run has named it."""

    def __init__(self) -> None:
        self.model = ""
        self.workspace: str | None = None
        self.title = ""
        self._context_tokens = 0
        self._used_tokens = 0
        self._tokens = 0
        self._costs: dict[str, int] = {}
        self._started_at_ms: dict[str, int] = {}

    def read_session(self, session: Json) -> None:
        """Read the record of the session: its use so far."""
        self.title = str(session.get("title") or "")
        self._tokens = _count_tokens(session)
        self._costs = {str(cost["currency"]): int(cost["micros"]) for cost in session.get("costs", ())}

    def read_history(self, entries: list[Json]) -> None:
        """Read messages, newest first: the newest one with usage tells the size of the context."""
        self._used_tokens = next(filter(None, map(_count_tokens, entries)), 0)

    def read_run(self, run: Json) -> None:
        """Read the record of a run: its model, its workspace, and its start if it has not ended."""
        self._read_pinned(run.get("pinned") or {})
        if run.get("started_at_ms") and not run.get("ended_at_ms"):
            self._started_at_ms[str(run["run_id"])] = int(run["started_at_ms"])

    def _read_pinned(self, pinned: Json) -> None:
        if pinned:
            self.model = str(pinned.get("model", self.model))
            self.workspace = pinned.get("workspace", self.workspace)
            self._context_tokens = int(pinned.get("context_tokens", DEFAULT_CONTEXT_TOKENS))

    def feed(self, event: Json) -> None:
        """Read an event of the session."""
        match event.get("type"):
            case "run_accepted":
                self._read_pinned(event.get("pinned") or {})
            case "run_started":
                self._started_at_ms.setdefault(str(event["run_id"]), int(event["at_ms"]))
            case "run_ended":
                self._started_at_ms.pop(str(event["run_id"]), None)
            case "message_appended":
                self.model = str(event.get("model") or self.model)
                self._used_tokens = _count_tokens(event) or self._used_tokens
            case "context_compacted":
                self._used_tokens = int(event.get("post_tokens") or 0)
            case "session_renamed":
                self.title = str(event.get("title") or "")
            case _:
                pass  # Other events change nothing that the line shows, except for the use.
        self._tokens += _count_tokens(event)
        if cost := event.get("cost"):
            currency = str(cost["currency"])
            self._costs[currency] = self._costs.get(currency, 0) + int(cost["micros"])

    def started_at_ms(self, run_id: str | None) -> int | None:
        """Return the time at which a run was started, if it is known."""
        return self._started_at_ms.get(run_id or "")

    def format(self, agent: str, columns: int, *state: str, workspace: str | None = None) -> str:
        """Return the line: the state, the agent, the model, the context, the use and the workspace.

        ``workspace`` is that of the next run; without it, that of the last one is shown. Parts that do not
        fit are omitted from the end.
        """
        parts = [*state, one_line(agent), one_line(self.model)]
        if self._context_tokens and self._used_tokens:
            share = 100 * self._used_tokens // self._context_tokens
            rest = format_count(max(0, self._context_tokens - self._used_tokens))
            parts.append(f"context {format_count(self._used_tokens)} ({share}%), {rest} left")
        parts.append(f"{format_count(self._tokens)} tokens" if self._tokens else "")
        parts += (
            format_money({"micros": micros, "currency": currency}) or ""
            for currency, micros in self._costs.items()
            if micros
        )
        workspace = workspace or self.workspace
        parts.append(shorten_directory(workspace) if workspace else "")
        line = ""
        for part in filter(None, parts):
            longer = f"{line} · {part}" if line else part
            if line and len(longer) > columns:
                break
            line = longer
        return fit(line, columns)


def shorten_directory(path: str) -> str:
    """Return a directory as a person knows it: with ``~`` for their home; of a long path, its last names."""
    home = os.path.expanduser("~")
    text = one_line(path)
    if text == home or text.startswith(home + os.sep):
        text = "~" + text[len(home) :]
    return text if len(text) <= MAX_PATH_COLUMNS else "…" + text[1 - MAX_PATH_COLUMNS :]


def format_elapsed(started_at_ms: int | None, now_ms: int) -> str:
    """Return the time since a start in full seconds; empty without a start."""
    if started_at_ms is None:
        return ""
    seconds = max(0, now_ms - started_at_ms) // 1000
    return f"{seconds} s" if seconds < 10 else format_duration(seconds)


def _count_tokens(record: Json) -> int:
    usage = record.get("usage") or {}
    return int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))
