"""Cron entries: create, change, explain and fire them.

Read from top to bottom: the methods of clients, then the transactions of the worker. A firing, the acceptance
of its run and the next due time are one transaction: it happens once, whenever the daemon dies.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import asdict, replace

from kheishd.core.cron import entry
from kheishd.core.cron.file import format_row
from kheishd.core.cron.schedule import (
    ScheduleError,
    describe_firing,
    find_min_distance_ms,
    format_local,
    next_after,
    parse_schedule,
    require_audible,
)
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import PageTokens, page_of
from kheishd.objects.talk.wake import (
    WakePlan,
    Woken,
    authority_of,
    find_target,
    prepare_wake,
    require_valid_target,
    wake,
)
from kheishd.records.cron import stream_of
from kheishd.records.writer import BY_DAEMON, SessionWriter, StreamWriter
from kheishd.store.tables import CRONS, CRONS_FAILING, RUNS, SESSIONS
from protocol import ids
from protocol.errors.cron import (
    CronChanged,
    CronExists,
    CronForbidden,
    CronFromFile,
    CronInvalid,
    CronLimit,
    CronNotActive,
    CronNotFound,
)
from protocol.errors.session import InputTooLarge
from protocol.events.cron import (
    CronCreated,
    CronDeleted,
    CronOccurred,
    CronPaused,
    CronPlanned,
    CronReported,
    CronResumed,
    CronSettled,
    CronUpdated,
)
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.cron import (
    DEFAULT_UPCOMING,
    MAX_CRON_FILE_BYTES,
    MAX_CRONS,
    MAX_OCCURRENCE_NOTE_BYTES,
    MAX_PARALLEL_FIRINGS,
    MIN_PERIOD_MS,
)
from protocol.objects import cron as rows
from protocol.objects.cron import (
    Cron,
    CronChange,
    CronCreate,
    CronExplain,
    CronExplanation,
    CronExport,
    CronExportParams,
    CronFire,
    CronList,
    CronListParams,
    CronProperties,
    CronRef,
    CronUpdate,
    CronView,
    DueRange,
    Occurrence,
)
from protocol.objects.run import ENDED
from protocol.structs import Value, fields_of
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.core.cron.schedule import Timetable
    from kheishd.kernel.runtime import Runtime
    from kheishd.records.writer import Origin
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.cron import CronStatus, Firing

# Reading.


def find_cron(store: Snapshot, call: Call, cron_id: str) -> Cron:
    """Return an entry that the caller may read. Errors: CronNotFound."""
    cron = store.get(CRONS, cron_id)
    if cron is None or not _may_read(store, call, cron):
        raise CronNotFound(
            f"there is no cron entry '{cron_id}'; cron.list shows them", field="$.params.cron_id"
        )
    return cron


def _find_changeable(store: Snapshot, call: Call, cron_id: str) -> Cron:
    """Return an entry that the caller may change or fire. Errors: CronNotFound, CronForbidden."""
    cron = find_cron(store, call, cron_id)
    if cron.authority == "operator" and authority_of(call.caller)[0] is None:
        raise CronForbidden(field="$.params.cron_id")
    return cron


def _may_read(store: Snapshot, call: Call, cron: Cron) -> bool:
    if call.caller.is_unrestricted:
        return True
    target = cron.target
    if target.session_id is None:
        return call.caller.may_read(target.agent or "", target.sender)
    session = store.get(SESSIONS, target.session_id)
    return session is not None and call.caller.may_read(session.agent, session.sender)


def list_upcoming(cron: Cron, now_ms: int, count: int) -> list[Firing]:
    """Return the next due times of an entry, that which is deferred included."""
    try:
        timetable, quiet = entry.timetable_of(cron), entry.quiet_of(cron)
    except ScheduleError:
        # The zones of this machine no longer have that of the entry: it is refused once it is due.
        return []
    policy = "defer" if timetable.kind == "at" else cron.quiet
    firings: list[Firing] = []
    if cron.deferred_until_ms is not None and count:
        waits = describe_firing(timetable, cron.deferred_until_ms, None, policy)
        firings.append(
            replace(waits, note=f"the firing of {format_local(timetable, cron.deferred_due_ms or 0)}")
        )
    due = cron.next_due_ms
    if cron.once:
        count = min(count, 1)
    elif cron.max_executions is not None:
        count = min(count, max(cron.max_executions - cron.executions, 0))
    while due is not None and len(firings) < count:
        firings.append(describe_firing(timetable, due, quiet, policy))
        due = entry.next_due(cron, timetable, max(due, now_ms))
    return firings


def _view(cron: Cron, now_ms: int, count: int = DEFAULT_UPCOMING) -> CronView:
    return CronView(**fields_of(Cron, cron), upcoming=list_upcoming(cron, now_ms, count))


@query(rows.GET)
def get(call: Call, params: CronRef) -> CronView:
    """Show an entry with its next firings. Errors: CronNotFound."""
    with call.state.read() as store:
        cron = find_cron(store, call, params.cron_id)
    return _view(cron, call.now_ms, params.count)


@query(rows.LIST)
def list_(call: Call, params: CronListParams) -> CronList:
    """List entries, by id."""
    text, tokens = params.query.casefold(), PageTokens(call)
    after = tokens.id_of(params.after)

    def accept(cron: Cron) -> bool:
        target = cron.target
        names = (cron.cron_id, cron.name, target.agent, target.sender, target.session_id, target.skill)
        return (
            params.status in (None, cron.status)
            and params.source in (None, cron.source)
            and text in "\n".join(filter(None, names)).casefold()
            and _may_read(store, call, cron)
        )

    with call.state.read() as store:
        scanned = store.scan(CRONS, after=None if after is None else (after,))
        page, following = page_of(scanned, params.limit, accept, tokens.token_of)
    return CronList(page, following)


@query(rows.EXPLAIN)
def explain(call: Call, params: CronExplain) -> CronExplanation:
    """Explain why an entry fired or did not. Errors: CronNotFound."""
    with call.state.read() as store:
        cron = find_cron(store, call, params.cron_id)
        occurrences = list(cron.recent)
        if params.at_ms is not None:
            occurrences = _find_occurrences(store, cron, params.at_ms)
        runs = {row.run_id: store.get(RUNS, row.run_id) for row in occurrences if row.run_id is not None}
    occurrences = [
        replace(row, note=f"{run.error.reason}: {run.error.message}")
        if row.outcome == "failed"
        and (run := runs.get(row.run_id or "")) is not None
        and run.error is not None
        else row
        for row in occurrences
    ]
    lines = [entry.describe_entry(cron)]
    try:
        timetable = entry.timetable_of(cron)
    except ScheduleError as error:
        lines.append(error.message)
        return CronExplanation(cron_id=cron.cron_id, lines=lines, occurrences=occurrences, upcoming=[])
    if params.at_ms is not None:
        with call.state.read() as store:
            lines += _explain_time(store, cron, params.at_ms, call.now_ms, occurrences)
    else:
        lines += [
            f"{format_local(timetable, row.due_ms)}: {entry.describe_occurrence(row)}"
            for row in reversed(occurrences)
        ]
        if not occurrences:
            lines.append("no due time has been decided yet")
    return CronExplanation(
        cron_id=cron.cron_id,
        lines=lines,
        occurrences=occurrences,
        upcoming=list_upcoming(cron, call.now_ms, params.count),
    )


def _find_span(at_ms: int) -> DueRange:
    """Return the due times that a time stands for: those of its minute, or of its second if it has one."""
    size_ms = 1_000 if at_ms % 60_000 >= 1_000 else 60_000
    start_ms = at_ms - at_ms % size_ms
    return DueRange(start_ms, start_ms + size_ms - 1)


def _find_occurrences(store: Snapshot, cron: Cron, at_ms: int) -> list[Occurrence]:
    """Return the decisions about the due times at a time, the oldest first, at most MAX_EXPLAINED.

    Older decisions come from the journal.
    """
    span = _find_span(at_ms)

    def covers(row: Occurrence) -> bool:
        first_ms = row.due_ms if row.since_ms is None else row.since_ms
        return first_ms <= span.end_ms and span.start_ms <= row.due_ms

    rows = {(row.due_ms, row.manual): row for row in cron.recent if covers(row)}
    if cron.recent and span.start_ms < cron.recent[0].due_ms:
        for _, event in _read_events(store, cron):
            if not isinstance(event, CronOccurred) or not covers(event.occurrence):
                continue
            run = store.get(RUNS, event.occurrence.run_id) if event.occurrence.run_id else None
            outcome = run.status if run is not None and run.status in ENDED else event.occurrence.outcome
            row = replace(event.occurrence, outcome=outcome)
            # The newest decision about a due time counts.
            rows.setdefault((row.due_ms, row.manual), row)
            if len(rows) >= MAX_EXPLAINED:
                break
    return sorted(rows.values(), key=lambda row: row.due_ms)[-MAX_EXPLAINED:]


def _read_events(store: Snapshot, cron: Cron) -> Iterator[tuple[int, Any]]:
    """Yield the newest events of an entry with their times, the newest first."""
    for _, line in islice(store.entries(stream_of(cron.cron_id), reverse=True), MAX_EXAMINED_EVENTS):
        yield decode_envelope(line).at_ms, decode_event(line)


def _describe_inactivity(store: Snapshot, cron: Cron, timetable: Timetable, at_ms: int) -> str:
    """Return why an entry decided nothing at a time: its status then; empty if it was active."""
    until_ms = None
    for event_ms, event in _read_events(store, cron):
        if event_ms > at_ms:
            if isinstance(event, CronResumed):
                until_ms = event_ms
            continue
        if isinstance(event, (CronResumed, CronCreated)):
            return ""
        status = "paused" if isinstance(event, CronPaused) else getattr(event, "status", None)
        if status is None:
            continue
        text = f"it was {status} from {format_local(timetable, event_ms)}"
        text += " on" if until_ms is None else f" to {format_local(timetable, until_ms)}"
        note = getattr(event, "note", "")
        return text + (f": {note}" if note else "")
    return ""


MAX_EXPLAINED = 32
"""The occurrences that one explanation lists."""

MAX_EXAMINED_EVENTS = 2_000
"""The events of an entry that one explanation reads, some 20 µs each."""


def _explain_time(
    store: Snapshot, cron: Cron, at_ms: int, now_ms: int, occurrences: list[Occurrence]
) -> list[str]:
    timetable, quiet = entry.timetable_of(cron), entry.quiet_of(cron)
    local = format_local(timetable, at_ms)
    span = _find_span(at_ms)
    due = next_after(timetable, span.start_ms - 1)
    is_due = due is not None and due <= span.end_ms
    # A row that covers a range of missed due times tells nothing about a time between two of them.
    if occurrences and (is_due or occurrences[0].due_ms <= span.end_ms):
        lines = [
            f"{format_local(timetable, row.due_ms)}: {entry.describe_occurrence(row)}" for row in occurrences
        ]
        if occurrences[0].due_ms > span.end_ms:
            next_local = format_local(timetable, occurrences[0].due_ms)
            lines.insert(0, f"{local}: it was missed; the next decision was about {next_local}:")
        return lines
    if due is None or due > span.end_ms:
        text = f"{local}: the schedule is not due then"
        if due is not None:
            firing = describe_firing(timetable, due, quiet, cron.quiet)
            text += f"; the next due time after it is {firing.local}"
        return [text]
    local = format_local(timetable, due)
    if due < cron.created_at_ms:
        return [f"{local}: the entry did not exist yet"]
    if due > now_ms:
        if cron.status != "active":
            return [f"{local}: it will not fire, because the entry is {cron.status}"]
        note = describe_firing(timetable, due, quiet, cron.quiet).note
        return [f"{local}: it is due then" + (f" ({note})" if note else "")]
    inactivity = _describe_inactivity(store, cron, timetable, due)
    if inactivity:
        return [f"{local}: {inactivity}"]
    return [
        f"{local}: nothing was decided about it: the entry had another schedule then, or the clock was set"
    ]


@query(rows.EXPORT)
def export(call: Call, params: CronExportParams) -> CronExport:
    """Write the entries that the caller may read as a file of entries.

    A file has only instructions of the operator, so entries with tasks of others are left out.
    """
    with call.state.read() as store:
        readable = [cron for _, cron in store.scan(CRONS) if _may_read(store, call, cron)]
    crons = [cron for cron in readable if cron.authority == "operator"]
    rows = [format_row(cron) for cron in crons]
    if len(crons) < len(readable):
        rows.append(f"# Left out, because their tasks are not an operator's: {len(readable) - len(crons)}\n")
    text = "\n".join(rows)
    if len(text.encode()) > MAX_CRON_FILE_BYTES:
        raise InputTooLarge(
            f"the entries take more than {MAX_CRON_FILE_BYTES} bytes; the file may have no more"
        )
    return CronExport(toml=text, crons=len(crons))


# Changing.


class _Draft(Value, frozen=True):
    """Validated params: the entry's id, the properties that they set, and the author of the task."""

    cron_id: str
    properties: dict[str, Any]
    author: dict[str, Any]
    revision: int | None = None


def _prepare(call: Call, params: CronCreate | CronUpdate) -> _Draft:
    """Validate the target. Errors: those of ``require_valid_target``."""
    given = {name: value for name, value in asdict(params).items() if value is not UNSET}
    properties = {name: given[name] for name in CronProperties.__struct_fields__ if name in given}
    author = {}
    if params.target is not UNSET:
        properties["target"] = require_valid_target(call, params.target)
        authority, origins = authority_of(call.caller)
        author = {"authority": authority, "origins": origins}
    cron_id = params.cron_id or call.state.new_id(ids.CRON)
    return _Draft(cron_id, properties, author, getattr(params, "revision", None))


def require_valid(
    properties: CronProperties, now_ms: int, *, min_period_ms: int = MIN_PERIOD_MS
) -> int | None:
    """Require a schedule that can be followed; return its first due time. Errors: CronInvalid."""
    try:
        timetable = parse_schedule(properties.schedule, properties.timezone, now_ms)
        require_audible(timetable, entry.quiet_of(properties), properties.quiet)
        due = next_after(timetable, now_ms)
        if due is None:
            raise ScheduleError("schedule", "the time has passed; choose a later one")
        distance_ms = find_min_distance_ms(timetable)
    except ScheduleError as error:
        raise CronInvalid(error.message, field=f"$.params.{error.field}") from None
    if distance_ms is not None and distance_ms < min_period_ms:
        seconds = f"{distance_ms / 1000:g} s; the shortest period is {min_period_ms / 1000:g} s"
        text = f"the schedule is due every {seconds}"
        raise CronInvalid(text, field="$.params.schedule")
    return due


@mutation(rows.CREATE, prepare=_prepare)
def create(tx: Transaction, call: Call, draft: _Draft) -> CronView:
    """Create an entry. Errors: CronExists, CronLimit, CronInvalid."""
    cron = create_cron(
        tx,
        CronCreated(cron_id=draft.cron_id, next_due_ms=None, **draft.properties, **draft.author),
        origin_of(call),
    )
    return _view(cron, tx.now_ms)


def create_cron(
    tx: Transaction, event: CronCreated, origin: Origin = BY_DAEMON, *, min_period_ms: int = MIN_PERIOD_MS
) -> Cron:
    """Create an entry; its first due time is computed here. Errors: CronExists, CronLimit, CronInvalid."""
    if tx.get(CRONS, event.cron_id) is not None:
        text = f"there is a cron entry '{event.cron_id}' already; choose another id, or update it"
        raise CronExists(text, field="$.params.cron_id")
    if tx.count(CRONS) >= MAX_CRONS:
        raise CronLimit(f"there are {MAX_CRONS} cron entries, the maximum; delete some first")
    due = require_valid(event, tx.now_ms, min_period_ms=min_period_ms)
    return _append(tx, replace(event, next_due_ms=due), origin)


@mutation(rows.UPDATE, prepare=_prepare)
def update(tx: Transaction, call: Call, draft: _Draft) -> CronView:
    """Change an entry, if anything differs.

    Errors: CronNotFound, CronForbidden, CronChanged, CronFromFile, CronInvalid.
    """
    cron = _find_changeable(tx, call, draft.cron_id)
    if draft.revision is not None and draft.revision != cron.revision:
        text = f"the cron entry has revision {cron.revision}, not {draft.revision}; read it again"
        raise CronChanged(text, field="$.params.revision")
    _require_no_file(cron)
    if all(getattr(cron, name) == value for name, value in draft.properties.items()):
        return _view(cron, tx.now_ms)
    return _view(update_cron(tx, cron, draft.properties, draft.author, origin_of(call)), tx.now_ms)


def update_cron(
    tx: Transaction,
    cron: Cron,
    properties: dict[str, Any],
    author: dict[str, Any],
    origin: Origin = BY_DAEMON,
) -> Cron:
    """Change properties of an entry; its next due time is computed anew. Errors: CronInvalid."""
    changed = replace(cron, **properties)
    if (changed.schedule, changed.timezone) != (cron.schedule, cron.timezone):
        due = require_valid(changed, tx.now_ms)
    else:
        try:
            timetable = parse_schedule(changed.schedule, changed.timezone, cron.anchor_ms)
            require_audible(timetable, entry.quiet_of(changed), changed.quiet)
        except ScheduleError as error:
            raise CronInvalid(error.message, field=f"$.params.{error.field}") from None
        due = cron.next_due_ms
    author = author or {"authority": cron.authority, "origins": cron.origins}
    properties = fields_of(CronProperties, changed)
    next_due = due if cron.status == "active" else None
    return _append(
        tx, CronUpdated(cron_id=cron.cron_id, next_due_ms=next_due, **properties, **author), origin
    )


def _require_no_file(cron: Cron) -> None:
    if cron.source == "file":
        text = f"the cron entry '{cron.cron_id}' is in cron/crons.toml; change the file and reload"
        raise CronFromFile(text, field="$.params.cron_id")


def _append(tx: Transaction, event: Any, origin: Origin = BY_DAEMON) -> Cron:
    """Append an event of an entry; return the entry after it."""
    writer = StreamWriter(tx, stream_of(event.cron_id), origin=origin)
    writer.append(event)
    cron = writer.need(CRONS, event.cron_id)
    writer.write()
    return cron


@mutation(rows.PAUSE)
def pause(tx: Transaction, call: Call, params: CronChange) -> Cron:
    """Pause an entry. Errors: CronNotFound, CronForbidden, CronNotActive."""
    cron = _find_changeable(tx, call, params.cron_id)
    if cron.status == "paused":
        return cron
    if cron.status != "active":
        text = f"the cron entry is {cron.status} and fires no more; nothing is to be paused"
        raise CronNotActive(text, field="$.params.cron_id")
    return _append(tx, CronPaused(cron_id=cron.cron_id, note=params.note), origin_of(call))


@mutation(rows.RESUME)
def resume(tx: Transaction, call: Call, params: CronChange) -> CronView:
    """Resume an entry; due times that passed meanwhile are not made up for.

    Errors: CronNotFound, CronForbidden, CronNotActive.
    """
    cron = _find_changeable(tx, call, params.cron_id)
    if cron.status == "active":
        return _view(cron, tx.now_ms)
    try:
        timetable = parse_schedule(cron.schedule, cron.timezone, tx.now_ms)
    except ScheduleError as error:
        raise CronNotActive(f"{error.message}; update the entry first", field="$.params.cron_id") from None
    due = entry.next_due(cron, timetable, tx.now_ms)
    if due is None:
        text = f"the cron entry is {cron.status}, and its time has passed; update its schedule first"
        raise CronNotActive(text, field="$.params.cron_id")
    resumed = CronResumed(cron_id=cron.cron_id, next_due_ms=due, note=params.note)
    return _view(_append(tx, resumed, origin_of(call)), tx.now_ms)


@mutation(rows.DELETE)
def delete(tx: Transaction, call: Call, params: CronChange) -> Cron:
    """Delete an entry; return it as it was. Its runs go on.

    Errors: CronNotFound, CronForbidden, CronFromFile.
    """
    cron = _find_changeable(tx, call, params.cron_id)
    _require_no_file(cron)
    delete_cron(tx, cron, origin_of(call))
    return cron


def delete_cron(tx: Transaction, cron: Cron, origin: Origin = BY_DAEMON) -> None:
    """Delete an entry."""
    writer = StreamWriter(tx, stream_of(cron.cron_id), origin=origin)
    writer.append(CronDeleted(cron_id=cron.cron_id))
    writer.write()


def _prepare_fire(call: Call, params: CronFire) -> WakePlan:
    """Assign the ids of the firing. Errors: CronNotFound, CronForbidden."""
    with call.state.read() as store:
        cron = _find_changeable(store, call, params.cron_id)
    return prepare_wake(call.state, call.runtime, cron.target)


@mutation(rows.FIRE, prepare=lambda call, params: (params, _prepare_fire(call, params)))
def fire(tx: Transaction, call: Call, plan: tuple[CronFire, WakePlan]) -> Occurrence:
    """Fire an entry now, beside its schedule. Errors: CronNotFound, CronForbidden."""
    params, wake_plan = plan
    cron = _find_changeable(tx, call, params.cron_id)
    row = Occurrence(due_ms=tx.now_ms, at_ms=tx.now_ms, outcome=entry.LIVE, reason="manual", manual=True)
    decision = entry.CronDecision(row, fires=True, next_due_ms=cron.next_due_ms)
    return _carry_out(tx, call.runtime, cron, decision, wake_plan, origin_of(call)).recent[-1]


# The transactions of the worker.


def apply_rows(tx: Transaction, rows: Sequence[tuple[str, CronProperties | None]]) -> list[str]:
    """Store rows of the file by id; without properties, delete the entry. Return the problems.

    The state of an entry stays; a completed one whose schedule changes is active again.
    """
    problems = []
    for cron_id, properties in rows:
        cron = tx.get(CRONS, cron_id)
        try:
            if properties is None:
                if cron is not None and cron.source == "file":
                    delete_cron(tx, cron)
                continue
            fields = fields_of(CronProperties, properties)
            if cron is None:
                author: dict[str, Any] = {"source": "file", "authority": "operator"}
                create_cron(tx, CronCreated(cron_id=cron_id, next_due_ms=None, **author, **fields))
            elif cron.source != "file":
                problems.append(f"{cron_id}: an entry of another author has this id; rename one of them")
            elif fields_of(CronProperties, cron) != fields:
                changed = update_cron(tx, cron, fields, {})
                if cron.status == "completed" and changed.schedule != cron.schedule:
                    due = entry.next_due(changed, entry.timetable_of(changed), tx.now_ms)
                    _append(tx, CronResumed(cron_id=cron_id, next_due_ms=due, note="its schedule changed"))
        except (CronInvalid, CronLimit) as refusal:
            problems.append(f"{cron_id}: {refusal.message}")
    return problems


def find_cron_warnings(store: Snapshot) -> Iterator[str]:
    """Yield a sentence about the entries whose last firings failed, with the remedy."""
    failing = [store.need(CRONS, key[0]) for key, _ in islice(store.scan(CRONS_FAILING), MAX_WARNED + 1)]
    for cron in failing[:MAX_WARNED]:
        remedy = "see cron.explain"
        if cron.status == "disabled":
            remedy = "see cron.explain, correct the cause, then cron.resume"
        times = "once" if cron.failures == 1 else f"{cron.failures} times in a row"
        state = "is disabled" if cron.status == "disabled" else f"failed {times}"
        yield f"the cron entry '{cron.cron_id}' {state}; {remedy}"
    if len(failing) > MAX_WARNED:
        yield f"{store.count(CRONS_FAILING) - MAX_WARNED} more cron entries failed; see cron.list"


MAX_WARNED = 5
"""The failing entries that a status names."""


def fire_due(tx: Transaction, runtime: Runtime, cron_id: str, plan: WakePlan) -> None:
    """Decide an entry's due time, if there is one, and carry the decision out."""
    cron = tx.get(CRONS, cron_id)
    at_ms = entry.wake_ms(cron) if cron is not None else None
    if cron is None or at_ms is None or at_ms > tx.now_ms or cron.target != plan.target:
        # It was changed meanwhile; the worker looks again.
        return
    try:
        decision = entry.decide(cron, tx.now_ms)
    except ScheduleError as error:
        # A new version of the time zones lacks the zone.
        row = Occurrence(
            due_ms=at_ms, at_ms=tx.now_ms, outcome="refused", reason="cron_invalid", note=error.message
        )
        disabled = CronOccurred(
            cron_id=cron_id, occurrence=row, next_due_ms=None, status="disabled", note=error.message
        )
        _append(tx, disabled)
        return
    if decision is not None:
        _carry_out(tx, runtime, cron, decision, plan)


def _carry_out(
    tx: Transaction,
    runtime: Runtime,
    cron: Cron,
    decision: entry.CronDecision,
    plan: WakePlan,
    cause: Origin = BY_DAEMON,
) -> Cron:
    """Fire, unless the decision or a run in flight forbids it; append the occurrence and its consequences."""
    row, note = decision.occurrence, ""
    status: CronStatus | None = None
    deferred_until_ms = decision.deferred_until_ms
    if decision.fires:
        blocked = entry.judge_overlap(cron, row, MAX_PARALLEL_FIRINGS)
        row = blocked if blocked is not None else _wake(tx, runtime, cron, row, plan, cause)
    # A manual firing is beside the schedule: it completes nothing.
    is_manual = decision.occurrence.manual
    is_last = decision.next_due_ms is None and not is_manual
    if row.outcome == entry.LIVE:
        limit = 1 if cron.once else cron.max_executions
        if is_last or (limit is not None and cron.executions + 1 >= limit and not is_manual):
            status, note = "completed", ""
    elif row.outcome == "refused":
        if not is_manual:
            deferred_until_ms = entry.retry_ms(cron, tx.now_ms)
            status, note = entry.status_after_failure(cron, cron.failures + 1)
        if cron.source == "agent" and row.reason in GONE:
            status, note = "completed", "the session has ended"
    elif row.outcome in ("skipped", "missed") and is_last and deferred_until_ms is None:
        status, note = "completed", f"its only due time was {row.outcome}"
    if status == "completed" and cron.status != "active":
        status = None
    if status is not None:
        deferred_until_ms = None
    event = CronOccurred(
        cron_id=cron.cron_id,
        occurrence=row,
        next_due_ms=decision.next_due_ms,
        deferred_until_ms=deferred_until_ms,
        status=status,
        note=note,
    )
    changed = _append(tx, event, cause)
    if row.outcome == "refused":
        _report(tx, changed, row)
    if status == "completed" and cron.source == "agent" and not entry.live_rows(changed):
        delete_cron(tx, changed)
    return changed


GONE = ("session_not_found", "session_already_ended", "agent_already_closed")
"""The refusals of a target that never takes an input again."""


def _wake(
    tx: Transaction, runtime: Runtime, cron: Cron, row: Occurrence, plan: WakePlan, cause: Origin
) -> Occurrence:
    """Wake the target; return the occurrence with its run, or with the refusal."""
    woken = wake(
        tx,
        runtime,
        plan,
        origin="schedule",
        source=f"cron:{cron.name or cron.cron_id}",
        authority=cron.authority,
        origins=cron.origins,
        hops=cron.hops,
        cause=cause,
    )
    if isinstance(woken, Woken):
        return replace(row, session_id=woken.session_id, run_id=woken.run_id)
    note = truncate(woken.message, MAX_OCCURRENCE_NOTE_BYTES)
    # A queue that is full, or a conversation that rejects messages now, is a refusal, too: people see it.
    return replace(row, outcome="refused", reason=woken.reason, note=note, session_id=woken.session_id)


def _report(tx: Transaction, cron: Cron, row: Occurrence) -> None:
    """Report a failed firing in the target's session, if it has an open one."""
    session = find_target(tx, cron.target)
    if session is None or session.status != "open":
        return
    writer = SessionWriter(tx, session.session_id, session=session)
    writer.append(
        CronReported(
            cron_id=cron.cron_id,
            due_ms=row.due_ms,
            reason=row.reason,
            note=row.note,
            name=cron.name,
            disabled=cron.status == "disabled",
        )
    )
    writer.write()


def settle(tx: Transaction, runtime: Runtime, cron_id: str, run_id: str, plan: WakePlan | None) -> None:
    """Record the end of an occurrence's run, and fire the queued occurrence."""
    cron = tx.get(CRONS, cron_id)
    run = tx.get(RUNS, run_id)
    if cron is None or not any(row.run_id == run_id for row in entry.live_rows(cron)):
        return
    if run is not None and run.ended_at_ms is None:
        return
    outcome: Any = run.status if run is not None else "interrupted"
    row = next(row for row in cron.recent if row.run_id == run_id)
    is_manual = row.reason == "manual"
    status, note = None, ""
    if outcome == "failed" and not is_manual:
        status, note = entry.status_after_failure(cron, cron.failures + 1)
    settled = CronSettled(
        cron_id=cron_id, ended_run_id=run_id, outcome=outcome, status=status, note=note, manual=is_manual
    )
    cron = _append(tx, settled)
    if status == "disabled" and run is not None:
        reason = run.error.reason if run.error is not None else outcome
        _report(tx, cron, replace(row, outcome=outcome, reason=reason, note=note))
    due = cron.queued_due_ms
    if due is not None and cron.status == "active" and plan is not None and not entry.live_rows(cron):
        row = Occurrence(due_ms=due, at_ms=tx.now_ms, outcome=entry.LIVE, reason="queued")
        _carry_out(tx, runtime, cron, entry.CronDecision(row, fires=True, next_due_ms=cron.next_due_ms), plan)
    elif cron.status == "completed" and cron.source == "agent" and not entry.live_rows(cron):
        delete_cron(tx, cron)


def skip_restored(tx: Transaction, cron_id: str) -> None:
    """Skip what was due in the backup that was restored: it may have fired in the store that was replaced."""
    cron = tx.need(CRONS, cron_id)
    if cron.status != "active":
        return
    try:
        due = entry.next_due(cron, entry.timetable_of(cron), tx.now_ms)
    except ScheduleError:
        return
    note = "the store was restored from a backup, after which it may have fired"
    if cron.queued_due_ms is not None or cron.deferred_due_ms is not None:
        _append(tx, CronPlanned(cron_id=cron_id, next_due_ms=cron.next_due_ms, drops=True, note=note))
    if cron.next_due_ms is not None and cron.next_due_ms <= tx.now_ms:
        row = Occurrence(
            due_ms=cron.next_due_ms, at_ms=tx.now_ms, outcome="missed", reason="restored", note=note
        )
        status: CronStatus | None = "completed" if due is None else None
        occurred = CronOccurred(cron_id=cron_id, occurrence=row, next_due_ms=due, status=status, note=note)
        _append(tx, occurred if status is not None else replace(occurred, note=""))


def replan(tx: Transaction, cron_ids: list[str], note: str) -> None:
    """Compute the due times of entries anew, where they were computed at a time that is still to come."""
    for cron_id in cron_ids:
        cron = tx.get(CRONS, cron_id)
        if cron is None or cron.status != "active" or cron.planned_at_ms <= tx.now_ms:
            continue
        anchor = tx.now_ms if cron.anchor_ms > tx.now_ms else None
        if anchor is not None:
            cron = replace(cron, anchor_ms=anchor)
        try:
            due = entry.next_due(cron, entry.timetable_of(cron), tx.now_ms)
        except ScheduleError:
            # It is reported once it is due.
            continue
        deferred = cron.deferred_until_ms
        if deferred is not None:
            deferred = min(deferred, tx.now_ms + 86_400_000)
        if (due, deferred) == (cron.next_due_ms, cron.deferred_until_ms):
            continue
        planned = CronPlanned(
            cron_id=cron_id, next_due_ms=due, deferred_until_ms=deferred, note=note, anchor_ms=anchor
        )
        _append(tx, planned)


HANDLERS = (create, get, list_, update, pause, resume, fire, delete, explain, export)
