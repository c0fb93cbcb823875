"""Snapshots and transactions: their reads, their order, and their refusals."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lmdb
import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kheishd.store.environment import Readers, Snapshot, Transaction
from kheishd.store.journal import verify_chain
from kheishd.store.opening import MAX_READERS, open_for_reading, open_lmdb
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    AGENTS_BY_TIME,
    CHECKPOINTS,
    CHILDREN,
    CURSORS,
    JOURNAL,
    PERMISSIONS,
    RECEIPTS_BY_AGE,
    RUNS_BY_SESSION,
    TABLES,
)
from kheishd.store.writer import Store
from protocol.errors.daemon import DaemonDraining
from protocol.errors.store import StorageFailed, StoreDamaged, UpdateTooLarge
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.store import MAX_UPDATE_BYTES
from tests.support.stores import NOW_MS, append, fill, make_input, open_inline, update

if TYPE_CHECKING:
    from protocol.events.daemon import DaemonStopped
    from protocol.events.run import InputReceived

# Reading.


def adopt(parent: str, child: str, tx: Transaction) -> None:
    """Return an update that puts one row."""
    tx.put(CHILDREN, parent, child, value=b"x")


@pytest.fixture
def family(store: Store) -> Store:
    """Provide a store with some children of some parents, and no other rows."""
    for parent, child in (("a", "1"), ("a", "2"), ("a", "3"), ("ab", "1"), ("b", "1")):
        update(store, partial(adopt, parent, child))
    return store


def scanned(store: Store, *prefix: str, after: Key | None = None, reverse: bool = False) -> list[str]:
    """Return the keys of a scan, each as one word."""
    with store.read() as snapshot:
        return ["/".join(key) for key, _ in snapshot.scan(CHILDREN, *prefix, after=after, reverse=reverse)]


def test_a_scan_keeps_to_its_prefix(family: Store) -> None:
    """A scan gives the rows of one parent, not of another whose name begins the same, in both directions."""
    assert scanned(family) == ["a/1", "a/2", "a/3", "ab/1", "b/1"]
    assert scanned(family, reverse=True) == ["b/1", "ab/1", "a/3", "a/2", "a/1"]
    assert scanned(family, "a") == ["a/1", "a/2", "a/3"]
    assert scanned(family, "a", reverse=True) == ["a/3", "a/2", "a/1"]
    assert scanned(family, "a", "2") == ["a/2"]
    assert scanned(family, "c") == scanned(family, "A", reverse=True) == []


def test_a_scan_goes_on_after_a_key(family: Store) -> None:
    """The key ``after`` is left out, may be deleted, and may lie outside the prefix."""
    assert scanned(family, "a", after=("a", "1")) == ["a/2", "a/3"]
    assert scanned(family, "a", after=("a", "1x")) == ["a/2", "a/3"]
    assert scanned(family, "a", after=("A", "1")) == ["a/1", "a/2", "a/3"]
    assert scanned(family, "a", after=("b", "1")) == []
    assert scanned(family, "a", after=("a", "3"), reverse=True) == ["a/2", "a/1"]
    assert scanned(family, "a", after=("a", "2x"), reverse=True) == ["a/2", "a/1"]
    assert scanned(family, "a", after=("b", "1"), reverse=True) == ["a/3", "a/2", "a/1"]
    assert scanned(family, "a", after=("A", "1"), reverse=True) == []


def test_rows_beyond_a_key_are_counted(store: Store) -> None:
    """All of them, and those whose second part is the text, also where another text begins with it."""

    def insert(tx: Transaction) -> None:
        for key in ((1, "a", "x"), (2, "a", "x"), (2, "b", "x"), (3, "ab", "x"), (3, "a", "x")):
            tx.put(AGENTS_BY_TIME, *key, value=b"")

    update(store, insert)
    with store.read() as snapshot:
        assert snapshot.count_after(AGENTS_BY_TIME, (1, "\U0010ffff", ""), "a") == (4, 2)
        assert snapshot.count_after(AGENTS_BY_TIME, (9, "", ""), "a") == (0, 0)


def test_rows_may_be_deleted_while_they_are_scanned(family: Store) -> None:
    """A scan whose rows are deleted meanwhile misses no row and repeats none."""

    def sweep(tx: Transaction) -> list[Key]:
        rows_found = []
        for key, _ in tx.scan(CHILDREN, "a"):
            rows_found.append(key)
            assert tx.delete(CHILDREN, *key)
        return rows_found

    assert update(family, sweep) == [("a", "1"), ("a", "2"), ("a", "3")]
    assert scanned(family) == ["ab/1", "b/1"]


def test_entries_of_a_stream(store: Store) -> None:
    """Entries come oldest first beyond a cursor or newest first before one, with the lines as appended."""
    for number in range(1, 7):
        append(store, "ses_a" if number % 2 else "ses_b", f"number {number}")
    with store.read() as snapshot:
        assert [cursor for cursor, _ in snapshot.entries("ses_a")] == [1, 3, 5]
        assert [cursor for cursor, _ in snapshot.entries("ses_a", 1)] == [3, 5]
        assert [cursor for cursor, _ in snapshot.entries("ses_a", 2)] == [3, 5]
        assert [cursor for cursor, _ in snapshot.entries("ses_a", reverse=True)] == [5, 3, 1]
        assert [cursor for cursor, _ in snapshot.entries("ses_a", 5, reverse=True)] == [3, 1]
        assert list(snapshot.entries("ses_none")) == []
        assert list(snapshot.feed(4)) == [(5, "ses_a"), (6, "ses_b")]
        assert list(snapshot.feed(3, reverse=True)) == [(2, "ses_b"), (1, "ses_a")]
        assert snapshot.last_cursor == 6
        ((_, line),) = snapshot.entries("ses_b", 4)
        assert decode_event(line) == make_input("number 6")
        entry = snapshot.entry("ses_b", 6)
        assert entry is not None
        assert entry[1] == line
        assert snapshot.entry("ses_b", 5) is None


def test_an_empty_store(store: Store) -> None:
    """Reading an empty store is no error."""
    with store.read() as snapshot:
        assert snapshot.last_cursor == 0
        assert list(snapshot.feed()) == []
        assert list(snapshot.entries("ses_1")) == []
        assert snapshot.get(CURSORS, 1) is None
        assert {table.name: snapshot.count(table) for table in TABLES if table.name != "meta"} == {
            table.name: 0 for table in TABLES if table.name != "meta"
        }


def test_a_table_that_came_later_is_empty(store_dir: Path) -> None:
    """A reader of a store of an older version changes nothing and finds newer tables empty."""
    open_inline(store_dir).close()
    with open_lmdb(store_dir) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(PERMISSIONS.name.encode(), txn))
    with open_for_reading(store_dir) as environment, Snapshot(environment) as snapshot:
        assert PERMISSIONS not in environment.handles
        assert snapshot.get(PERMISSIONS, "daemon") is None
        assert list(snapshot.scan(PERMISSIONS)) == []
        assert snapshot.count(PERMISSIONS) == 0


def test_used_bytes_are_those_of_the_rows(store: Store) -> None:
    """The used bytes grow and shrink with the rows, whatever the size of the file."""

    def used() -> int:
        with store.read() as snapshot:
            return snapshot.used_bytes

    empty = used()
    fill(store, 1, 100_000)
    assert 100_000 <= used() - empty < 120_000
    update(store, lambda tx: tx.delete(CHECKPOINTS, "s", 1))
    assert used() <= empty + 4096


def test_a_snapshot_does_not_move(store: Store) -> None:
    """A later commit is neither in a snapshot nor in its scan under way."""
    append(store)
    with store.read() as snapshot:
        entries = snapshot.entries("ses_1")
        assert next(entries)[0] == 1
        append(store)
        assert list(entries) == []
        assert (snapshot.last_cursor, snapshot.count(JOURNAL)) == (1, 1)
    with store.read() as later:
        assert (later.last_cursor, later.count(JOURNAL)) == (2, 2)


def test_a_scan_does_not_outlive_its_snapshot(store: Store) -> None:
    """Continuing a scan of a closed snapshot is an error, not a crash."""
    append(store)
    append(store)
    with store.read() as snapshot:
        entries = snapshot.entries("ses_1")
        next(entries)
    with pytest.raises(lmdb.Error):
        next(entries)


def test_a_closed_snapshot_keeps_no_slot(store: Store) -> None:
    """Snapshots that are closed but not freed, as by suspended tasks, do not use up the readers of LMDB."""
    kept = []
    for _ in range(2 * MAX_READERS):
        with store.read() as snapshot:
            kept.append(snapshot)
            assert snapshot.last_cursor == 0


def test_reading_requires_that_cursors_rise(store: Store) -> None:
    """An entry at a cursor out of order is not returned."""

    class Lying(Snapshot):
        """A snapshot of a table with cursors out of order."""

        def _rows(self, *_: object) -> Iterator[tuple[bytes, bytes]]:
            key = JOURNAL.pack(("ses_1", 1))
            return iter([(key, bytes(32) + b"{}"), (key, bytes(32) + b"{}")])

    with store.read() as snapshot:
        lying = Lying(snapshot._environment)
        for reverse in (False, True):
            with pytest.raises(StoreDamaged, match="out of order"):
                list(lying.entries("ses_1", reverse=reverse))


# Writing.


def test_a_transaction_sees_its_own_writes(store: Store) -> None:
    """A transaction reads the rows it put and deleted, and the events it appended."""

    def change(tx: Transaction) -> None:
        tx.put(CHILDREN, "a", "1", value=b"x")
        assert tx.get(CHILDREN, "a", "1") == b"x"
        assert tx.delete(CHILDREN, "a", "1")
        assert not tx.delete(CHILDREN, "a", "1")
        assert tx.get(CHILDREN, "a", "1") is None
        tx.append("ses_1", make_input())
        tx.append("ses_1", make_input())
        assert tx.last_cursor == 2
        assert [cursor for cursor, _ in tx.entries("ses_1")] == [1, 2]
        assert tx.head("ses_1")[0] == 2

    update(store, change)


def test_an_envelope_says_everything(store: Store) -> None:
    """The line holds the arguments of append, the time of submit, and the new cursor."""

    def change(tx: Transaction) -> Any:
        return tx.append(
            "ses_1",
            make_input(),
            session_id="ses_1",
            run_id="run_1",
            actor="uid:1000",
            on_behalf_of="ada",
            request_id=7,
            cause=1,
        )

    append(store)
    envelope, event = update(store, change)
    assert (envelope.cursor, envelope.at_ms, event) == (2, NOW_MS, make_input())
    with store.read() as snapshot:
        entry = snapshot.entry("ses_1", 2)
    assert entry is not None
    assert decode_envelope(entry[1]) == envelope
    assert msgspec.json.decode(entry[1]) == {
        "format": 2,
        "cursor": 2,
        "at_ms": NOW_MS,
        "session_id": "ses_1",
        "run_id": "run_1",
        "actor": "uid:1000",
        "on_behalf_of": "ada",
        "request_id": 7,
        "cause": 1,
    } | msgspec.json.decode(msgspec.json.encode(make_input()))


@pytest.mark.parametrize("parts", [1, 64])
def test_an_update_has_its_limit(store: Store, parts: int) -> None:
    """An update over 256 KiB is refused and changes nothing; one just under it is stored."""
    piece = bytes(MAX_UPDATE_BYTES // parts - 20)

    def fill(tx: Transaction, more: int = 0) -> None:
        for number in range(parts):
            tx.put(CHECKPOINTS, "s", number, value=piece + bytes(more))

    with pytest.raises(UpdateTooLarge):
        update(store, lambda tx: fill(tx, 20))
    with store.read() as snapshot:
        assert snapshot.count(CHECKPOINTS) == 0
    update(store, fill)
    with store.read() as snapshot:
        assert snapshot.count(CHECKPOINTS) == parts


def test_an_update_knows_its_free_bytes(store: Store) -> None:
    """Each update begins with 256 KiB; rows and events are taken off."""

    def write(tx: Transaction) -> list[int]:
        free = [tx.free_bytes]
        tx.put(CHECKPOINTS, "s", 1, value=bytes(1_000))
        free.append(tx.free_bytes)
        tx.append("s", make_input())
        return [*free, tx.free_bytes]

    for _ in range(2):
        first, second, third = update(store, write)
        assert first == MAX_UPDATE_BYTES
        assert 1_000 < first - second < 1_100
        assert third < second


def test_an_event_has_its_limit(store: Store) -> None:
    """An event over the limit is refused, and the next event gets its cursor."""
    with pytest.raises(UpdateTooLarge):
        append(store, text="x" * MAX_UPDATE_BYTES)
    assert append(store) == 1


def test_append_asserts_that_the_cursor_rises(store: Store) -> None:
    """A cursor not above the stream's newest is never written."""
    append(store)
    with pytest.raises(AssertionError, match="must rise"):
        update(store, lambda tx: tx._append("ses_1", 1, b"{}"))


def test_an_append_taken_back_leaves_no_trace(store: Store) -> None:
    """After a rollback the cursors and the chain continue as if the append had not happened."""

    def fail(tx: Transaction) -> None:
        tx.append("ses_1", make_input("never"))
        raise LookupError

    append(store)
    with pytest.raises(LookupError):
        update(store, fail)
    assert append(store) == 2
    with store.read() as snapshot:
        assert list(verify_chain(snapshot)) == []
        assert snapshot.count(CURSORS) == 2


def test_secrets_are_scrubbed_before_hashing(store: Store) -> None:
    """The stored, hashed and returned event holds no secret."""

    def scrub(line: bytes) -> bytes:
        return line.replace(b"hunter2", b"[secret]")

    store.set_scrub(scrub)
    envelope, event = update(store, lambda tx: tx.append("ses_1", make_input("my word is hunter2")))
    assert event == make_input("my word is [secret]")
    assert update(store, lambda tx: tx.append("ses_1", make_input("no secret")))[1] == make_input("no secret")
    store.set_scrub(None)
    assert update(store, lambda tx: tx.append("ses_1", make_input("hunter2")))[1] == make_input("hunter2")
    with store.read() as snapshot:
        assert envelope.cursor == 1
        entry = snapshot.entry("ses_1", 1)
        assert entry is not None
        assert b"hunter2" not in entry[1]
        assert list(verify_chain(snapshot)) == []


# Closing.


def test_a_read_after_a_failed_commit_is_refused(store: Store) -> None:
    """Between a commit that could not be rolled back and the daemon's stop, requests learn of it."""

    class Panicking:
        def begin(self) -> None:
            raise lmdb.PanicError("the meta page could not be written")

    environment = msgspec.structs.replace(store.read()._environment, lmdb=cast("Any", Panicking()))
    with pytest.raises(StorageFailed), Snapshot(environment):
        pass


def test_nobody_reads_once_it_is_closing(store_dir: Path) -> None:
    """A snapshot of a closed store is refused because the daemon is stopping."""
    store = open_inline(store_dir)
    store.close()
    with pytest.raises(DaemonDraining), store.read():
        pass


def test_closing_waits_for_readers_of_other_threads(store_dir: Path) -> None:
    """The environment is closed only after a reading thread has finished."""
    store = open_inline(store_dir)
    append(store)
    reading, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def read() -> None:
        with store.read() as snapshot:
            reading.set()
            go_on.wait(10)
            seen.append(len(list(snapshot.entries("ses_1"))))

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait(10)
    closer = threading.Thread(target=store.close)
    closer.start()
    assert closer.is_alive()
    go_on.set()
    closer.join(10)
    reader.join(10)
    assert seen == [1]


def test_closing_ends_the_snapshots_of_its_own_thread(store_dir: Path) -> None:
    """Reading a snapshot of a closed store is an error, not a crash."""
    store = open_inline(store_dir)
    with store.read() as snapshot:
        store.close()
        with pytest.raises(lmdb.Error):
            snapshot.get(CURSORS, 1)


def test_a_reader_that_does_not_end_is_not_pulled_away(store: Store) -> None:
    """Draining reports an open snapshot and does not wait for ever."""
    entered, leave = threading.Event(), threading.Event()
    readers = Readers()

    def read() -> None:
        readers.enter(store.read())
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait(10)
    assert not readers.drain(0.0)
    leave.set()
    thread.join(10)


# The store beside a dictionary.

MODEL_TABLES: tuple[Table[Any], ...] = (CHILDREN, RUNS_BY_SESSION, CHECKPOINTS, RECEIPTS_BY_AGE)
words = st.sampled_from(["a", "ab", "b", "\x7f", "é", "\uffff"])
numbers = st.sampled_from([0, 1, 2, 255, 256, 2**64 - 1])
tables = st.sampled_from(MODEL_TABLES)
streams = st.sampled_from(["ses_a", "ses_ab", DAEMON_STREAM])


def rows() -> st.SearchStrategy[tuple[Table[Any], Key]]:
    """Return a strategy for a table and a key of it."""
    return tables.flatmap(
        lambda table: st.tuples(
            st.just(table), st.tuples(*(words if kind is str else numbers for kind in table.key))
        )
    )


def plain(table: Table[Any], key: Key) -> tuple[Any, ...]:
    """Return a key in the form by which its table sorts it."""
    return tuple(part.encode() if isinstance(part, str) else part for part in key)


class StoreBesideDict(RuleBasedStateMachine):
    """A store and a dictionary that hold the same after any sequence of changes."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kheish-test-"))
        self.store = open_inline(self.directory)
        self.rows: dict[tuple[Table[Any], Key], Any] = {}
        self.lines: list[tuple[str, InputReceived | DaemonStopped]] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)

    @rule(changes=st.lists(st.tuples(rows(), st.none() | st.binary(max_size=5000)), max_size=4))
    def change(self, changes: list[tuple[tuple[Table[Any], Key], bytes | None]]) -> None:
        """Put and delete rows in one transaction."""
        update(self.store, self._changing(changes))
        for row, value in changes:
            if value is None:
                self.rows.pop(row, None)
            else:
                self.rows[row] = self._value(row[0], value)

    @rule(changes=st.lists(st.tuples(rows(), st.none() | st.binary(max_size=5000)), max_size=4))
    def change_and_fail(self, changes: list[tuple[tuple[Table[Any], Key], bytes | None]]) -> None:
        """Do the same and raise: nothing changes."""
        changing = self._changing(changes)

        def fail(tx: Transaction) -> None:
            changing(tx)
            tx.append("ses_a", make_input("never"))
            raise LookupError

        with pytest.raises(LookupError):
            update(self.store, fail)

    @rule(appended=st.lists(st.tuples(streams, st.text(max_size=20)), max_size=4))
    def append(self, appended: list[tuple[str, str]]) -> None:
        """Append events in one transaction."""

        def change(tx: Transaction) -> None:
            for stream, text in appended:
                tx.append(stream, make_input(text))

        update(self.store, change)
        self.lines += [(stream, make_input(text)) for stream, text in appended]

    @rule()
    def reopen(self) -> None:
        """Close and open the store: every commit is there."""
        self.store.close()
        self.store = open_inline(self.directory)

    @rule(table=tables, depth=st.integers(0, 3), row=rows(), reverse=st.booleans(), after=st.booleans())
    def scan(
        self, table: Table[Any], depth: int, row: tuple[Table[Any], Key], reverse: bool, after: bool
    ) -> None:
        """Scan any prefix, from any key, in both directions."""
        table, key = row
        prefix = key[: min(depth, len(key) - 1)]
        expected = sorted(
            (
                second
                for owner, second in self.rows
                if owner is table
                and second[: len(prefix)] == prefix
                and (not after or (plain(table, second) < plain(table, key)) == reverse)
                and (not after or second != key)
            ),
            key=lambda second: plain(table, second),
            reverse=reverse,
        )
        with self.store.read() as snapshot:
            rows_found = list(snapshot.scan(table, *prefix, after=key if after else None, reverse=reverse))
        assert rows_found == [(second, self.rows[table, second]) for second in expected]

    @invariant()
    def same(self) -> None:
        """Compare counts, values, journal and chain."""
        if not hasattr(self, "store"):
            return
        with self.store.read() as snapshot:
            for table in MODEL_TABLES:
                assert snapshot.count(table) == sum(owner is table for owner, _ in self.rows)
            for (table, key), value in self.rows.items():
                assert snapshot.get(table, *key) == value
            assert list(snapshot.feed()) == [
                (cursor, stream) for cursor, (stream, _) in enumerate(self.lines, 1)
            ]
            for stream in ("ses_a", "ses_ab", DAEMON_STREAM):
                assert [(cursor, decode_event(line)) for cursor, line in snapshot.entries(stream)] == [
                    (cursor, event) for cursor, (owner, event) in enumerate(self.lines, 1) if owner == stream
                ]
            assert list(verify_chain(snapshot)) == []

    def _changing(
        self, changes: list[tuple[tuple[Table[Any], Key], bytes | None]]
    ) -> Callable[[Transaction], None]:
        def change(tx: Transaction) -> None:
            for (table, key), value in changes:
                if value is None:
                    tx.delete(table, *key)
                else:
                    tx.put(table, *key, value=self._value(table, value))

        return change

    @staticmethod
    def _value(table: Table[Any], value: bytes) -> Any:
        return value if table.value is bytes else value.hex()


TestStoreBesideDict = StoreBesideDict.TestCase
TestStoreBesideDict.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_stored_json_is_required(store: Store) -> None:
    """Bytes that are sent as they are must be JSON; deep nesting is no damage."""
    with store.read() as snapshot:
        for sound in (b"{}", '{"a":"ä"}'.encode(), b"[" * 5_000 + b"]" * 5_000):
            snapshot.require_json(sound, "a line")
        assert store.damage is None
        for damaged in (b"", b'{"a"1}', b'{"a":"\xff"}', b"{}x"):
            with pytest.raises(StoreDamaged, match="a line cannot be read"):
                snapshot.require_json(damaged, "a line")
    assert store.damage is not None


@pytest.mark.parametrize("error", [lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.CursorFullError])
def test_errors_of_a_damaged_file_are_damage(store: Store, error: type[lmdb.Error]) -> None:
    """What LMDB says of damaged trees, also of one that leads back to itself, makes the store read-only."""
    damaged = error("mdb_get")

    class Broken:
        """A transaction on a damaged tree."""

        def get(self, *_: object) -> bytes:
            raise damaged

    broken: Any = Broken()
    with store.read() as snapshot:
        sound, snapshot._txn = snapshot._txn, broken
        with pytest.raises(StoreDamaged):
            snapshot.get(CHECKPOINTS, "s", 1)
        snapshot._txn = sound
    assert store.damage is not None
