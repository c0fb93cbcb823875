"""What the daemon says, as text for people. Pure: dictionaries and a Look in, strings out.

Every piece that somebody else wrote is made harmless here (see ``text``); events of types that this
version does not know are shown as they came.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kheishctl import __version__
from kheishctl.client import Json, version_difference
from kheishctl.render.layout import (
    Look,
    clean,
    clock,
    duration,
    fit,
    json_safe,
    one_line,
    paint,
    properties,
    size,
    stamp,
)

# Fields of every event; the rest is what the event itself says.
ENVELOPE = frozenset(
    ("type", "cursor", "at_ms", "session_id", "run_id", "actor", "on_behalf_of", "request_id", "cause")
)

# Why an answer ends where it does, unless it is simply whole.
STOP_NOTES = {
    "length": "the answer was cut off at its length limit",
    "refusal": "the model refused to go on",
}

# Columns for where an event happened: the end of an id, which differs, or "daemon" whole.
PLACE_COLUMNS = 7

STATUS_STYLE = {
    "completed": "green",
    "running": "cyan",
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "waiting_for_approval": "yellow",
    "waiting_for_user_question": "yellow",
}


def item_text(item: Mapping[str, Any]) -> str:
    """One item of a message, in words; not yet harmless."""
    match item.get("kind"):
        case "text":
            return str(item.get("text", ""))
        case "tool_call":
            arguments = json.dumps(item.get("arguments"), ensure_ascii=False)
            return f"[calls {item.get('name')} {arguments}]"
        case "tool_result":
            label = "error from" if item.get("is_error") else "result of"
            return f"[{label} {item.get('name')}] {item.get('text', '')}"
        case "asset":
            return f"[asset {item.get('asset_id')}]"
        case "thinking":
            return ""
        case other:
            return f"[{other}]"


def message_text(message: Mapping[str, Any]) -> str:
    """What a message says; reasoning is left out. Not yet harmless."""
    return "\n".join(filter(None, map(item_text, message.get("items", ()))))


def answer_text(message: Mapping[str, Any]) -> str:
    """The text of an answer exactly as it was streamed: its text items, joined."""
    return "".join(str(item["text"]) for item in message.get("items", ()) if item.get("kind") == "text")


def status_word(status: str, look: Look) -> str:
    """A run's status, colored."""
    return paint(one_line(status), STATUS_STYLE.get(status, "dim"), look.color)


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """How a call was judged, and by what. Not yet harmless."""
    call = f"{verdict['tool']} {verdict.get('subject', '')}".rstrip()
    return f"{call}: {verdict['decision']}, by {verdict['why']}" + _because(verdict.get("note"))


def answers_text(answers: Sequence[Mapping[str, Any]]) -> str:
    """What was answered to questions: options by their ids, or text. Not yet harmless."""
    return " / ".join(
        ", ".join([*each.get("selected", ()), *filter(None, [each.get("text")])]) for each in answers
    )


def _because(reason: object) -> str:
    return f": {reason}" if reason else ""


def _decision(event: Json) -> str:
    remembered = event.get("remember", "once")
    return str(event["decision"]) + ("" if remembered == "once" else f" for this {remembered}")


def _took(event: Json) -> str:
    return f" after {duration(event['took_ms'] / 1000)}" if event.get("took_ms") is not None else ""


def _changes(event: Json) -> str:
    """What an update of a task names, with the values that fit a line. Not yet harmless."""
    brief = ("title", "status", "owner", "blocked_by")
    said = [f"{name} {event[name] if event[name] is not None else '-'}" for name in brief if name in event]
    return ", ".join([*said, *(name for name in ("description", "output", "metadata") if name in event)])


def task_end(event: Json) -> str:
    """How a shell in the background ended. Not yet harmless."""
    code = f" with exit code {event['exit_code']}" if event.get("exit_code") is not None else ""
    return f"{event['status']}, {event['terminal_reason']}{code}" + _because(event.get("problem"))


def person(actor: str) -> str:
    """Who did something, as people call them: the login of a user, where there is one. Not yet harmless."""
    kind, _, number = actor.partition(":")
    if kind != "uid" or not number.isdecimal():
        return actor
    import pwd

    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, OverflowError):
        return actor


# Events.


def _todo_status(todo: Mapping[str, Any]) -> str:
    return str(todo.get("status", "pending")).replace("_", " ")


_Summary = Callable[[Json], str]

_SUMMARIES: dict[str, _Summary] = {
    "daemon_started": lambda e: (
        f"version {e['version']}, pid {e['pid']}" + (", after a crash" if e.get("after_crash") else "")
    ),
    "daemon_stopped": lambda e: str(e["note"]),
    "daemon_reloaded": lambda e: (
        f"generation {e['generation']}" + "".join(f"; {w}" for w in e.get("warnings", ()))
    ),
    "token_created": lambda e: f"{e['token_id']} {e.get('name', '')}",
    "token_revoked": lambda e: f"{e['token_id']} {e.get('reason', '')}",
    "session_created": lambda e: f"{e['agent']} as {e.get('sender') or '-'} {e.get('title') or ''}",
    "session_renamed": lambda e: str(e.get("title") or "(no title)"),
    "session_ended": lambda e: str(e.get("note", "")),
    "session_imported": lambda e: f"{e['source_events']} events of {e['source_session_id']}",
    "transcript_imported": lambda e: f"{e['message']['role']}: {message_text(e['message'])}",
    "conversation_bound": lambda e: f"{e['agent']} as {e['sender']}",
    "conversation_unbound": lambda e: f"{e['agent']} as {e['sender']}",
    "input_received": lambda e: message_text(e),
    "run_accepted": lambda e: f"{e['agent']} on {e['pinned']['route']} ({e['pinned']['model']})",
    "run_started": lambda e: f"start {e['starts']}" + (", alone" if e.get("alone") else ""),
    "model_asked": lambda e: f"turn {e['turn']}, attempt {e['attempt']}",
    "model_failed": lambda e: f"attempt {e['attempt']}: {e['error']['message']}",
    "message_appended": lambda e: message_text(e["message"]),
    "calls_judged": lambda e: "; ".join(map(verdict_text, e["verdicts"])),
    "approval_requested": lambda e: (
        f"{e['approval_id']} {e['tool']} {e.get('subject', '')}" + _because(e.get("note"))
    ),
    "approval_answered": lambda e: (
        f"{_decision(e)} by {e.get('actor', 'daemon')}" + _because(e.get("note") or e.get("justification"))
    ),
    "approval_lapsed": lambda e: f"{e['approval_id']} {e['how']}",
    "question_asked": lambda e: (
        f"{e['question_id']} " + " / ".join(str(each["question"]) for each in e["questions"])
    ),
    "question_answered": lambda e: (
        f"{'declined' if e.get('declined') else answers_text(e['answers'])} by {e.get('actor', 'daemon')}"
    ),
    "question_lapsed": lambda e: f"{e['question_id']} {e['how']}",
    "tool_called": lambda e: f"{e['tool']} {e['call_id']}, attempt {e.get('attempt', 1)}",
    "tool_observed": lambda e: f"{e['call_id']} {json.dumps(e['evidence'], ensure_ascii=False)}",
    "tool_returned": lambda e: f"{e['tool']} {e['how']}{_took(e)}" + _because(e["text"]),
    "indoubt_opened": lambda e: f"{e['indoubt_id']} {e['tool']}" + _because(e.get("note")),
    "indoubt_resolved": lambda e: (
        f"{e['tool']} {e['outcome']} by {e.get('actor', 'daemon')}"
        + _because(e.get("justification") or e.get("note"))
    ),
    "call_probed": lambda e: f"{e['tool']} {e['call_id']} runs again" + _because(e.get("note")),
    "steered": lambda e: f"{e.get('sender') or ''}" + _because(message_text(e)),
    "context_compacted": lambda e: (
        f"{e['trigger']} {e['strategy']} up to {e['upto']}, "
        f"{e.get('pre_tokens', 0)} to {e.get('post_tokens', 0)} tokens"
    ),
    "compaction_failed": lambda e: f"{e['trigger']}: {e['error']['message']}",
    "task_created": lambda e: f"{e['task_id']} {e['title']}",
    "task_updated": lambda e: f"{e['task_id']} " + _changes(e) + _because(e.get("note")),
    "task_deleted": lambda e: str(e["task_id"]),
    "task_started": lambda e: f"{e['task_id']} as process {e['pid']}",
    "task_stop_requested": lambda e: (
        f"{e['task_id']} by {e.get('actor', 'daemon')}" + _because(e.get("note"))
    ),
    "task_stalled": lambda e: f"{e['task_id']} wrote a question and waits",
    "task_ended": lambda e: f"{e['task_id']} " + task_end(e),
    "permissions_changed": lambda e: "; ".join(
        [
            *(f"{r['decision']} {r['tool']} {r.get('subject') or ''}" for r in e.get("add", ())),
            *(f"no rule {r['tool']} {r.get('subject') or ''}" for r in e.get("remove", ())),
            *(f"no grant {grant_id}" for grant_id in e.get("revoke", ())),
        ]
    ),
    "output_emitted": lambda e: str(e["text"]),
    "requirement_satisfied": lambda e: str(e["path"]),
    "todos_written": lambda e: ", ".join(f"{t['content']} ({_todo_status(t)})" for t in e["todos"]),
    "plan_entered": lambda e: str(e.get("note", "")),
    "plan_exited": lambda e: str(e.get("summary") or e["content"]),
    "run_released": lambda e: str(e.get("note", "")),
    "cancel_requested": lambda e: f"{e['outcome']} {e.get('reason', '')}",
    "run_ended": lambda e: str(e["outcome"]) + (f": {e['error']['message']}" if e.get("error") else ""),
}


def event_summary(event: Json) -> str:
    """What an event says besides its envelope, on one harmless line."""
    summary = _SUMMARIES.get(str(event.get("type")))
    if summary is not None:
        try:
            return one_line(summary(event))
        except (LookupError, TypeError, AttributeError):
            pass  # Another version's shape of a type we know: show it as it came.
    rest = {name: value for name, value in event.items() if name not in ENVELOPE}
    return one_line(json.dumps(rest, ensure_ascii=False)) if rest else ""


def event_line(event: Json, look: Look) -> str:
    """An event on one line: when, where, what. Tab-separated and whole for a pipe."""
    cursor, kind, at_ms = event.get("cursor", 0), one_line(str(event.get("type"))), event.get("at_ms", 0)
    where = one_line(str(event.get("run_id") or event.get("session_id") or "daemon"))
    if look.width is None:
        return "\t".join((str(cursor), stamp(at_ms), where, kind, event_summary(event)))
    label = kind.replace("_", " ")
    place = where.ljust(PLACE_COLUMNS) if len(where) <= PLACE_COLUMNS else f"…{where[1 - PLACE_COLUMNS :]}"
    plain = f"{clock(at_ms)}  {cursor:>6}  {place}  {label:<18}  {event_summary(event)}"
    cut = fit(plain, look.width)
    return cut.replace(label, paint(label, "cyan", look.color), 1)


def delta_line(delta: Json, look: Look) -> str:
    """A piece of an answer being written, on one line."""
    text = json_safe(json.dumps(delta.get("text", ""), ensure_ascii=False))
    line = f"{delta.get('run_id')}\t{delta.get('kind')}\t{delta.get('offset')}\t{text}"
    return paint(clean(line), "dim", look.color)


# Messages.


def history(messages: Sequence[Json], look: Look) -> str:
    """Messages as a conversation, oldest first; for a pipe with a tab after the role."""
    return "\n".join(_message(entry, look) for entry in messages)


def _message(entry: Json, look: Look) -> str:
    message = entry["message"]
    who = one_line(str(message.get("agent") or entry.get("sender") or message["role"]))
    body = clean(message_text(message))
    if look.width is None:
        return f"{stamp(entry['at_ms'])}\t{one_line(message['role'])}\t{one_line(body)}"
    style = "green" if message["role"] == "user" else "blue"
    when = paint(clock(entry["at_ms"]), "dim", look.color)
    cut = " (stopped)" if entry.get("stop_reason") == "cancelled" else ""
    return f"{paint(who, style, look.color)} {when}{cut}\n{body}\n"


# The daemon.


def status(result: Json, look: Look) -> str:
    """How the daemon is, in a few lines; warnings last, so that they are read."""
    counts, disk = result["counts"], result["disk"]
    version = str(result["version"])
    pairs = [
        ("daemon", f"version {version}, pid {result['pid']}, up {duration(result['uptime_s'])}"),
        ("home", result["home"]),
        ("listening", ", ".join(result["listeners"])),
        (
            "default",
            f"agent {result.get('default_agent', 'default')}, route {result.get('default_route', 'offline')}",
        ),
        ("sessions", f"{counts['sessions']} in {counts['conversations']} conversations"),
        ("runs", f"{counts['runs']}, {counts['runs_active']} active, {counts['runs_ready']} ready"),
        ("waiting", _waiting(counts)),
        ("clients", f"{counts['connections']} connected, {counts['subscriptions']} following"),
        ("disk", f"{size(disk['used_bytes'])} used, {size(disk['free_bytes'])} free"),
        ("memory", size(result["memory_bytes"])),
        ("journal", f"at cursor {result['cursor']}"),
    ]
    lines = [properties(pairs, look)]
    if version != __version__:
        lines.append(paint(one_line(version_difference(version)), "yellow", look.color))
    if result.get("draining"):
        lines.append(paint("The daemon is stopping and takes no new work.", "yellow", look.color))
    lines += [paint(f"warning: {one_line(warning)}", "yellow", look.color) for warning in result["warnings"]]
    if not result["warnings"] and look.width is not None:
        lines.append(paint("healthy", "green", look.color))
    return "\n".join(lines)


def _waiting(counts: Json) -> str | None:
    """What waits for a person, as far as anything does; older daemons do not say."""
    kinds = (("approvals", "approval"), ("questions", "question"), ("indoubts", "call in doubt"))
    said = []
    for name, one in kinds:
        count = counts.get(name, 0)
        several = "calls in doubt" if name == "indoubts" else name
        said += [f"{count} {one if count == 1 else several}"] if count else []
    return ", ".join(said) or None


def outcome(run: Json) -> str:
    """What became of a run that gave no answer, in a sentence; empty for one that did."""
    status_name, error = run.get("status"), run.get("error") or {}
    match status_name:
        case "completed":
            return ""
        case "failed":
            return one_line(f"the run failed: {error.get('message', 'no reason was kept')}")
        case "cancelled" | "interrupted":
            return f"the run was {status_name}"
        case "waiting_for_approval":
            return one_line(
                f"the run waits for a person to allow it: kheishctl approval list --run {run.get('run_id')}"
            )
        case "waiting_for_user_question":
            return one_line(f"the run waits for an answer: kheishctl question list --run {run.get('run_id')}")
        case _:
            return one_line(f"the run is {status_name} and goes on: kheishctl run wait {run.get('run_id')}")
