"""Looking at a store's files before LMDB does.

LMDB trusts its file. A truncated one kills the process with SIGBUS at the first page that is not there; an
empty one opens as an empty database, as if nothing had ever been; one from elsewhere opens as if it were
ours. So before it is opened, its length is compared with what its meta pages say, and an identity marker
beside it must name the store that is in it. Whatever is wrong is said, with the way to mend it, and
nothing that cannot be read is overwritten.
"""

import fcntl
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from kheishd.store.environment import DATA

MARKER = "identity"
RESTORING = ".restoring"
COMPACTING = ".compacting"
RESTORE = "Restore a backup with 'kheishd restore BACKUP'; what is there now is kept beside it."


class StoreUnusable(Exception):
    """The store cannot be opened as it is. The message says why and what to do; nothing was changed."""


def make_directory(directory: Path) -> None:
    """Make the directory of a store if it is not there; ours alone. Errors: StoreUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used for the store: {error.strerror}.") from error


def lock_directory(directory: Path) -> int:
    """Hold the lock of a store's directory: a descriptor to be closed. Errors: StoreUnusable."""
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


def clear_workplaces(directory: Path) -> None:
    """Remove what a restore or a compaction that was killed has left: copies as large as the store."""
    for name in (RESTORING, COMPACTING):
        shutil.rmtree(directory / name, ignore_errors=True)


class Meta(NamedTuple):
    """What a meta page says of the file."""

    page_bytes: int
    pages: int
    transaction: int


_PAGE_HEADER = struct.Struct("=QHHHH")
_META = struct.Struct("=IIQQ")
_TREE_BYTES = 48
_TAIL = struct.Struct("=QQ")
_MAGIC = 0xBEEFC0DE
_FORMAT = 1
_META_FLAG = 0x08
_META_BYTES = _PAGE_HEADER.size + _META.size + 2 * _TREE_BYTES + _TAIL.size


def check_files(directory: Path) -> str | None:
    """Look at a store's files before LMDB does; gives the identity that its marker names, if it has one.

    Without a marker there may be a store that was not finished, or none at all.
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
    _check_length(data, newest_meta(data), size)
    return identity


def data_bytes(directory: Path) -> int:
    """The length of a store's data file; 0 if there is none."""
    try:
        return (directory / DATA).stat().st_size
    except FileNotFoundError:
        return 0


def newest_meta(data: Path) -> Meta:
    """The newer of the two meta pages. Errors: StoreUnusable if either is damaged, as LMDB needs both."""
    with data.open("rb") as file:
        first = _meta(file.read(_META_BYTES))
        if first is not None:
            file.seek(first.page_bytes)
            second = _meta(file.read(_META_BYTES))
            if second is not None:
                return max(first, second, key=lambda meta: meta.transaction)
    raise StoreUnusable(f"{data} is damaged: one of its two meta pages is not one. {RESTORE}")


def _meta(page: bytes) -> Meta | None:
    if len(page) < _META_BYTES:
        return None
    flags = _PAGE_HEADER.unpack_from(page)[2]
    magic, version, _, _ = _META.unpack_from(page, _PAGE_HEADER.size)
    trees = _PAGE_HEADER.size + _META.size
    page_bytes = int.from_bytes(page[trees : trees + 4], sys.byteorder)
    last_page, transaction = _TAIL.unpack_from(page, trees + 2 * _TREE_BYTES)
    sound = flags & _META_FLAG and magic == _MAGIC and version == _FORMAT and 256 <= page_bytes <= 1 << 16
    return Meta(page_bytes, last_page + 1, transaction) if sound else None


def _check_length(data: Path, meta: Meta, size: int) -> None:
    """Errors: StoreUnusable if pages that are in use are missing at the end."""
    whole = meta.pages * meta.page_bytes
    if size >= whole:
        return
    # Rarely a file is short and sound: the last pages were taken and given back in one transaction, so
    # they were never written. Only reading the whole tree can tell, and LMDB cannot be let near it.
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(data))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreUnusable(
            f"{data} is cut short: it has {size:,} bytes of {whole:,} ({problems[0]}). {RESTORE}"
        )
    os.truncate(data, whole)


# The marker.


def read_marker(directory: Path) -> str | None:
    """The identity beside the data; None if there is none. Errors: StoreUnusable if it is unreadable."""
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
    """Put an identity beside the data, whole or not at all, and see it to the disk."""
    fresh = directory / f"{MARKER}.new"
    with fresh.open("w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"kheish {identity}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / MARKER)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """See to it that the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
