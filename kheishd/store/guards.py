"""Checks of a store's files before LMDB opens them.

LMDB trusts its file. A truncated file kills the process with SIGBUS at the first missing page; an empty one
opens as an empty database; one from elsewhere opens as if it belonged here. So before opening, the length is
compared with the meta pages, and an identity marker beside the file must name the store in it. Every error
states the remedy, and nothing unreadable is overwritten.
"""

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

from kheishd.store.checkup import check_data
from kheishd.store.environment import DATA
from kheishd.store.pages import META_BYTES, MetaPage, newest, read_metas

MARKER = "identity"
RESTORING = ".restoring"
COMPACTING = ".compacting"
RESTORE = (
    "Nothing was changed. Restore a backup with 'kheishd restore BACKUP', which keeps the present store in "
    "'state/before-restore-N'."
)
REPAIR = (
    "Nothing was changed. Repair it with 'kheishd doctor --repair', which keeps the present file as "
    "'state/data.mdb.before-repair-N', or restore a backup with 'kheishd restore BACKUP'."
)


# The tables of a new store take some twenty pages.
MAX_UNFINISHED_BYTES = 1 << 20

log = logging.getLogger("kheishd.store")


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
        pid = _find_lock_holder(descriptor)
        os.close(descriptor)
        process = f"the process with pid {pid}" if pid else "another process"
        raise StoreUnusable(f"{directory} is in use by {process}; stop that first.") from error
    return descriptor


def _find_lock_holder(descriptor: int) -> str:
    """Return the pid of the process that has locked a file; "" if it is not known. Source: proc(5)."""
    inode = str(os.fstat(descriptor).st_ino)
    with suppress(OSError):
        for row in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode:
                return row[4]
    return ""


def remove_leftovers(directory: Path) -> None:
    """Remove the copies that a killed restore or compaction has left; they are as large as the store."""
    for name in (RESTORING, COMPACTING):
        shutil.rmtree(directory / name, ignore_errors=True)


def set_aside_unfinished(directory: Path) -> Path | None:
    """Rename the data of a first start that a power cut ended before its first commit; return the new path.

    Without a marker nothing was acknowledged. Then the meta pages are as LMDB created them, or zeros where
    the disk did not get them. Any other file is left where it is.
    """
    data = directory / DATA
    if not 0 < data_bytes(directory) <= MAX_UNFINISHED_BYTES or (directory / MARKER).exists():
        return None
    with data.open("rb") as file:
        metas = read_metas(file.fileno())
        first, second = (
            os.pread(file.fileno(), META_BYTES, start) for start in (0, os.sysconf("SC_PAGE_SIZE"))
        )
    if all(metas) or any(meta is not None and meta.transaction for meta in metas):
        return None
    if any(page.strip(b"\0") and meta is None for page, meta in zip((first, second), metas, strict=True)):
        return None
    unfinished = _name_unused(data, "unfinished")
    data.rename(unfinished)
    log.warning("the power failed during the first start; its unfinished file is kept as %s", unfinished)
    return unfinished


def _name_unused(data: Path, word: str) -> Path:
    """Return a path beside the data that does not exist."""
    numbered = (data.with_name(f"{DATA}.{word}-{number}") for number in count(1))
    return next(path for path in numbered if not path.exists())


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
    doubts = check_data(data).doubts
    if doubts:
        raise StoreUnusable(
            f"{data} is cut short: it has {size:,} bytes of {expected:,} ({doubts[0]}). {REPAIR}"
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
        raise StoreUnusable(f"{data} is damaged: one of its two meta pages is not one. {REPAIR}")
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
