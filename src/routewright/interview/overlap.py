"""Finds near-duplicate queries and overlaps with a held-out set.

There are two tests: a shared run of words (n-grams) and the cosine of vectors. By default the
vectors are TF-IDF weights of character runs of length three to five, so that two sums with
different numbers differ; with `encoder` they are that encoder's vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from routewright.data.unicode import nfkc
from routewright.prediction.encoders import Encoder
from routewright.types import Array, Query

WORDS, COSINE = 8, 0.95  # a shared run of this length, or this cosine, counts as overlap
BLOCK = 256  # rows compared at once


def ngrams(text: str, n: int = WORDS) -> set[tuple[str, ...]]:
    """The runs of n words, without case and punctuation; a shorter text is a single run.

    >>> sorted(ngrams("To be, or not", 3))
    [('be', 'or', 'not'), ('to', 'be', 'or')]
    """
    plain = nfkc(text).casefold()
    # Operators distinguish one sum from another, so they count as words.
    words = re.findall(r"\w+|[+\-*/=<>^%]", plain)
    if len(words) <= n:
        return {tuple(words)}
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def overlapping(
    queries: Sequence[Query],
    others: Sequence[Query],
    *,
    words: int = WORDS,
    cosine: float = COSINE,
    encoder: Encoder | None = None,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each query overlaps with any of the others, (n,).

    With `cosine` above 1 the vectors are not compared.
    """
    runs = {run for other in others for run in ngrams(other.full_text, words)}
    shared = np.array([not runs.isdisjoint(ngrams(q.full_text, words)) for q in queries], bool)
    if not len(others) or not len(queries) or cosine > 1:
        return shared
    return np.asarray(shared | (nearest(queries, others, encoder) >= cosine))


def distinct(
    queries: Sequence[Query], *, cosine: float = COSINE, encoder: Encoder | None = None
) -> list[int]:
    """Positions of the queries that are not near-duplicates of an earlier one.

    >>> distinct([Query.of("What is 2 + 2?"), Query.of("what is  2 + 2"), Query.of("Who am I?")])
    [0, 2]
    """
    first: dict[tuple[str, ...], int] = {}
    for i, query in enumerate(queries):
        [whole] = ngrams(query.full_text, 1 << 30)
        first.setdefault(whole, i)
    unique = sorted(first.values())
    if cosine > 1 or len(unique) < 2:
        return unique
    x = _vectors([queries[i] for i in unique], [], encoder)[0]
    keep = np.zeros(len(unique), bool)
    for start in range(0, len(unique), BLOCK):
        block = slice(start, start + BLOCK)
        near = _cosines(x[block], x[: start + BLOCK]) >= cosine
        for row, matches in enumerate(near, start):
            keep[row] = not matches[:row][keep[:row]].any()
    return [unique[row] for row in np.flatnonzero(keep)]


def nearest(
    queries: Sequence[Query], others: Sequence[Query], encoder: Encoder | None = None
) -> Array:
    """Each query's cosine with the most similar of the others, (n,)."""
    x, y = _vectors(queries, others, encoder)
    parts = (x[i : i + BLOCK] for i in range(0, len(queries), BLOCK))
    return np.concatenate([_cosines(part, y).max(axis=1) for part in parts])


def _vectors(queries: Sequence[Query], others: Sequence[Query], encoder: Encoder | None) -> Any:
    """Vectors of unit length for queries and others, sparse or dense."""
    if encoder is not None:
        return [_unit(encoder.encode(texts)) for texts in (queries, others)]
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [query.full_text for query in (*queries, *others)]
    counter = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    # The vectoriser raises for texts without a single character run.
    rows = counter.fit_transform([*texts, "some text, lest there be none"])
    return rows[: len(queries)], rows[len(queries) : len(texts)]


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _cosines(x: Any, y: Any) -> Array:
    product = x @ y.T
    return np.asarray(product.toarray() if hasattr(product, "toarray") else product)
