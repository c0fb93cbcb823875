"""The doctor: verify that the journal is what was written, and that the records equal the journal's fold.

An examination is a row of small steps, each on a snapshot of its own. It can therefore run for hours beside a
working daemon without holding back a page of the store or a client. Because the journal only grows, a result
of one step stays true for the next.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kheishd.records.orphans import CHECKS, OrphanCheck
from kheishd.records.replay import Complaint, Damage, Difference, Loss, Replay
from kheishd.store.environment import CORRUPT
from kheishd.store.journal import HASH_BYTES
from kheishd.store.table import Key
from kheishd.store.tables import BLOBS, JOURNAL, SECRET_VALUES, SECRETS
from protocol.errors.store import StoreDamaged
from protocol.objects.daemon import Diagnosis, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kheishd.store.environment import Snapshot

# One step beside a working daemon: 64 entries of a few hundred bytes are hashed, decoded and folded in
# about a millisecond.
STEP_ROWS = 64
# The rows of indexes that are compared in about the time of an entry.
ROWS_PER_ENTRY = 8
# The extent of an examination that is not deep: the newest events, and the newest rows of each table.
SHALLOW_ROWS = 10_000
# More findings than this add no information.
MAX_FINDINGS = 500

_RESTORE = "restore a backup with 'kheishd restore BACKUP'; what is not named here is not affected"
_REPAIR = "stop the daemon and run 'kheishd doctor --repair'"

Row = tuple[Key, Any]


class Examination:
    """One examination, step by step; ``complaints`` are those of the last step, for a repair."""

    def __init__(self, *, deep: bool, step_rows: int = STEP_ROWS) -> None:
        self.complaints: list[Complaint] = []
        self._deep = deep
        self._step_rows = step_rows
        self._streams = self._events = self._records = 0
        self._complete = True
        self._findings: list[Finding] = []
        self._store: Snapshot
        self._remaining = 0
        self._work = self._examine_store()

    def step(self, store: Snapshot) -> bool:
        """Examine a little more; return whether there is more to examine."""
        self._store, self._remaining, self.complaints = store, self._step_rows, []
        try:
            for complaint in self._work:
                if complaint is None:
                    return True
                self.complaints.append(complaint)
                self._note(complaint)
        except (StoreDamaged, *CORRUPT) as error:
            self._complete = False
            self._note(Damage(str(error)))
        return False

    def diagnosis(self) -> Diagnosis:
        """Return the extent and the findings so far."""
        return Diagnosis(
            streams=self._streams,
            events=self._events,
            records=self._records,
            findings=list(self._findings),
            complete=self._complete,
        )

    def _note(self, complaint: Complaint) -> None:
        if len(self._findings) >= MAX_FINDINGS:
            self._complete = False
            return
        match complaint:
            case Damage(stream=stream, cursor=cursor, message=message):
                finding = Finding(
                    kind="damaged", message=message, remedy=_RESTORE, stream=stream, cursor=cursor
                )
            case Loss(message=message, remedy=remedy):
                finding = Finding(kind="lost", message=message, remedy=remedy)
            case Difference(stream=stream):
                finding = Finding(
                    kind="differs", message=str(complaint), remedy=_REPAIR, stream=stream or None
                )
        self._findings.append(finding)

    # The rest is one generator. It yields complaints, and None at the end of each step; after a None the
    # store is another, newer snapshot, so no scan continues over one.

    def _examine_store(self) -> Iterator[Complaint | None]:
        if self._deep:
            stream = self._stream_after(None)
            while stream is not None:
                yield from self._replay(Replay(stream))
                stream = self._stream_after(stream)
        else:
            yield from self._newest_streams()
        for check in CHECKS:
            yield from self._check_rows(check)
        for (slot_id,), _ in self._store.scan(SECRETS):
            if self._store.get(SECRET_VALUES, slot_id) is None:
                message = f"the value of the secret slot '{slot_id}' is missing"
                yield Loss(message, "store it again, or delete the slot")
        if self._deep:
            yield from self._check_blobs()

    def _scan(self, scan: Callable[[Key | None], Iterator[Row]]) -> Iterator[Row | None]:
        """Yield every row of a scan, and None at the end of each step; start the scan anew after each."""
        after: Key | None = None
        while True:
            for key, value in scan(after):
                after = key
                yield key, value
                self._remaining -= 1
                if self._remaining <= 0:
                    break
            else:
                return
            yield None

    def _stream_after(self, stream: str | None) -> str | None:
        after = None if stream is None else (stream, 2**64 - 1)
        for (name, _), _ in self._store.scan(JOURNAL, after=after):
            return str(name)
        return None

    def _newest_streams(self) -> Iterator[Complaint | None]:
        """Replay the streams of the newest events: whole, or from the first of those events."""

        def feed(after: Key | None) -> Iterator[Row]:
            newest = self._store.feed(after[0] if after else 0, reverse=True)
            return (((cursor,), stream) for cursor, stream in newest)

        oldest: dict[str, int] = {}
        count = 0
        for row in self._scan(feed):
            if row is None:
                yield None
                continue
            oldest[row[1]] = row[0][0]
            count += 1
            if count == SHALLOW_ROWS:
                self._complete = False
                break
        for stream, cursor in oldest.items():
            yield from self._replay(self._replay_from(stream, cursor))

    def _replay_from(self, stream: str, cursor: int) -> Replay:
        """Return a replay from ``cursor``, with records if the stream begins there."""
        for (_, previous), stored in self._store.scan(JOURNAL, stream, after=(stream, cursor), reverse=True):
            return Replay(stream, cursor=previous, head=stored[:HASH_BYTES], chain_only=True)
        return Replay(stream)

    def _replay(self, replay: Replay) -> Iterator[Complaint | None]:
        def scan(after: Key | None) -> Iterator[Row]:
            return self._store.scan(JOURNAL, replay.stream, after=(replay.stream, replay.cursor))

        self._streams += 1
        for row in self._scan(scan):
            if row is None:
                yield None
                continue
            self._events += 1
            yield from replay.entry(self._store, row[0][1], row[1])
        # The scan has reached its end in this very snapshot, so the records in it must agree.
        yield from replay.finish(self._store)
        # A note has hundreds of rows, which take as long to compare as some entries to read.
        self._remaining -= replay.compared_rows // ROWS_PER_ENTRY

    def _check_rows(self, check: OrphanCheck) -> Iterator[Complaint | None]:
        """Check every row of a table, or the newest of them."""

        def scan(after: Key | None) -> Iterator[Row]:
            return self._store.scan(check.table, after=after, reverse=not self._deep)

        count = 0
        try:
            for row in self._scan(scan):
                if row is None:
                    yield None
                    continue
                complaint = check.examine(self._store, *row)
                if complaint is not None:
                    yield complaint
                self._records += 1
                count += 1
                if count == SHALLOW_ROWS and not self._deep:
                    self._complete = False
                    return
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, StoreDamaged) as error:
            self._complete = False
            yield Damage(f"a row of the table '{check.table.name}' cannot be read: {error}")

    def _check_blobs(self) -> Iterator[Complaint | None]:
        """Check that each blob's name is the SHA-256 of its chunks."""
        name, content = "", hashlib.sha256()
        for row in self._scan(lambda after: self._store.scan(BLOBS, after=after)):
            if row is None:
                yield None
                continue
            if row[0][0] != name:
                yield from _blob_damage(name, content.hexdigest())
                name, content = row[0][0], hashlib.sha256()
            content.update(row[1])
            self._records += 1
        yield from _blob_damage(name, content.hexdigest())


def _blob_damage(name: str, digest: str) -> Iterator[Damage]:
    if name and name != digest:
        yield Damage(f"the content of the blob {name} is not what was stored")


def diagnose_pages(problems: Sequence[str]) -> Diagnosis:
    """Return the diagnosis of a file whose pages are damaged: what they contain was not examined."""
    findings = [
        Finding(kind="damaged", message=problem, remedy=f"{_REPAIR}, or {_RESTORE}") for problem in problems
    ]
    return Diagnosis(streams=0, events=0, records=0, findings=findings, complete=False)


async def examine(read: Callable[[], Snapshot], *, deep: bool) -> Diagnosis:
    """Examine the store of a working daemon, taking at most half of the loop's time."""
    examination = Examination(deep=deep)
    more = True
    while more:
        started = time.perf_counter()
        with read() as store:
            more = examination.step(store)
        await trio.sleep(time.perf_counter() - started)
    return examination.diagnosis()


def examine_whole(read: Callable[[], Snapshot], *, deep: bool, step_rows: int = 4096) -> Diagnosis:
    """Examine a store that nothing else uses."""
    examination = Examination(deep=deep, step_rows=step_rows)
    more = True
    while more:
        with read() as store:
            more = examination.step(store)
    return examination.diagnosis()
