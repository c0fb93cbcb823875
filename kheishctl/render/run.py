"""Format the state of a run: its record, its pending requests, and the commands that answer them."""

from collections.abc import Callable, Iterator

from kheishctl.contract import Json
from kheishctl.render.layout import Display, fit, format_pairs, paint
from kheishctl.render.messages import STOP_NOTES
from kheishctl.render.units import format_duration, format_money
from protocol.text import one_line

# The pending requests that a message names; the rest is available through a list command.
MAX_PENDING_SHOWN = 8

STATUS_STYLE = {
    "queued": "dim",
    "running": "cyan",
    "waiting_for_approval": "yellow",
    "waiting_for_user_question": "yellow",
    "waiting_for_event": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
}

CALL_STATES = {
    "new": "not judged yet",
    "ready": "ready",
    "asked": "needs approval",
    "questioned": "waits for an answer",
    "called": "running",
    "awaiting": "waits for an event",
    "doubted": "in doubt",
    "returned": "returned",
}

CommandLine = Callable[..., str]
"""A function that returns the command line of some words, quoted for a shell."""


def paint_status(status: str, display: Display) -> str:
    """Return the status of a run in its color."""
    return paint(one_line(status), STATUS_STYLE.get(status, "dim"), display.color)


def describe_outcome(run: Json, command_line: CommandLine) -> str:
    """Return a sentence about a run without an answer, with the next command; empty for a completed run."""
    status, error, run_id = run.get("status"), run.get("error") or {}, str(run.get("run_id"))
    match status:
        case "completed":
            return ""
        case "failed":
            return one_line(f"the run failed: {error.get('message', 'its error was not recorded')}")
        case "cancelled" | "interrupted":
            return f"the run was {status}"
        case "waiting_for_approval":
            return f"the run needs approval: {command_line('approval', 'list', '--run', run_id)}"
        case "waiting_for_user_question":
            return f"the run waits for an answer: {command_line('question', 'list', '--run', run_id)}"
        case "waiting_for_event":
            return f"the run waits for an event: {command_line('run', 'show', run_id)}"
        case _:
            return one_line(f"the run is {status} and continues: {command_line('run', 'wait', run_id)}")


def explain_run(run: Json, command_line: CommandLine) -> Iterator[str]:
    """Yield sanitized lines about an incomplete answer and pending requests, with the commands to answer."""
    if run.get("stop_reason") in STOP_NOTES:
        yield STOP_NOTES[run["stop_reason"]]
    waiting = run.get("waiting", {})
    for approval in waiting.get("approvals", ())[:MAX_PENDING_SHOWN]:
        subject = f": {approval['subject']}" if approval.get("subject") else ""
        yield one_line(f"{approval['tool']} needs approval{subject}")
        for verb in ("show", "allow", "deny"):
            yield "  " + command_line("approval", verb, approval["approval_id"])
    for question in waiting.get("questions", ())[:MAX_PENDING_SHOWN]:
        answers = []
        for part in question["questions"]:
            labels = [str(option["label"]) for option in part.get("options", ())]
            yield one_line(
                f"the agent asks: {part['question']}" + (f" ({', '.join(labels)})" if labels else "")
            )
            answers += ["--answer", f"{part['key']}={labels[0] if labels else '...'}"]
        yield "  " + command_line("question", "answer", question["question_id"], *answers)
    if sum(map(len, waiting.values())) > MAX_PENDING_SHOWN:
        noun = "approval" if "approvals" in waiting else "question"
        yield f"there are more: {command_line(noun, 'list', '--run', run['run_id'])}"


def format_run(run: Json, display: Display) -> str:
    """Format the state of a run: its settings, its use of time and tokens, its open calls, its error."""
    pinned, error, started = run["pinned"], run.get("error") or {}, run.get("started_at_ms")
    agent = str(run["agent"]) + (f" as {run['sender']}" if run.get("sender") else "")
    duration = started and format_duration(((run.get("ended_at_ms") or display.now_ms) - started) / 1000)
    usage, retry_ms, goal = run.get("usage") or {}, run.get("retry_at_ms"), run.get("goal")
    position = run.get("queue_position")
    parts = (
        ("cached", "cached_input_tokens"),
        ("written to the cache", "cache_write_tokens"),
        ("reasoning", "reasoning_tokens"),
    )
    details = "".join(f", {usage[field]} {name}" for name, field in parts if usage.get(field))
    pairs = [
        ("run", str(run["run_id"])),
        ("status", str(run["status"]).replace("_", " ")),
        ("agent", agent + (f", guest {run['guest']}" if run.get("guest") else "")),
        ("session", str(run["session_id"])),
        ("goal", goal and f"continuation {goal['number']}: {goal['reason']}"),
        ("route", f"{pinned['route']} ({pinned['model']})"),
        ("answered by", run.get("route")),
        *(("passed over", note) for note in run.get("passed_over", ())),
        ("request", run.get("request_id") and str(run["request_id"])),
        ("mode", pinned.get("permission_mode")),
        ("workspace", pinned.get("workspace")),
        ("accepted", display.format_time(run["accepted_at_ms"])),
        ("took", duration),
        ("queue", position and f"number {position} in the session's queue"),
        *_describe_waits(run, display),
        ("retry", retry_ms and f"attempt {run.get('failures', 0) + 1} at {display.format_time(retry_ms)}"),
        ("answers", str(run.get("turn", 0))),
        ("tokens", f"{usage.get('input_tokens', 0)} read, {usage.get('output_tokens', 0)} written{details}"),
        ("cost", format_money(run.get("cost"))),
        ("error", error.get("message")),
        ("reason", error.get("reason")),
    ]
    calls = [_format_call(call, display) for call in run.get("calls", ())]
    return "\n".join([format_pairs(pairs, display), *calls])


def _describe_waits(run: Json, display: Display) -> Iterator[tuple[str, str]]:
    """Yield each thing for which a run waits: since when, and when the wait ends by itself."""
    waiting = run.get("waiting", {})
    waits = [
        (f"approval of {row['tool']} {row.get('subject') or ''}".rstrip(), row.get("requested_at_ms"), row)
        for row in waiting.get("approvals", ())
    ]
    waits += [
        ("an answer to its question", row.get("asked_at_ms"), row) for row in waiting.get("questions", ())
    ]
    waits += [(f"an event of {row['source']}", row.get("at_ms"), row) for row in waiting.get("events", ())]
    for text, since_ms, row in waits[:MAX_PENDING_SHOWN]:
        since = f", since {display.format_time(since_ms)}" if since_ms else ""
        until_ms = row.get("expires_at_ms")
        until = f", until {display.format_time(until_ms)}" if until_ms else ", without a limit"
        yield "waits for", text + since + until


def _format_call(call: Json, display: Display) -> str:
    state = str(call["state"])
    text = CALL_STATES.get(state, state)
    if state == "called" and call.get("called_at_ms"):
        text += f" since {display.format_time(call['called_at_ms'])}"
    if display.width is None:
        return "\t".join(map(one_line, ("call", str(call["call_id"]), str(call["tool"]), text)))
    return fit(one_line(f"call {call['call_id']}: {call['tool']} {text}"), display.width)
