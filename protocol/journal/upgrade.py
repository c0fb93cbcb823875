"""Upgrades of journal lines: read lines of earlier formats as the present one.

A stored line is never rewritten. It states its format as its first field, ``{"format":2,...``; a line
without that field has format 1, which kheish wrote before its first release. Each change of a name is
one row of the tables below.
"""

from typing import Any

TAGS: dict[str, str] = {
    "call_doubted": "indoubt_opened",
    "conversation_reset": "conversation_unbound",
    "doubt_settled": "indoubt_resolved",
}
"""The event types of format 1 that have another name now."""

_CONTRACT = (("repairs_max", "max_repairs"),)
_BUDGET = (("tokens_max", "max_tokens"), ("wall_s_max", "max_work_s"), ("cost_max", "max_cost_micros"))
_GRANT = (("by", "granted_by"), ("left", "remaining_uses"))
_NOTE = (("reason", "note"),)
_INDEX = (("number", "index"),)
_TURN = (("step", "turn"),)

Path = tuple[str, ...]

FIELDS: dict[str, tuple[tuple[Path, tuple[tuple[str, str], ...]], ...]] = {
    "approval_answered": (((), _NOTE), (("grant",), _GRANT)),
    "approval_requested": (((), _NOTE + _INDEX),),
    "call_doubted": (((), _INDEX),),
    "calls_judged": ((("verdicts",), _NOTE),),
    "cancel_requested": (((), _NOTE),),
    "daemon_stopped": (((), _NOTE),),
    "message_appended": (((), (("because", "follow_up"),)),),
    "model_asked": (((), _TURN),),
    "model_failed": (((), _TURN),),
    "permissions_changed": ((("add",), _NOTE),),
    "requirement_satisfied": (((), _INDEX),),
    "run_accepted": (
        (("pinned",), (("continuations_max", "max_continuations"),)),
        (("pinned", "output_contract"), _CONTRACT),
        (("pinned", "budget"), _BUDGET),
    ),
    "run_ended": (((), _NOTE),),
    "run_released": (((), _NOTE),),
    "run_started": (((), (("start", "starts"),)),),
    "session_created": ((("output_contract",), _CONTRACT),),
    "session_ended": (((), _NOTE),),
    "session_updated": ((("changes", "output_contract"), _CONTRACT),),
    "task_started": (((), (("started", "start_ticks"),)),),
    "task_stop_requested": (((), _NOTE),),
    "task_updated": (((), _NOTE),),
    "token_revoked": (((), _NOTE),),
}
"""By event type of format 1: where renamed fields stand, and their names then and now.

A path leads through objects; where it ends in a list, each object of the list is meant.
"""


def upgrade(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of format 1, decoded from JSON, with the names of the present format."""
    kind = line.get("type")
    for path, names in FIELDS.get(str(kind), ()):
        for found in _objects_at(line, path):
            for old, new in names:
                if old in found:
                    found[new] = found.pop(old)
    return line | {"type": TAGS.get(str(kind), kind)}


def _objects_at(line: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    found: Any = line
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    objects = found if isinstance(found, list) else [found]
    return [each for each in objects if isinstance(each, dict)]
