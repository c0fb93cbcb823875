"""Checks of a store's files before LMDB opens them.

LMDB trusts its file. A truncated file kills the process with SIGBUS at the first missing page; an empty one
opens as an empty database; one from elsewhere opens as if it belonged here. So before opening, the length is
compared with the meta pages, and an identity marker beside the file must name the store in it. Every error
states the remedy, and nothing unreadable is overwritten.
"""

import fcntl
import os
import shutil
from pathlib import Path

from kheishd.store.checkup import check_data
from kheishd.store.environment import DATA
from kheishd.store.pages import MetaPage, newest, read_metas

MARKER = "identity"
RESTORING = ".restoring"
COMPACTING = ".compacting"
RESTORE = "Restore a backup with 'kheishd restore BACKUP'; what is there now is kept beside it."


class StoreUnusable(Exception):
    """The store cannot be opened as it is. The message states the reason and remedy; nothing was changed."""


def make_directory(directory: Path) -> None:
    """Create the directory of a store, with mode 0700, if there is none. Errors: StoreUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used for the store: {error.strerror}.") from error


def lock_directory(directory: Path) -> int:
    """Lock a store's directory; return the descriptor to close. Errors: StoreUnusable."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreUnusable(f"{directory} is in use by another process; stop that first.") from error
    return descriptor


def remove_leftovers(directory: Path) -> None:
    """Remove the copies that a killed restore or compaction has left; they are as large as the store."""
    for name in (RESTORING, COMPACTING):
        shutil.rmtree(directory / name, ignore_errors=True)


def check_files(directory: Path) -> str | None:
    """Check a store's files before LMDB opens them; return the identity that its marker names, if any.

    Without a marker, the directory holds an unfinished store or none.
    Errors: StoreUnusable, OSError.
    """
    identity = read_marker(directory)
    data = directory / DATA
    size = data_bytes(directory)
    if size == 0:
        if identity is not None:
            raise StoreUnusable(
                f"{data} is empty or gone, though {directory / MARKER} says that a store was here. "
                f"{RESTORE} To begin anew with nothing, move {directory} away."
            )
        return None
    meta = newest_meta(data)
    expected = meta.pages * meta.page_bytes
    if size < expected:
        _require_sound(data, size, expected)
        os.truncate(data, expected)
    return identity


def _require_sound(data: Path, size: int, expected: int) -> None:
    """Require that no page in use is missing at the end of a short file. Errors: StoreUnusable.

    Rarely a short file is sound: its last pages were taken and freed in one transaction, so they were never
    written. Only reading the whole tree can tell, and LMDB itself would crash on a missing page.
    """
    problems = check_data(data).problems
    if problems:
        raise StoreUnusable(
            f"{data} is cut short: it has {size:,} bytes of {expected:,} ({problems[0]}). {RESTORE}"
        )


def data_bytes(directory: Path) -> int:
    """Return the length of a store's data file; 0 if there is none."""
    try:
        return (directory / DATA).stat().st_size
    except FileNotFoundError:
        return 0


def newest_meta(data: Path) -> MetaPage:
    """Return the newer of the two meta pages. Errors: StoreUnusable if either is damaged: LMDB needs both."""
    with data.open("rb") as file:
        first, second = read_metas(file.fileno())
    meta = newest(first, second)
    if meta is None or first is None or second is None:
        raise StoreUnusable(f"{data} is damaged: one of its two meta pages is not one. {RESTORE}")
    return meta


# The marker.


def read_marker(directory: Path) -> str | None:
    """Return the identity beside the data; None if there is none. Errors: StoreUnusable if unreadable."""
    path = directory / MARKER
    try:
        words = path.read_text("ascii").split()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        words = []
    if len(words) != 2 or words[0] != "kheish" or len(words[1]) != 32:
        raise StoreUnusable(
            f"{path} is damaged. If {directory / DATA} is the store you expect, remove {path} and start "
            "again."
        )
    return words[1]


def write_marker(directory: Path, identity: str) -> None:
    """Write an identity beside the data, whole or not at all, and sync it."""
    fresh = directory / f"{MARKER}.new"
    with fresh.open("w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"kheish {identity}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / MARKER)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Sync the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
