"""Turns rewards into the labels from which a router is distilled (Zooter, arXiv 2311.08692).

All functions are pure. With n queries, e experts and t tags, `rewards` and `labels` are (n, e);
each row of labels is a distribution over the experts. Tags are an incidence matrix (n, t) of zeros
and ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from routewright import metrics
from routewright.types import Array

Incidence: TypeAlias = Any  # a SciPy CSR matrix (n, t)
Untagged = Literal["own", "mean"]


def filled(rewards: Array) -> Array:
    """Fills each unknown reward with the expert's mean reward plus the query's mean deviation.

    The deviation is how much better or worse the query went for the experts with a known reward.
    A filled reward therefore does not change which expert is better.

    >>> filled(np.array([[1.0, 3.0], [5.0, 5.0], [4.0, np.nan]]))
    array([[1.        , 3.        ],
           [5.        , 5.        ],
           [4.        , 4.66666667]])

    The rewards of an expert without any known reward stay NaN.
    """
    mask = np.isfinite(rewards)
    mean = metrics.mean(rewards)
    deviation = np.where(mask, rewards - mean, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    return np.asarray(np.where(mask, rewards, mean + deviation[:, None]))


def soft(rewards: Array, temperature: float) -> Array:
    """softmax(r / τ) of each row (eq. 2; the paper uses τ = 1, whose effect depends on the scale).

    >>> soft(np.array([[np.log(3.0), 0.0]]), 1.0)
    array([[0.75, 0.25]])
    """
    from scipy.special import softmax

    return np.asarray(softmax(rewards / temperature, axis=1))


def hard(rewards: Array) -> Array:
    """Gives the whole label to the best expert, or equal shares to experts that tie.

    >>> hard(np.array([[0.2, 0.9, 0.1], [1.0, 1.0, 0.0]]))
    array([[0. , 1. , 0. ],
           [0.5, 0.5, 0. ]])
    """
    best = rewards >= rewards.max(axis=1, keepdims=True)
    return np.asarray(best / best.sum(axis=1, keepdims=True))


def entropy(labels: Array) -> float:
    """The mean entropy of the rows, in nats.

    >>> float(round(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) / np.log(2), 3))
    0.5
    """
    from scipy.special import entr

    return float(entr(labels).sum(axis=1).mean()) if len(labels) else float("nan")


def temperature_for(rewards: Array, target: float) -> float:
    """The temperature at which the mean entropy of `soft` labels is `target` (nats), by bisection.

    The entropy grows with the temperature, from that of `hard` labels to log e. A target outside
    this range gives the nearest finite temperature. If no rewards differ, the temperature is 1.
    """
    spread = float(np.ptp(rewards, axis=1).max()) if rewards.size else 0.0
    if spread == 0:
        return 1.0
    low, high = np.log(spread * 1e-4), np.log(spread * 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        if entropy(soft(rewards, float(np.exp(middle)))) < target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def incidence(tags: Sequence[Sequence[str]]) -> tuple[Incidence, tuple[str, ...]]:
    """The incidence matrix (n, t) of the rows' tags, and the tags in alphabetical order.

    A tag that is repeated in a row counts once.
    """
    from scipy.sparse import csr_matrix

    names = tuple(sorted({tag for row in tags for tag in row}))
    column = {name: i for i, name in enumerate(names)}
    cells = [(row, column[tag]) for row, own in enumerate(tags) for tag in sorted(set(own))]
    rows, columns = np.array(cells, dtype=np.intp).reshape(-1, 2).T
    shape = (len(tags), len(names))
    return csr_matrix((np.ones(len(cells)), (rows, columns)), shape=shape), names


def enhanced(
    labels: Array,
    tags: Incidence,
    *,
    beta: float = 0.3,
    shrinkage: float = 20.0,
    leave_one_out: bool = True,
    untagged: Untagged = "own",
) -> Array:
    """β s(q) + (1 − β) times the mean, over q's tags, of the tags' mean labels (section 3.3).

    The rewards of a single query are noisy; the mean over similar queries is less so. β = 1 is
    plain distillation, and β = 0 uses only the tag means. Three options are not in the paper: with
    `leave_one_out`, a query's own label does not enter its tag means; the mean label of a tag with
    n (other) queries has the weight n/(n + `shrinkage`), and the mean of all (other) labels has the
    rest; a query without tags keeps its `own` label, or gets the mean of all (other) labels
    (`untagged="mean"`).
    """
    from_tags = tag_means(labels, tags, shrinkage=shrinkage, leave_one_out=leave_one_out)
    if untagged == "own":
        without = np.asarray(tags.sum(axis=1)).ravel() == 0
        from_tags[without] = labels[without]
    return np.asarray(beta * labels + (1 - beta) * from_tags)


def tag_means(
    labels: Array, tags: Incidence, *, shrinkage: float = 20.0, leave_one_out: bool = True
) -> Array:
    """For each query, the mean over its tags of the tags' shrunk mean labels, (n, e).

    A tag without other queries contributes the overall mean, even if there is no shrinkage.
    """
    n = len(labels)
    own = 1.0 if leave_one_out else 0.0
    overall = (labels.sum(axis=0) - own * labels) / max(n - own, 1.0)  # (n, e)
    if n <= own:
        overall = labels.copy()  # there is no other query
    sums, counts = tags.T @ labels, np.asarray(tags.sum(axis=0)).ravel()
    # For a query q and each of its tags t: (Σ_t s − s_q + k s̄) / (n_t − 1 + k).
    weight = counts - own + shrinkage
    positive = weight > 0
    share = tags.multiply(np.where(positive, 1 / np.where(positive, weight, 1.0), 0.0)).tocsr()
    total = np.asarray(share.sum(axis=1))  # (n, 1), Σ_t 1 / weight
    count = np.asarray(tags.sum(axis=1))  # (n, 1), tags of each query
    empty = count - np.asarray(tags.multiply(positive).sum(axis=1))  # of them without a weight
    mixed = share @ sums - own * total * labels + (shrinkage * total + empty) * overall
    return np.asarray(np.where(count > 0, mixed / np.maximum(count, 1.0), overall))
