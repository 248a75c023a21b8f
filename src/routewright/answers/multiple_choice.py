"""Which option of a multiple-choice question is right, as far as the options' texts alone tell.

Right answers and distractors are seldom written alike: lengths differ, distractors vary what the
right answer says, numbers lie around it, and who writes them has a style. That is learned from
recorded answers, and weighed beside what the committee says. It says nothing of the matter itself;
a question without listed options has no such forecast.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from routewright.answers import equivalence
from routewright.data.choices import LONGEST, parse
from routewright.prediction.forest import Forest
from routewright.types import Array, Indices, Query

LETTERS = 26
LISTED = 0.5  # share of queries that list options, at least, for this to be looked at
TREES, LEAF, SHARE = 50, 0.1, 0.4  # leaves in multiples of the root of the number of options
BUCKETS = 1 << 16  # of hashed character n-grams
GRAMS = (2, 3, 4)
DECAY, PASSES = 1e-5, 8  # L2 penalty and passes of the linear model
_WORD = re.compile(r"[^\W\d_]+|\d+")
_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d{1,3})?")


@dataclass(frozen=True)
class Choices:
    """A linear model of how options are written, and a forest over what it says and `features`."""

    style: Array  # (BUCKETS,) weights of hashed character n-grams
    forest: Forest

    def predict(self, queries: Sequence[Query]) -> Array:
        """How likely each letter is right, (n, LETTERS), rows sum to 1; NaN without options."""
        listed = table(queries)
        told = np.array([self.style[grams].mean() * len(grams) ** 0.5 for grams in listed.grams])
        told -= _per_question(told, listed.row)
        said = self.forest.predict(np.column_stack([listed.columns, told])).ravel()
        return _spread(said, listed, len(queries))


class Listed(NamedTuple):
    """The options of many queries, a line each."""

    columns: Array  # (k, WIDTH)
    grams: list[Indices]  # hashed character n-grams of each
    row: Indices  # (k,) whose option it is
    letter: Indices  # (k,) which one


def fit(
    queries: Sequence[Query],
    answers: np.ndarray[Any, np.dtype[Any]],
    score: Array,
    fold: Indices,
    *,
    seed: int = 0,
) -> tuple[Array, Choices] | None:
    """Chances without the row's own fold, (n, LETTERS), and a model of every row; None where few
    queries list options. `answers` (n, e) are letters, `score` (n, e) their scores."""
    listed = table(queries)
    if len(np.unique(listed.row)) < LISTED * len(queries):
        return None
    right = marked(answers, score)[listed.row, listed.letter]
    known = np.isfinite(right)
    if len(np.unique(right[known] > 0.5)) < 2:
        return None
    written = _written(listed)
    leaf = max(2, round(LEAF * len(right) ** 0.5))
    outside = [fold[listed.row] != k for k in np.unique(fold)]
    outside = [out for out in outside if len(np.unique(right[known & out] > 0.5)) == 2]
    told = np.zeros(len(right))
    for out in outside:
        told[~out] = written[~out] @ _style(written, right, known & out, seed)
    columns = np.column_stack([listed.columns, told])

    def grow(rows: Any) -> Forest:
        return Forest.grow(
            columns[rows], right[rows, None], trees=TREES, leaf=leaf, share=SHARE, seed=seed
        )

    said = np.full(len(right), 0.5)
    for out in outside:
        said[~out] = grow(known & out).predict(columns[~out]).ravel()
    model = Choices(_style(written, right, known, seed), grow(known))
    return _spread(said, listed, len(queries)), model


def _style(written: Any, right: Array, rows: Any, seed: int) -> Array:
    """Weights of the n-grams that tell right options from wrong ones, logistic regression."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(
        loss="log_loss", alpha=DECAY, max_iter=PASSES, tol=None, average=True, random_state=seed
    )
    return np.asarray(model.fit(written[rows], right[rows] > 0.5).coef_[0])


def _written(listed: Listed) -> Any:
    """Options as sparse rows (k, BUCKETS) of unit length, less the mean of their question."""
    from scipy.sparse import csr_matrix, diags

    sizes = np.array([len(grams) for grams in listed.grams])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.repeat(sizes**-0.5, sizes)
    k, n = len(sizes), int(listed.row.max()) + 1
    rows = csr_matrix((weights, np.concatenate(listed.grams), starts), shape=(k, BUCKETS))
    member = csr_matrix((np.ones(k), (listed.row, np.arange(k))), shape=(n, k))
    share = 1 / np.maximum(np.bincount(listed.row, minlength=n), 1)
    return (rows - (diags(share) @ (member @ rows))[listed.row]).tocsr()


def _per_question(values: Array, row: Indices) -> Array:
    """The mean over the options of the same question, (k,)."""
    total = np.bincount(row, values)
    return np.asarray((total / np.maximum(np.bincount(row), 1))[row])


def marked(answers: np.ndarray[Any, np.dtype[Any]], score: Array) -> Array:
    """What is known of each letter, (n, LETTERS): the best score it was given; 0 for the others
    where one of them was right, else NaN.

    >>> marked(np.array([["A", "C"]], dtype=object), np.array([[0.0, 1.0]]))[0, :4]
    array([0., 0., 1., 0.])
    """
    found = np.full((len(score), LETTERS), np.nan)
    for i, m in zip(*np.nonzero(np.isfinite(score)), strict=True):
        said = equivalence.key("letter", answers[i, m])
        if isinstance(said, str) and (place := ord(said) - ord("A")) < LETTERS:
            found[i, place] = np.fmax(found[i, place], score[i, m])
    settled = np.fmax.reduce(found, axis=1) == 1
    found[settled] = np.nan_to_num(found[settled])
    return found


def table(queries: Sequence[Query]) -> Listed:
    """One line per option of every query that lists some."""
    lines, grams = [np.empty((0, WIDTH))], []
    row: list[int] = []
    letter: list[int] = []
    for i, query in enumerate(queries):
        stem, options = parse(query.text)
        if options:
            lines.append(features(stem, options))
            grams += [_hashed(option) for option in options]
            row += [i] * len(options)
            letter += range(len(options))
    return Listed(np.vstack(lines), grams, np.array(row, np.intp), np.array(letter, np.intp))


def _hashed(text: str) -> Indices:
    """Buckets of the distinct character n-grams; at least one."""
    padded = f" {text.lower()} "
    grams = {padded[i : i + g] for g in GRAMS for i in range(len(padded) + 1 - g)}
    return np.array(
        sorted({zlib.crc32(g.encode(errors="replace")) % BUCKETS for g in grams}), np.intp
    )


def features(stem: str, options: Sequence[str]) -> Array:
    """(k, WIDTH): how each option looks, by itself and among the others."""
    k = len(options)
    length = np.array([len(option) for option in options], dtype=np.float64)
    words = [set(_WORD.findall(option.lower())) for option in options]
    asked = set(_WORD.findall(stem.lower()))
    count = np.maximum([len(w) for w in words], 1)
    own, shared = _overlap([*words, asked])
    alike, _ = _overlap([_trigrams(text) for text in (*options, stem[-LONGEST:])])
    nearest = np.sort(alike[:k, :k] - np.eye(k), axis=1)[:, ::-1]
    nearest = np.pad(nearest[:, : k - 1], ((0, 0), (0, 3)))[:, :3]
    numbers, said = _numbers(options)
    among = [
        length,
        shared[:k, k] / count,  # words that the question has too
        own[:k, :k].sum(axis=1) - 1,
        shared[:k, :k].sum(axis=1) / count - 1,  # how often its words stand in other options
        alike[:k, :k].sum(axis=1) - 1,
        nearest[:, 0],
        alike[:k, k],
    ]
    by_itself = [
        np.arange(k),
        np.full(k, k),
        np.full(k, len(stem)),
        np.full(k, length.std() / max(length.mean(), 1)),
        length / max(length.mean(), 1),
        count,
        length / count,
        np.array([max(map(len, w), default=0) for w in words]),
        np.array([sum(map(str.isdigit, option)) for option in options]),
        np.array([sum(map(str.isupper, option)) for option in options]) / np.maximum(length, 1),
        np.array([option[:1].isupper() for option in options]),
        np.array([option.endswith(".") for option in options]),
        *(np.array([option.count(sign) for option in options]) for sign in '.,("'),
        np.array([sum(o[-3:] == option[-3:] for o in options) for option in options]) / k,
        np.array([sum(o[:3] == option[:3] for o in options) for option in options]) / k,
    ]
    ranks = [(column[:, None] > column).sum(axis=1) / (k - 1) for column in among]
    columns = [*by_itself, *among, *ranks, nearest, numbers, said]
    return np.column_stack(columns).astype(np.float64)


def _trigrams(text: str) -> set[str]:
    lower = text.lower()
    return {lower[i : i + 3] for i in range(len(lower) - 2)}


def _overlap(sets: Sequence[set[str]]) -> tuple[Array, Array]:
    """Jaccard similarities of sets, and how many members they share, (k, k) each."""
    places = {member: i for i, member in enumerate(dict.fromkeys(m for s in sets for m in s))}
    holds = np.zeros((len(sets), len(places) or 1))
    for i, members in enumerate(sets):
        holds[i, [places[member] for member in members]] = 1
    shared = holds @ holds.T
    size = holds.sum(axis=1)
    return shared / np.maximum(size[:, None] + size - shared, 1), shared


def _numbers(options: Sequence[str]) -> tuple[Array, Array]:
    """Where numbers lie among each other, (k, 4), and how they are written, (k, 4); −1 where an
    option has none, or not all have one."""
    k = len(options)
    found = [_NUMBER.search(option) for option in options]
    lie, written = np.full((k, 4), -1.0), np.full((k, 4), -1.0)
    widths = [len(m[0]) if m else 0 for m in found]
    for j, number in enumerate(found):
        if number:
            same = sum(width == widths[j] for width in widths) / k
            plain = "." not in number[0] and "e" not in number[0].lower()
            written[j] = [widths[j], plain, number[0][0] in "-−", same]
    if all(found):
        value = np.array([_value(m[0]) for m in found if m])
        value = np.sign(value) * np.log1p(np.abs(value))
        far = np.abs(value - np.median(value))
        gaps = np.abs(value[:, None] - value)
        spread = gaps.mean() + 1e-9
        lie = np.column_stack(
            [
                np.ones(k),
                (value[:, None] > value).sum(axis=1) / (k - 1),
                far / (far.mean() + 1e-9),
                (gaps + np.eye(k) * gaps.max()).min(axis=1) / spread,
            ]
        )
    return lie, written


def _value(number: str) -> float:
    plain = number.replace(",", "").replace("−", "-")
    try:
        return float(np.clip(float(plain), -1e300, 1e300))
    except ValueError:  # two points: a version, a date
        return float(re.split(r"[.]", plain)[0] or 0)


WIDTH = features("", ["a", "b"]).shape[1]


def _spread(said: Array, listed: Listed, n: int) -> Array:
    """Chances per option ▶ (n, LETTERS), each query's divided by their sum."""
    found = np.full((n, LETTERS), np.nan)
    rows = np.unique(listed.row)
    found[rows] = 0.0
    found[listed.row, listed.letter] = np.maximum(said, 1e-6)
    found[rows] /= found[rows].sum(axis=1, keepdims=True)
    return found
