"""Health warnings: what needs attention, and its remedy.

A warning that the whole daemon knows is made in ``kheishd/control.py``; those here are read from the store,
with a bounded number of rows, only when the status is asked for.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from kheishd.store.commit import GONE
from kheishd.store.environment import refuse_damaged
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    HOOK_DEAD_LETTERS,
    HOOK_DEAD_LETTERS_BY_AGE,
    INDOUBTS,
    INDOUBTS_OPEN,
    MAIL,
    MAIL_BY_STATE,
    MAILBOXES,
    QUESTIONS,
    QUESTIONS_WAITING,
    RUNS,
    RUNS_READY,
)
from protocol.limits.units import GIB, MIB
from protocol.objects.daemon import HealthWarning

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kheishd.kernel.mcp import McpHolder
    from kheishd.kernel.meter import Meter
    from kheishd.store.environment import Snapshot
    from kheishd.store.writer import Store
    from protocol.objects.daemon import Disk

# Below this, a few hours of work may fill the disk: a turn with text writes about 300 KiB, so 256 MiB are
# less than a thousand turns.
LOW_DISK_BYTES = 256 * MIB

# A store above this share of its map is near the end of what it can ever hold.
FULL_MAP_SHARE = 0.8

# The free pages of a store that are worth a compaction, if they are also more than its data.
RECLAIMABLE_BYTES = 1 * GIB

STALE_MS: Final = 30 * 60 * 1000
"""How long a request to a person may wait, or a run make no progress, before it is reported."""

# The oldest ready runs that are read, each in a few microseconds.
MAX_CHECKED_RUNS = 64

# The warnings about runs without progress.
MAX_STALE_WARNINGS = 5

# The newest failures of hooks that are read: 0.3 ms.
MAX_CHECKED_FAILURES = 100

MAX_CHECKED_MAILBOXES = 64
"""The newest mailboxes that are read, each in a few microseconds."""

RECENT_MAIL_MS: Final = 24 * 3600 * 1000
"""How long a dead letter is reported: it stays one for ever."""

# A round of the event loop above this holds up every client noticeably.
LAG_SECONDS = 1.0

# A clock that is kept exact by small steps is never off by this.
CLOCK_JUMP_SECONDS = 60.0

Severity = Literal["info", "warning", "critical"]


def warn(
    code: str,
    message: str,
    remedy: str,
    *,
    severity: Severity = "warning",
    related_id: str | None = None,
) -> HealthWarning:
    """Return a warning."""
    return HealthWarning(severity=severity, code=code, message=message, remedy=remedy, related_id=related_id)


def split_warning(code: str, sentence: str, remedy: str, *, severity: Severity = "warning") -> HealthWarning:
    """Return the warning of a sentence; ``remedy`` is used if the sentence has none after a semicolon."""
    message, semicolon, end = sentence.rpartition("; ")
    return warn(code, message if semicolon else sentence, end if semicolon else remedy, severity=severity)


def format_warning(warning: HealthWarning) -> str:
    """Return a warning as one sentence, with its remedy."""
    return f"{warning.message}; {warning.remedy}"


def find_store_warnings(store: Store, disk: Disk) -> Iterator[HealthWarning]:
    """Yield the warnings about the store's files and their disk."""
    if store.damage is not None:
        yield split_warning(
            "store_damaged",
            refuse_damaged(store.damage).message,
            "stop the daemon and repair the store",
            severity="critical",
        )
    if not store.is_in_place:
        message, _, remedy = GONE.partition(". ")
        yield warn("store_gone", message, remedy[0].lower() + remedy[1:], severity="critical")
    if disk.free_bytes < LOW_DISK_BYTES:
        state = f"is nearly full ({disk.free_bytes / MIB:.1f} MiB free)" if disk.free_bytes else "is full"
        yield warn(
            "disk_nearly_full",
            f"the disk of {disk.path} {state}",
            "free some space, or all writes will be refused",
            severity="critical",
        )
    if disk.used_bytes > FULL_MAP_SHARE * disk.map_bytes:
        share = 100 * disk.used_bytes // disk.map_bytes
        yield warn(
            "store_nearly_full",
            f"the store uses {share} % of the most that it can hold",
            "end and export old sessions, and keep new ones in another home",
            severity="critical",
        )
    reclaimable = disk.file_bytes - disk.used_bytes
    if reclaimable > max(RECLAIMABLE_BYTES, disk.used_bytes):
        yield warn(
            "store_growth",
            f"{reclaimable / GIB:.1f} GiB of the store's file hold no data",
            "compact the store while the daemon is stopped",
            severity="info",
        )


def find_meter_warnings(meter: Meter, jump_s: float) -> Iterator[HealthWarning]:
    """Yield the warnings about the event loop, the clock and backups."""
    lag_s = meter.loop_lag_s()
    if lag_s > LAG_SECONDS:
        yield warn(
            "loop_lag",
            f"the daemon answered nobody for {lag_s:.1f} s at once in the last 10 minutes",
            "give it more of the processor, or look for a very large session or a slow disk",
        )
    if abs(jump_s) > CLOCK_JUMP_SECONDS:
        direction = "forward" if jump_s > 0 else "back"
        yield warn(
            "clock_jump",
            f"the clock was set {direction} by {abs(jump_s):.0f} s since the daemon started",
            "check the clock, and the schedules and deadlines of that time",
            severity="info",
        )
    if meter.failed_backup is not None:
        yield warn(
            "backup_failed",
            f"the last backup failed: {meter.failed_backup}",
            "repair this and back up again",
        )


def find_waits(store: Snapshot, now_ms: int) -> Iterator[HealthWarning]:
    """Yield a warning for each kind of request that has waited too long for a person, about the oldest."""
    since = now_ms - STALE_MS
    # A table of waiting requests is in the order of their begin.
    for _, name in islice(store.scan(APPROVALS_WAITING), 1):
        approval = store.need(APPROVALS, name)
        if approval.requested_at_ms < since:
            yield _waits("approval", name, approval.requested_at_ms, now_ms, store.count(APPROVALS_WAITING))
    for _, name in islice(store.scan(QUESTIONS_WAITING), 1):
        question = store.need(QUESTIONS, name)
        if question.asked_at_ms < since:
            yield _waits("question", name, question.asked_at_ms, now_ms, store.count(QUESTIONS_WAITING))
    for _, name in islice(store.scan(INDOUBTS_OPEN), 1):
        indoubt = store.need(INDOUBTS, name)
        if indoubt.found_at_ms < since:
            yield _waits("call in doubt", name, indoubt.found_at_ms, now_ms, store.count(INDOUBTS_OPEN))


def _waits(kind: str, name: str, begin_ms: int, now_ms: int, count: int) -> HealthWarning:
    more = f"; {count} wait in all" if count > 1 else ""
    return warn(
        "unattended",
        f"the {kind} {name} has waited for a person for {(now_ms - begin_ms) // 60_000} min{more}",
        "answer it, or cancel its run",
        related_id=name,
    )


def find_stale_runs(store: Snapshot, now_ms: int) -> Iterator[HealthWarning]:
    """Yield a warning about each of the oldest open runs that has made no progress for long."""
    stale = 0
    for _, run_id in islice(store.scan(RUNS_READY), MAX_CHECKED_RUNS):
        run = store.need(RUNS, run_id)
        if run.updated_at_ms >= now_ms - STALE_MS or stale == MAX_STALE_WARNINGS:
            continue
        stale += 1
        minutes = (now_ms - run.updated_at_ms) // 60_000
        if run.started_at_ms is None:
            yield warn(
                "run_not_started",
                f"the run {run_id} of '{run.agent}' has waited for a slot for {minutes} min",
                "raise runs.max_active, or cancel other runs",
                related_id=run_id,
            )
        else:
            yield warn(
                "run_stuck",
                f"the run {run_id} of '{run.agent}' has made no progress for {minutes} min",
                "follow its output, and cancel it if nothing comes",
                related_id=run_id,
            )


def find_failed_servers(mcp: McpHolder) -> Iterator[HealthWarning]:
    """Yield a warning about each MCP server that has failed, or needs a login."""
    for view in mcp.current.views():
        if view.state == "failed":
            yield warn(
                "mcp_failed",
                f"the MCP server '{view.name}' is not connected: {view.problem or 'it failed'}",
                "repair it; the daemon tries again by itself"
                if view.retry_at_ms is not None
                else "repair it, and connect anew by mcp.restart",
                related_id=view.name,
            )
        elif view.state == "needs_login":
            yield warn(
                "mcp_needs_login",
                f"the MCP server '{view.name}' needs a login by a person: {view.problem}",
                "begin one by mcp.login",
                related_id=view.name,
            )


def find_failed_hooks(store: Snapshot, names: Collection[str]) -> Iterator[HealthWarning]:
    """Yield a warning about each of the named hooks with unresolved failures among the newest ones."""
    newest = islice(store.scan(HOOK_DEAD_LETTERS_BY_AGE, reverse=True), MAX_CHECKED_FAILURES)
    letters = [store.need(HOOK_DEAD_LETTERS, dead_letter_id) for _, dead_letter_id in newest]
    failures = [letter for letter in letters if letter.state == "open" and letter.hook in names]
    last = {letter.hook: letter for letter in reversed(failures)}
    for hook, count in Counter(letter.hook for letter in failures).items():
        letter = last[hook]
        effect = "; it fails closed, so its events are blocked" if letter.policy == "closed" else ""
        yield warn(
            "hook_failing",
            f"the hook '{hook}' failed {count} time{'s' if count > 1 else ''}: {letter.problem}{effect}",
            "correct it and reload, and resolve its failures",
            related_id=letter.dead_letter_id,
        )


def find_undelivered_mail(store: Snapshot, now_ms: int) -> Iterator[HealthWarning]:
    """Yield a warning about each of the newest mailboxes with a message given up lately."""
    for (agent_id,), mailbox in islice(store.scan(MAILBOXES, reverse=True), MAX_CHECKED_MAILBOXES):
        if not mailbox.dead_letters or mailbox.closed:
            continue
        newest = islice(store.scan(MAIL_BY_STATE, agent_id, "dead_letter", reverse=True), 1)
        for _, key in newest:
            mail = store.need(MAIL, key)
            # An expiry is what its sender asked for.
            if mail.outcome != "attempts" or mail.updated_at_ms < now_ms - RECENT_MAIL_MS:
                continue
            yield warn(
                "mail_undelivered",
                f"the agent {agent_id} did not get a message from {mail.from_agent}: "
                + (mail.last_error or "its runs failed"),
                "read the mailbox's dead letters, and send again what still matters",
                related_id=agent_id,
            )
