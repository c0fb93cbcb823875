"""Comparison of the journals of two daemons that did the same work.

Ids are renamed in the order of their first appearance. Times, cursors, recovery events and attempts are left
out, because a daemon that was killed has others. Everything else must be equal.
"""

from __future__ import annotations

import json
import re
from typing import Any

ID = re.compile(r"\b(ses|run|inp|itm|tok|apr|qst|grt|str|tsk|out|art)_[0-9A-V]{26}\b")
RECOVERY = frozenset(("daemon_started", "daemon_stopped", "daemon_reloaded", "run_released"))
ATTEMPTS = frozenset(("run_started", "model_asked", "model_failed"))
UNSTABLE = frozenset(
    (
        "cursor",
        "at_ms",
        "request_id",
        "cause",
        "attempt",
        "digest",
        "source_cursor",
        "message_cursor",
        "upto",
    )
)


def comparable(events: list[dict[str, Any]], home: str) -> dict[str, list[str]]:
    """Return the events of each stream, made comparable; ``home`` is where their daemon lives.

    Shape: stream (renamed session id, or ``daemon``) → its events as JSON texts, in order.
    """
    names: dict[str, str] = {}

    def rename_ids(text: str) -> str:
        return ID.sub(lambda match: names.setdefault(match[0], f"{match[1]}_{len(names)}"), text)

    streams: dict[str, list[str]] = {}
    for event in sorted(events, key=lambda event: int(event["cursor"])):
        if event["type"] in RECOVERY | ATTEMPTS:
            continue
        stable = {name: value for name, value in event.items() if name not in UNSTABLE}
        if event["type"].startswith("note_"):
            # A note is numbered by the cursor of its first event.
            stable.pop("number", None)
            stable["name"] = re.sub(r"^archive-\d+", "archive", str(stable.get("name")))
        text = rename_ids(json.dumps(stable, sort_keys=True).replace(home, "HOME"))
        stream = rename_ids(event.get("session_id", "daemon"))
        streams.setdefault(stream, []).append(text)
    return streams
