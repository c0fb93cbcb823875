"""Abbreviated ids: the first or last characters of an id stand for it if they are those of one object only.

The client resolves them with the daemon's lists, so every method receives the full id: a request that was
accepted means the same object when it is repeated.
"""

from collections.abc import Mapping

from kheishctl.cli import App
from kheishctl.client import RequestRefused
from kheishctl.contract import MAX_PAGE_ROWS, Json
from kheishctl.picker import describe_row

# A page of 500 runs is read in about 50 ms; older objects need their full ids.
MAX_SEARCHED_PAGES = 20

ANY_STATUS = {"status": "any"}

SEARCHES: dict[str, tuple[str, Json]] = {
    "sessions": ("sessions", {}),
    "agent_paths": ("sessions", {}),
    "runs": ("runs", {}),
    "open_runs": ("runs", {}),
    "approvals": ("approvals", ANY_STATUS),
    "questions": ("questions", ANY_STATUS),
    "indoubts": ("indoubts", ANY_STATUS),
    "tasks": ("tasks", ANY_STATUS),
    "crons": ("crons", {}),
    "events": ("events", {}),
    "triggers": ("triggers", {}),
    "personas": ("personas", {}),
    "tokens": ("tokens", {}),
}
"""The kinds of objects that ids name, each with its list and the list's params."""

CHOSEN: dict[str, tuple[tuple[str, str], ...]] = {
    "sessions": (("session.get", "session_id"), ("agent.get", "agent")),
    "agent_paths": (("agent.get", "agent"),),
    "crons": (("cron.get", "cron_id"),),
    "personas": (("persona.get", "persona_id"),),
}
"""The kinds whose ids and names people choose, so that a text may be the whole id of one."""


def find_candidates(
    app: App, kind: str, sources: Mapping[str, tuple[str, Json, str, str]], start: str, end: str, text: str
) -> dict[str, str]:
    """Return the ids that begin with ``start`` and end with ``end``, with details of their objects.

    ``sources`` are the daemon's lists (``options.COMPLETIONS``). The result is empty if ``text`` itself names
    an object. Errors: Failure.
    """
    for method, field in CHOSEN.get(kind, ()):
        try:
            app.client.call(method, {field: text})
        except RequestRefused:
            continue
        return {}
    source, filters = SEARCHES[kind]
    method, _, plural, field = sources[source]
    params = {**filters, "limit": MAX_PAGE_ROWS}
    candidates = {}
    for _ in range(MAX_SEARCHED_PAGES):
        page = app.client.call(method, params)
        for row in page[plural]:
            object_id = str(row[field])
            if object_id == text:
                return {}
            if object_id.startswith(start) and object_id.endswith(end):
                candidates[object_id] = describe_row(row, source)
        if page.get("next") is None:
            break
        params["after"] = page["next"]
    return candidates
