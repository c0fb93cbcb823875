"""Following a session: notifications in, what is to be shown out. Pure.

A follower sees two kinds of message: durable events, which have a cursor and come in order, and live
deltas, text still being written, which come at once and may come again after a reconnection. It shows
every character of an answer once:

* an item (one message being written) is known by its id; text counts from offset 0;
* a delta that starts within what was shown adds only what is new; one that starts beyond it is passed
  over, as the durable message will bring everything;
* a higher attempt, or another item before the first was finished, takes back what was shown of it:
  ``AnswerRestart``;
* the durable message adds what the deltas did not bring, and ends the item: ``MessageEnd``.

The calls that a message asks for are known by their ids from there until they returned. What a call writes
while it runs is live and only its end is kept: a delta beyond what was shown means that something is
missing, so it replaces what was shown.
"""

from dataclasses import dataclass, field
from typing import Any

from kheishctl.client import Json
from kheishctl.render.calls import about
from kheishctl.render.events import answer_text, answers_text, message_text, task_end
from kheishctl.render.layout import duration
from kheishctl.render.pieces import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallOutput,
    CallRequest,
    CallResult,
    CallStart,
    CallVerdict,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    Piece,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)

# Why a model is asked again though it had answered.
SENT_BACK = {
    "output_contract": "the answer does not fit its contract; it is to be mended",
    "completion": "something is still to be done; the agent is reminded",
    "length": "it is asked to go on",
}


@dataclass(slots=True)
class _Call:
    """A call that has not returned, as far as is known; ``heard`` is the attempt and end of its output."""

    tool: str
    about: str = ""
    arguments: Json = field(default_factory=dict)
    why: str = ""
    told: bool = False
    heard: tuple[int, int] = (0, 0)


class StreamFollower:
    """The state of following one session, or one run of it. ``cursor`` is where to go on after."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.running: str | None = None
        self._item: tuple[str, int] | None = None
        self._shown = {"text": "", "thinking": ""}
        self._inputs: dict[str, tuple[str, str]] = {}
        self._waiting: dict[str, str] = {}
        self._calls: dict[str, _Call] = {}
        self._questions: dict[str, list[Json]] = {}

    def know(self, message: Json) -> None:
        """Take in a message from before: what is heard of its calls is understood."""
        self._called(message)

    def taken_up(self, run: Json) -> list[Piece]:
        """What is under way in a run as it is now, for one who comes in its middle."""
        shown: list[Piece] = []
        for found in run.get("calls", ()):
            call_id = str(found["call_id"])
            call = self._calls.setdefault(call_id, _Call(str(found["tool"])))
            if found["state"] == "called":
                call.heard = (int(found.get("attempt", 1)), 0)
                shown.append(CallStart(call_id, call.tool, call.about, int(found["called_at_ms"])))
        return shown

    def feed(self, method: str, params: Json) -> list[Piece]:
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
                return [Notice("some of the history in between was pruned")]
            case _:
                pass  # Of a later version.
        return []

    def _event(self, cursor: int, event: Json) -> list[Piece]:
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
                return [Notice(_retry(event))]
            case "message_appended":
                return self._message(event)
            case "run_ended":
                return self._ended(run_id, event)
            case "session_ended":
                return [Notice("the session was ended and takes no more input")]
            case "session_updated" if mode := event["changes"].get("permission_mode"):
                return [
                    Notice(f"the permission mode is {mode} now; it counts for runs accepted from here on")
                ]
            case "steered":
                return [SteerText(message_text(event), str(event.get("sender") or ""))]
            case "context_compacted":
                return [Notice(_compacted(event))]
            case "compaction_failed":
                return [Notice(f"what was said could not be summed up: {event['error']['message']}")]
            case "task_stalled":
                return [Notice(f"the background shell {event['task_id']} asks something nobody can answer")]
            case "task_ended":
                return [Notice(f"the background shell {event['task_id']} has ended: {task_end(event)}")]
            case "calls_judged":
                return self._judged(event)
            case other if "call_id" in event:
                return self._of_call(str(other), event)
            case _:
                pass  # It changes nothing that is shown, or is of a later version.
        return []

    # Calls, and what waits for a person.

    def _of_call(self, kind: str, event: Json) -> list[Piece]:
        """What an event says about one call."""
        call_id = str(event["call_id"])
        call = self._calls.get(call_id) or _Call(str(event.get("tool", "")))
        if kind not in ("tool_returned", "indoubt_resolved"):
            self._calls[call_id] = call
        match kind:
            case "tool_called":
                return self._begun(call_id, call, event)
            case "tool_returned":
                return [self._returned(call_id, call, event)]
            case "approval_requested":
                about_it = {"arguments": call.arguments, "requested_at_ms": event["at_ms"]}
                return [ApprovalOpening(event | about_it)]
            case "approval_answered" | "approval_lapsed":
                return [_approval_closed(call, event)]
            case "indoubt_opened":
                return [DoubtOpening(event | {"arguments": call.arguments})]
            case "indoubt_resolved":
                return [_doubt_closed(event)]
            case "call_probed":
                note = f"the daemon went down in {call.tool}, which took no effect; it runs again"
                return [Notice(note)]
            case _:
                return self._of_question(kind, event)

    def _begun(self, call_id: str, call: _Call, event: Json) -> list[Piece]:
        attempt = int(event.get("attempt", 1))
        shown: list[Piece] = []
        # What is written comes at once: it may have been heard before this.
        if attempt > call.heard[0]:
            shown = [CallOutput(call_id, "", True)] if call.heard[1] else []
            call.heard = (attempt, 0)
        return [*shown, CallStart(call_id, call.tool, call.about, int(event["at_ms"]))]

    def _returned(self, call_id: str, call: _Call, event: Json) -> CallResult:
        self._calls.pop(call_id, None)
        return CallResult(
            call_id,
            str(event["tool"]),
            call.about,
            str(event["how"]),
            str(event["text"]),
            event.get("took_ms"),
            call.why,
            call.told,
        )

    def _of_question(self, kind: str, event: Json) -> list[Piece]:
        question_id = str(event.get("question_id"))
        match kind:
            case "question_asked":
                self._questions[question_id] = event["questions"]
                return [QuestionOpening(event | {"asked_at_ms": event["at_ms"]})]
            case "question_answered" | "question_lapsed":
                asked = self._questions.pop(question_id, [])
                return [_question_closed(event, asked)]
            case _:
                return []

    def _judged(self, event: Json) -> list[Piece]:
        shown: list[Piece] = []
        for verdict in event["verdicts"]:
            call_id, decision, why = str(verdict["call_id"]), str(verdict["decision"]), str(verdict["why"])
            if decision == "deny" and call_id in self._calls:
                self._calls[call_id].why = why
            shown.append(CallVerdict(call_id, str(verdict["tool"]), decision, why))
        return shown

    def _called(self, message: Json) -> list[Piece]:
        """The calls that a message asks for."""
        called = calls_of(message)
        for piece, item in zip(called, _calls(message), strict=True):
            self._calls[piece.call_id] = _Call(piece.tool, piece.about, item.get("arguments") or {})
        return list(called)

    def _output(self, delta: Json) -> list[Piece]:
        """What a call writes: counted from the offset up to which it was heard, else anew."""
        call_id, attempt, offset = str(delta["item_id"]), int(delta["attempt"]), int(delta["offset"])
        call = self._calls.get(call_id)
        if call is None or attempt < call.heard[0]:
            return []
        text, end = str(delta["text"]), offset + len(delta["text"])
        fresh = attempt > call.heard[0] or offset > call.heard[1]
        if not fresh:
            text = text[call.heard[1] - offset :]
            end = max(end, call.heard[1])
        call.heard = (attempt, end)
        return [CallOutput(call_id, text, fresh)] if text or fresh else []

    def _accepted(self, run_id: str, input_id: str) -> list[Piece]:
        if input_id not in self._inputs:
            return []
        self._waiting[run_id] = input_id
        text, sender = self._inputs[input_id]
        return [QueuedInput(text, sender, run_id)]

    def _started(self, run_id: str) -> list[Piece]:
        self.running = run_id
        heard = self._inputs.pop(self._waiting.pop(run_id, ""), None)
        return [] if heard is None else [StartedInput(*heard, run_id)]

    def _begin(self, item_id: str, attempt: int) -> list[Piece]:
        """Turn to an item unless it is there already; what an unfinished one showed is taken back."""
        if self._item is not None and self._item[0] == item_id and attempt <= self._item[1]:
            return []
        void = any(self._shown.values())
        self._item = (item_id, attempt)
        self._shown = {"text": "", "thinking": ""}
        return [AnswerRestart()] if void else []

    def _delta(self, delta: Json) -> list[Piece]:
        kind = str(delta["kind"])
        if kind == "output":
            return self._output(delta)
        if kind not in self._shown:
            return []
        item_id, attempt = str(delta["item_id"]), int(delta["attempt"])
        if self._item is not None and self._item[0] == item_id and attempt < self._item[1]:
            return []
        self.running = str(delta["run_id"])
        shown = self._begin(item_id, attempt)
        have, offset = len(self._shown[kind]), int(delta["offset"])
        text = str(delta["text"])[have - offset :] if offset <= have else ""
        if text:
            self._shown[kind] += text
            shown.append(ReasoningText(text) if kind == "thinking" else AnswerText(text))
        return shown

    def _message(self, event: Json) -> list[Piece]:
        message = event["message"]
        if message["role"] != "assistant":
            note = SENT_BACK.get(str(event.get("follow_up")))
            return [Notice(note)] if note is not None else []
        shown: list[Piece] = []
        mine = self._item is None or self._item[0] == event["item_id"]
        had = self._shown["text"] if mine else ""
        text = answer_text(message)
        if not text.startswith(had):
            shown.append(AnswerRestart())
            had = ""
        if text[len(had) :]:
            shown.append(AnswerText(text[len(had) :]))
        if mine:
            self._item, self._shown = None, {"text": "", "thinking": ""}
        return [*shown, MessageEnd(str(event.get("stop_reason", "end"))), *self._called(message)]

    def _ended(self, run_id: str, event: Json) -> list[Piece]:
        shown = self._started(run_id) if run_id in self._waiting else []
        self.running = None
        self._calls.clear()
        error: Any = event.get("error") or {}
        return [*shown, RunEnd(run_id, str(event["outcome"]), str(error.get("message", "")))]


def calls_of(message: Json) -> list[CallRequest]:
    """The calls that a message asks for, as they are shown."""
    return [
        CallRequest(str(item["call_id"]), str(item["name"]), about(item.get("arguments")))
        for item in _calls(message)
    ]


def _calls(message: Json) -> list[Json]:
    return [item for item in message["items"] if item.get("kind") == "tool_call"]


def _approval_closed(call: _Call, event: Json) -> ApprovalClosing:
    how = str(event.get("decision") or event["how"])
    # The denial that follows from it need not be told again.
    call.told = call.told or how in ("deny", "expired")
    by = str(event.get("actor", "daemon")) if "decision" in event else ""
    reason, remember = str(event.get("note", "")), str(event.get("remember", "once"))
    return ApprovalClosing(str(event["approval_id"]), call.tool, call.about, how, by, reason, remember)


def _question_closed(event: Json, asked: list[Json]) -> QuestionClosing:
    if "how" in event:
        return QuestionClosing(str(event["question_id"]), str(event["how"]))
    labels = {
        (question["key"], option["option_id"]): str(option["label"])
        for question in asked
        for option in question.get("options", ())
    }
    answers = [
        answer | {"selected": [labels.get((answer["key"], one), one) for one in answer.get("selected", ())]}
        for answer in event.get("answers", ())
    ]
    how = "declined" if event.get("declined") else "answered"
    by = str(event.get("actor", "daemon"))
    return QuestionClosing(str(event["question_id"]), how, by, answers_text(answers))


def _doubt_closed(event: Json) -> DoubtClosing:
    note = str(event.get("justification") or event.get("note") or "")
    by = str(event.get("actor", "daemon"))
    return DoubtClosing(str(event["indoubt_id"]), str(event["tool"]), str(event["outcome"]), by, note)


def _compacted(event: Json) -> str:
    what = "a summary" if event["strategy"] == "summary" else "less"
    before, after = event.get("pre_tokens", 0), event.get("post_tokens", 0)
    counted = f": {before} tokens became {after}" if before and after else ""
    return f"the model is shown {what} of what was said so far{counted}"


def _retry(event: Json) -> str:
    wait_s = max(0, int(event["retry_at_ms"]) - int(event["at_ms"])) / 1000
    when = f"in {duration(wait_s)}" if wait_s else "now"
    return f"the model call failed ({event['error']['message']}); trying again {when}"
