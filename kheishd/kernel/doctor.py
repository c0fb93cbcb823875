"""The doctor: is the journal what was written, and are the records what the journal says?

An examination is a row of small steps, each on a snapshot of its own, so that it can go on for hours
beside a working daemon without holding back a page of the store or a client. Because the journal only
grows, what one step found out about it stays true for the next.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kheishd.kernel.replay import Complaint, Damage, Difference, Replay
from kheishd.kernel.rows import CHECKS, Check
from kheishd.store.journal import HASH_BYTES
from kheishd.store.tables import BLOBS, JOURNAL, Key
from protocol.objects.daemon import Diagnosis, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot

# One step beside a working daemon: 64 entries of a few hundred bytes are hashed, decoded and folded in
# about a millisecond.
STEP_ROWS = 64
# What an examination that is not deep looks at: the newest events, and the newest rows of each table.
SHALLOW_ROWS = 10_000
# More findings than this say no more than these.
MAX_FINDINGS = 500

_RESTORE = "restore a backup with 'kheishd restore BACKUP'; what is not named here is not affected"
_REPAIR = "stop the daemon and run 'kheishd doctor --repair'"

Row = tuple[Key, Any]


class Examination:
    """One examination, step by step; ``complaints`` are those of the last step, for whoever mends them."""

    def __init__(self, *, deep: bool, step_rows: int = STEP_ROWS) -> None:
        self.complaints: list[Complaint] = []
        self._deep = deep
        self._step_rows = step_rows
        self._streams = self._events = self._records = 0
        self._complete = True
        self._findings: list[Finding] = []
        self._store: Snapshot
        self._left = 0
        self._work = self._everything()

    def step(self, store: Snapshot) -> bool:
        """Examine a little more; whether there is more to do."""
        self._store, self._left, self.complaints = store, self._step_rows, []
        for complaint in self._work:
            if complaint is None:
                return True
            self.complaints.append(complaint)
            self._note(complaint)
        return False

    def diagnosis(self) -> Diagnosis:
        """What was examined and found so far."""
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
            case Difference(stream=stream):
                finding = Finding(
                    kind="differs", message=str(complaint), remedy=_REPAIR, stream=stream or None
                )
        self._findings.append(finding)

    # All that follows is one generator. It gives complaints, and None where a step ends; after a None
    # the store is another, newer snapshot, so no scan is ever continued over one.

    def _everything(self) -> Iterator[Complaint | None]:
        if self._deep:
            yield from self._all_streams()
        else:
            yield from self._newest_streams()
        for check in CHECKS:
            yield from self._rows(check)
        if self._deep:
            yield from self._blobs()

    def _each(self, scan: Callable[[Key | None], Iterator[Row]]) -> Iterator[Row | None]:
        """Every row of a scan, with None wherever a step ends; the scan begins anew after each."""
        after: Key | None = None
        while True:
            for key, value in scan(after):
                after = key
                yield key, value
                self._left -= 1
                if self._left <= 0:
                    break
            else:
                return
            yield None

    def _all_streams(self) -> Iterator[Complaint | None]:
        stream = self._stream_after(None)
        while stream is not None:
            yield from self._replay(Replay(stream))
            stream = self._stream_after(stream)

    def _stream_after(self, stream: str | None) -> str | None:
        after = None if stream is None else (stream, 2**64 - 1)
        for (found, _), _ in self._store.scan(JOURNAL, after=after):
            return str(found)
        return None

    def _newest_streams(self) -> Iterator[Complaint | None]:
        """The streams of the newest events: whole, or from where those events begin."""
        oldest: dict[str, int] = {}
        count = 0
        for row in self._each(self._feed):
            if row is None:
                yield None
                continue
            oldest[row[1]] = row[0][0]
            count += 1
            if count == SHALLOW_ROWS:
                self._complete = False
                break
        for stream, cursor in oldest.items():
            yield from self._replay(self._beginning(stream, cursor))

    def _feed(self, after: Key | None) -> Iterator[Row]:
        newest = self._store.feed(after[0] if after else 0, reverse=True)
        return (((cursor,), stream) for cursor, stream in newest)

    def _beginning(self, stream: str, cursor: int) -> Replay:
        """A replay from ``cursor`` on: of everything, if nothing comes before it."""
        for (_, before), stored in self._store.scan(JOURNAL, stream, after=(stream, cursor), reverse=True):
            return Replay(stream, at=before, head=stored[:HASH_BYTES], chain_only=True)
        return Replay(stream)

    def _replay(self, replay: Replay) -> Iterator[Complaint | None]:
        def scan(after: Key | None) -> Iterator[Row]:
            return self._store.scan(JOURNAL, replay.stream, after=(replay.stream, replay.at))

        self._streams += 1
        for row in self._each(scan):
            if row is None:
                yield None
                continue
            self._events += 1
            yield from replay.entry(self._store, row[0][1], row[1])
        # The scan has come to its end in this very snapshot, so the records in it must agree.
        yield from replay.finish(self._store)

    def _rows(self, check: Check) -> Iterator[Complaint | None]:
        """Every row of a table, or the newest of them."""

        def scan(after: Key | None) -> Iterator[Row]:
            return self._store.scan(check.table, after=after, reverse=not self._deep)

        count = 0
        try:
            for row in self._each(scan):
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
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._complete = False
            yield Damage(f"a row of the table '{check.table.name}' cannot be read: {error}")

    def _blobs(self) -> Iterator[Complaint | None]:
        """A blob's name is the SHA-256 of its chunks."""
        name, content = "", hashlib.sha256()
        for row in self._each(lambda after: self._store.scan(BLOBS, after=after)):
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


async def examine(state: State, *, deep: bool) -> Diagnosis:
    """Examine the store of a working daemon, taking at most half of the loop's time."""
    examination = Examination(deep=deep)
    more = True
    while more:
        started = time.perf_counter()
        with state.read() as store:
            more = examination.step(store)
        await trio.sleep(time.perf_counter() - started)
    return examination.diagnosis()


def examine_whole(read: Callable[[], Snapshot], *, deep: bool, step_rows: int = 4096) -> Diagnosis:
    """Examine a store that nobody else uses."""
    examination = Examination(deep=deep, step_rows=step_rows)
    more = True
    while more:
        with read() as store:
            more = examination.step(store)
    return examination.diagnosis()
