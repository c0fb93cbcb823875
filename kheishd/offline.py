"""What is done to a store while no daemon runs: under the home's lock, without an event loop.

Exit codes are those of ``launch``; the doctor ends with 1 where something is wrong.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kheishd import __version__
from kheishd.home import Home, HomeUnusable, find_home
from kheishd.launch import FAILED, STOPPED, STORE_REFUSED, UNUSABLE, Exit, locked, usable_home
from protocol.errors.refusal import Refusal
from protocol.objects.daemon import Diagnosis


@contextmanager
def held_home(option: str | None, *, make: bool = False) -> Iterator[Home]:
    """A home that no daemon uses meanwhile, with what the store refuses explained.

    Errors: Exit, also where there is no home, unless it may be made: one that was mistyped is not.
    """
    from kheishd.store.opening import StoreUnusable

    if not make:
        _there(option)
    home = usable_home(option, os.environ)
    with locked(home):
        try:
            yield home
        except StoreUnusable as error:
            raise Exit(STORE_REFUSED, str(error)) from None
        except Refusal as error:
            raise Exit(FAILED, error.message) from None


def _there(option: str | None) -> None:
    try:
        home = find_home(option, os.environ)
    except HomeUnusable as error:
        raise Exit(UNUSABLE, str(error)) from None
    if not home.path.exists():
        raise Exit(STORE_REFUSED, f"there is no home at {home.path}; name one with --home")


def restore(option: str | None, backup: str, *, as_json: bool) -> int:
    """Verify a backup and put it in the place of the store; what was there is kept beside it."""
    from kheishd.store import backup as copies

    with held_home(option, make=True) as home:
        restored = copies.restore(Path(backup).absolute(), home.state)
    if as_json:
        kept = None if restored.kept is None else str(restored.kept)
        _print_json({"bytes": restored.bytes, "cursor": restored.cursor, "kept": kept})
        return STOPPED
    print(f"restored {restored.bytes:,} bytes, up to cursor {restored.cursor}")
    if restored.kept is not None:
        print(f"the store from before is kept as {restored.kept}; remove it when it is no longer needed")
    return STOPPED


def compact(option: str | None, *, as_json: bool) -> int:
    """Give the space that the store no longer uses back to the disk."""
    from kheishd.store import backup as copies

    with held_home(option) as home:
        done = copies.compact(home.state)
    if as_json:
        _print_json({"before_bytes": done.before_bytes, "after_bytes": done.after_bytes})
    else:
        print(f"compacted {done.before_bytes:,} bytes to {done.after_bytes:,}")
    return STOPPED


def doctor(option: str | None, *, repair: bool, deep: bool, as_json: bool) -> int:
    """Examine the store and print what is found; with ``repair``, mend what the journal can mend."""
    with held_home(option) as home:
        diagnosis = _examine(home, deep=deep or repair)
        mendable = any(finding.kind == "differs" for finding in diagnosis.findings)
        if repair and mendable:
            diagnosis = _repair(home)
    if as_json:
        _print_json(diagnosis)
    else:
        _print(diagnosis)
    return FAILED if diagnosis.findings else STOPPED


def _examine(home: Home, *, deep: bool) -> Diagnosis:
    from kheishd.records.doctor import examine_whole
    from kheishd.store.environment import Snapshot
    from kheishd.store.opening import opened_for_reading

    with opened_for_reading(home.state) as environment:
        return examine_whole(lambda: Snapshot(environment), deep=deep)


def _repair(home: Home) -> Diagnosis:
    """Mend the store, having copied it first: what was there may be wanted by whoever looks for the cause."""
    from kheishd.records.repair import repair
    from kheishd.store.writer import Store

    store = Store.open(home.state, on_group=lambda group: None, threaded=False, version=__version__)
    try:
        copy = _unused(home.path / "before-repair")
        store.backup(copy)
        print(f"the store as it was is kept as {copy}", file=sys.stderr)
        changed, diagnosis = repair(store, time.time_ns() // 1_000_000)
    finally:
        store.close()
    print(f"mended {changed} records", file=sys.stderr)
    return diagnosis


def _unused(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def _print(diagnosis: Diagnosis) -> None:
    print(
        f"{diagnosis.events} events in {diagnosis.streams} streams and {diagnosis.records} records examined"
    )
    if not diagnosis.complete:
        print("only the newest were read; --deep reads all")
    for finding in diagnosis.findings:
        where = f"{finding.stream or 'store'}" + (f" cursor {finding.cursor}" if finding.cursor else "")
        print(f"{finding.kind}: {where}: {finding.message}\n  {finding.remedy}")
    if not diagnosis.findings:
        print("healthy")


def _print_json(value: Any) -> None:
    import msgspec

    print(msgspec.json.encode(value).decode())


def discover() -> int:
    """Print the contract."""
    import msgspec

    from protocol.rpc.catalogue import METHODS
    from protocol.rpc.openrpc import document

    print(msgspec.json.format(msgspec.json.encode(document(METHODS.values(), __version__))).decode())
    return STOPPED
