"""The search in 100,000 notes of one agent, beside SQLite's FTS5 on the same notes and queries."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from itertools import accumulate
from time import perf_counter_ns
from typing import TYPE_CHECKING

from contrib.bench.processes import on_core, scratch
from contrib.bench.store_update import percentile
from contrib.bench.table import Round, Row, at_most
from kheishd.objects.agents.notes import search_notes, write_note
from kheishd.records.writer import BY_DAEMON
from kheishd.store.writer import Store
from protocol.objects.memory import NoteProperties

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contrib.bench.scale import Scale
    from kheishd.store.environment import Transaction

WORDS_PER_NOTE = 40
VOCABULARY = 30_000
HITS = 5
NOTES_PER_TRANSACTION = 30


class Texts:
    """Texts whose words are as frequent as in languages: the n-th word 1/n as often as the first."""

    def __init__(self) -> None:
        self._random = random.Random(11)
        self.words = [self._word(number) for number in range(VOCABULARY)]
        self._weights = [*accumulate(1 / (number + 1) for number in range(VOCABULARY))]

    def _word(self, number: int) -> str:
        syllables = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")
        word = ""
        number += len(syllables)
        while number:
            number, index = divmod(number, len(syllables))
            word += syllables[index]
        return word

    def text(self, words: int) -> str:
        """Return a text of so many words."""
        return " ".join(self._random.choices(self.words, cum_weights=self._weights, k=words))


def measure(scale: Scale) -> Iterator[Row]:
    """Measure queries of words as frequent as in texts, of rare words, and of the most frequent word."""
    count, queries = scale.pick(100_000, 300), scale.pick(200, 10)
    texts = Texts()
    notes = [(f"note {number}", texts.text(WORDS_PER_NOTE)) for number in range(count)]
    asked = {
        "three words": [texts.text(3) for _ in range(queries)],
        "two rare words": [" ".join(texts.words[-number:][:2]) for number in range(2, queries + 2)],
        "the most frequent word": [texts.words[0]] * scale.pick(20, 5),
    }
    with scratch() as directory, closing(sqlite3.connect(directory / "fts.db")) as sqlite:
        fill_sqlite(sqlite, notes)
        store = Store.open(directory / "state", on_group=lambda group: None, threaded=False, version="bench")
        fill_store(store, notes)
        with on_core():
            # The first query of a process compiles expressions.
            times_of_store(store, asked["three words"][:1]), times_of_sqlite(sqlite, asked["three words"][:1])
            for kind, of_kind in asked.items():
                ours = [times_of_store(store, of_kind) for _ in scale.rounds]
                theirs = [times_of_sqlite(sqlite, of_kind) for _ in scale.rounds]
                for name, share in (("p50", 0.5), ("p99", 0.99)):
                    rounds = [
                        Round(percentile(own, share), percentile(other, share))
                        for own, other in zip(ours, theirs, strict=True)
                    ]
                    title = f"recall among {count:,} notes, {kind}, {name}"
                    yield Row(title, "ms", rounds, at_most(3), "ratio", "SQLite FTS5")
        store.close()


def fill_sqlite(sqlite: sqlite3.Connection, notes: Sequence[tuple[str, str]]) -> None:
    """Write the notes into a full-text table."""
    sqlite.execute("create virtual table notes using fts5(name, content)")
    sqlite.executemany("insert into notes values (?, ?)", notes)
    sqlite.commit()


def fill_store(store: Store, notes: Sequence[tuple[str, str]]) -> None:
    """Write the notes, many to a transaction."""
    for start in range(0, len(notes), NOTES_PER_TRANSACTION):

        def write(tx: Transaction, start: int = start) -> None:
            for name, content in notes[start : start + NOTES_PER_TRANSACTION]:
                write_note(tx, NoteProperties(agent="default", name=name, content=content), BY_DAEMON)

        store.submit(write, 0)


def times_of_store(store: Store, queries: Sequence[str]) -> list[float]:
    """Return the time of each query in the daemon's store, in milliseconds."""
    times = []
    for query in queries:
        began = perf_counter_ns()
        with store.read() as snapshot:
            search_notes(snapshot, ["default"], query, HITS, lambda note: True)
        times.append((perf_counter_ns() - began) / 1e6)
    return times


def times_of_sqlite(sqlite: sqlite3.Connection, queries: Sequence[str]) -> list[float]:
    """Return the time of each query in SQLite, in milliseconds: any of the words, ranked, with snippets."""
    times = []
    columns = "name, snippet(notes, 1, '', '', '…', 30)"
    statement = f"select {columns} from notes where notes match ? order by rank limit ?"
    for query in queries:
        began = perf_counter_ns()
        sqlite.execute(statement, (" OR ".join(query.split()), HITS)).fetchall()
        times.append((perf_counter_ns() - began) / 1e6)
    return times
