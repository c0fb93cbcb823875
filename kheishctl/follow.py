"""Following a session: notifications in, what is to be shown out. Pure.

A follower sees two kinds of message: durable events, which have a cursor and come in order, and live
deltas, text still being written, which come at once and may come again after a reconnection. It shows
every character of an answer once:

* an item (one message being written) is known by its id; text counts from offset 0;
* a delta that starts within what was shown adds only what is new; one that starts beyond it is passed
  over, as the durable message will bring everything;
* a higher attempt, or another item before the first was finished, takes back what was shown of it:
  ``Restarted``;
* the durable message adds what the deltas did not bring, and ends the item: ``Finished``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kheishctl.client import Json
from kheishctl.render import answer_text, message_text
from kheishctl.text import duration, one_line


@dataclass(frozen=True, slots=True)
class Heard:
    """An input is now being answered: what was said, and by whom."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Queued:
    """An input was accepted and waits until the runs before it have ended."""

    text: str
    sender: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Said:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was said of this answer is void: the model was asked again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A message is whole; ``stop_reason`` says why it ends where it does."""

    stop_reason: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A run is over."""

    run_id: str
    status: str
    error: str


Shown = Heard | Queued | Said | Thought | Restarted | Finished | Noted | Settled


class Follower:
    """The state of following one session, or one run of it. ``cursor`` is where to go on after."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.running: str | None = None
        self._item: tuple[str, int] | None = None
        self._shown = {"text": "", "thinking": ""}
        self._inputs: dict[str, tuple[str, str]] = {}
        self._waiting: dict[str, str] = {}

    def feed(self, method: str, params: Json) -> list[Shown]:
        """What one notification of the subscription adds to what is shown."""
        match method:
            case "journal.event":
                return self._event(int(params["cursor"]), params["event"])
            case "journal.synced":
                self.cursor = max(self.cursor, int(params["cursor"]))
            case "journal.delta":
                return self._delta(params)
            case "journal.gap":
                self.cursor = max(self.cursor, int(params["to"]))
                return [Noted("some of the history in between was pruned")]
            case _:
                pass  # Of a later version.
        return []

    def _event(self, cursor: int, event: Json) -> list[Shown]:
        if cursor <= self.cursor:
            return []
        self.cursor = cursor
        run_id = str(event.get("run_id") or "")
        match event.get("type"):
            case "input_received":
                sender = str(event.get("guest") or event.get("sender") or "")
                self._inputs[str(event["input_id"])] = (message_text(event), sender)
            case "run_accepted":
                return self._accepted(run_id, str(event["input_id"]))
            case "run_started":
                return self._started(run_id)
            case "model_asked":
                return self._begin(str(event["item_id"]), int(event["attempt"]))
            case "model_failed":
                return [Noted(_retry(event))]
            case "message_appended":
                return self._message(event)
            case "run_ended":
                return self._ended(run_id, event)
            case "session_ended":
                return [Noted("the session was ended and takes no more input")]
            case kind if kind in _BY_PEOPLE:
                return [Noted(text)] if (text := _BY_PEOPLE[kind](event)) else []
            case _:
                pass  # It changes nothing that is shown, or is of a later version.
        return []

    def _accepted(self, run_id: str, input_id: str) -> list[Shown]:
        if input_id not in self._inputs:
            return []
        self._waiting[run_id] = input_id
        text, sender = self._inputs[input_id]
        return [Queued(text, sender, run_id)]

    def _started(self, run_id: str) -> list[Shown]:
        self.running = run_id
        heard = self._inputs.pop(self._waiting.pop(run_id, ""), None)
        return [] if heard is None else [Heard(*heard, run_id)]

    def _begin(self, item_id: str, attempt: int) -> list[Shown]:
        """Turn to an item unless it is there already; what an unfinished one showed is taken back."""
        if self._item is not None and self._item[0] == item_id and attempt <= self._item[1]:
            return []
        void = any(self._shown.values())
        self._item = (item_id, attempt)
        self._shown = {"text": "", "thinking": ""}
        return [Restarted()] if void else []

    def _delta(self, delta: Json) -> list[Shown]:
        item_id, attempt = str(delta["item_id"]), int(delta["attempt"])
        if self._item is not None and self._item[0] == item_id and attempt < self._item[1]:
            return []
        self.running = str(delta["run_id"])
        shown = self._begin(item_id, attempt)
        kind = "thinking" if delta["kind"] == "thinking" else "text"
        have, offset = len(self._shown[kind]), int(delta["offset"])
        text = str(delta["text"])[have - offset :] if offset <= have else ""
        if text:
            self._shown[kind] += text
            shown.append(Thought(text) if kind == "thinking" else Said(text))
        return shown

    def _message(self, event: Json) -> list[Shown]:
        message = event["message"]
        if message["role"] != "assistant":
            return []
        shown: list[Shown] = []
        mine = self._item is None or self._item[0] == event["item_id"]
        had = self._shown["text"] if mine else ""
        text = answer_text(message)
        if not text.startswith(had):
            shown.append(Restarted())
            had = ""
        if text[len(had) :]:
            shown.append(Said(text[len(had) :]))
        if mine:
            self._item, self._shown = None, {"text": "", "thinking": ""}
        return [*shown, Finished(str(event.get("stop_reason", "end")))]

    def _ended(self, run_id: str, event: Json) -> list[Shown]:
        shown = self._started(run_id) if run_id in self._waiting else []
        self.running = None
        error: Any = event.get("error") or {}
        return [*shown, Settled(run_id, str(event["outcome"]), str(error.get("message", "")))]


def _asked(event: Json) -> str:
    about = one_line(f"{event['tool']} {event.get('subject', '')}")
    return f"waits for a yes or no: {about}\n  kheishctl approval show {event['approval_id']}"


def _asks(event: Json) -> str:
    first, *more = event["questions"]
    others = f" and {len(more)} more" if more else ""
    return f"asks: {one_line(first['question'])}{others}\n  kheishctl question answer {event['question_id']}"


def _doubted(event: Json) -> str:
    show = f"kheishctl indoubt show {event['indoubt_id']}"
    return f"it is not known whether {one_line(event['tool'])} took effect\n  {show}"


def _settled(event: Json) -> str:
    how = "took effect" if event["outcome"] == "done" else "did not take effect"
    return f"{one_line(event['tool'])} {how}, says {_by(event)}" if event.get("note") else ""


def _by(event: Json) -> str:
    return one_line(str(event.get("actor", "daemon")))


_BY_PEOPLE: dict[str, Callable[[Json], str]] = {
    "approval_requested": _asked,
    "approval_answered": lambda e: f"{'allowed' if e['decision'] == 'allow' else 'denied'} by {_by(e)}",
    "approval_lapsed": lambda e: "denied, as nobody answered in time" if e["how"] == "expired" else "",
    "question_asked": _asks,
    "question_answered": lambda e: f"{'declined' if e.get('declined') else 'answered'} by {_by(e)}",
    "question_lapsed": lambda e: "nobody answered in time" if e["how"] == "expired" else "",
    "call_doubted": _doubted,
    "doubt_settled": _settled,
}
"""What people are asked and what they answer, as a note; without words, nothing is noted."""


def _retry(event: Json) -> str:
    wait_s = max(0, int(event["retry_at_ms"]) - int(event["at_ms"])) / 1000
    when = f"in {duration(wait_s)}" if wait_s else "now"
    return f"the model call failed ({event['error']['message']}); trying again {when}"
