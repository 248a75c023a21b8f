"""Which answer is right, by a vote: who says the same support one another, each as far as the
forecast trusts them. Nothing is learned; the forests of `evidence` do better where they are grown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from routewright.answers import equivalence
from routewright.types import Array, Indices

if TYPE_CHECKING:  # reading tables needs Polars, serving does not
    from routewright.data.outcomes import Outcomes

RIVALS = 4.0  # wrong answers that a wrong expert chooses among: few, as experts err alike
SURE = 0.98  # nobody is trusted more than this, or less than its opposite


def labels(kind: equivalence.Kind, answers: np.ndarray[Any, np.dtype[Any]]) -> Indices:
    """Answers (n, e), str or None ▶ equal numbers where they say the same, −1 where there is
    nothing to read.

    Prose and code have no canonical form: such an answer agrees only with its own repetition.
    What an answer's label is does not depend on who else has been heard.
    """
    keys: dict[Any, int] = {}
    found: dict[Any, int] = {}
    for text in answers.ravel().tolist():
        if text not in found:
            key: Any = equivalence.key(kind, text)
            if key is None and text and kind not in equivalence.KEYED:
                key = ("as it stands", text)
            found[text] = -1 if key is None else keys.setdefault(key, len(keys))
    flat = [found[text] for text in answers.ravel().tolist()]
    return np.array(flat, np.intp).reshape(answers.shape)


def chances(labels: Indices, quality: Array) -> Array:
    """The chance that each answer is right, (n, e); 0 where there is none to read.

    Naive Bayes: the truth is one of RIVALS + 1 options, an expert of forecast p says it with
    probability p, and each wrong one with (1 − p) / RIVALS, independently of the others.

    >>> one, two = [[0, -1, -1]], [[0, 0, 1]]
    >>> forecasts = np.array([[0.6, 0.6, 0.6]])
    >>> chances(np.array(one), forecasts).round(2), chances(np.array(two), forecasts).round(2)
    (array([[0.6, 0. , 0. ]]), array([[0.8 , 0.8 , 0.13]]))
    """
    said = labels >= 0
    agree = (labels[:, :, None] == labels[:, None, :]) & said[:, :, None]  # (n, e, e)
    p = np.clip(quality, 1 - SURE, SURE)
    weight = np.log(p / (1 - p)) + np.log(RIVALS)
    odds = np.exp((agree * weight[:, None, :]).sum(axis=2)) * said
    first = said & ~np.tril(agree, -1).any(axis=2)
    unsaid = np.maximum(RIVALS + 1 - first.sum(axis=1), 1.0)
    return np.asarray(odds / ((odds * first).sum(axis=1) + unsaid)[:, None])


def leader(chance: Array, heard: NDArray[np.bool_]) -> tuple[Indices, Array]:
    """Who of those heard gave the likeliest answer, the first of equals, and how likely it is to
    be right; (n,) each, −1 where nobody was heard."""
    chance = np.where(heard, chance, -1.0)
    reached = chance.max(axis=1)
    return np.where(reached >= 0, chance.argmax(axis=1), -1), reached


def recorded(outcomes: Outcomes) -> np.ndarray[Any, np.dtype[Any]]:
    """What was said, (n, e) of str or None; a call without a score has failed."""
    texts = np.full(outcomes.score.shape, None, dtype=object)
    if outcomes.answers is not None:
        came = np.isfinite(outcomes.score)
        texts[came] = outcomes.answers[came]
    return texts
