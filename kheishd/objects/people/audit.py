"""The audit of permissions: how calls were judged and what people answered, read from the journal.

There is no table of it. A page is looked for in the entries that the caller may read; since one entry holds
the verdicts of up to 32 calls, a page may end, and the next one begin, within an entry.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kheishd.kernel.call import Call, query
from kheishd.objects.node.journal import Selection
from kheishd.objects.pages import not_a_token
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed
from protocol.events.call import CallsJudged
from protocol.journal.envelope import Envelope
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_BYTES, MAX_PAGE_EXAMINED_ROWS
from protocol.objects import permission as rows
from protocol.objects.journal import Filter
from protocol.objects.permission import AuditList, AuditRow, PermissionAudit

# Where a page of the audit ends: after an entry of the journal, or after so many of its rows.
_MARK = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,3}))?")

_AUDITED = ("calls_judged", "approval_answered", "approval_lapsed")


@query(rows.AUDIT)
def audit(call: Call, params: PermissionAudit) -> AuditList:
    """How calls were judged, and what people answered, from the journal.

    Shape:  at most ``limit`` rows; fewer, even none, with a ``next``, when a mebibyte or 5,000 entries
            examined or 8 MiB of them are reached first.
    Errors: SessionNotFound, RunNotFound.
    """
    newest = params.order == "newest"
    cursor, given = _mark(params.after)
    audits: list[AuditRow] = []
    size = seen = 0
    with call.state.read() as store:
        chosen = Filter(session_id=params.session_id, run_id=params.run_id, types=list(_AUDITED))
        selection = Selection(store, call.caller, chosen)
        found = selection.examine(store, _before(cursor, given, newest=newest), newest=newest)
        for examined, (at, line, length) in enumerate(found, 1):
            seen += length
            new = list(_audited(line, newest=newest)) if line is not None else []
            skipped = given if at == cursor else 0
            for number, row in enumerate(new[skipped:], skipped + 1):
                audits.append(row)
                size += len(msgspec.json.encode(row))
                if len(audits) >= params.limit or size >= MAX_PAGE_BYTES:
                    return AuditList(audits, f"{at}.{number}" if number < len(new) else str(at))
            if examined >= MAX_PAGE_EXAMINED_ROWS or seen >= MAX_PAGE_EXAMINED_BYTES:
                return AuditList(audits, str(at))
    return AuditList(audits, None)


def _mark(after: str | None) -> tuple[int, int]:
    """The entry at which a page begins, and how many of its rows were given; 0: all of them.

    Errors: InvalidParams for what no page gave.
    """
    found = None if after is None else _MARK.fullmatch(after)
    if found is None:
        if after is not None:
            raise not_a_token()
        return 0, 0
    return int(found[1]), int(found[2] or 0)


def _before(cursor: int, given: int, *, newest: bool) -> int:
    """Where to read on: beyond an entry, or so that one of which only some rows were given comes again."""
    if not cursor or not given:
        return cursor
    return cursor + 1 if newest else cursor - 1


def _audited(line: bytes, *, newest: bool) -> Iterator[AuditRow]:
    """The rows of one entry."""
    envelope, event = decode_envelope(line), decode_event(line)
    match event:
        case CallsJudged(verdicts=verdicts):
            for verdict in reversed(verdicts) if newest else verdicts:
                yield _row(envelope, call_id=verdict.call_id, verdict=verdict)
        case ApprovalAnswered():
            yield _row(
                envelope,
                call_id=event.call_id,
                approval_id=event.approval_id,
                decision=event.decision,
                actor=envelope.actor,
                note=event.note,
                justification=event.justification,
            )
        case ApprovalLapsed(how="expired"):
            yield _row(
                envelope,
                call_id=event.call_id,
                approval_id=event.approval_id,
                decision="deny",
                actor=envelope.actor,
                note="nobody answered in time",
            )
        case _:
            pass


def _row(envelope: Envelope, **fields: Any) -> AuditRow:
    return AuditRow(
        cursor=envelope.cursor,
        at_ms=envelope.at_ms,
        session_id=envelope.session_id or "",
        run_id=envelope.run_id,
        **fields,
    )


HANDLERS = (audit,)
