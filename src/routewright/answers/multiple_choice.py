"""Forecasts which option of a multiple-choice question is right, from the texts of the options.

Right answers and distractors are seldom written in the same way: their lengths differ, distractors
vary the right answer, their numbers lie around the right one, and every author has a style. The
model learns this from recorded answers; `evidence` combines it with the committee's answers. It
does not use the subject matter. A question without listed options has no such forecast.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from routewright.answers import equivalence
from routewright.data.choices import LONGEST, parse
from routewright.prediction.forest import Forest
from routewright.prediction.stored import Arrays
from routewright.types import Array, Indices, Query

LETTERS = 26
MIN_SHARE = 0.5  # of queries that list options; with fewer, no model is fitted
TREES, LEAF, SHARE = 50, 0.1, 0.4  # LEAF: rows of a leaf, divided by √(number of options)
BUCKETS = 1 << 16  # of hashed character n-grams
GRAMS = (2, 3, 4)
DECAY, PASSES = 1e-5, 8  # L2 penalty and passes of the linear model
_WORD = re.compile(r"[^\W\d_]+|\d+")
_NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*(?:[eE][-+]?\d{1,3})?")


@dataclass(frozen=True)
class Choices:
    """A linear model of how options are written, and a forest over its outputs and `features`."""

    style: Array  # (BUCKETS,) weights of hashed character n-grams
    forest: Forest

    @classmethod
    def load(cls, depth: int, arrays: Mapping[str, Any]) -> Self:
        """The stored model. Raises BadRouter."""
        style = Arrays("the model of options", arrays).take("style", BUCKETS)
        return cls(style, Forest.load(depth, arrays, WIDTH + 1))

    def predict(self, queries: Sequence[Query]) -> Array:
        """The chance that each letter is right, (n, LETTERS); rows sum to 1, or are NaN without
        options."""
        options = table(queries)
        style = np.array([self.style[grams].mean() * len(grams) ** 0.5 for grams in options.grams])
        style -= _per_question(style, options.row)
        raw = self.forest.predict(np.column_stack([options.columns, style])).ravel()
        return _normalise(raw, options, len(queries))


class OptionTable(NamedTuple):
    """The k options of many queries."""

    columns: Array  # (k, WIDTH) features
    grams: list[Indices]  # k lists of hashed character n-grams
    row: Indices  # (k,) the query
    letter: Indices  # (k,) the option's position in its query


def fit(
    queries: Sequence[Query],
    answers: np.ndarray[Any, np.dtype[Any]],
    score: Array,
    fold: Indices,
    *,
    seed: int = 0,
) -> tuple[Array, Choices] | None:
    """Fits the model on all rows; also returns each row's chances from models of the other folds.

    `answers` (n, e) are the experts' answers, `score` (n, e) their scores, `fold` (n,) the folds;
    the chances are (n, LETTERS). None if few queries list options, or all options have one score.
    """
    options = table(queries)
    if len(np.unique(options.row)) < MIN_SHARE * len(queries):
        return None
    right = letter_scores(answers, score)[options.row, options.letter]
    scored = np.isfinite(right)
    if len(np.unique(right[scored] > 0.5)) < 2:
        return None
    grams = _gram_rows(options)
    leaf = max(2, round(LEAF * len(right) ** 0.5))
    outside = [fold[options.row] != k for k in np.unique(fold)]
    outside = [out for out in outside if len(np.unique(right[scored & out] > 0.5)) == 2]
    style = np.zeros(len(right))
    for out in outside:
        style[~out] = grams[~out] @ _style(grams, right, scored & out, seed)
    columns = np.column_stack([options.columns, style])

    def grow(rows: Any) -> Forest:
        return Forest.grow(
            columns[rows], right[rows, None], trees=TREES, leaf=leaf, share=SHARE, seed=seed
        )

    raw = np.full(len(right), 0.5)
    for out in outside:
        raw[~out] = grow(scored & out).predict(columns[~out]).ravel()
    model = Choices(_style(grams, right, scored, seed), grow(scored))
    return _normalise(raw, options, len(queries)), model


def _style(grams: Any, right: Array, rows: Any, seed: int) -> Array:
    """Weights of the n-grams, (BUCKETS,), from a logistic regression of right on wrong options."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(
        loss="log_loss", alpha=DECAY, max_iter=PASSES, tol=None, average=True, random_state=seed
    )
    return np.asarray(model.fit(grams[rows], right[rows] > 0.5).coef_[0])


def _gram_rows(options: OptionTable) -> Any:
    """Options as sparse rows (k, BUCKETS) of unit length, minus the mean row of their question."""
    from scipy.sparse import csr_matrix, diags

    sizes = np.array([len(grams) for grams in options.grams])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.repeat(sizes**-0.5, sizes)
    k, n = len(sizes), int(options.row.max()) + 1
    rows = csr_matrix((weights, np.concatenate(options.grams), starts), shape=(k, BUCKETS))
    member = csr_matrix((np.ones(k), (options.row, np.arange(k))), shape=(n, k))
    share = 1 / np.maximum(np.bincount(options.row, minlength=n), 1)
    return (rows - (diags(share) @ (member @ rows))[options.row]).tocsr()


def _per_question(values: Array, row: Indices) -> Array:
    """The mean over the options of the same question, (k,)."""
    total = np.bincount(row, values)
    return np.asarray((total / np.maximum(np.bincount(row), 1))[row])


def letter_scores(answers: np.ndarray[Any, np.dtype[Any]], score: Array) -> Array:
    """The score of each letter, (n, LETTERS): the best one among the experts that chose it.

    Other letters are 0 in rows where some letter is right, else NaN.

    >>> letter_scores(np.array([["A", "C"]], dtype=object), np.array([[0.0, 1.0]]))[0, :4]
    array([0., 0., 1., 0.])
    """
    scores = np.full((len(score), LETTERS), np.nan)
    for i, m in zip(*np.nonzero(np.isfinite(score)), strict=True):
        letter = equivalence.key("letter", answers[i, m])
        if isinstance(letter, str) and (column := ord(letter) - ord("A")) < LETTERS:
            scores[i, column] = np.fmax(scores[i, column], score[i, m])
    solved = np.fmax.reduce(scores, axis=1) == 1
    scores[solved] = np.nan_to_num(scores[solved])
    return scores


def table(queries: Sequence[Query]) -> OptionTable:
    """The options of all queries that list some."""
    lines, grams = [np.empty((0, WIDTH))], []
    row: list[int] = []
    letter: list[int] = []
    for i, query in enumerate(queries):
        stem, options = parse(query.excerpt)
        if options:
            lines.append(features(stem, options))
            grams += [_hash_grams(option) for option in options]
            row += [i] * len(options)
            letter += range(len(options))
    return OptionTable(np.vstack(lines), grams, np.array(row, np.intp), np.array(letter, np.intp))


def _hash_grams(text: str) -> Indices:
    """Buckets of the distinct character n-grams of a text; at least one."""
    padded = f" {text.lower()} "
    grams = {padded[i : i + g] for g in GRAMS for i in range(len(padded) + 1 - g)}
    return np.array(
        sorted({zlib.crc32(g.encode(errors="replace")) % BUCKETS for g in grams}), np.intp
    )


def features(stem: str, options: Sequence[str]) -> Array:
    """Features of each option, by itself and relative to the others, (k, WIDTH)."""
    k = len(options)
    length = np.array([len(option) for option in options], dtype=np.float64)
    words = [set(_WORD.findall(option.lower())) for option in options]
    stem_words = set(_WORD.findall(stem.lower()))
    count = np.maximum([len(w) for w in words], 1)
    own, shared = _overlap([*words, stem_words])
    similarity, _ = _overlap([_trigrams(text) for text in (*options, stem[-LONGEST:])])
    nearest = np.sort(similarity[:k, :k] - np.eye(k), axis=1)[:, ::-1]
    nearest = np.pad(nearest[:, : k - 1], ((0, 0), (0, 3)))[:, :3]
    numbers, notation = _numbers(options)
    relative = [
        length,
        shared[:k, k] / count,  # share of its words that the question has too
        own[:k, :k].sum(axis=1) - 1,
        shared[:k, :k].sum(axis=1) / count - 1,  # how often its words are in other options
        similarity[:k, :k].sum(axis=1) - 1,
        nearest[:, 0],
        similarity[:k, k],
    ]
    absolute = [
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
    ranks = [(column[:, None] > column).sum(axis=1) / (k - 1) for column in relative]
    columns = [*absolute, *relative, *ranks, nearest, numbers, notation]
    return np.column_stack(columns).astype(np.float64)


def _trigrams(text: str) -> set[str]:
    lower = text.lower()
    return {lower[i : i + 3] for i in range(len(lower) - 2)}


def _overlap(sets: Sequence[set[str]]) -> tuple[Array, Array]:
    """Jaccard similarities of sets, and numbers of shared members, (k, k) each."""
    positions = {member: i for i, member in enumerate(dict.fromkeys(m for s in sets for m in s))}
    holds = np.zeros((len(sets), len(positions) or 1))
    for i, members in enumerate(sets):
        holds[i, [positions[member] for member in members]] = 1
    shared = holds @ holds.T
    size = holds.sum(axis=1)
    return shared / np.maximum(size[:, None] + size - shared, 1), shared


def _numbers(options: Sequence[str]) -> tuple[Array, Array]:
    """Positions of the options' numbers among each other, and their notation, (k, 4) each.

    Notation is −1 for an option without a number; positions are −1 unless all options have one.
    """
    k = len(options)
    matches = [_NUMBER.search(option) for option in options]
    position, notation = np.full((k, 4), -1.0), np.full((k, 4), -1.0)
    widths = [len(m[0]) if m else 0 for m in matches]
    for j, number in enumerate(matches):
        if number:
            same = sum(width == widths[j] for width in widths) / k
            plain = "." not in number[0] and "e" not in number[0].lower()
            notation[j] = [widths[j], plain, number[0][0] in "-−", same]
    if all(matches):
        value = np.array([_value(m[0]) for m in matches if m])
        value = np.sign(value) * np.log1p(np.abs(value))
        far = np.abs(value - np.median(value))
        gaps = np.abs(value[:, None] - value)
        spread = gaps.mean() + 1e-9
        position = np.column_stack(
            [
                np.ones(k),
                (value[:, None] > value).sum(axis=1) / (k - 1),
                far / (far.mean() + 1e-9),
                (gaps + np.eye(k) * gaps.max()).min(axis=1) / spread,
            ]
        )
    return position, notation


def _value(number: str) -> float:
    plain = number.replace(",", "").replace("−", "-")
    try:
        return float(np.clip(float(plain), -1e300, 1e300))
    except ValueError:  # two points: a version or a date
        return float(re.split(r"[.]", plain)[0] or 0)


WIDTH = features("", ["a", "b"]).shape[1]


def _normalise(raw: Array, options: OptionTable, n: int) -> Array:
    """The raw chances of the options, divided by their sum in each query, as (n, LETTERS)."""
    chances = np.full((n, LETTERS), np.nan)
    rows = np.unique(options.row)
    chances[rows] = 0.0
    chances[options.row, options.letter] = np.maximum(raw, 1e-6)
    chances[rows] /= chances[rows].sum(axis=1, keepdims=True)
    return chances
