"""Selects a small and varied set of training queries that do not overlap with a test set.

Zooter (arXiv 2311.08692, section 4.1) trains on at most ten queries of each tag and drops those
that share six words in a row with a test query. All functions here are pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from routewright.interview.overlap import COSINE, distinct, overlapping
from routewright.types import Query

PER_TAG, WORDS = 10, 6  # as published
NO_VECTORS = 2.0  # above every cosine, so that vectors are not compared


@dataclass(frozen=True)
class Selection:
    """The selected rows, in order, and the number of rows dropped for each reason."""

    rows: tuple[int, ...]
    overlapping: int  # rows that share a run of words with a held-out query
    duplicates: int  # near-duplicates of an earlier row
    crowded: int  # rows that exceed the limit of one of their tags
    untagged: int  # selected rows without a tag

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "rows": len(self.rows)}


def diversify(
    queries: Sequence[Query],
    tags: Sequence[Sequence[str]],
    held_out: Sequence[Query] = (),
    *,
    per_tag: int = PER_TAG,
    words: int = WORDS,
    cosine: float = COSINE,
    seed: int = 0,
) -> Selection:
    """Drops overlaps, then near-duplicates, then limits each tag to `per_tag` queries."""
    shared = overlapping(queries, held_out, words=words, cosine=NO_VECTORS)
    clean = np.flatnonzero(~shared).tolist()
    fresh = [clean[i] for i in distinct([queries[i] for i in clean], cosine=cosine)]
    rows = [fresh[i] for i in at_most([tags[i] for i in fresh], per_tag, seed)]
    return Selection(
        rows=tuple(rows),
        overlapping=len(queries) - len(clean),
        duplicates=len(clean) - len(fresh),
        crowded=len(fresh) - len(rows),
        untagged=sum(not tags[i] for i in rows),
    )


def at_most(tags: Sequence[Sequence[str]], count: int, seed: int = 0) -> list[int]:
    """Positions of rows such that no tag has more than `count` of them, in the original order.

    Rows with rare tags are picked first, so that common tags do not displace them; rows of equal
    rarity are picked in random order. A row with several tags counts for each of them. Rows
    without tags are all kept.

    >>> at_most([["a"], ["a", "b"], ["a"], []], 1)
    [1, 3]
    """
    carriers = Counter(tag for row in tags for tag in set(row))
    order = np.random.default_rng(seed).permutation(len(tags))
    rarity = [min((carriers[tag] for tag in row), default=0) for row in tags]
    counts: Counter[str] = Counter()
    chosen = []
    for i in np.lexsort((order, np.array(rarity))).tolist():
        row = set(tags[i])
        if all(counts[tag] < count for tag in row):
            counts.update(row)
            chosen.append(i)
    return sorted(chosen)
