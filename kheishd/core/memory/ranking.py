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


class Posting(NamedTuple):
    """A document that contains a term: its number, how often, and the number of terms in it."""

    number: int
    occurrences: int
    length: int


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


def rank(reader: PostingsReader, terms: Sequence[str], collection: Collection) -> list[Ranked]:
    """Return the documents that contain any of the terms: the best first, the newest of equal ones.

    Shape:  at most ``MAX_CANDIDATES`` documents.
    """
    average = max(collection.terms / max(collection.documents, 1), 1.0)
    scores: dict[int, float] = {}
    common: list[tuple[str, int, float]] = []
    for term in terms:
        postings = reader.read(term, MAX_POSTINGS_READ)
        if not postings:
            continue
        documents = len(postings)
        oldest = postings[-1].number
        if documents == MAX_POSTINGS_READ:
            documents = _estimate_documents(postings, collection)
        weight = math.log(1 + max(collection.documents - documents + 0.5, 0.5) / (documents + 0.5))
        if len(postings) == MAX_POSTINGS_READ:
            common.append((term, oldest, weight))
        for number, count, length in postings:
            scores[number] = scores.get(number, 0.0) + weight * _saturate(count, length / average)
    candidates = _best_of(scores)
    if common:
        for candidate in candidates:
            for term, oldest, weight in common:
                posting = reader.find(term, candidate.number) if candidate.number < oldest else None
                if posting is not None:
                    scores[candidate.number] += weight * _saturate(
                        posting.occurrences, posting.length / average
                    )
        candidates = _best_of({candidate.number: scores[candidate.number] for candidate in candidates})
    return candidates


def _saturate(count: int, relative_length: float) -> float:
    """Return the weight of a term's occurrences in a document of this length relative to the average."""
    return count * (K1 + 1) / (count + K1 * (1 - B + B * relative_length))


def _estimate_documents(postings: Sequence[Posting], collection: Collection) -> int:
    """Estimate how many documents contain a term from the newest ones, as if numbers were even."""
    newest, oldest = postings[0].number, postings[-1].number
    covered = max(newest - oldest, 1)
    estimate = len(postings) * max(newest - collection.first_number, covered) // covered
    return min(estimate, max(collection.documents, len(postings)))


def _best_of(scores: dict[int, float]) -> list[Ranked]:
    best = heapq.nlargest(MAX_CANDIDATES, scores.items(), key=lambda item: (item[1], item[0]))
    return [Ranked(number, score) for number, score in best]
