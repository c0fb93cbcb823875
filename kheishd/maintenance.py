"""Maintenance commands on the store of a stopped daemon: under the home's lock, without an event loop.

Exit codes are those of ``launch``; the doctor exits with 1 if it finds anything.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kheishd import __version__
from kheishd.home import Home, HomeUnusable, find_home
from kheishd.launch import FAILED, STOPPED, STORE_REFUSED, UNUSABLE, Exit, lock_home, prepare_home
from protocol.errors.refusal import Refusal
from protocol.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.rehearsal import Rehearsal
    from kheishd.store.backup import Restored
    from kheishd.store.epoch import Withdrawn
    from protocol.objects.daemon import Diagnosis


@contextmanager
def lock_home_for_maintenance(option: str | None, *, create: bool = False) -> Iterator[Home]:
    """Lock a home, and turn refusals of the store into exits.

    Errors: Exit; also if the home does not exist and may not be created, as its path may be mistyped.
    """
    from kheishd.store.opening import StoreUnusable

    if not create:
        try:
            home = find_home(option, os.environ)
        except HomeUnusable as error:
            raise Exit(UNUSABLE, str(error)) from None
        if not home.path.exists():
            raise Exit(STORE_REFUSED, f"there is no home at {home.path}; choose one with --home")
    home = prepare_home(option, os.environ)
    with lock_home(home):
        try:
            yield home
        except StoreUnusable as error:
            raise Exit(STORE_REFUSED, str(error)) from None
        except Refusal as error:
            raise Exit(FAILED, error.message) from None


def restore(option: str | None, backup: str, *, as_json: bool) -> int:
    """Verify a backup and replace the store with it; the replaced store is kept beside it."""
    from kheishd.records.rebuild import rebuild_some
    from kheishd.store.backup import restore as restore_store
    from kheishd.store.writer import Store

    with lock_home_for_maintenance(option, create=True) as home:
        restored = restore_store(
            Path(backup).absolute(),
            home.state,
            upgrade=lambda copy: Store.open(
                copy,
                on_group=lambda group: None,
                threaded=False,
                version=__version__,
                rebuild=rebuild_some,
            ).close(),
        )
    if as_json:
        import msgspec

        mark = msgspec.to_builtins(restored.mark)
        previous = None if restored.kept is None else str(restored.kept)
        names = ("backup_at_ms", "restored_at_ms", "open_work", "withdrawn")
        _print_json(
            {"bytes": restored.bytes, "cursor": restored.cursor, "kept": previous}
            | {name: mark.get(name) for name in names}
        )
    else:
        _print_restored(restored)
    return STOPPED


def _print_restored(restored: Restored) -> None:
    from kheishd.restored import format_time

    mark = restored.mark
    made = format_time(mark.backup_at_ms)
    print(f"restored {restored.bytes:,} bytes, up to cursor {restored.cursor}, from a backup of {made}")
    work = mark.open_work
    if work is None:
        print("an older version made the backup; the first start counts the runs that were open in it")
    else:
        print(
            f"runs that were open in the backup and do not continue: {work.running} running, {work.queued} "
            f"queued, {work.waiting} waiting for a person; the first start marks them as interrupted"
        )
        print(f"calls that were running, in doubt after the first start: {work.indoubts}")
        if work.shells:
            print(f"background commands that were running and are not run again: {work.shells}")
    _print_withdrawn(mark.withdrawn)
    if restored.kept is None:
        return
    print(f"the previous store is kept in {restored.kept}")
    print(f"  to go back: kheishd restore {restored.kept}")
    print("  after the next start, remove it when you no longer need it")


def _print_withdrawn(withdrawn: Withdrawn | None) -> None:
    """Print the rights that were withdrawn in the replaced store after the backup."""
    from msgspec import json

    if withdrawn is None or not withdrawn.is_complete:
        print(
            "the previous store is not there or cannot be read, so it is not known which tokens, grants, "
            "rules and modes were revoked or changed after the backup; list them and "
            "revoke what should not be there"
        )
    if withdrawn is None:
        return
    revoked = ", ".join(withdrawn.tokens)
    print(f"tokens that were revoked after the backup and stay revoked: {revoked or 'none'}")
    if withdrawn.created_tokens:
        print(
            f"tokens that were created after the backup and do not exist any more: {withdrawn.created_tokens}"
        )
    if withdrawn.changes is None:
        if withdrawn.is_complete:
            print("an older version wrote one of the two stores, so their grants and rules were not compared")
        return
    for change in withdrawn.changes:
        layer = "the daemon" if change.session_id is None else f"the session {change.session_id}"
        rules = [f"{rule.decision} {rule.tool} {rule.subject or ''}".rstrip() for rule in change.add]
        lost = [f"allow {rule.tool} {rule.subject or ''}".rstrip() for rule in change.remove]
        properties = [f"{name} {json.encode(value).decode()}" for name, value in change.properties.items()]
        for text, names in (
            ("what was narrowed after the backup stays narrowed", properties),
            ("it was ended after the backup and stays so", [layer] if change.is_ended else []),
            ("grants that were revoked or used after the backup stay revoked", change.revoke),
            ("rules that were added after the backup stay", rules),
            ("rules that were removed after the backup stay removed", lost),
        ):
            if names:
                print(escape(f"{layer}: {text}: {', '.join(names)}"))
    if not withdrawn.changes and withdrawn.is_complete:
        print("no grants, rules or properties of sessions were withdrawn after the backup")


def upgrade(option: str | None, *, keep: bool, force: bool, as_json: bool) -> int:
    """Upgrade the store of an older version; the daemon's start does the same."""
    from kheishd.records.rebuild import find_unreadable, rebuild_some
    from kheishd.store.guards import REPAIR, StoreUnusable
    from kheishd.store.upgrades import SCHEMA, UpgradePlan, describe_upgrade
    from kheishd.store.writer import Store

    with lock_home_for_maintenance(option) as home:
        if not (home.state / "data.mdb").exists():
            raise Exit(STORE_REFUSED, f"there is no store in {home.state}")
        store = Store.open(
            home.state,
            on_group=lambda group: None,
            threaded=False,
            version=__version__,
            rebuild=rebuild_some,
            plan=UpgradePlan(check=None if force else find_unreadable, keep=keep),
        )
        upgraded, damage = store.upgraded, store.damage
        store.close()
        if damage is not None:
            raise StoreUnusable(f"the store is damaged: {damage}. {REPAIR}")
    if as_json:
        previous = None if upgraded is None else {"version": upgraded.version, "schema": upgraded.schema}
        kept = None if upgraded is None or upgraded.kept is None else str(upgraded.kept)
        _print_json({"upgraded_from": previous, "schema": SCHEMA, "kept": kept})
    elif upgraded is None:
        print(f"nothing to upgrade: the store has the schema {SCHEMA} of kheish {__version__}")
    else:
        print(describe_upgrade(upgraded))
    return STOPPED


def rehearse(option: str | None, *, as_json: bool) -> int:
    """Upgrade a copy of the store and compare; the daemon of the older version may run meanwhile."""
    from kheishd.rehearsal import rehearse as rehearse_upgrade
    from kheishd.store.opening import StoreUnusable

    try:
        home = find_home(option, os.environ)
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None
    if not home.path.exists():
        raise Exit(STORE_REFUSED, f"there is no home at {home.path}; choose one with --home")
    try:
        rehearsal = rehearse_upgrade(home.state, home.path, __version__)
    except StoreUnusable as error:
        raise Exit(STORE_REFUSED, str(error)) from None
    if as_json:
        _print_json(rehearsal)
    else:
        _print_rehearsal(rehearsal)
    return FAILED if rehearsal.differences else STOPPED


def compact(option: str | None, *, as_json: bool) -> int:
    """Shrink the store file."""
    from msgspec import to_builtins

    from kheishd.store.compaction import compact as compact_store

    with lock_home_for_maintenance(option) as home:
        compacted = compact_store(home.state)
        removable = dict(_find_removable(home)) if compacted.needed_bytes is not None else {}
    if as_json:
        _print_json({**to_builtins(compacted), "removable": removable})
        return STOPPED
    if compacted.needed_bytes is None:
        print(f"compacted {compacted.before_bytes:,} bytes to {compacted.after_bytes:,}")
    else:
        print(
            f"{compacted.freed_bytes:,} bytes were given back to the disk; to shorten the file as well, a "
            f"copy of it needs {compacted.needed_bytes:,} free bytes on the disk of {home.state}"
        )
        for path, size in removable.items():
            print(f"{path} takes {size:,} bytes and may be removed")
    return STOPPED


def _find_removable(home: Home) -> Iterator[tuple[str, int]]:
    """Yield what may be removed by hand, with its size: captures, and stores that were replaced."""
    candidates = [home.debug, *home.state.glob("*before-re*"), *home.path.glob("before-re*")]
    for path in candidates:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        size = sum(file.lstat().st_blocks * 512 for file in files if file.is_file())
        if size:
            yield str(path), size


def doctor(option: str | None, *, repair: bool, deep: bool, as_json: bool) -> int:
    """Examine the store and print the findings; with ``repair``, first repair what can be repaired.

    The pages are checked before LMDB reads them, by a child process.
    """
    with lock_home_for_maintenance(option) as home:
        diagnosis = _examine(home, deep=deep or repair)
        # A stream with a changed event cannot be repaired, and does not prevent the repair of records.
        if repair and any(finding.kind == "damaged" and not finding.stream for finding in diagnosis.findings):
            _salvage(home)
            diagnosis = _repair(home)
        if repair and any(finding.kind == "differs" for finding in diagnosis.findings):
            diagnosis = _repair(home)
    if as_json:
        _print_json(diagnosis)
    else:
        _print_diagnosis(diagnosis)
    return FAILED if diagnosis.findings else STOPPED


def _examine(home: Home, *, deep: bool) -> Diagnosis:
    from kheishd.records.doctor import diagnose_pages, examine_whole
    from kheishd.store.checkup import check_data
    from kheishd.store.environment import DATA, Snapshot
    from kheishd.store.guards import StoreUnusable, data_bytes
    from kheishd.store.opening import open_for_reading

    if data_bytes(home.state):
        checkup = check_data(home.state / DATA)
        if checkup.obstacle:
            raise StoreUnusable(f"The file of the store could not be checked: {checkup.obstacle}.")
        if checkup.problems:
            return diagnose_pages(checkup.problems)
    with open_for_reading(home.state, current=True) as environment:
        return examine_whole(lambda: Snapshot(environment), deep=deep)


def _salvage(home: Home) -> None:
    """Copy all that can be read of a damaged store into a new file."""
    from kheishd.store.salvage import salvage

    salvaged = salvage(home.state)
    print(f"the damaged store is kept as {salvaged.kept}", file=sys.stderr)
    if salvaged.may_be_older:
        print("a meta page was damaged: the newest commit may be missing", file=sys.stderr)
    for table in salvaged.rebuilt:
        print(f"the table '{table}' is rebuilt from the journal", file=sys.stderr)
    for table, rows in salvaged.lost.items():
        print(f"the table '{table}' has lost {rows} rows or pages", file=sys.stderr)


def _repair(home: Home) -> Diagnosis:
    """Repair the store after copying it; the copy may show the cause of the damage."""
    from kheishd.records.rebuild import rebuild_some
    from kheishd.records.repair import repair
    from kheishd.store.writer import Store

    store = Store.open(
        home.state,
        on_group=lambda group: None,
        threaded=False,
        is_watched=False,
        version=__version__,
        rebuild=rebuild_some,
    )
    try:
        numbered = (home.path / f"before-repair-{number}" for number in count(1))
        copy = next(path for path in numbered if not path.exists())
        store.backup(copy)
        print(f"the unrepaired store is kept as {copy}", file=sys.stderr)
        changed, diagnosis = repair(store, time.time_ns() // 1_000_000)
    finally:
        store.close()
    print(f"repaired {changed} records", file=sys.stderr)
    return diagnosis


def _print_rehearsal(rehearsal: Rehearsal) -> None:
    copy = f"a copy ({rehearsal.copied_bytes:,} bytes, up to cursor {rehearsal.cursor})"
    is_upgrade = rehearsal.from_schema < rehearsal.to_schema
    if is_upgrade:
        print(
            f"upgraded {copy} from kheish {rehearsal.from_version}, schema {rehearsal.from_schema}, to "
            f"schema {rehearsal.to_schema} in {rehearsal.took_ms / 1000:.1f} s"
        )
    else:
        print(f"nothing to upgrade: the store has the schema {rehearsal.to_schema}; {copy} was opened")
    for name, (before, after) in rehearsal.counts.items():
        if before != after:
            print(f"rows of the table {name}: {before} before, {after} after")
    print(f"streams that end at the same cursor and hash: {rehearsal.heads}")
    print(f"compared records: {rehearsal.records}")
    for difference in rehearsal.differences:
        print(escape(f"differs: {difference}"))
    if not rehearsal.differences:
        result = "the upgrade works and changes no meaning" if is_upgrade else "nothing differs"
        print(f"{result}; the copy was removed, the store was only read")


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    print(f"{diagnosis.events} events in {diagnosis.streams} streams and {diagnosis.records} records checked")
    if not diagnosis.complete and diagnosis.events:
        print("only the newest events were read; --deep reads all")
    for finding in diagnosis.findings:
        location = f"{finding.stream or 'store'}" + (f" cursor {finding.cursor}" if finding.cursor else "")
        print(f"{finding.kind}: {location}: {finding.message}\n  {finding.remedy}")
    if not diagnosis.findings:
        print("healthy")


def discover() -> int:
    """Print the contract as an OpenRPC document."""
    import msgspec

    from protocol.rpc.catalogue import METHODS
    from protocol.rpc.openrpc import make_document

    print(msgspec.json.format(msgspec.json.encode(make_document(METHODS.values(), __version__))).decode())
    return STOPPED


def _print_json(value: Any) -> None:
    import msgspec

    print(msgspec.json.encode(value).decode())
