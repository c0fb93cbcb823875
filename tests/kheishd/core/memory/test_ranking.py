"""Ranking by BM25, within a limit of work."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

from kheishd.core.memory.ranking import Collection, Posting, rank


class Index:
    """Postings in memory; counts the rows that are read."""

    def __init__(self, documents: Iterable[str]) -> None:
        self.postings: dict[str, dict[int, Posting]] = defaultdict(dict)
        self.rows_read = 0
        self.max_rows = 1_000
        terms = 0
        number = 0
        for number, document in enumerate(documents, 1):
            words = document.split()
            terms += len(words)
            for word in words:
                self.postings[word][number] = (number, words.count(word), len(words))
        self.collection = Collection(number, terms, 1)

    def read(self, term: str, max_rows: int) -> list[Posting]:
        """Return the newest postings."""
        rows = sorted(self.postings[term].values(), reverse=True)[:max_rows]
        self.rows_read += len(rows)
        return rows

    def find(self, term: str, number: int) -> Posting | None:
        """Return one posting."""
        return self.postings[term].get(number)

    def search(self, query: str) -> list[int]:
        """Return the numbers of the documents, the best first."""
        return [document.number for document in rank(self, query.split(), self.collection, self.max_rows)]


def test_rare_terms_and_short_documents_come_first() -> None:
    """A rare term counts more than a common one, a short document more than a long one."""
    index = Index(["a b", "a b c", "a", "a c c x x x x", "b"])
    assert index.search("c") == [2, 4]
    assert index.search("a c") == [2, 4, 3, 1]
    assert index.search("nothing") == []


def test_equal_documents_are_ordered_by_age() -> None:
    """Of equal documents the newest comes first, whenever it is asked."""
    index = Index(["a b", "a b", "a b"])
    assert index.search("a") == index.search("b a") == [3, 2, 1]


def test_the_scores_are_those_of_bm25() -> None:
    """One term in one of two documents of equal length."""
    index = Index(["a b", "b c"])
    (best,) = rank(index, ["a"], index.collection)
    assert best.score == pytest.approx(0.6931, abs=1e-4)


def test_the_work_is_limited() -> None:
    """Of a common term only the newest documents are read, and it counts for all that a rare term finds."""
    index = Index([*(f"common x{number}" for number in range(500)), "rare y"])
    index.max_rows = 10
    index.postings["rare"] |= {3: (3, 1, 2), 4: (4, 1, 2)}
    index.postings["common"].pop(4)
    assert index.search("rare common")[:3] == [3, 501, 4]
    assert index.rows_read == 13
    assert len(index.search("common")) == 10
