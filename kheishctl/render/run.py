"""How a run stands, as text, and what its record does not say: why its answer ends there, what waits."""

from collections.abc import Callable, Iterator
from typing import Any

from kheishctl.client import Failure, Json
from kheishctl.render.events import STOP_NOTES
from kheishctl.render.layout import Look, ago, clock, duration, fit, one_line, properties, stamp

WAITS = ("waiting_for_approval", "waiting_for_user_question")
LISTED = (("approval.list", "approvals"), ("question.list", "questions"))

# What is named of much that waits; the rest is listed by a command.
MAX_NAMED = 8

Call = Callable[[str, Json], Any]
Typed = Callable[..., str]
"""The command of some words, ready to be typed."""


def looked_into(call: Call, run: Json) -> Json:
    """A run, or the result of a send, with what is ``waiting`` and why its answer is not whole.

    Shape:  ``waiting``, by kind, for a run that waits for a person; ``stop_reason`` for an answer that was
            cut. What cannot be had is left out: we may not read it, the daemon is older or just gone.
    """
    try:
        if run.get("status") in WAITS:
            found = {plural: call(method, {"run_id": run["run_id"]})[plural] for method, plural in LISTED}
            return run | {"waiting": {plural: rows for plural, rows in found.items() if rows}}
        if run.get("status") == "completed":
            newest = {"types": ["message_appended"], "order": "newest", "limit": 1}
            events = call("journal.read", {"run_id": run["run_id"], **newest})["events"]
            reason = events[0].get("stop_reason") if events else None
            return run | ({"stop_reason": reason} if reason in STOP_NOTES else {})
    except Failure:
        pass
    return run


def sentences(run: Json, typed: Typed) -> Iterator[str]:
    """What is to be said of a run that was looked into: harmless lines, with the commands that go on."""
    if run.get("stop_reason") in STOP_NOTES:
        yield STOP_NOTES[run["stop_reason"]]
    waiting = run.get("waiting", {})
    for approval in waiting.get("approvals", ())[:MAX_NAMED]:
        subject = f": {approval['subject']}" if approval.get("subject") else ""
        yield one_line(f"{approval['tool']} waits for a yes or no{subject}")
        yield "  " + typed("approval", "show", approval["approval_id"])
        yield "  " + typed("approval", "allow", approval["approval_id"])
        yield "  " + typed("approval", "deny", approval["approval_id"])
    for question in waiting.get("questions", ())[:MAX_NAMED]:
        for part in question["questions"]:
            yield one_line(f"the agent asks: {part['question']}{_options(part)}")
        yield "  " + typed("question", "answer", question["question_id"], *_answers(question))
    if sum(map(len, waiting.values())) > MAX_NAMED:
        noun = "approval" if "approvals" in waiting else "question"
        yield f"and more: {typed(noun, 'list', '--run', run['run_id'])}"


def _options(part: Json) -> str:
    labels = [str(option["label"]) for option in part.get("options", ())]
    return f" ({', '.join(labels)})" if labels else ""


def _answers(question: Json) -> Iterator[str]:
    for part in question["questions"]:
        option = next((str(option["label"]) for option in part.get("options", ())), "...")
        yield "--answer"
        yield f"{part['key']}={option}"


_CALL_STATES = {
    "new": "to be judged",
    "ready": "to be run",
    "asked": "waits for a yes or no",
    "questioned": "waits for an answer",
    "called": "runs",
    "doubted": "in doubt",
    "returned": "returned",
}


def run_text(run: Json, look: Look) -> str:
    """How a run stands: what it uses and took, its calls in flight, the error it ended with."""
    pinned, usage, error = run["pinned"], run.get("usage") or {}, run.get("error") or {}
    status_name = str(run["status"])
    who = str(run["agent"]) + (f" as {run['sender']}" if run.get("sender") else "")
    pairs = [
        ("run", str(run["run_id"])),
        ("status", status_name.replace("_", " ")),
        ("agent", who + (f", guest {run['guest']}" if run.get("guest") else "")),
        ("session", str(run["session_id"])),
        ("route", f"{pinned['route']} ({pinned['model']})"),
        ("mode", pinned.get("permission_mode")),
        ("workspace", pinned.get("workspace")),
        ("accepted", _when(run["accepted_at_ms"], look)),
        ("took", _took_in_all(run, look)),
        ("answers", str(run.get("turn", 0))),
        ("tokens", _tokens(usage)),
        ("error", error.get("message")),
    ]
    calls = [_call_line(call, look) for call in run.get("calls", ())]
    return "\n".join([properties(pairs, look), *calls])


def _when(at_ms: int, look: Look) -> str:
    return stamp(at_ms) if look.width is None else f"{clock(at_ms)} ({ago(at_ms, look.now_ms)})"


def _took_in_all(run: Json, look: Look) -> str | None:
    started = run.get("started_at_ms")
    if started is None:
        return None
    return duration(((run.get("ended_at_ms") or look.now_ms) - started) / 1000)


def _tokens(usage: Json) -> str:
    read, written = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    parts = (("cached", "cached_input_tokens"), ("reasoning", "reasoning_tokens"))
    more = "".join(f", {usage[field]} {name}" for name, field in parts if usage.get(field))
    return f"{read} read, {written} written{more}"


def _call_line(call: Json, look: Look) -> str:
    state = str(call["state"])
    said = _CALL_STATES.get(state, state)
    if state == "called" and call.get("called_at_ms"):
        said += f" since {_when(call['called_at_ms'], look)}"
    if look.width is None:
        return "\t".join(map(one_line, ("call", str(call["call_id"]), str(call["tool"]), said)))
    return fit(one_line(f"call {call['call_id']}: {call['tool']} {said}"), look.width)
