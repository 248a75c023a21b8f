"""From rewards to the labels that a router is distilled from (Zooter, arXiv 2311.08692).

Pure functions. Shapes: n queries, e experts, t tags; `rewards` and `labels` are (n, e), labels
are distributions over the experts. Tags are an incidence matrix (n, t) of zeros and ones.
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
    """Unknown rewards filled with what the expert earns on average, moved by as much as this
    query went better or worse for the known experts: no news about who is better.

    >>> filled(np.array([[1.0, 3.0], [5.0, 5.0], [4.0, np.nan]]))
    array([[1.        , 3.        ],
           [5.        , 5.        ],
           [4.        , 4.66666667]])

    An expert without any reward stays NaN.
    """
    known = np.isfinite(rewards)
    mean = metrics.mean(rewards)
    moved = np.where(known, rewards - mean, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.asarray(np.where(known, rewards, mean + moved[:, None]))


def soft(rewards: Array, temperature: float) -> Array:
    """softmax(r / τ) row by row (eq. 2; the paper has τ = 1, which depends on the rewards' scale).

    >>> soft(np.array([[np.log(3.0), 0.0]]), 1.0)
    array([[0.75, 0.25]])
    """
    from scipy.special import softmax

    return np.asarray(softmax(rewards / temperature, axis=1))


def hard(rewards: Array) -> Array:
    """All on the best expert; experts that tie for it share.

    >>> hard(np.array([[0.2, 0.9, 0.1], [1.0, 1.0, 0.0]]))
    array([[0. , 1. , 0. ],
           [0.5, 0.5, 0. ]])
    """
    best = rewards >= rewards.max(axis=1, keepdims=True)
    return np.asarray(best / best.sum(axis=1, keepdims=True))


def entropy(labels: Array) -> float:
    """Mean entropy of the rows, in nats.

    >>> float(round(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) / np.log(2), 3))
    0.5
    """
    from scipy.special import entr

    return float(entr(labels).sum(axis=1).mean()) if len(labels) else float("nan")


def temperature_for(rewards: Array, wanted: float) -> float:
    """The temperature at which `soft` labels have this mean entropy (nats), by bisection.

    The entropy grows with the temperature from that of `hard` labels to log e; a wish outside
    gets the nearest temperature that is still finite. Rewards that never differ get 1.
    """
    spread = float(np.ptp(rewards, axis=1).max()) if rewards.size else 0.0
    if spread == 0:
        return 1.0
    low, high = np.log(spread * 1e-4), np.log(spread * 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        if entropy(soft(rewards, float(np.exp(middle)))) < wanted:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def incidence(tags: Sequence[Sequence[str]]) -> tuple[Incidence, tuple[str, ...]]:
    """Who carries which tag, and the tags' names in alphabetical order; repetitions count once."""
    from scipy.sparse import csr_matrix

    names = tuple(sorted({tag for row in tags for tag in row}))
    column = {name: i for i, name in enumerate(names)}
    cells = [(row, column[tag]) for row, mine in enumerate(tags) for tag in sorted(set(mine))]
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
    """β s(q) + (1 − β) mean over q's tags of the tags' mean labels (section 3.3).

    What one query's answers earn is noisy; what its kind of query earns is less so. β = 1 is
    plain distillation, β = 0 the tag means. Beyond the paper: with `leave_one_out` a query's own
    label is kept out of its tag means; a tag with n (other) queries counts n/(n + `shrinkage`),
    the mean of all (other) labels the rest. A query without tags keeps its `own` label, or is
    treated as one of a tag that nobody else carries (`mean`).
    """
    from_tags = tag_means(labels, tags, shrinkage=shrinkage, leave_one_out=leave_one_out)
    if untagged == "own":
        bare = np.asarray(tags.sum(axis=1)).ravel() == 0
        from_tags[bare] = labels[bare]
    return np.asarray(beta * labels + (1 - beta) * from_tags)


def tag_means(
    labels: Array, tags: Incidence, *, shrinkage: float = 20.0, leave_one_out: bool = True
) -> Array:
    """Per query the mean over its tags of the tags' shrunk mean labels, (n, e).

    Where nothing is known of a tag (no other query, no shrinkage), it says the overall mean.
    """
    n = len(labels)
    own = 1.0 if leave_one_out else 0.0
    overall = (labels.sum(axis=0) - own * labels) / max(n - own, 1.0)  # (n, e)
    if n <= own:
        overall = labels.copy()  # there are no others
    sums, counts = tags.T @ labels, np.asarray(tags.sum(axis=0)).ravel()
    # For a query q and each of its tags t: (Σ_t s − s_q + k s̄) / (n_t − 1 + k).
    weight = counts - own + shrinkage
    useful = weight > 0
    share = tags.multiply(np.where(useful, 1 / np.where(useful, weight, 1.0), 0.0)).tocsr()
    total = np.asarray(share.sum(axis=1))  # (n, 1), Σ_t 1 / weight
    silent = np.asarray(tags.sum(axis=1)) - np.asarray(tags.multiply(useful).sum(axis=1))
    mixed = share @ sums - own * total * labels + (shrinkage * total + silent) * overall
    carried = np.asarray(tags.sum(axis=1))
    return np.asarray(np.where(carried > 0, mixed / np.maximum(carried, 1.0), overall))
