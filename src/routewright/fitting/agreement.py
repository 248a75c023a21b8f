"""A model of how experts agree: what can be said of answers before many of them are scored.

A query has a difficulty z, normal with mean 0 and variance 1, and expert m answers it rightly with
log-odds ability_m + difficulty · z (Rasch 1960; Dawid and Skene 1979 with one coin per expert are
the case difficulty = 0). Right answers are equivalent. A wrong answer repeats another one in
proportion to how many experts gave that one, or is new in proportion to `scatter` (Ewens 1972), so
that popular mistakes are expected. An answer that cannot be read is wrong.

The parameters are fitted by maximum a posteriori likelihood. Difficulty and scatter differ little
between tables: PRIOR is what `python -m bench.agreement` measures on several of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright.types import Array, Indices

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)  # quadrature over the difficulty
WEIGHTS = WEIGHTS / WEIGHTS.sum()
MOST_ROWS = 2000  # that the parameters are fitted on; more would not change them
STEPS = 20
CONFLICT = -6.0  # log-likelihood of a score that contradicts the agreement of its answer
BOUNDS = (-8.0, 8.0), (np.log(0.05), np.log(6.0)), (np.log(0.1), np.log(100.0))


class Normal(NamedTuple):
    mean: float
    deviation: float


class Prior(NamedTuple):
    ability: Normal
    difficulty: Normal  # of its logarithm
    scatter: Normal  # of its logarithm


PRIOR = Prior(
    ability=Normal(0.8, 1.6),
    difficulty=Normal(float(np.log(1.6)), 0.3),
    scatter=Normal(float(np.log(1.5)), 0.35),
)


@dataclass(frozen=True)
class Agreement:
    """The fitted model of e experts."""

    ability: Array  # (e,) log-odds of a right answer to a query of mean difficulty
    difficulty: float  # standard deviation among queries, in log-odds
    scatter: float  # the higher, the less often do wrong answers coincide

    @property
    def quality(self) -> Array:
        """The mean score of each expert, (e,)."""
        return np.asarray(_sigmoid(self._log_odds) @ WEIGHTS)

    def of(self, experts: NDArray[np.bool_]) -> Agreement:
        """The model of some of the experts, (e,)."""
        return replace(self, ability=self.ability[experts])

    def with_quality(self, quality: Array) -> Agreement:
        """The model with these mean scores (e,) in place of its own; NaN changes nothing."""
        ability = self.ability.copy()
        for _ in range(STEPS):  # Newton's method, from close by
            chance = _sigmoid(ability[:, None] + self.difficulty * NODES)
            error = np.nan_to_num(np.clip(quality, 0.01, 0.99) - chance @ WEIGHTS)
            ability += np.clip(error / ((chance * (1 - chance)) @ WEIGHTS), -1.0, 1.0)
        return replace(self, ability=np.clip(ability, *BOUNDS[0]))

    @property
    def _log_odds(self) -> Array:
        return self.ability[:, None] + self.difficulty * NODES  # (e, nodes)

    def chances(self, labels: Indices) -> Array:
        """The chance that each answer is right, (n, e), given all of them: `labels` are equal for
        equivalent answers and −1 for unreadable ones, which have no chance."""
        unknown, everybody = np.full(labels.shape, np.nan), np.ones(labels.shape, bool)
        return self.scores(labels, unknown, everybody)

    def scores(self, labels: Indices, scores: Array, asked: NDArray[np.bool_]) -> Array:
        """The expected scores of answers, (n, e), given their labels and the scores that are known;
        0 where an expert was not asked."""
        if not labels.size:
            return np.zeros(labels.shape)
        rows = _rows(labels, scores, asked)
        of_candidate = np.exp(_posterior(self, rows)[0]).sum(axis=2)
        return np.asarray(np.einsum("nc,nce->ne", of_candidate, rows.right))

    def information(self, labels: Indices, scores: Array) -> float:
        """How much the answers (n, e) tell of their scores (n, e, NaN where none answered) under
        the model: log P(scores | answers) / P(scores), in nats over all rows. It is negative where
        the answers of a table do not say what the model takes from them."""
        asked = np.isfinite(scores)
        both = _rows(labels, scores, asked)
        answers = _rows(labels, np.full(scores.shape, np.nan), asked)
        alone = _rows(np.full_like(labels, -1), scores, asked)
        alone = alone._replace(conflict=np.zeros_like(alone.conflict))
        told, by_answers, by_itself = (
            _posterior(self, rows)[1].sum() for rows in (both, answers, alone)
        )
        return float(told - by_answers - by_itself)

    def draw(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], Indices]:
        """Answers to n imagined queries: whether each one is right, and their labels; (n, e)."""
        e = len(self.ability)
        z = rng.normal(size=(n, 1))
        right = rng.random((n, e)) < _sigmoid(self.ability + self.difficulty * z)
        labels = np.zeros((n, e), np.intp)  # 0: the right answer
        crowd = np.zeros((n, e + 1))  # how many gave each wrong answer
        every = np.arange(n)
        for m in rng.permutation(e):
            new = np.argmax(crowd == 0, axis=1)
            weights = crowd.copy()
            weights[every, new] = self.scatter
            bound = weights.cumsum(axis=1)
            at = (rng.random((n, 1)) * bound[:, -1:] >= bound).sum(axis=1)
            labels[:, m] = np.where(right[:, m], 0, at + 1)
            crowd[every, at] += ~right[:, m]
        return right, labels


def fit(
    labels: Indices,
    scores: Array,
    asked: NDArray[np.bool_] | None = None,
    *,
    prior: Prior = PRIOR,
    seed: int = 0,
) -> Agreement:
    """The model of experts with these answers (n, e) and scores (n, e), NaN where unknown. `asked`
    (n, e) says where there is an answer; by default, where there is a score."""
    from scipy.optimize import minimize
    from scipy.special import digamma

    if len(labels) > MOST_ROWS:
        some = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_ROWS])
        labels, scores = labels[some], scores[some]
        asked = None if asked is None else asked[some]
    rows = _rows(labels, scores, np.isfinite(scores) if asked is None else asked)
    e = labels.shape[1]
    means, deviations = np.array([prior.ability] * e + [prior.difficulty, prior.scatter]).T

    def loss(x: Array) -> tuple[float, Array]:
        """Minus the log-posterior, and its gradient."""
        model = Agreement(x[:e], float(np.exp(x[e])), float(np.exp(x[e + 1])))
        log_posterior, evidence = _posterior(model, rows)
        posterior = np.exp(log_posterior)  # (n, candidates, nodes)
        surprise = np.tensordot(posterior, rows.right, axes=((0, 1), (0, 1))).T  # (e, nodes)
        surprise -= _sigmoid(model._log_odds) * (rows.asked.T @ posterior.sum(axis=1))
        crowding = rows.crowds - model.scatter * (
            digamma(model.scatter + rows.wrong) - digamma(model.scatter)
        )
        slope = [(surprise * NODES).sum() * model.difficulty, 0.0]
        slope[1] = float((posterior.sum(axis=2) * np.where(rows.possible, crowding, 0.0)).sum())
        away = (x - means) / deviations
        gradient = np.concatenate([surprise.sum(axis=1), slope])
        return float((away**2).sum() / 2 - evidence.sum()), away / deviations - gradient

    bounds = [BOUNDS[0]] * e + [BOUNDS[1], BOUNDS[2]]
    x = minimize(loss, means, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Agreement(x[:e], float(np.exp(x[e])), float(np.exp(x[e + 1])))


class _Rows(NamedTuple):
    """n queries with answers of e experts. Candidate c < e: what expert c answered is right (only
    for the first that gave the answer); candidate e: no answer is right."""

    asked: Array  # (n, e) 1 where there is an answer
    right: Array  # (n, e + 1, e) whether an answer is right under a candidate; known scores as such
    possible: NDArray[np.bool_]  # (n, e + 1)
    conflict: Array  # (n, e + 1) log-likelihood of the scores that the candidate contradicts
    crowds: Array  # (n, e + 1) number of different wrong answers
    arrangements: Array  # (n, e + 1) Σ log Γ(number of experts) over the wrong answers
    wrong: Array  # (n, e + 1) number of readable wrong answers


def _rows(labels: Indices, scores: Array, asked: NDArray[np.bool_]) -> _Rows:
    from scipy.special import gammaln

    readable = (labels >= 0) & asked
    agree = (labels[:, :, None] == labels[:, None, :]) & readable[:, :, None] & readable[:, None, :]
    first = readable & ~np.tril(agree, -1).any(axis=2)
    size = np.where(first, agree.sum(axis=2), 0)

    def without(each: Any) -> Array:
        """The sum over the different answers, less that of the candidate; (n, e + 1)."""
        of_candidate = np.pad(each, ((0, 0), (0, 1)))
        return np.asarray(each.sum(axis=1)[:, None] - of_candidate, np.float64)

    right = np.pad(agree, ((0, 0), (0, 1), (0, 0))).astype(np.float64)
    score = np.nan_to_num(scores)[:, None, :]
    scored = np.isfinite(scores)[:, None, :]
    return _Rows(
        asked.astype(np.float64),
        np.where(scored, score, right),
        np.pad(first, ((0, 0), (0, 1)), constant_values=True),
        CONFLICT * (abs(right - score) * scored).sum(axis=2),
        without(first),
        without(np.where(first, gammaln(np.maximum(size, 1)), 0.0)),
        without(size),
    )


def _posterior(model: Agreement, rows: _Rows) -> tuple[Array, Array]:
    """The log-posterior of candidates and difficulties (n, e + 1, nodes), and the log-likelihood of
    each row (n,)."""
    from scipy.special import gammaln, logsumexp

    log_odds, scatter = model._log_odds, model.scatter
    crowding = rows.crowds * np.log(scatter) + rows.arrangements
    crowding -= gammaln(scatter + rows.wrong) - gammaln(scatter)
    of_candidate = np.where(rows.possible, crowding + rows.conflict, -np.inf)
    joint = rows.right @ log_odds + of_candidate[:, :, None] + np.log(WEIGHTS)
    joint -= (rows.asked @ np.logaddexp(0.0, log_odds))[:, None, :]
    evidence = logsumexp(joint, axis=(1, 2))
    return joint - evidence[:, None, None], np.asarray(evidence)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
