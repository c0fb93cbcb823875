"""Rights that a store withdrew after a backup of it was made.

A restore must not give back what was taken away: a revoked token, a revoked or used grant, a deleted allow
rule, a new deny or ask rule, a trusted root, a session that was ended, a session's wider mode, scope or
workspace. The
replaced store knows them, if it can still be read. It may be damaged, and LMDB may crash on damaged pages, so
a child process reads it.

A token's rights never change: it is created, and revoked. A session's agent, sender and parent never change
either. Its route, model, contracts, title and metadata are those of the backup: they permit nothing.
"""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.permissions.grants import change_rules, rule_key
from kheishd.core.scope import intersect_scopes, narrower_mode
from kheishd.core.session import evolve, leave_plan_mode
from kheishd.store.environment import Snapshot
from kheishd.store.epoch import (
    Line,
    Withdrawal,
    Withdrawn,
    find_shared_cursor,
    read_epoch,
    read_line,
    read_restore_mark,
)
from kheishd.store.opening import open_for_reading
from kheishd.store.tables import META, PERMISSIONS, SESSIONS, TRUSTED_ROOTS
from kheishd.store.upgrades import SCHEMA
from protocol.events.permission import PermissionsChanged
from protocol.events.session import SessionEnded, SessionUpdated
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.events.workspace import WorkspaceUntrusted
from protocol.journal.envelope import DAEMON_STREAM, Envelope
from protocol.journal.line import decode_event
from protocol.objects.permission import RuleRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from protocol.journal.line import JournalEvent
    from protocol.objects.permission import Grant, Rule
    from protocol.objects.session import Session


_UNTRUSTED: Final = "untrusted after the backup that was restored"


class Replaced(Struct, frozen=True):
    """The line of history of a replaced store, and the rights that it withdrew.

    ``is_pending``: it was restored itself and never started, so the store that it replaced knows more. What
    its own restore withdrew counts as withdrawn in it. ``has_backup``: all that is in the backup was in it.
    ``unknown_sessions``: the ids of sessions in the backup that it did not have.
    """

    line: Line
    withdrawn: Withdrawn
    is_pending: bool
    has_backup: bool = True
    unknown_sessions: frozenset[str] = frozenset()


def read_withdrawn(directory: Path, backup: Path, kept: Sequence[Path]) -> Replaced | None:
    """Compare a store, and those that earlier restores kept (newest first), with a backup.

    A token that any of them revoked stays revoked. The rules, grants and properties are those of the newest
    store that was in use; for a session that it did not have, those of the newest store that had the session.
    None if no store can be read.
    """
    stores = [read_replaced(path, backup) for path in (directory, *kept)]
    readable = [store for store in stores if store is not None]
    if not readable:
        return None
    restored_only = list(takewhile(lambda store: store is not None and store.is_pending, stores))
    in_use = stores[len(restored_only)] if len(restored_only) < len(stores) else None
    # Without the store that was in use, the mark of the one that replaced it holds what that restore found. A
    # kept store counts only if it had all that is in the backup: it does not know what was granted later.
    newest = in_use or readable[0]
    withdrawn = newest.withdrawn
    if stores[0] is None:
        withdrawn = (
            replace(withdrawn, is_complete=False) if readable[0].has_backup else Withdrawn(is_complete=False)
        )
    unknown = newest.unknown_sessions
    for store in readable:
        if withdrawn.changes is not None and store is not newest:
            changes = [row for row in store.withdrawn.changes or () if row.session_id in unknown]
            withdrawn = replace(withdrawn, changes=[*withdrawn.changes, *changes])
            unknown &= store.unknown_sessions
    tokens = sorted({token_id for store in readable for token_id in store.withdrawn.tokens})
    withdrawn = replace(withdrawn, tokens=tokens, is_complete=withdrawn.is_complete and not unknown)
    return Replaced(readable[0].line, withdrawn, is_pending=False)


def read_replaced(directory: Path, backup: Path) -> Replaced | None:
    """Compare a store with a backup, in a child process; None if the store or its records are unreadable."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens here must not run the parent's clean-up.
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as out:
                out.write(msgspec.json.encode(_compare(directory, backup)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    try:
        return msgspec.json.decode(answer, type=Replaced)
    except msgspec.DecodeError:
        return None


def _compare(directory: Path, backup: Path) -> Replaced:
    with (
        open_for_reading(directory) as replaced_environment,
        open_for_reading(backup) as backup_environment,
        Snapshot(replaced_environment) as replaced,
        Snapshot(backup_environment) as restored,
    ):
        mark = read_restore_mark(replaced)
        is_pending = mark is not None and mark.pending
        withdrawn = find_withdrawn(replaced, restored)
        return Replaced(
            read_line(replaced),
            withdrawn,
            is_pending,
            _has_backup(replaced, restored),
            frozenset(
                session.session_id
                for _, session in restored.scan(SESSIONS)
                if replaced.get(SESSIONS, session.session_id) is None
            ),
        )


def _has_backup(replaced: Snapshot, restored: Snapshot) -> bool:
    """Whether everything in the backup was in the replaced store."""
    return (find_shared_cursor(replaced, read_epoch(restored)) or 0) >= restored.last_cursor


def find_withdrawn(replaced: Snapshot, restored: Snapshot) -> Withdrawn:
    """Return the rights that the backup grants and the replaced store had withdrawn."""
    mark = read_restore_mark(replaced)
    is_pending = mark is not None and mark.pending
    pending = mark.withdrawn if mark is not None and mark.pending else None
    is_complete = not is_pending or (
        pending is not None
        and pending.is_complete
        and pending.changes is not None
        and _has_backup(replaced, restored)
    )
    pending = pending or Withdrawn()
    created, revoked = _read_tokens(replaced)
    revoked.update(pending.tokens)
    known, known_revoked = _read_tokens(restored)
    is_comparable = all(store.get(META, "schema") == str(SCHEMA).encode() for store in (replaced, restored))
    return Withdrawn(
        tokens=sorted((revoked & known) - known_revoked),
        changes=list(_find_changes(replaced, restored, pending.changes or ())) if is_comparable else None,
        created_tokens=len(created - revoked - known) + pending.created_tokens,
        is_complete=is_complete,
    )


def make_events(change: Withdrawal) -> list[JournalEvent]:
    """Return the events that withdraw rights, for the stream of the session or the daemon."""
    events: list[JournalEvent] = []
    if change.add or change.remove or change.revoke:
        events.append(PermissionsChanged(add=change.add, remove=change.remove, revoke=change.revoke))
    if change.properties:
        events.append(SessionUpdated(changes=change.properties))
    if change.is_ended:
        events.append(SessionEnded(note="ended after the backup that was restored"))
    events += [WorkspaceUntrusted(root=root, note=_UNTRUSTED) for root in change.untrust]
    return events


def _read_tokens(store: Snapshot) -> tuple[set[str], set[str]]:
    """Return the ids of the tokens that were ever created, and of those that were revoked.

    Source: the journal, which every version reads.
    """
    created, revoked = set(), set()
    for _, line in store.entries(DAEMON_STREAM):
        # Most events are about something else, so they are not decoded.
        event = decode_event(line) if b'"type":"token_' in line else None
        if isinstance(event, TokenCreated):
            created.add(event.token_id)
        elif isinstance(event, TokenRevoked):
            revoked.add(event.token_id)
    return created, revoked


def _find_changes(
    replaced: Snapshot, restored: Snapshot, pending: Sequence[Withdrawal]
) -> Iterator[Withdrawal]:
    """Yield the changes since the backup. ``pending`` are those that the replaced store had yet to make."""
    events = {change.session_id: make_events(change) for change in pending}
    previous, current = replaced.get(PERMISSIONS, DAEMON_STREAM), restored.get(PERMISSIONS, DAEMON_STREAM)
    old_rules = previous.rules if previous is not None else []
    old_roots = _read_roots(replaced)
    for event in events.get(None, ()):
        if isinstance(event, PermissionsChanged):
            old_rules = change_rules(old_rules, event)
        elif isinstance(event, WorkspaceUntrusted):
            old_roots.discard(event.root)
    change = _compare_rules(None, old_rules, current.rules if current is not None else [])
    change = replace(change, untrust=sorted(_read_roots(restored) - old_roots))
    if change != Withdrawal(session_id=None):
        yield change
    for _, session in restored.scan(SESSIONS):
        old = replaced.get(SESSIONS, session.session_id)
        if old is None:
            continue
        for event in events.get(session.session_id, ()):
            old = evolve(old, Envelope(cursor=0, at_ms=0, session_id=session.session_id), event)
        uses = {grant.grant_id: grant for grant in old.grants}
        change = replace(
            _compare_rules(session.session_id, old.rules, session.rules),
            revoke=[grant.grant_id for grant in session.grants if _is_less(uses.get(grant.grant_id), grant)],
            properties=_narrow_properties(old, session),
            is_ended=old.status == "ended" != session.status,
        )
        if change != Withdrawal(session_id=session.session_id):
            yield change


def _read_roots(store: Snapshot) -> set[str]:
    """Return the roots that clients trust."""
    record = store.get(TRUSTED_ROOTS, DAEMON_STREAM)
    return {root.root for root in record.roots} if record is not None else set()


def _narrow_properties(old: Session, session: Session) -> dict[str, Any]:
    """Return the changes of properties by which a session permits no more than that of the replaced store."""
    changes: dict[str, Any] = {}
    old_mode, mode = (leave_plan_mode(record).permission_mode for record in (old, session))
    if old_mode is None and mode not in (None, "plan"):
        # Then the agent's mode counts, as it did in the replaced store; it may be narrower than any but plan.
        changes["permission_mode"] = None
    elif old_mode is not None and old_mode != mode != narrower_mode(old_mode, mode):
        changes["permission_mode"] = narrower_mode(old_mode, mode)
    if old.plan_mode and "permission_mode" in changes:
        changes["permission_mode"] = "plan"
    for name in ("scope", "credential_scope"):
        own = getattr(session, name)
        scope = intersect_scopes(own, getattr(old, name))
        if name == "scope" and old.persona is not None and old.persona != session.persona:
            # The session keeps the persona of the backup, and gets no more than the later one allowed.
            scope = intersect_scopes(scope, old.persona.scope)
        if scope != own:
            changes[name] = msgspec.to_builtins(scope)
    blocked = [*session.blocked_tools, *(set(old.blocked_tools) - set(session.blocked_tools))]
    if len(blocked) > len(session.blocked_tools):
        changes["blocked_tools"] = sorted(blocked)
    if old.profile is not None and session.profile is None:
        changes["profile"] = old.profile
    if old.workspace != session.workspace and not (
        old.workspace and session.workspace and PurePath(session.workspace).is_relative_to(old.workspace)
    ):
        changes["workspace"] = old.workspace
    return changes


def _is_less(old: Grant | None, grant: Grant) -> bool:
    """Whether a grant was revoked, used up or used since the backup."""
    if old is None:
        return True
    return old.remaining_uses is not None and old.remaining_uses != grant.remaining_uses


def _compare_rules(session_id: str | None, old: Sequence[Rule], current: Sequence[Rule]) -> Withdrawal:
    """Return the change by which the rules of a layer permit no more than those of the replaced store."""
    old_rules = {rule_key(rule): rule for rule in old}
    rules = {rule_key(rule): rule for rule in current}
    add = [
        rule
        for key, rule in old_rules.items()
        if rule.decision != "allow"
        and (key not in rules or rules[key].decision == "allow" or rule.decision == "deny")
        and (key not in rules or rules[key].decision != rule.decision)
    ]
    remove = [
        RuleRef(tool=rule.tool, subject=rule.subject, origin=rule.origin)
        for key, rule in rules.items()
        if rule.decision == "allow" and key not in old_rules
    ]
    return Withdrawal(session_id=session_id, add=add, remove=remove)
