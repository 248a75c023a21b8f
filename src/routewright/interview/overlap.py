"""Which queries are too much like others: near-duplicates, and what a held-out set would betray.

Two tests: a shared run of words (n-grams), and the cosine of vectors. The vectors count runs of
three to five characters, rare ones most (TF-IDF), so that two sums with other numbers differ;
`encoder` takes any other encoder's instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from routewright.prediction.encoders import Encoder
from routewright.types import Array, Query

WORDS, COSINE = 8, 0.95  # a run of so many words, or vectors so close, count as overlap
BLOCK = 256  # rows compared at once


def ngrams(text: str, n: int = WORDS) -> set[tuple[str, ...]]:
    """Runs of n words, without case and punctuation; a shorter text is one run.

    >>> sorted(ngrams("To be, or not", 3))
    [('be', 'or', 'not'), ('to', 'be', 'or')]
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    # Signs tell sums apart, so they are words too.
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
    """For each query, whether it overlaps with any of the others, (n,).

    `cosine` above 1 leaves the vectors out.
    """
    known = {run for other in others for run in ngrams(other.full_text, words)}
    shared = np.array([not known.isdisjoint(ngrams(q.full_text, words)) for q in queries], bool)
    if not len(others) or not len(queries) or cosine > 1:
        return shared
    return np.asarray(shared | (nearest(queries, others, encoder) >= cosine))


def distinct(
    queries: Sequence[Query], *, cosine: float = COSINE, encoder: Encoder | None = None
) -> list[int]:
    """Positions of the queries that are no near-duplicates of an earlier one.

    >>> distinct([Query.of("What is 2 + 2?"), Query.of("what is  2 + 2"), Query.of("Who am I?")])
    [0, 2]
    """
    first: dict[tuple[str, ...], int] = {}
    for i, query in enumerate(queries):
        [whole] = ngrams(query.full_text, 1 << 30)
        first.setdefault(whole, i)
    kept = sorted(first.values())
    if cosine > 1 or len(kept) < 2:
        return kept
    x = _vectors([queries[i] for i in kept], [], encoder)[0]
    stays = np.zeros(len(kept), bool)
    for start in range(0, len(kept), BLOCK):
        block = slice(start, start + BLOCK)
        near = _cosines(x[block], x[: start + BLOCK]) >= cosine
        for row, mine in enumerate(near, start):
            stays[row] = not mine[:row][stays[:row]].any()
    return [kept[row] for row in np.flatnonzero(stays)]


def nearest(
    queries: Sequence[Query], others: Sequence[Query], encoder: Encoder | None = None
) -> Array:
    """Each query's cosine with the other that is most like it, (n,)."""
    x, y = _vectors(queries, others, encoder)
    parts = (x[i : i + BLOCK] for i in range(0, len(queries), BLOCK))
    return np.concatenate([_cosines(part, y).max(axis=1) for part in parts])


def _vectors(queries: Sequence[Query], others: Sequence[Query], encoder: Encoder | None) -> Any:
    """Rows of unit length for both, sparse or dense."""
    if encoder is not None:
        return [_unit(encoder.encode(some)) for some in (queries, others)]
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [query.full_text for query in (*queries, *others)]
    counter = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    rows = counter.fit_transform([*texts, "some text, lest there be none"])
    return rows[: len(queries)], rows[len(queries) : len(texts)]


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _cosines(x: Any, y: Any) -> Array:
    product = x @ y.T
    return np.asarray(product.toarray() if hasattr(product, "toarray") else product)
