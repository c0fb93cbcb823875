"""Postings in a table."""

from pathlib import Path

from kheishd.store.environment import Transaction
from kheishd.store.postings import MAX_COUNT, MAX_LENGTH, Postings, pack_posting
from kheishd.store.tables import NOTE_POSTINGS
from tests.support.stores import open_inline, update


def test_postings_are_read_from_the_newest(store_dir: Path) -> None:
    """Only those of the owner and exactly the term are read, up to the limit; a large count is capped."""
    store = open_inline(store_dir)

    def write(tx: Transaction) -> None:
        for number in (1, 2, 300):
            tx.put(NOTE_POSTINGS, "a", "word", number, value=pack_posting(number, 70_000))
        tx.put(NOTE_POSTINGS, "a", "words", 5, value=pack_posting(1, 1))
        tx.put(NOTE_POSTINGS, "b", "word", 6, value=pack_posting(1, 1))

    update(store, write)
    with store.read() as snapshot:
        postings = Postings(snapshot, NOTE_POSTINGS, "a")
        assert postings.read("word", 2) == [(300, MAX_COUNT, MAX_LENGTH), (2, 2, MAX_LENGTH)]
        assert postings.read("other", 2) == []
        assert postings.find("word", 1) == (1, 1, MAX_LENGTH)
        assert postings.find("word", 6) is None
    store.close()
