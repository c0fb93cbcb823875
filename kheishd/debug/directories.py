"""Directories of captures, ``<home>/debug/<run id>``, and the artifacts in them.

Directories are opened by descriptor and links are never followed, so nothing that another user puts there
leads elsewhere.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from protocol.lazy import lazy_pattern
from protocol.limits.debug import MAX_DEBUG_ARTIFACT_BYTES
from protocol.objects.run import DebugArtifact
from protocol.structs import Value

ArtifactKind = Literal["request", "events", "answer"]

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600

TRUNCATED_LINE: Final = b'{"truncated":true}\n'
TRUNCATED_START: Final = b'{"truncated":true'
"""The mark of a truncated artifact: the last line of events, the first field of another artifact."""

MAX_CAPTURES_OF_A_CALL: Final = 9_999

_ENDINGS: Final[dict[ArtifactKind, str]] = {
    "request": "request.json",
    "events": "events.jsonl",
    "answer": "answer.json",
}
_KINDS: Final = {ending: kind for kind, ending in _ENDINGS.items()}
_RUN_ID: Final = lazy_pattern(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")
_ARTIFACT_NAME: Final = lazy_pattern(
    r"((?:[a-z]{1,16}-)?turn-[0-9]{4,9}-attempt-[0-9]{4,9}(?:-again-[0-9]{4})?)"
    r"-(request\.json|events\.jsonl|answer\.json)"
)


class CaptureRefused(Exception):
    """A capture is impossible; the message says why."""


class ArtifactFile(Value, frozen=True):
    """A file of an artifact; its ``stem`` names the call."""

    name: str
    stem: str
    kind: ArtifactKind
    bytes: int
    modified_ns: int


def name_artifact(stem: str, kind: ArtifactKind) -> str:
    """Return the file name of an artifact."""
    return f"{stem}-{_ENDINGS[kind]}"


@contextmanager
def open_directory(path: str, *, create: bool = False) -> Iterator[int]:
    """Open the directory of all captures; the descriptor is closed after the block.

    Errors: FileNotFoundError and other OSErrors, CaptureRefused.
    """
    directory = _open_private(path, None, create=create)
    try:
        yield directory
    finally:
        os.close(directory)


def open_run_directory(run_id: str, parent: int, *, create: bool = False) -> int:
    """Return the descriptor of a run's directory.

    Errors: as for ``open_directory``; CaptureRefused also for an id that cannot name a directory.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise CaptureRefused(f"the run's id cannot be the name of a directory: {run_id!r}")
    return _open_private(run_id, parent, create=create)


def _open_private(name: str, parent: int | None, *, create: bool) -> int:
    """Open a directory of this user, and close it to others.

    Errors: FileNotFoundError and other OSErrors; CaptureRefused for a link, another file or another user's.
    """
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=parent)
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise CaptureRefused(f"{name} is a link or not a directory; remove it") from None
    status = os.fstat(directory)
    if status.st_uid != os.geteuid():
        os.close(directory)
        raise CaptureRefused(f"{name} belongs to the user with uid {status.st_uid}; remove it")
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.fchmod(directory, PRIVATE_DIRECTORY)
    return directory


def list_files(directory: int) -> list[ArtifactFile]:
    """Return the artifacts in a run's directory, oldest call first; other files are ignored."""
    files = []
    for name in os.listdir(directory):
        match = _ARTIFACT_NAME.fullmatch(name)
        if match is None:
            continue
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                kind = _KINDS[match[2]]
                files.append(ArtifactFile(name, match[1], kind, status.st_size, status.st_mtime_ns))
    oldest: dict[str, int] = {}
    for file in files:
        oldest[file.stem] = min(file.modified_ns, oldest.get(file.stem, file.modified_ns))
    order = list(_ENDINGS)
    return sorted(files, key=lambda file: (oldest[file.stem], file.stem, order.index(file.kind)))


def find_unused_stem(directory: int, stem: str) -> str:
    """Return the stem, or a numbered one if the call has been captured before. Errors: CaptureRefused."""
    used = {file.stem for file in list_files(directory)}
    if stem not in used:
        return stem
    for number in range(2, MAX_CAPTURES_OF_A_CALL + 1):
        if (candidate := f"{stem}-again-{number:04d}") not in used:
            return candidate
    raise CaptureRefused(f"{stem} was captured {MAX_CAPTURES_OF_A_CALL} times")


def read_file(directory: int, name: str) -> bytes:
    """Return the content of an artifact. Errors: OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        return file.read(MAX_DEBUG_ARTIFACT_BYTES)


def create_file(directory: int, name: str) -> int:
    """Return the descriptor of a new, private file. Errors: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, PRIVATE_FILE, dir_fd=directory)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of the content. Errors: OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def describe(file: ArtifactFile, content: bytes) -> DebugArtifact:
    """Return the public description of an artifact."""
    return DebugArtifact(
        artifact_id=file.name,
        kind=file.kind,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        truncated=content.startswith(TRUNCATED_START) or content.endswith(TRUNCATED_LINE),
        at_ms=file.modified_ns // 1_000_000,
    )
