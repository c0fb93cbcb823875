"""Ranking by BM25: documents of an inverted index, ordered by how well they fit a query. Pure.

The work for a query has a limit. Of a term that stands in very many documents, only the newest are read; the
best documents by the rarer terms are then looked up in its postings, so that it counts for them, too.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from protocol.limits.memory import MAX_CANDIDATES, MAX_POSTINGS_READ

if TYPE_CHECKING:
    from collections.abc import Sequence

K1: Final = 1.2
B: Final = 0.75


Posting = tuple[int, int, int]
"""A document that contains a term: its number, how often, and the number of terms in it."""


class PostingsReader(Protocol):
    """The postings of one index."""

    def read(self, term: str, max_rows: int) -> list[Posting]:
        """Return the newest postings of a term, the newest first."""
        ...

    def find(self, term: str, number: int) -> Posting | None:
        """Return the posting of a term for a document; None if the document does not contain it."""
        ...


class Collection(NamedTuple):
    """The statistics of an index: its documents, all terms in them, and the number of the oldest."""

    documents: int
    terms: int
    first_number: int


class Ranked(NamedTuple):
    """A document and its score."""

    number: int
    score: float


def rank(
    reader: PostingsReader,
    terms: Sequence[str],
    collection: Collection,
    max_rows: int = MAX_POSTINGS_READ,
) -> list[Ranked]:
    """Return the documents that contain any of the terms: the best first, the newest of equal ones.

    Args:   ``max_rows`` is the number of postings of a term that are read.
    Shape:  at most ``MAX_CANDIDATES`` documents.
    """
    average = max(collection.terms / max(collection.documents, 1), 1.0)
    # The weight of a term that occurs n times in a document is n (k1 + 1) / (n + floor + slope * length).
    floor, slope = K1 * (1 - B), K1 * B / average
    scores: dict[int, float] = {}
    common: list[tuple[str, int, float]] = []
    for term in terms:
        postings = reader.read(term, max_rows)
        if not postings:
            continue
        documents, oldest = len(postings), postings[-1][0]
        is_common = documents == max_rows
        if is_common:
            documents = _estimate_documents(postings, collection)
        rarity = math.log(1 + max(collection.documents - documents + 0.5, 0.5) / (documents + 0.5))
        weight = rarity * (K1 + 1)
        if is_common:
            common.append((term, oldest, weight))
        for number, count, length in postings:
            score = weight * count / (count + floor + slope * length)
            scores[number] = scores.get(number, 0.0) + score
    candidates = _best_of(scores)
    if common:
        for number, _ in candidates:
            for term, oldest, weight in common:
                posting = reader.find(term, number) if number < oldest else None
                if posting is not None:
                    _, count, length = posting
                    scores[number] += weight * count / (count + floor + slope * length)
        candidates = _best_of({number: scores[number] for number, _ in candidates})
    return candidates


def _estimate_documents(postings: Sequence[Posting], collection: Collection) -> int:
    """Estimate how many documents contain a term from the newest ones, as if numbers were even."""
    newest, oldest = postings[0][0], postings[-1][0]
    covered = max(newest - oldest, 1)
    estimate = len(postings) * max(newest - collection.first_number, covered) // covered
    return min(estimate, max(collection.documents, len(postings)))


def _best_of(scores: dict[int, float]) -> list[Ranked]:
    best = heapq.nlargest(MAX_CANDIDATES, scores.items(), key=lambda item: (item[1], item[0]))
    return [Ranked(number, score) for number, score in best]
