"""Reads answers in prose or code: how likely an answer is right, from its own words and form.

Such answers have no canonical form, so agreement says little about them. What they say by
themselves does: a refusal, a list that breaks off, code that does not parse, an answer much shorter
than usual. A logistic regression per expert over `features` and a lexical encoding learns which of
these matter, from recorded scores. The time to read an answer is linear in its length, and at most
MOST_READ characters of it are read.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from routewright.answers.fences import fenced
from routewright.answers.python import syntax_tree
from routewright.prediction.encoders.lexical import Lexical
from routewright.prediction.stored import Arrays
from routewright.types import Array, Indices, Query

MOST_READ = 4_000  # characters of an answer or a prompt
WIDTH = 64  # of the lexical encoding
MOST_ENCODED = 2_000  # answers that the lexical encoding is fitted on
STRENGTH = 0.01  # of the data against the penalty, as scikit-learn's C
OWN = 0.7  # scale of an expert's own weights beside the shared ones
LEXICAL = 0.7  # scale of the encoding beside the features
FOREMOST = 9.0  # log-odds are limited to this, and minus this
CACHED = 1 << 10  # answers whose features and words are remembered

_WORD = re.compile(r"\w+")
_ITEM = re.compile(r"^[ \t]{0,8}(?:[-*•]|\d{1,3}[.)])[ \t]", re.MULTILINE)
_HEDGE = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|likely|unclear|not sure|depends|generally|typically"
    r"|however|although)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai|language model|cannot|can't|unable|not able|don't have"
    r"|do not have|not appropriate)\b",
    re.IGNORECASE,
)
_STUB = re.compile(r"\b(?:TODO|pass|implement|your code)\b")


@dataclass(frozen=True)
class Reading:
    """Linear models of the log-odds that an answer is right, one per expert."""

    encoder: Lexical
    weights: Array  # (e, 1 + FEATURES + width of the encoding); the constant comes first

    def log_odds(
        self, queries: Sequence[Query], answers: np.ndarray[Any, np.dtype[Any]], members: Any
    ) -> Array:
        """Log-odds that the answers (n, s), str or None, of the members (s) are right; 0 without
        an answer."""
        x = columns(self.encoder, queries, answers)
        odds = np.einsum("nsc,sc->ns", x, self.weights[list(members)])
        return np.where(readable(answers), np.clip(odds, -FOREMOST, FOREMOST), 0.0)

    def options(self) -> dict[str, Any]:
        return self.encoder.options()

    def arrays(self) -> dict[str, Any]:
        return {"weights": self.weights, **self.encoder.arrays()}

    @classmethod
    def load(cls, options: Mapping[str, Any], arrays: Mapping[str, Any], experts: int) -> Self:
        """The stored models of so many experts. Raises BadRouter."""
        encoder = Lexical.load(options, arrays)
        width = 1 + FEATURES + encoder.basis.shape[1]
        part = Arrays("the reading of answers", arrays)
        return cls(encoder, part.take("weights", experts, width))


def chance(log_odds: Array) -> Array:
    """Log-odds as probabilities."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def readable(answers: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether there is an answer that is not blank, in the shape of `answers`."""
    flat = [bool(text and not text.isspace()) for text in answers.ravel().tolist()]
    return np.array(flat, bool).reshape(answers.shape)


def labels(answers: np.ndarray[Any, np.dtype[Any]]) -> Indices:
    """Labels (n, s) of answers: equal texts agree, except for space between words; −1 for blank
    ones."""
    positions: dict[str, int] = {}
    texts = [" ".join((text or "").split()) for text in answers.ravel().tolist()]
    flat = [positions.setdefault(text, len(positions)) if text else -1 for text in texts]
    return np.array(flat, np.intp).reshape(answers.shape)


def fit(
    queries: Sequence[Query],
    answers: np.ndarray[Any, np.dtype[Any]],
    score: Array,
    fold: Indices,
    *,
    seed: int = 0,
) -> tuple[Array, Reading]:
    """Fits the models on all rows; also returns each row's log-odds from models of the other folds.

    `answers` (n, e) are the experts' answers, `score` (n, e) their scores, NaN where unknown, and
    `fold` (n,) the folds. The log-odds are (n, e). An expert's weights are the shared ones plus its
    own, and both are penalised: with few rows, the shared ones decide.
    """
    scored = readable(answers) & np.isfinite(score)
    texts = answers[scored].tolist()
    texts = texts[:: 1 + len(texts) // MOST_ENCODED]
    encoder = Lexical(WIDTH).fit([Query.of(text[:MOST_READ]) for text in texts], seed=seed)
    x = columns(encoder, queries, answers)
    odds = np.zeros(score.shape)
    for k in np.unique(fold):
        held_out = fold == k
        weights = _weights(x, score, scored & ~held_out[:, None])
        odds[held_out] = np.einsum("nsc,sc->ns", x[held_out], weights)
    odds = np.where(readable(answers), np.clip(odds, -FOREMOST, FOREMOST), 0.0)
    return odds, Reading(encoder, _weights(x, score, scored))


def _weights(x: Array, score: Array, rows: Any) -> Array:
    """The weights (e, c) of a logistic regression of scores (n, e) on columns (n, e, c), fitted on
    the marked answers (n, e)."""
    from sklearn.linear_model import LogisticRegression

    e, c = x.shape[1:]
    row, member = np.nonzero(rows)
    if len(row) == 0:
        return np.zeros((e, c))
    lines, target = x[row, member][:, 1:], np.clip(score[row, member], 0.0, 1.0)
    mean, deviation = lines.mean(axis=0), lines.std(axis=0)
    scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
    scale[FEATURES:] *= LEXICAL
    unit = np.column_stack([np.ones(len(row)), (lines - mean) * scale])
    own = np.zeros((len(row), e, c))
    own[np.arange(len(row)), member] = OWN * unit
    design = np.hstack([unit[:, 1:], own.reshape(len(row), -1)])
    # A score between 0 and 1 is so much of a right answer, and the rest of a wrong one.
    twice, right = np.vstack([design, design]), np.repeat([1, 0], len(row))
    weight = np.concatenate([target, 1 - target])
    if weight[: len(row)].sum() == 0 or weight[len(row) :].sum() == 0:
        return np.zeros((e, c))
    used = weight > 0
    model = LogisticRegression(C=STRENGTH, max_iter=300)
    model.fit(twice[used], right[used], sample_weight=weight[used])
    shared, of_member = model.coef_[0, : c - 1], OWN * model.coef_[0, c - 1 :].reshape(e, c)
    slopes = (shared + of_member[:, 1:]) * scale
    constant = model.intercept_[0] + of_member[:, 0] - slopes @ mean
    return np.column_stack([constant, slopes])


# --- columns -------------------------------------------------------------------------------


def columns(
    encoder: Lexical, queries: Sequence[Query], answers: np.ndarray[Any, np.dtype[Any]]
) -> Array:
    """1, the features and the encoding of each answer, (n, s, c); 0 for blank ones."""
    n, s = answers.shape
    table = np.zeros((n, s, 1 + FEATURES + encoder.basis.shape[1]))
    for i, j in zip(*np.nonzero(readable(answers)), strict=True):
        text = answers[i, j]
        table[i, j, 0] = 1.0
        prompt = queries[i].excerpt
        read = text[:MOST_READ], prompt[:MOST_READ]
        table[i, j, 1 : 1 + FEATURES] = features(*read, len(text), len(prompt))
        table[i, j, 1 + FEATURES :] = encoder.encode([Query.of(text[:MOST_READ])])[0]
    return table


@lru_cache(CACHED)
def features(text: str, prompt: str, size_of_text: int, size_of_prompt: int) -> Array:
    """Features of an answer: its length and form, hedges and refusals, whether it breaks off, what
    it shares with the prompt, and of code whether it parses, (FEATURES,).

    `text` and `prompt` are their first MOST_READ characters, the sizes are those of the wholes.
    """
    length, asked = np.log1p(size_of_text), np.log1p(size_of_prompt)
    found = [word.lower() for word in _WORD.findall(text)]
    words, words_of_prompt = set(found), {word.lower() for word in _WORD.findall(prompt)}
    shared, count, size = len(words & words_of_prompt), max(len(found), 1), max(len(text), 1)
    fences = text.count("```")
    code = program(text)
    last = text.rstrip()[-1:]
    counts = [
        len(found),
        text.count("\n"),
        text.count("\n\n"),
        len(_ITEM.findall(text)),
        len(_HEDGE.findall(text)),
        len(_REFUSAL.findall(text[:300])),
        *(code.count(sign) for sign in ("\n", "return", "import", "for ", "if ", "#", ">>>")),
    ]
    flags = [
        fences % 2,
        fences > 0,
        _REFUSAL.search(text),
        last in ".!?\"')}`>:]",
        last in ".!?",
        size_of_text >= MOST_READ,
        parses(code),
        is_json(text),
        "def " in code,
        _STUB.search(code),
        "assert" in code or "unittest" in code,
        found[:1] == ["i"],
        found[:1] == ["sure"],
        found[:1] == ["here"],
        text[:1].islower(),
        prompt.rstrip()[-1:] == "?",
    ]
    shares = [
        len(words) / count,
        shared / max(len(words), 1),
        shared / max(len(words_of_prompt), 1),
        sum(map(len, found)) / count,
        *(text.count(sign) / count for sign in ("!", "?", ",", "**")),
        sum(map(str.isdigit, text)) / size,
        sum(map(str.isupper, text)) / size,
        1 - len(text.encode("ascii", "ignore")) / size,
    ]
    lengths = [length, length**2 / 10, asked, length - asked]
    return np.array([*lengths, *np.log1p(counts), *map(bool, flags), *shares], np.float64)


def program(text: str) -> str:
    """The first fenced code of an answer, which may be open; without a fence, the whole text.

    >>> program("Try:\\n```python\\nx = 1\\n```"), program("x = 1")
    ('x = 1\\n', 'x = 1')
    """
    return next(iter(fenced(text)), text)


def parses(code: str) -> bool:
    """Whether (the start of) a text is Python."""
    try:
        syntax_tree(code[:MOST_READ])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def is_json(text: str) -> bool:
    """Whether a text, or what its first code fence holds, is a JSON object or list."""
    text = program(text).strip()
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


FEATURES = len(features("", "", 0, 0))


# --- likeness ------------------------------------------------------------------------------


def likeness(answers: np.ndarray[Any, np.dtype[Any]]) -> Array:
    """How like the others an answer is, (n, s, 3): the mean and the greatest share of words that it
    has in common with another member's answer (Jaccard), and its log-length less their mean."""
    n, s = answers.shape
    table, filled = np.zeros((n, s, 3)), readable(answers)
    for i in np.flatnonzero(filled.sum(axis=1) > 1):
        places = np.flatnonzero(filled[i])
        vocabularies = [_words(answers[i, j]) for j in places]
        lengths = np.array([np.log1p(len(answers[i, j])) for j in places])
        for a, j in enumerate(places):
            others = [b for b in range(len(places)) if b != a]
            common = [_jaccard(vocabularies[a], vocabularies[b]) for b in others]
            table[i, j] = np.mean(common), max(common), lengths[a] - lengths[others].mean()
    return table


@lru_cache(CACHED)
def _words(text: str) -> Any:
    words = {word.lower() for word in _WORD.findall(text[:MOST_READ])}
    return np.array(sorted(zlib.crc32(word.encode(errors="replace")) for word in words), np.uint32)


def _jaccard(one: Any, other: Any) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)
