"""Fewer and more varied training queries, none of which give the test away.

Zooter (arXiv 2311.08692, section 4.1) trains on at most ten queries of each tag, and drops those
that share six words in a row with a test query. Pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from routewright.interview.overlap import COSINE, distinct, overlapping
from routewright.types import Query

PER_TAG, WORDS = 10, 6  # as published
NO_VECTORS = 2.0  # a cosine that nothing reaches


@dataclass(frozen=True)
class Kept:
    """Which rows stay, in order, and why the others do not."""

    rows: tuple[int, ...]
    overlapping: int  # share a run of words with a held-out query
    duplicates: int  # say the same as an earlier row
    crowded: int  # all places of one of their tags were taken
    untagged: int  # of the rows that stay

    def told(self) -> dict[str, int]:
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
) -> Kept:
    """Rows without overlaps, then without near-duplicates, then at most `per_tag` of each tag."""
    shared = overlapping(queries, held_out, words=words, cosine=NO_VECTORS)
    clean = np.flatnonzero(~shared).tolist()
    fresh = [clean[i] for i in distinct([queries[i] for i in clean], cosine=cosine)]
    rows = [fresh[i] for i in at_most([tags[i] for i in fresh], per_tag, seed)]
    return Kept(
        rows=tuple(rows),
        overlapping=len(queries) - len(clean),
        duplicates=len(clean) - len(fresh),
        crowded=len(fresh) - len(rows),
        untagged=sum(not tags[i] for i in rows),
    )


def at_most(tags: Sequence[Sequence[str]], count: int, seed: int = 0) -> list[int]:
    """Positions of rows such that no tag has more than `count` of them, in their old order.

    Rows of rare tags come first, so that no common tag takes their place; within that, chance
    decides. A row with several tags needs a place in each. Rows without tags all stay.

    >>> at_most([["a"], ["a", "b"], ["a"], []], 1)
    [1, 3]
    """
    carriers = Counter(tag for mine in tags for tag in set(mine))
    lots = np.random.default_rng(seed).permutation(len(tags))
    rarity = [min((carriers[tag] for tag in mine), default=0) for mine in tags]
    taken: Counter[str] = Counter()
    chosen = []
    for i in np.lexsort((lots, np.array(rarity))).tolist():
        mine = set(tags[i])
        if all(taken[tag] < count for tag in mine):
            taken.update(mine)
            chosen.append(i)
    return sorted(chosen)
