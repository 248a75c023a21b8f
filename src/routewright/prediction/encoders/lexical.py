"""Word and character n-grams, weighted by tf-idf and reduced by SVD. Needs no download.

N-grams are hashed with arithmetic on byte arrays, so that there is no vocabulary to store, and the
same code fits and serves.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from routewright.errors import BadInput
from routewright.prediction.stored import Arrays
from routewright.types import Array, Query

WORD = re.compile(r"\w+|[^\w\s]")
BITS = 18  # of the number of hash buckets per kind of n-gram: words, characters
FEATURES, MIN_DF = 20_000, 2  # buckets that are kept at most; texts that a bucket occurs in
MAX_CHARS = 6_000
MIXER = np.uint32(2654435761)  # Knuth's multiplicative hash


@dataclass
class Lexical:
    """tf-idf of hashed n-grams ▶ truncated SVD; a vector is short if it covers little of the text.

    `width` is the maximum length of a vector (`lexical=128`). The features are the 20,000 hash
    buckets that occur in the most texts, and in at least two. Of a text longer than 6,000
    characters, only the start and the end are read.
    """

    width: PositiveInt = 256
    seen: int = field(default=0, repr=False)  # number of training texts
    slots: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32), repr=False)
    idf: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    basis: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32), repr=False
    )

    @property
    def blocks(self) -> Mapping[str, slice]:
        return {"lexical": slice(0, self.basis.shape[1])}

    def fit(self, queries: Sequence[Query], *, seed: int = 0) -> Self:
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import TruncatedSVD

        grams = [self._grams(query.excerpt) for query in queries]
        self._choose_features(grams)
        rows = [self._weigh(*gram) for gram in grams]
        starts = np.cumsum([0, *(len(slot) for slot, _ in rows)])
        slots = np.concatenate([slot for slot, _ in rows])
        weights = np.concatenate([weight for _, weight in rows])
        table = csr_matrix((weights, slots, starts), shape=(len(rows), len(self.idf)))
        width = min(self.width, len(rows) - 1, len(self.idf) - 1)
        if width < 1:
            self.basis = np.zeros((len(self.idf), 1), np.float32)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):  # if all texts are equal
                svd = TruncatedSVD(width, n_iter=2, random_state=seed).fit(table)
            self.basis = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        # Round to the stored precision, so that a loaded encoder equals the evaluated one.
        self.basis = self.basis.astype(np.float16).astype(np.float32)
        return self

    def encode(self, queries: Sequence[Query]) -> Array:
        vectors = np.zeros((len(queries), self.basis.shape[1]))
        for row, query in zip(vectors, queries, strict=True):
            slots, weights = self._weigh(*self._grams(query.excerpt))
            row[:] = weights @ self.basis.take(slots, axis=0)
        return vectors

    def options(self) -> dict[str, Any]:
        return {"width": self.width, "seen": self.seen}

    def arrays(self) -> dict[str, Any]:
        buckets = np.flatnonzero(self.slots >= 0).astype(np.int32)
        order = np.argsort(self.slots[buckets])
        return {"kept": buckets[order], "idf": self.idf, "basis": self.basis.astype(np.float16)}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        if (options.get("bits", BITS), options.get("max_chars", MAX_CHARS)) != (BITS, MAX_CHARS):
            raise BadInput("encoder 'lexical' has settings of an earlier version: fit it again")
        encoder = cls(options["width"], options["seen"])
        part = Arrays("encoder 'lexical'", arrays)
        kept = part.take("kept", "features", kind="iu", least=0, most=(2 << BITS) - 1)
        encoder.slots = _slots(kept, 2 << BITS)
        encoder.idf = part.take("idf", "features").astype(np.float32)
        encoder.basis = part.take("basis", "features", "width").astype(np.float32)
        return encoder

    def _choose_features(self, grams: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
        texts = np.bincount(np.concatenate([gram for gram, _ in grams]), minlength=2 << BITS)
        features = np.flatnonzero(texts >= min(MIN_DF, len(grams)))
        if not len(features):
            features = np.flatnonzero(texts)
        order = np.argsort(-texts[features], kind="stable")[:FEATURES]
        features = features[order].astype(np.int32)
        self.seen = len(grams)
        self.slots = _slots(features, 2 << BITS)
        self.idf = (np.log((1 + self.seen) / (1 + texts[features])) + 1).astype(np.float32)

    def _weigh(
        self, buckets: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Feature slots and their tf-idf weights; words and characters each have unit length."""
        slots = self.slots.take(buckets)
        used = np.flatnonzero(slots >= 0)
        slots, counts, buckets = slots.take(used), counts.take(used), buckets.take(used)
        weights = (1 + np.log(counts, dtype=np.float32)) * self.idf.take(slots)
        chars = int(buckets.searchsorted(1 << BITS))  # buckets are sorted
        for part in (weights[:chars], weights[chars:]):
            part /= max(float(np.sqrt(part @ part)), 1e-9)
        return slots, weights

    def _grams(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sorted buckets of a text and their counts; characters are in the upper half."""
        if len(text) > MAX_CHARS:
            text = text[: MAX_CHARS // 2] + " " + text[-(MAX_CHARS // 2) :]
        text = text.lower()
        words = np.concatenate(list(_word_grams(text)))
        buckets = np.concatenate([words, *_char_grams(text)])
        buckets = (buckets * MIXER) >> np.uint32(32 - BITS)
        buckets[len(words) :] += np.uint32(1 << BITS)
        buckets.sort()
        return _counted(buckets)


def _counted(ordered: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """np.unique with counts, for numbers that are already sorted."""
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(ordered))[: len(starts)]
    return ordered.take(starts).astype(np.int64), ends - starts


def _slots(features: NDArray[np.signedinteger[Any]], buckets: int) -> NDArray[np.int32]:
    """The slot of each bucket's feature, -1 for a bucket without one."""
    slots = np.full(buckets, -1, np.int32)
    slots[features] = np.arange(len(features), dtype=np.int32)
    return slots


@lru_cache(maxsize=100_000)
def _word_code(word: str) -> int:
    return zlib.crc32(word.encode())


def _word_grams(text: str) -> Iterator[NDArray[np.uint32]]:
    codes = np.array([_word_code(word) for word in WORD.findall(text)], dtype=np.uint32)
    yield codes
    yield codes[:-1] * np.uint32(31) + codes[1:]


def _char_grams(text: str) -> Iterator[NDArray[np.uint32]]:
    codes = np.frombuffer(f" {text} ".encode(), np.uint8).astype(np.uint32)
    grams = codes
    for n in range(2, 6):
        grams = grams[:-1] * np.uint32(0x01000193) + codes[n - 1 :]
        if n >= 3:
            yield grams ^ np.uint32(n)
