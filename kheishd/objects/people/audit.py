"""The audit log of permissions: verdicts on calls and people's answers, read from the journal.

No table holds it. A page examines the entries that the caller may read. One entry holds the verdicts on up to
32 calls, so a page may end within an entry, and the next one begin there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.kernel.call import Call, query
from kheishd.objects.node.journal import Selection
from kheishd.objects.pages import not_a_token
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalVoted
from protocol.events.call import CallsJudged
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_BYTES, MAX_PAGE_EXAMINED_ROWS
from protocol.objects import permission as rows
from protocol.objects.journal import Filter
from protocol.objects.permission import AuditList, AuditRow, PermissionAudit

if TYPE_CHECKING:
    from collections.abc import Iterator

# The token of a page: the entry that it ended in, and after how many of its rows, if not after all of them.
_TOKEN = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,3}))?")

_AUDITED = ["calls_judged", "approval_voted", "approval_answered", "approval_lapsed"]


@query(rows.AUDIT)
def audit(call: Call, params: PermissionAudit) -> AuditList:
    """List verdicts on calls and people's answers.

    Shape:  at most ``limit`` rows; fewer, even none, with a ``next``, when a mebibyte or 5,000 entries
            examined or 8 MiB of them are reached first.
    Errors: SessionNotFound, RunNotFound, InvalidParams.
    """
    newest = params.order == "newest"
    last_cursor, skipped = _read_token(params.after)
    start = last_cursor
    if skipped:
        # The entry was not read to its end: read it again.
        start += 1 if newest else -1
    audits: list[AuditRow] = []
    size = examined_bytes = 0
    with call.state.read() as store:
        filter_ = Filter(session_id=params.session_id, run_id=params.run_id, types=_AUDITED)
        entries = Selection(store, call.caller, filter_).examine(store, start, newest=newest)
        for examined, (cursor, line, length) in enumerate(entries, 1):
            examined_bytes += length
            entry_rows = list(_read_rows(line, newest=newest)) if line is not None else []
            first = skipped if cursor == last_cursor else 0
            for count, row in enumerate(entry_rows[first:], first + 1):
                audits.append(row)
                size += len(msgspec.json.encode(row))
                if len(audits) >= params.limit or size >= MAX_PAGE_BYTES:
                    is_partial = count < len(entry_rows)
                    return AuditList(audits, f"{cursor}.{count}" if is_partial else str(cursor))
            if examined >= MAX_PAGE_EXAMINED_ROWS or examined_bytes >= MAX_PAGE_EXAMINED_BYTES:
                return AuditList(audits, str(cursor))
    return AuditList(audits, None)


def _read_token(text: str | None) -> tuple[int, int]:
    """Return the entry in which the previous page ended, and after how many of its rows; 0 for all.

    Errors: InvalidParams for a text that is no page token.
    """
    if text is None:
        return 0, 0
    token = _TOKEN.fullmatch(text)
    if token is None:
        raise not_a_token()
    return int(token[1]), int(token[2] or 0)


def _read_rows(line: bytes, *, newest: bool) -> Iterator[AuditRow]:
    """Yield the rows of one entry."""
    envelope = decode_envelope(line)
    base: dict[str, Any] = {
        "cursor": envelope.cursor,
        "at_ms": envelope.at_ms,
        "session_id": envelope.session_id or "",
        "run_id": envelope.run_id,
    }
    match decode_event(line):
        case CallsJudged(verdicts=verdicts):
            for verdict in reversed(verdicts) if newest else verdicts:
                yield AuditRow(**base, call_id=verdict.call_id, verdict=verdict)
        case ApprovalVoted() as voted:
            yield AuditRow(
                **base,
                call_id=voted.call_id,
                approval_id=voted.approval_id,
                decision=voted.decision,
                actor=voted.person,
                note=voted.note,
                justification=voted.justification,
                is_vote=True,
            )
        case ApprovalAnswered() as answered:
            yield AuditRow(
                **base,
                call_id=answered.call_id,
                approval_id=answered.approval_id,
                decision=answered.decision,
                actor=envelope.on_behalf_of or envelope.actor,
                note=answered.note,
                justification=answered.justification,
            )
        case ApprovalLapsed(how="expired") as lapsed:
            yield AuditRow(
                **base,
                call_id=lapsed.call_id,
                approval_id=lapsed.approval_id,
                decision="deny",
                actor=envelope.actor,
                note="nobody answered in time",
            )
        case _:
            pass


HANDLERS = (audit,)
