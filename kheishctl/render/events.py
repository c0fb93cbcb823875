"""Format journal events and text in progress, one line each.

An event of an unknown type, or of a known type in the shape of another version, is shown as JSON.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from kheishctl.contract import ENVELOPE_FIELDS, Json
from kheishctl.render.layout import Display, fit, paint
from kheishctl.render.messages import format_message, name_author
from kheishctl.render.pending import format_answers
from kheishctl.render.units import format_duration, format_local, format_utc
from protocol.text import escape_json, one_line, sanitize, truncate

# Columns for the run or session of an event: the end of an id, where ids differ, or "daemon".
ORIGIN_COLUMNS = 7

# The part of a published event's payload that a line shows; ``event show`` shows all of it.
MAX_PAYLOAD_BYTES = 160


def _note(text: object) -> str:
    return f": {text}" if text else ""


def _actor(event: Json) -> str:
    return f" by {event.get('actor', 'daemon')}"


def format_verdict(verdict: Mapping[str, Any]) -> str:
    """Format the verdict on a call and its source. Not yet sanitized."""
    call = f"{verdict['tool']} {verdict.get('subject', '')}".rstrip()
    return f"{call}: {verdict['decision']}, by {verdict['why']}" + _note(verdict.get("note"))


def format_task_end(event: Json) -> str:
    """Format the end of a background shell. Not yet sanitized."""
    code = f" with exit code {event['exit_code']}" if event.get("exit_code") is not None else ""
    return f"{event['status']}, {event['terminal_reason']}{code}" + _note(event.get("problem"))


def _summarize_approval(event: Json) -> str:
    remember = event.get("remember", "once")
    extent = "" if remember == "once" else f" for this {remember}"
    return (
        f"{event['decision']}{extent}"
        + _actor(event)
        + _note(event.get("note") or event.get("justification"))
    )


def _summarize_task_update(event: Json) -> str:
    short = ("title", "status", "owner", "blocked_by")
    changes = [f"{name} {'-' if event[name] is None else event[name]}" for name in short if name in event]
    changes += [name for name in ("description", "output", "metadata") if name in event]
    return f"{event['task_id']} {', '.join(changes)}" + _note(event.get("note"))


def _describe_rule(rule: Json) -> str:
    origin = f" for the origin {rule['origin']}" if "origin" in rule else ""
    return f"{rule['tool']} {rule.get('subject') or ''}{origin}"


def _summarize_permissions(event: Json) -> str:
    added = (f"{rule['decision']} {_describe_rule(rule)}" for rule in event.get("add", ()))
    removed = (f"no rule {_describe_rule(rule)}" for rule in event.get("remove", ()))
    revoked = (f"no grant {grant_id}" for grant_id in event.get("revoke", ()))
    return "; ".join([*added, *removed, *revoked])


def describe_gap(gap: Json) -> str:
    """Describe a gap in the journal, with its consequence."""
    start, end = gap["from"], gap["to"]
    if gap.get("reason") == "restored":
        lost = f"the events after cursor {end} that you saw are not in it" if end < start else "none is lost"
        return (
            f"a backup was restored, so the journal has another epoch, {gap['epoch']}; {lost}; what happened "
            "since follows"
        )
    if end < start:
        return f"the journal ends at cursor {end}; there is no cursor {start} in it"
    return f"events {start} to {end} were pruned"


def _summarize_return(event: Json) -> str:
    took = f" after {format_duration(event['took_ms'] / 1000)}" if event.get("took_ms") is not None else ""
    return f"{event['tool']} {event['how']}{took}" + _note(event["text"])


def _as_json(event: Json) -> str:
    rest = {name: value for name, value in event.items() if name not in ENVELOPE_FIELDS}
    return json.dumps(rest, ensure_ascii=False) if rest else ""


def format_failure(event: Json) -> str:
    """Format a failed model call: its route if the run has several, the failure, and the route asked next."""
    name, message = format_place(event.get("route"), event.get("auth_ref")), event["error"]["message"]
    following = format_place(event.get("next_route"), event.get("next_auth_ref"))
    text = f"{name}: {message}" if name else str(message)
    text = f"{text}; next: {following}" if following else text
    return "; ".join([text, *format_passed_over(event)])


def format_passed_over(event: Json) -> list[str]:
    """Return the sentences about the routes and keys that came first and were not asked."""
    return [f"passed over {one_line(note)}" for note in event.get("passed_over", ())]


def format_place(route: str | None, auth_ref: str | None) -> str:
    """Format a route and, of one with several keys, its key; empty without a route."""
    return (f"{route} ({auth_ref})" if auth_ref else route) or ""


def _count_deliveries(e: Json) -> str:
    counts = [f"{e[name]} {name}" for name in ("delivered", "held", "refused", "stopped") if e.get(name)]
    return ", ".join(counts) or ("delivered to no trigger" if e.get("done") else "")


SUMMARIES: dict[str, Callable[[Json], str]] = {
    "daemon_started": lambda e: (
        f"version {e['version']}, pid {e['pid']}" + (", after a crash" if e.get("after_crash") else "")
    ),
    "daemon_stopped": lambda e: str(e["note"]),
    "daemon_reloaded": lambda e: "; ".join([f"generation {e['generation']}", *e.get("warnings", ())]),
    "daemon_restored": lambda e: (
        f"backup of {format_utc(e['backup_at_ms'])}, up to cursor {e['backup_cursor']}; {e['runs']} runs "
        f"interrupted, {e['indoubts']} calls in doubt; epoch {e['epoch']}"
    ),
    "cron_created": lambda e: f"{e['cron_id']}: {e['schedule']} in {e.get('timezone', 'UTC')}",
    "cron_updated": lambda e: f"{e['cron_id']}: {e['schedule']} in {e.get('timezone', 'UTC')}",
    "cron_paused": lambda e: str(e["cron_id"]) + _note(e.get("note")),
    "cron_resumed": lambda e: str(e["cron_id"]) + _note(e.get("note")),
    "cron_occurred": lambda e: (
        f"{e['cron_id']} of {format_utc(e['occurrence']['due_ms'])}: {e['occurrence']['outcome']}"
        + _note(e["occurrence"].get("note") or e["occurrence"].get("run_id"))
    ),
    "cron_settled": lambda e: f"{e['cron_id']}: {e['ended_run_id']} {e['outcome']}" + _note(e.get("note")),
    "cron_planned": lambda e: str(e["cron_id"]) + _note(e.get("note")),
    "cron_deleted": lambda e: str(e["cron_id"]),
    "cron_reported": lambda e: f"{e['cron_id']}: {e['reason']}" + _note(e["note"]),
    "token_created": lambda e: f"{e['token_id']} {e.get('name', '')}",
    "token_revoked": lambda e: f"{e['token_id']} {e.get('note', '')}",
    "persona_created": lambda e: f"{e['persona_id']} {e['display_name']}",
    "persona_updated": lambda e: f"{e['persona_id']} {e['display_name']}",
    "persona_deleted": lambda e: str(e["persona_id"]),
    "persona_bound": lambda e: (
        f"{e['binding']['persona_id']}, version {e['binding']['version']}" if e["binding"] else "(none)"
    ),
    "note_written": lambda e: f"{e['agent']}: {e['name']}",
    "note_deleted": lambda e: str(e["number"]),
    "notebook_changed": lambda e: f"{e['agent']}: {e.get('notes', 0)} notes, {e.get('archives', 0)} archives",
    "session_created": lambda e: f"{e['agent']} as {e.get('sender') or '-'} {e.get('title') or ''}",
    "session_updated": _as_json,
    "session_renamed": lambda e: str(e.get("title") or "(no title)"),
    "session_ended": lambda e: str(e.get("note", "")),
    "session_imported": lambda e: f"{e['source_events']} events of {e['source_session_id']}",
    "transcript_imported": lambda e: f"{e['message']['role']}: {format_message(e['message'])}",
    "conversation_bound": lambda e: f"{e['agent']} as {e['sender']}",
    "conversation_unbound": lambda e: f"{e['agent']} as {e['sender']}",
    "definition_stored": lambda e: str(e["definition"]["name"]),
    "definition_deleted": lambda e: str(e["name"]),
    "secret_stored": lambda e: str(e["slot_id"]),
    "secret_deleted": lambda e: str(e["slot_id"]),
    "secrets_resealed": lambda e: f"{e.get('slots', 0)} slots, by the key {e['key_id']}",
    "event_published": lambda e: (
        f"{e['event_id']} {e['source']} "
        + truncate(json.dumps(e.get("payload"), ensure_ascii=False), MAX_PAYLOAD_BYTES)
    ),
    "event_delivered": lambda e: f"{e['event_id']} {_count_deliveries(e)}" + _note(e.get("note")),
    "event_awaited": lambda e: f"{e['source']} until {format_utc(e['expires_at_ms'])}",
    "event_returned": lambda e: f"{e['event_id']} of {e['source']}",
    "event_wait_ended": lambda e: str(e["how"]) + _note(e.get("event_id")),
    "trigger_created": lambda e: f"{e['trigger_id']} on {e['source']}",
    "trigger_changed": lambda e: f"{e['trigger_id']} {e['status']}",
    "trigger_fired": lambda e: f"{e['trigger_id']} {e['outcome']} {e['event_id']}" + _note(e.get("note")),
    "trigger_deleted": lambda e: f"{e['trigger_id']} {e['why'].replace('_', ' ')}",
    "route_stored": lambda e: f"{e['route_id']}, revision {e['revision']}",
    "route_deleted": lambda e: str(e["route_id"]),
    "default_route_changed": lambda e: str(e["route_id"] or "that of the configuration"),
    "mcp_server_stored": lambda e: str(e["server"]),
    "mcp_server_deleted": lambda e: str(e["server"]),
    "goal_set": lambda e: str(e["objective"]),
    "goal_updated": lambda e: str(e["status"]) + _note(e.get("note")),
    "goal_reviewed": lambda e: str(e["verdict"]) + _note(e.get("note")),
    "goal_continued": lambda e: f"continuation {e['number']}" + _note(e["reason"]),
    "goal_cleared": lambda e: str(e.get("note", "")),
    "input_received": lambda e: f"{name_author('', e)} {format_message(e)}".lstrip(),
    "agents_files_loaded": lambda e: " ".join(str(file["path"]) for file in e["files"]),
    "hook_failed": lambda e: f"{e['hook']} for {e['event']} {e['subject']}: {e['problem']}",
    "hook_failure_resolved": lambda e: str(e["dead_letter_id"]) + _actor(e) + _note(e.get("note")),
    "hook_context_added": lambda e: f"{e['hook']}: {e['text']}",
    "call_input_changed": lambda e: f"{e['call_id']} by the hook {e['hook']}",
    "notes_recalled": lambda e: ", ".join(str(note["name"]) for note in e["notes"]),
    "workspace_trusted": lambda e: str(e["root"]) + _note(e.get("note")),
    "workspace_untrusted": lambda e: str(e["root"]) + _note(e.get("note")),
    "run_accepted": lambda e: f"{e['agent']} on {e['pinned']['route']} ({e['pinned']['model']})",
    "run_started": lambda e: f"start {e['starts']}" + (", alone" if e.get("alone") else ""),
    "run_released": lambda e: str(e.get("note", "")),
    "run_ended": lambda e: str(e["outcome"]) + (f": {e['error']['message']}" if e.get("error") else ""),
    "cancel_requested": lambda e: f"{e['outcome']} {e.get('note', '')}",
    "model_asked": lambda e: f"turn {e['turn']}, attempt {e['attempt']}",
    "model_failed": lambda e: f"attempt {e['attempt']}: {format_failure(e)}",
    "message_appended": lambda e: "; ".join([format_message(e["message"]), *format_passed_over(e)]),
    "steered": lambda e: name_author(str(e.get("sender") or ""), e) + _note(format_message(e)),
    "calls_judged": lambda e: "; ".join(map(format_verdict, e["verdicts"])),
    "tool_called": lambda e: f"{e['tool']} {e['call_id']}, attempt {e.get('attempt', 1)}",
    "tool_observed": lambda e: f"{e['call_id']} {json.dumps(e['evidence'], ensure_ascii=False)}",
    "tool_returned": _summarize_return,
    "call_probed": lambda e: f"{e['tool']} {e['call_id']} runs again" + _note(e.get("note")),
    "approval_requested": lambda e: (
        f"{e['approval_id']} {e['tool']} {e.get('subject', '')}" + _note(e.get("note"))
    ),
    "approval_voted": lambda e: (
        f"{e['approval_id']} {e['decision']} by {e['person']}"
        + _note(e.get("note") or e.get("justification"))
    ),
    "approval_answered": _summarize_approval,
    "approval_lapsed": lambda e: f"{e['approval_id']} {e['how']}",
    "question_asked": lambda e: (
        f"{e['question_id']} {' / '.join(str(q['question']) for q in e['questions'])}"
    ),
    "question_voted": lambda e: (
        ("declined" if e.get("declined") else format_answers(e.get("answers", ()))) + f" by {e['person']}"
    ),
    "question_answered": lambda e: (
        ("declined" if e.get("declined") else format_answers(e["answers"])) + _actor(e)
    ),
    "question_lapsed": lambda e: f"{e['question_id']} {e['how']}",
    "checkpoint_saved": lambda e: (
        f"{e['checkpoint_id']} {e.get('tool') or e.get('kind')}, "
        f"{len(e.get('files', ()))} files" + _note(e.get("note"))
    ),
    "checkpoint_reverted": lambda e: f"{e['checkpoint_id']} reverts {', '.join(e['reverts'])}",
    "checkpoint_dropped": lambda e: str(e["checkpoint_id"]),
    "indoubt_opened": lambda e: f"{e['indoubt_id']} {e['tool']}" + _note(e.get("note")),
    "indoubt_resolved": lambda e: (
        f"{e['tool']} {e['outcome']}" + _actor(e) + _note(e.get("justification") or e.get("note"))
    ),
    "context_compacted": lambda e: (
        f"{e['trigger']} {e['strategy']} up to {e['upto']}, "
        f"{e.get('pre_tokens', 0)} to {e.get('post_tokens', 0)} tokens"
    ),
    "compaction_failed": lambda e: f"{e['trigger']}: {e['error']['message']}",
    "agent_spawned": lambda e: f"{e['path']} {e['nickname']}" + _note(e.get("description")),
    "child_spawned": lambda e: f"{e['path']} {e['nickname']}" + _note(e.get("description")),
    "agent_prepared": lambda e: f"worktree at {e['base_commit'][:12]}",
    "agent_renamed": lambda e: str(e["nickname"]) + _actor(e),
    "agent_close_requested": lambda e: _actor(e).strip() + _note(e.get("note")),
    "agent_closed": lambda e: str(e.get("note", "")),
    "skill_activated": lambda e: str(e["name"]) + _note(e.get("note")),
    "default_skills_resolved": lambda e: "; ".join(
        [", ".join(skill["name"] for skill in e["skills"]) or "none", *e.get("problems", ())]
    ),
    "skill_deactivated": lambda e: str(e["name"]) + _note(e.get("note")),
    "task_created": lambda e: f"{e['task_id']} {e['title']}",
    "task_updated": _summarize_task_update,
    "task_deleted": lambda e: str(e["task_id"]),
    "task_started": lambda e: f"{e['task_id']} as process {e['pid']}",
    "task_stop_requested": lambda e: str(e["task_id"]) + _actor(e) + _note(e.get("note")),
    "task_stalled": lambda e: f"{e['task_id']} printed a question and waits for input",
    "task_ended": lambda e: f"{e['task_id']} {format_task_end(e)}",
    "task_moved": lambda e: f"{e['task_id']} to {e['to_session_id']}",
    "task_adopted": lambda e: f"{e['task_id']} from {e['task']['session_id']}",
    "budget_reserved": _as_json,
    "budget_settled": _as_json,
    "mail_posted": lambda e: f"{e['message_id']} from {e['from_agent']}: {e['subject']}",
    "mail_delivered": lambda e: ", ".join(e["message_ids"]),
    "mail_acknowledged": lambda e: f"{e['how']}: {', '.join(e['message_ids'])}",
    "mail_requeued": lambda e: ", ".join(e["message_ids"]) + _note(e.get("note")),
    "mail_dead_lettered": lambda e: f"{e['reason']}: {', '.join(e['message_ids'])}" + _note(e.get("note")),
    "run_concluded": lambda e: f"reported by {e['report']}" if e.get("report") else "",
    "permissions_changed": _summarize_permissions,
    "output_emitted": lambda e: str(e["text"]),
    "requirement_satisfied": lambda e: str(e["path"]),
    "todos_written": lambda e: ", ".join(
        f"{todo['content']} ({str(todo.get('status', 'pending')).replace('_', ' ')})" for todo in e["todos"]
    ),
    "plan_entered": lambda e: str(e.get("note", "")),
    "plan_exited": lambda e: str(e.get("summary") or e["content"]),
}
"""A summary for every type of event."""


def summarize_event(event: Json) -> str:
    """Summarize an event without its envelope on one sanitized line."""
    summary = SUMMARIES.get(str(event.get("type")), _as_json)
    try:
        return one_line(summary(event))
    except (LookupError, TypeError, AttributeError):
        # The event has the shape of another version.
        return one_line(_as_json(event))


def format_event(event: Json, display: Display) -> str:
    """Format an event on one line: for a terminal cut to its width, for a pipe tab-separated and whole."""
    cursor, kind, at_ms = event.get("cursor", 0), one_line(str(event.get("type"))), event.get("at_ms", 0)
    origin = one_line(str(event.get("run_id") or event.get("session_id") or "daemon"))
    if display.width is None:
        return "\t".join((str(cursor), format_utc(at_ms), origin, kind, summarize_event(event)))
    label = kind.replace("_", " ")
    short = (
        origin.ljust(ORIGIN_COLUMNS) if len(origin) <= ORIGIN_COLUMNS else f"…{origin[1 - ORIGIN_COLUMNS :]}"
    )
    plain = f"{format_local(at_ms)}  {cursor:>6}  {short}  {label:<18}  {summarize_event(event)}"
    return fit(plain, display.width).replace(label, paint(label, "cyan", display.color), 1)


def format_delta(delta: Json, display: Display) -> str:
    """Format a piece of live text on one line."""
    text = escape_json(json.dumps(delta.get("text", ""), ensure_ascii=False))
    line = f"{delta.get('run_id')}\t{delta.get('kind')}\t{delta.get('offset')}\t{text}"
    return paint(sanitize(line), "dim", display.color)
