"""The follower of a session: turns journal notifications into display changes. Pure.

A follower sees two kinds of notification: durable events, in the order of their cursors, and deltas of live
text, which arrive at once and may arrive again after a reconnection. It emits every character of an answer
once:

* An item (one message being written) is identified by its id; its text counts from offset 0.
* A delta that overlaps the text so far adds its new part. A delta beyond the text so far is ignored, because
  the durable message will contain everything.
* A higher attempt, or another item before the first one was finished, voids the text so far:
  ``AnswerRestart``.
* The durable message adds the text that the deltas did not contain, and ends the item: ``MessageEnd``.

The output of a running call is live only: the daemon keeps its end. A delta beyond the output so far means
that a part is missing, so it replaces the output so far.
"""

from kheishctl.contract import Json
from kheishctl.render.calls import summarize_arguments
from kheishctl.render.changes import (
    AnswerRestart,
    AnswerText,
    ApprovalClosing,
    ApprovalOpening,
    CallEnd,
    CallOutput,
    CallRequest,
    CallStart,
    CallVerdict,
    DisplayChange,
    DoubtClosing,
    DoubtOpening,
    MessageEnd,
    Notice,
    QuestionClosing,
    QuestionOpening,
    QueuedInput,
    ReasoningText,
    RunEnd,
    StartedInput,
    SteerText,
)
from kheishctl.render.events import format_passed_over, format_place, format_task_end
from kheishctl.render.messages import format_message, join_answer_text, name_author
from kheishctl.render.pending import format_answers
from kheishctl.render.units import format_duration

FOLLOW_UP_NOTES = {
    "output_contract": "the answer violates its contract; the agent is asked to correct it",
    "completion": "a requirement is not met yet; the agent is reminded",
    "length": "the agent is asked to continue",
    "pause": "the provider paused the turn; the agent is asked to continue",
}
"""Notes on another model call after an answer, by its cause."""


class _Call:
    """A call without a result; ``output`` is the attempt and the end offset of its output so far."""

    def __init__(self, tool: str, summary: str = "", arguments: Json | None = None) -> None:
        self.tool = tool
        self.summary = summary
        self.arguments: Json = {} if arguments is None else arguments
        self.verdict = ""
        self.denial_shown = False
        self.output = (0, 0)


class StreamFollower:
    """The follower of one session or run. ``cursor`` is the cursor of the last event."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.running: str | None = None
        self._item: tuple[str, int] | None = None
        self._text = {"text": "", "thinking": ""}
        self._inputs: dict[str, tuple[str, str]] = {}
        self._queued: dict[str, str] = {}
        self._calls: dict[str, _Call] = {}
        self._questions: dict[str, list[Json]] = {}

    def learn(self, message: Json) -> None:
        """Read an earlier message, so that later events about its calls can be understood."""
        self._add_calls(message)

    def resume(self, run: Json) -> list[DisplayChange]:
        """Return the running calls of a run that started before this follower."""
        changes: list[DisplayChange] = []
        for record in run.get("calls", ()):
            call_id = str(record["call_id"])
            call = self._calls.setdefault(call_id, _Call(str(record["tool"])))
            if record["state"] == "called":
                call.output = (int(record.get("attempt", 1)), 0)
                changes.append(CallStart(call_id, call.tool, call.summary, int(record["called_at_ms"])))
        return changes

    def feed(self, method: str, params: Json) -> list[DisplayChange]:
        """Return the changes of one notification."""
        match method:
            case "journal.event":
                return self._read_event(int(params["cursor"]), params["event"])
            case "journal.synced":
                self.cursor = max(self.cursor, int(params["cursor"]))
            case "journal.delta":
                return self._read_delta(params)
            case "journal.gap":
                start, end = int(params["from"]), int(params["to"])
                if params.get("reason") == "restored":
                    self.cursor = end
                    return [Notice("a backup was restored: events shown here may not be in it")]
                if end < start:
                    self.cursor = end
                    return [Notice("the daemon's history ends before the last event shown here")]
                self.cursor = max(self.cursor, end)
                return [Notice("a part of the history was pruned")]
            case _:
                pass  # A later version added this notification.
        return []

    def queue_input(self, run_id: str, text: str, sender: str) -> DisplayChange:
        """Learn the input of a queued run, which was accepted before the events that follow."""
        self._inputs[run_id] = (text, sender)
        self._queued[run_id] = run_id
        return QueuedInput(text, sender, run_id)

    # Events.

    def _read_event(self, cursor: int, event: Json) -> list[DisplayChange]:
        if cursor <= self.cursor:
            return []
        self.cursor = cursor
        run_id = str(event.get("run_id") or "")
        match event.get("type"):
            case "input_received":
                sender = name_author(str(event.get("guest") or event.get("sender") or ""), event)
                self._inputs[str(event["input_id"])] = (format_message(event), sender)
            case "run_accepted":
                input_id = str(event["input_id"])
                if input_id in self._inputs:
                    self._queued[run_id] = input_id
                    return [QueuedInput(*self._inputs[input_id], run_id)]
            case "run_started":
                return self._start_run(run_id)
            case "model_asked":
                return self._start_item(str(event["item_id"]), int(event["attempt"]))
            case "message_appended":
                return self._end_item(event)
            case "run_ended":
                message = str((event.get("error") or {}).get("message", ""))
                end = RunEnd(run_id, str(event["outcome"]), message)
                if run_id in self._queued and self.running not in (None, run_id):
                    # It was withdrawn from the queue; another run goes on.
                    self._inputs.pop(self._queued.pop(run_id), None)
                    return [end]
                changes = self._start_run(run_id) if run_id in self._queued else []
                self.running = None
                self._calls.clear()
                return [*changes, end]
            case "steered":
                sender = name_author(str(event.get("sender") or ""), event)
                return [SteerText(format_message(event), sender)]
            case "calls_judged":
                return self._judge_calls(event)
            case kind if "call_id" in event:
                return self._read_call_event(str(kind), event)
            case _:
                return _notices(event)
        return []

    def _start_run(self, run_id: str) -> list[DisplayChange]:
        self.running = run_id
        pending = self._inputs.pop(self._queued.pop(run_id, ""), None)
        return [] if pending is None else [StartedInput(*pending, run_id)]

    # The answer.

    def _start_item(self, item_id: str, attempt: int) -> list[DisplayChange]:
        """Switch to an item unless it is the current one; unfinished text of the previous item is void."""
        if self._item is not None and self._item[0] == item_id and attempt <= self._item[1]:
            return []
        is_void = any(self._text.values())
        self._item = (item_id, attempt)
        self._text = {"text": "", "thinking": ""}
        return [AnswerRestart()] if is_void else []

    def _read_delta(self, delta: Json) -> list[DisplayChange]:
        kind = str(delta["kind"])
        if kind == "output":
            return self._read_output(delta)
        if kind not in self._text:
            return []
        item_id, attempt = str(delta["item_id"]), int(delta["attempt"])
        if self._item is not None and self._item[0] == item_id and attempt < self._item[1]:
            return []
        self.running = str(delta["run_id"])
        changes = self._start_item(item_id, attempt)
        length, offset = len(self._text[kind]), int(delta["offset"])
        text = str(delta["text"])[length - offset :] if offset <= length else ""
        if text:
            self._text[kind] += text
            changes.append(ReasoningText(text) if kind == "thinking" else AnswerText(text))
        return changes

    def _end_item(self, event: Json) -> list[DisplayChange]:
        message = event["message"]
        if message["role"] != "assistant":
            note = FOLLOW_UP_NOTES.get(str(event.get("follow_up")))
            return [Notice(note)] if note is not None else []
        changes: list[DisplayChange] = []
        is_current = self._item is None or self._item[0] == event["item_id"]
        previous = self._text["text"] if is_current else ""
        text = join_answer_text(message)
        if not text.startswith(previous):
            changes.append(AnswerRestart())
            previous = ""
        if text[len(previous) :]:
            changes.append(AnswerText(text[len(previous) :]))
        if is_current:
            self._item, self._text = None, {"text": "", "thinking": ""}
        changes.append(MessageEnd(str(event.get("stop_reason", "end"))))
        if (notes := format_passed_over(event)) and event.get("route"):
            changes.append(Notice("; ".join([f"{event['route']} answered", *notes])))
        return [*changes, *self._add_calls(message)]

    # Calls, approvals, questions and calls in doubt.

    def _add_calls(self, message: Json) -> list[DisplayChange]:
        requests = list_calls(message)
        for request, item in zip(requests, _call_items(message), strict=True):
            self._calls[request.call_id] = _Call(request.tool, request.summary, item.get("arguments") or {})
        return list(requests)

    def _judge_calls(self, event: Json) -> list[DisplayChange]:
        changes: list[DisplayChange] = []
        for verdict in event["verdicts"]:
            call_id, decision, source = str(verdict["call_id"]), str(verdict["decision"]), str(verdict["why"])
            if decision == "deny" and call_id in self._calls:
                self._calls[call_id].verdict = source
            changes.append(CallVerdict(call_id, str(verdict["tool"]), decision, source))
        return changes

    def _read_call_event(self, kind: str, event: Json) -> list[DisplayChange]:
        call_id = str(event["call_id"])
        call = self._calls.get(call_id) or _Call(str(event.get("tool", "")))
        if kind not in ("tool_returned", "indoubt_resolved"):
            self._calls[call_id] = call
        match kind:
            case "tool_called":
                return self._start_call(call_id, call, event)
            case "tool_returned":
                self._calls.pop(call_id, None)
                result = (str(event["how"]), str(event["text"]), event.get("took_ms"))
                denial = (call.verdict, call.denial_shown)
                return [CallEnd(call_id, str(event["tool"]), call.summary, *result, *denial)]
            case "approval_requested":
                details = {"arguments": call.arguments, "requested_at_ms": event["at_ms"]}
                return [ApprovalOpening(event | details)]
            case "approval_answered" | "approval_lapsed":
                return [_close_approval(call, event)]
            case "question_asked":
                self._questions[str(event["question_id"])] = event["questions"]
                return [QuestionOpening(event | {"asked_at_ms": event["at_ms"]})]
            case "question_answered" | "question_lapsed":
                questions = self._questions.pop(str(event["question_id"]), [])
                return [_close_question(event, questions)]
            case "indoubt_opened":
                return [DoubtOpening(event | {"arguments": call.arguments})]
            case "indoubt_resolved":
                note = str(event.get("justification") or event.get("note") or "")
                resolution = (str(event["outcome"]), str(event.get("actor", "daemon")), note)
                return [DoubtClosing(str(event["indoubt_id"]), str(event["tool"]), *resolution)]
            case "call_probed":
                return [Notice(f"the daemon crashed during {call.tool}, which had no effect; it runs again")]
            case _:
                return []

    def _start_call(self, call_id: str, call: _Call, event: Json) -> list[DisplayChange]:
        attempt = int(event.get("attempt", 1))
        changes: list[DisplayChange] = []
        # Output arrives at once, so it may arrive before the event of its call.
        if attempt > call.output[0]:
            changes = [CallOutput(call_id, "", True)] if call.output[1] else []
            call.output = (attempt, 0)
        return [*changes, CallStart(call_id, call.tool, call.summary, int(event["at_ms"]))]

    def _read_output(self, delta: Json) -> list[DisplayChange]:
        call_id, attempt, offset = str(delta["item_id"]), int(delta["attempt"]), int(delta["offset"])
        call = self._calls.get(call_id)
        if call is None or attempt < call.output[0]:
            return []
        text, end = str(delta["text"]), offset + len(delta["text"])
        fresh = attempt > call.output[0] or offset > call.output[1]
        if not fresh:
            text = text[call.output[1] - offset :]
            end = max(end, call.output[1])
        call.output = (attempt, end)
        return [CallOutput(call_id, text, fresh)] if text or fresh else []


def list_calls(message: Json) -> list[CallRequest]:
    """Return the calls that a message requests."""
    return [
        CallRequest(str(item["call_id"]), str(item["name"]), summarize_arguments(item.get("arguments")))
        for item in _call_items(message)
    ]


def list_failures(message: Json) -> list[CallEnd]:
    """Return the failed results in a message."""
    return [
        CallEnd(str(item.get("call_id", "")), str(item["name"]), "", "failed", str(item.get("text", "")))
        for item in message["items"]
        if item.get("kind") == "tool_result" and item.get("is_error")
    ]


def _call_items(message: Json) -> list[Json]:
    return [item for item in message["items"] if item.get("kind") == "tool_call"]


def _close_approval(call: _Call, event: Json) -> ApprovalClosing:
    outcome = str(event.get("decision") or event["how"])
    # The denied result that follows need not be shown again.
    call.denial_shown = call.denial_shown or outcome in ("deny", "expired")
    actor = str(event.get("actor", "daemon")) if "decision" in event else ""
    note, remember = str(event.get("note", "")), str(event.get("remember", "once"))
    return ApprovalClosing(str(event["approval_id"]), call.tool, call.summary, outcome, actor, note, remember)


def _close_question(event: Json, questions: list[Json]) -> QuestionClosing:
    if "how" in event:
        return QuestionClosing(str(event["question_id"]), str(event["how"]))
    labels = {
        (question["key"], option["option_id"]): str(option["label"])
        for question in questions
        for option in question.get("options", ())
    }
    answers = [
        answer | {"selected": [labels.get((answer["key"], id_), id_) for id_ in answer.get("selected", ())]}
        for answer in event.get("answers", ())
    ]
    outcome = "declined" if event.get("declined") else "answered"
    actor = str(event.get("actor", "daemon"))
    return QuestionClosing(str(event["question_id"]), outcome, actor, format_answers(answers))


def _notices(event: Json) -> list[DisplayChange]:
    """Return the notes on events that need no state; none for events that a person need not see."""
    match event.get("type"):
        case "model_failed" if event["retry_at_ms"] is None:
            # The end of the run states the failure.
            return []
        case "model_failed" if event.get("next_route"):
            following = format_place(event["next_route"], event.get("next_auth_ref"))
            note = f"the model call failed ({event['error']['message']}); asking {following} instead"
            if event["next_route"] != event.get("route"):
                note += ", whose prompt cache is empty"
            note = "; ".join([note, *format_passed_over(event)])
        case "model_failed":
            wait_s = max(0, int(event["retry_at_ms"]) - int(event["at_ms"])) / 1000
            delay = f"in {format_duration(wait_s)}" if wait_s else "now"
            note = f"the model call failed ({event['error']['message']}); retrying {delay}"
        case "session_ended":
            note = "the session has ended and accepts no more input"
        case "cron_reported":
            note = f"the cron entry {event['cron_id']} could not wake this session: {event['note']}"
            note += "; it is disabled now" if event.get("disabled") else ""
        case "session_updated" if changes := [
            f"the {name.replace('_', ' ')} is now {value}"
            for name in ("permission_mode", "route", "model")
            if (value := event["changes"].get(name))
        ]:
            note = f"{', '.join(changes)}; it applies to runs accepted from here on"
        case "context_compacted":
            content = "a summary" if event["strategy"] == "summary" else "less"
            previous, current = event.get("pre_tokens", 0), event.get("post_tokens", 0)
            counts = f": {previous} tokens became {current}" if previous and current else ""
            note = f"the model now sees {content} of the conversation so far{counts}"
        case "compaction_failed":
            note = f"the conversation could not be summarized: {event['error']['message']}"
        case "task_stalled":
            note = f"the background shell {event['task_id']} waits for input, which it cannot receive"
        case "task_ended":
            note = f"the background shell {event['task_id']} has ended: {format_task_end(event)}"
        case "task_adopted":
            note = f"the background shell {event['task_id']} of a closed agent belongs to this session now"
        case _:
            return []
    return [Notice(note)]
