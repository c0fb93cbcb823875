"""What is captured of model calls, as files: ``<home>/debug/<run id>/<artifact>``, never in the store.

Directories are entered by their descriptors and no link is followed, so nothing that somebody put there leads
elsewhere. Whatever a limit does not leave room for goes, the oldest first: artifacts of a run, or whole runs,
but none that is being written.

What writes is called by one thread at a time; what reads may be called beside it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from kheishd.core.text.scrub import Scrubber, replace_spans
from protocol.errors.run import ArtifactNotFound, DebugNotFound
from protocol.limits.debug import (
    DEFAULT_DEBUG_BYTES,
    MAX_DEBUG_ARTIFACT_BYTES,
    MAX_DEBUG_ARTIFACTS,
    MAX_DEBUG_RUN_BYTES,
)
from protocol.objects.run import DebugArtifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Kind = Literal["request", "events", "answer"]

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600

# How much of what may be taken is left once it was too much: making room looks at everything there is.
LEFT: Final = 0.9

TRUNCATED_LINE: Final = b'{"truncated":true}\n'
TRUNCATED_START: Final = b'{"truncated":true'
"""How an artifact says that it is not whole: the last line of one of lines, the first field of another."""

_ENDINGS: Final[dict[Kind, str]] = {
    "request": "request.json",
    "events": "events.jsonl",
    "answer": "answer.json",
}
_KINDS: Final = {ending: kind for kind, ending in _ENDINGS.items()}
_RUN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")
_ARTIFACT: Final = re.compile(
    r"((?:[a-z]{1,16}-)?turn-[0-9]{4,9}-attempt-[0-9]{4,9}(?:-again-[0-9]{4})?)"
    r"-(request\.json|events\.jsonl|answer\.json)"
)
_AGAIN_MAX: Final = 9_999


class CaptureRefused(Exception):
    """Nothing is captured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept of one run."""

    artifact_bytes: int = MAX_DEBUG_ARTIFACT_BYTES
    run_bytes: int = MAX_DEBUG_RUN_BYTES
    artifacts: int = MAX_DEBUG_ARTIFACTS


@dataclass(frozen=True, slots=True)
class _File:
    """An artifact as it is found."""

    name: str
    stem: str
    kind: Kind
    bytes: int
    at_ns: int


class CaptureFiles:
    """All captures of a home. ``max_bytes`` is what they may take together, until ``collect`` says more."""

    def __init__(
        self, directory: Path, limits: Limits | None = None, max_bytes: int = DEFAULT_DEBUG_BYTES
    ) -> None:
        self.limits = limits or Limits()
        self._directory = directory
        self._max_bytes = max_bytes
        self._used: int | None = None
        self._writing: Counter[str] = Counter()

    # Writing.

    def open(self, run_id: str, stem: str) -> CallArtifacts:
        """The place for the artifacts of one model call.

        Errors: OSError, CaptureRefused.
        """
        with self._entered(make=True) as parent:
            directory = _enter(_safe(run_id), parent, make=True)
        try:
            sheaf = CallArtifacts(self, run_id, directory, _unused(directory, stem))
        except BaseException:
            os.close(directory)
            raise
        self._writing[run_id] += 1
        return sheaf

    def close(self, run_id: str) -> None:
        """One that was opened is not written any more."""
        self._writing[run_id] -= 1
        if not self._writing[run_id]:
            del self._writing[run_id]

    def take(self, count: int) -> None:
        """Count bytes that are about to be written. Errors: CaptureRefused if there is no room for them."""
        if self._used is None:
            self._used = sum(size for _, _, size in self._runs())
        if self._used + count > self._max_bytes:
            self._evict(int(self._max_bytes * LEFT) - count)
        if self._used + count > self._max_bytes:
            raise CaptureRefused(
                f"the captures of runs in flight take all of debug.max_bytes ({self._max_bytes})"
            )
        self._used += count

    def give_back(self, count: int) -> None:
        """Count bytes that are not there any more."""
        self._used = max((self._used or 0) - count, 0)

    def collect(self, now_s: float, max_age_s: float, max_bytes: int) -> None:
        """Remove what is older than ``max_age_s``, unless that is 0, and as much as ``max_bytes`` asks for.

        Errors: OSError, CaptureRefused.
        """
        self._max_bytes = max_bytes
        for run_id, newest_s, _ in self._runs():
            if max_age_s and newest_s < now_s - max_age_s and run_id not in self._writing:
                self._remove(run_id)
        self._used = sum(size for _, _, size in self._runs())
        if self._used > max_bytes:
            self._evict(int(max_bytes * LEFT))

    def _evict(self, left: int) -> None:
        """Remove the oldest runs until no more than ``left`` bytes are there."""
        runs = sorted(self._runs(), key=lambda run: run[1])
        self._used = sum(size for _, _, size in runs)
        for run_id, _, size in runs:
            if self._used <= left:
                break
            if run_id not in self._writing:
                self._remove(run_id)
                self._used -= size

    def _runs(self) -> list[tuple[str, float, int]]:
        """Every run there is: when it was written last, in seconds, and its bytes."""
        found = []
        with suppress(FileNotFoundError), self._entered() as parent:
            for name in os.listdir(parent):
                with suppress(OSError, CaptureRefused), _entered(name, parent) as directory:
                    files = _files(directory)
                    changed_ns = max([file.at_ns for file in files], default=os.fstat(directory).st_mtime_ns)
                    found.append((name, changed_ns / 1e9, sum(file.bytes for file in files)))
        return found

    def _remove(self, run_id: str) -> None:
        """Remove a run's artifacts and, unless somebody put something else there, its directory."""
        with self._entered() as parent:
            with _entered(run_id, parent) as directory:
                for file in _files(directory):
                    os.unlink(file.name, dir_fd=directory)
            with suppress(OSError):
                os.rmdir(run_id, dir_fd=parent)

    # Reading.

    def artifacts(self, run_id: str) -> list[DebugArtifact]:
        """What was captured of a run, the oldest first. Errors: DebugNotFound."""
        found = []
        with self._captured(run_id) as directory:
            for file in _files(directory):
                # It may have been evicted meanwhile.
                with suppress(OSError):
                    found.append(_described(file, _read(directory, file.name)))
        if not found:
            raise DebugNotFound(field="$.params.run_id")
        return found

    def text(
        self, run_id: str, artifact_id: str, offset: int, limit: int, scrubber: Scrubber
    ) -> tuple[DebugArtifact, str, int | None]:
        """A part of an artifact, scrubbed of what has become known as a secret since; where it goes on.

        Errors: DebugNotFound, ArtifactNotFound.
        """
        with self._captured(run_id) as directory:
            file = next((file for file in _files(directory) if file.name == artifact_id), None)
            if file is None:
                raise ArtifactNotFound(field="$.params.artifact")
            try:
                content = _read(directory, file.name)
            except OSError:
                raise ArtifactNotFound(field="$.params.artifact") from None
        end = _end(content, offset, limit)
        # A character a byte: secrets are ASCII, and offsets stay those of the file.
        letters = content.decode("latin-1")
        part = replace_spans(letters, scrubber.find_spans(letters), offset, end).encode("latin-1")
        text = part.decode(errors="replace")
        return _described(file, content), text, end if end < len(content) else None

    @contextmanager
    def _captured(self, run_id: str) -> Iterator[int]:
        try:
            with self._entered() as parent:
                directory = _enter(_safe(run_id), parent)
        except (OSError, CaptureRefused):
            raise DebugNotFound(field="$.params.run_id") from None
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _entered(self, *, make: bool = False) -> Iterator[int]:
        directory = _enter(str(self._directory), None, make=make)
        try:
            yield directory
        finally:
            os.close(directory)


class CallArtifacts:
    """The artifacts of one model call, while they are written."""

    def __init__(self, files: CaptureFiles, run_id: str, directory: int, stem: str) -> None:
        self._files = files
        self._run_id = run_id
        self._directory = directory
        self._stem = stem
        self._lines: int | None = None
        self._lines_bytes = 0
        self._full = False
        self._others_bytes = 0

    def write(self, kind: Kind, content: bytes) -> None:
        """Write a whole artifact. Errors: OSError, CaptureRefused; then nothing of it is left."""
        assert len(content) <= self._files.limits.artifact_bytes, "what is too long was cut"
        self._make_room(len(content), new=True)
        descriptor = self._create(kind)
        try:
            _write(descriptor, content)
        except OSError:
            os.unlink(self._name(kind), dir_fd=self._directory)
            self._files.give_back(len(content))
            raise
        finally:
            os.close(descriptor)

    def line(self, line: bytes) -> None:
        """Add a line to the events; what exceeds their limit is left out, and that is said.

        Errors: OSError, CaptureRefused; then nothing of the line is left.
        """
        if self._full:
            return
        room = self._files.limits.artifact_bytes - self._lines_bytes - len(TRUNCATED_LINE)
        if len(line) > room:
            self.truncate()
            return
        self._append(line)

    def truncate(self) -> None:
        """Say that more events came than are here. Errors: OSError, CaptureRefused."""
        if not self._full:
            self._full = True
            self._append(TRUNCATED_LINE)

    def close(self) -> None:
        """Write no more."""
        if self._lines is not None:
            os.close(self._lines)
        os.close(self._directory)
        self._files.close(self._run_id)

    def _append(self, line: bytes) -> None:
        new = self._lines is None
        if new or self._others_bytes + self._lines_bytes + len(line) > self._files.limits.run_bytes:
            self._make_room(len(line), new=new)
        else:
            self._files.take(len(line))
        if self._lines is None:
            self._lines = self._create("events")
        try:
            _write(self._lines, line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._lines, self._lines_bytes)
            self._files.give_back(len(line))
            raise
        self._lines_bytes += len(line)

    def _make_room(self, count: int, *, new: bool) -> None:
        """Evict the oldest artifacts of the run until there is room for another, or for more events."""
        limits = self._files.limits
        files = _files(self._directory)
        used = sum(file.bytes for file in files)
        kept = len(files)
        for file in files:
            if kept + new <= limits.artifacts and used + count <= limits.run_bytes:
                break
            if file.name != self._name("events"):
                os.unlink(file.name, dir_fd=self._directory)
                self._files.give_back(file.bytes)
                used -= file.bytes
                kept -= 1
        self._others_bytes = used - self._lines_bytes
        self._files.take(count)

    def _create(self, kind: Kind) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._name(kind), flags, PRIVATE_FILE, dir_fd=self._directory)

    def _name(self, kind: Kind) -> str:
        return f"{self._stem}-{_ENDINGS[kind]}"


# Directories and files, by their descriptors.


def _safe(run_id: str) -> str:
    """A run's id as the name of a directory. Errors: CaptureRefused."""
    if not _RUN.fullmatch(run_id):
        raise CaptureRefused(f"the run's id cannot be the name of a directory: {run_id!r}")
    return run_id


def _enter(name: str, parent: int | None, *, make: bool = False) -> int:
    """A directory of ours, which nobody else may look into.

    Errors: FileNotFoundError and other OSErrors; CaptureRefused if it is a link, no directory or another's.
    """
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, PRIVATE_DIRECTORY, dir_fd=parent)
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise CaptureRefused(f"{name} is a link, or no directory; remove it") from None
    found = os.fstat(directory)
    if found.st_uid != os.geteuid():
        os.close(directory)
        raise CaptureRefused(f"{name} belongs to the user with uid {found.st_uid}; remove it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.fchmod(directory, PRIVATE_DIRECTORY)
    return directory


@contextmanager
def _entered(run_id: str, parent: int) -> Iterator[int]:
    directory = _enter(_safe(run_id), parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _files(directory: int) -> list[_File]:
    """The artifacts in a run's directory, the oldest first; whatever else is there is none of ours."""
    files = []
    for name in os.listdir(directory):
        parts = _ARTIFACT.fullmatch(name)
        if parts is None:
            continue
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                kind = _KINDS[parts[2]]
                files.append(_File(name, parts[1], kind, found.st_size, found.st_mtime_ns))
    began: dict[str, int] = {}
    for file in files:
        began[file.stem] = min(file.at_ns, began.get(file.stem, file.at_ns))
    order = list(_ENDINGS)
    return sorted(files, key=lambda file: (began[file.stem], file.stem, order.index(file.kind)))


def _unused(directory: int, stem: str) -> str:
    """The stem, or one beside it where a call was captured under it already."""
    taken = {file.stem for file in _files(directory)}
    again = (f"{stem}-again-{number:04d}" for number in range(2, _AGAIN_MAX + 1))
    for candidate in (stem, *again) if stem in taken else (stem,):
        if candidate not in taken:
            return candidate
    raise CaptureRefused(f"{stem} was captured {_AGAIN_MAX} times")


def _read(directory: int, name: str) -> bytes:
    """Errors: OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "rb") as file:
        return file.read(MAX_DEBUG_ARTIFACT_BYTES)


def _write(descriptor: int, content: bytes) -> None:
    """Errors: OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _described(file: _File, content: bytes) -> DebugArtifact:
    return DebugArtifact(
        artifact_id=file.name,
        kind=file.kind,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        truncated=content.startswith(TRUNCATED_START) or content.endswith(TRUNCATED_LINE),
        at_ms=file.at_ns // 1_000_000,
    )


def _end(content: bytes, offset: int, limit: int) -> int:
    """Where a part of a text ends: never inside a character."""
    end = min(offset + limit, len(content))
    at = end
    while at > offset and at < len(content) and content[at] & 0xC0 == 0x80:
        at -= 1
    return at if at > offset else end
