"""Estimates by a vote which answer is right: experts that give equivalent answers support each
other, weighted by their forecasts. Nothing is fitted; the forests of `evidence` are more accurate
if a router has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from routewright.answers import equivalence
from routewright.types import Array, Indices

if TYPE_CHECKING:  # reading tables needs Polars, serving does not
    from routewright.data.outcomes import Outcomes

RIVALS = 4.0  # wrong answers to choose among: few, because experts make similar mistakes
MAX_TRUST = 0.98  # forecasts are limited to this and to 1 minus it


def labels(kind: equivalence.Kind, answers: np.ndarray[Any, np.dtype[Any]]) -> Indices:
    """Labels (n, e) of answers (n, e), str or None: equal if equivalent, −1 if unreadable.

    Prose and code have no canonical form, so such an answer agrees only with an identical text.
    The label of an answer does not depend on the other answers.
    """
    keys: dict[Any, int] = {}
    labels: dict[Any, int] = {}
    for text in answers.ravel().tolist():
        if text not in labels:
            key: Any = equivalence.key(kind, text)
            if key is None and text and kind not in equivalence.KEYED:
                key = ("verbatim", text)
            labels[text] = -1 if key is None else keys.setdefault(key, len(keys))
    flat = [labels[text] for text in answers.ravel().tolist()]
    return np.array(flat, np.intp).reshape(answers.shape)


def chances(labels: Indices, quality: Array) -> Array:
    """The chance that each answer is right, (n, e); 0 for unreadable ones.

    Naive Bayes: the truth is one of RIVALS + 1 options. An expert with forecast p gives it with
    probability p and each wrong option with (1 − p) / RIVALS, independently of other experts.
    `labels` and `quality` (the forecasts, 0..1) are (n, e).

    >>> one, two = [[0, -1, -1]], [[0, 0, 1]]
    >>> forecasts = np.array([[0.6, 0.6, 0.6]])
    >>> chances(np.array(one), forecasts).round(2), chances(np.array(two), forecasts).round(2)
    (array([[0.6, 0. , 0. ]]), array([[0.8 , 0.8 , 0.13]]))
    """
    readable = labels >= 0
    agree = (labels[:, :, None] == labels[:, None, :]) & readable[:, :, None]  # (n, e, e)
    p = np.clip(quality, 1 - MAX_TRUST, MAX_TRUST)
    weights = np.log(p / (1 - p)) + np.log(RIVALS)
    odds = np.exp((agree * weights[:, None, :]).sum(axis=2)) * readable
    first = readable & ~np.tril(agree, -1).any(axis=2)
    others = np.maximum(RIVALS + 1 - first.sum(axis=1), 1.0)
    return np.asarray(odds / ((odds * first).sum(axis=1) + others)[:, None])


def leader(chance: Array, received: NDArray[np.bool_]) -> tuple[Indices, Array]:
    """The expert with the likeliest answer, the first one at ties, and the chance that its answer
    is right; (n,) each, −1 in rows without an answer. `received` (n, e) marks the answers."""
    chance = np.where(received, chance, -1.0)
    highest = chance.max(axis=1)
    return np.where(highest >= 0, chance.argmax(axis=1), -1), highest


def recorded(outcomes: Outcomes) -> np.ndarray[Any, np.dtype[Any]]:
    """The recorded answers, (n, e) of str or None; a call without a score has failed."""
    texts = np.full(outcomes.score.shape, None, dtype=object)
    if outcomes.answers is not None:
        arrived = np.isfinite(outcomes.score)
        texts[arrived] = outcomes.answers[arrived]
    return texts
